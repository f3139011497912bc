"""Answers of the API: the fleet as a whole: summary, groups, events, search.

Made by `python -m tests.house.api_structs` from `docs/reference/openapi.json`; edit the schemas of the server.
"""

from typing import Any

from msgspec import Struct, field


class Event(Struct, frozen=True):
    """One event. type: its public name, see docs/reference/events.md."""

    at: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    device: str = ""
    id: int = 0
    kind: str = ""
    model: str = ""
    received_at: str = ""
    rollout: str | None = None
    type: str = ""


class Group(Struct, frozen=True):
    """A named selector, as routes return it; `devices` counts its live members."""

    created_at: str = ""
    created_by: str = ""
    devices: int = 0
    name: str = ""
    selector: str = ""


class Hit(Struct, frozen=True):
    """One thing that was found: its kind, its name in that kind, a few words on it, and its address in this API."""

    detail: str = ""
    id: str = ""
    kind: str = ""
    url: str = ""


class ModelCount(Struct, frozen=True):
    """How many devices report one state of one version."""

    devices: int = 0
    model: str = ""
    state: str = ""
    version: str = ""


class FleetSummary(Struct, frozen=True):
    """The fleet in numbers; revoked devices are counted only as such."""

    devices: int = 0
    models: tuple[ModelCount, ...] = ()
    profiles: dict[str, int] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
