"""The API: tasks of devices. Made by `python -m tests.house.api_structs`."""

from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset


class TaskIn(Body, frozen=True, kw_only=True):
    contains: str | Unset | None = UNSET
    kind: str
    lines: int | Unset | None = UNSET
    model: str | Unset | None = UNSET
    ttl_s: int | Unset = UNSET
    what: str | Unset | None = UNSET


class TaskSkipped(Struct, frozen=True):
    device: str = ""
    display_name: str = ""
    reason: str = ""


class Task(Struct, frozen=True):
    code: str = ""
    created_at: str = ""
    created_by: str = ""
    device: str = ""
    gen: int = 0
    id: str = ""
    kind: str = ""
    reason: str = ""
    result_bytes: int = 0
    state: str = ""
    until: str = ""


class TasksAsked(Struct, frozen=True):
    asked: int = 0
    dry_run: bool = False
    kind: str = ""
    matched: int = 0
    skipped: tuple[TaskSkipped, ...] = ()


class TasksIn(Body, frozen=True, kw_only=True):
    contains: str | Unset | None = UNSET
    dry_run: bool | Unset = UNSET
    kind: str
    lines: int | Unset | None = UNSET
    model: str | Unset | None = UNSET
    selector: str
    ttl_s: int | Unset = UNSET
    what: str | Unset | None = UNSET
