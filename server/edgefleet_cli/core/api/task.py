"""Answers of the API: tasks of devices.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from typing import Any

from msgspec import Struct, field


class TaskSkipped(Struct, frozen=True):
    """A device that was not asked, why, and what to do."""

    device: str = ""
    next: str = ""
    reason: str = ""


class Task(Struct, frozen=True):
    """A task and how far it is; `gen` is of the document that carries it, in the answer that made it, else 0."""

    args: dict[str, Any] = field(default_factory=dict)
    changed_at: str = ""
    code: str = ""
    created_at: str = ""
    created_by: str = ""
    device: str = ""
    gen: int = 0
    id: str = ""
    kind: str = ""
    reason: str = ""
    result_bytes: int = 0
    result_sha256: str = ""
    result_type: str = ""
    state: str = ""
    until: str = ""


class TasksAsked(Struct, frozen=True):
    """Who was asked to do a task, or would be when it was a dry run. `tasks`: of those who were, by device."""

    asked: int = 0
    dry_run: bool = False
    kind: str = ""
    matched: int = 0
    skipped: tuple[TaskSkipped, ...] = ()
    tasks: dict[str, str] = field(default_factory=dict)
