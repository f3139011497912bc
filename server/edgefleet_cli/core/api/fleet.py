"""The API: the fleet as a whole: summary, groups, events, search. Made by `python -m tests.house.api_structs`."""

from typing import Any

from edgefleet_cli.core.structs import UNSET, Body, Struct, Unset, field


class BreakGlass(Struct, frozen=True):
    at: str = ""
    by: str = ""
    id: str = ""
    reason: str = ""
    rule: str = ""
    until: str = ""


class BreakGlassIn(Body, frozen=True, kw_only=True):
    minutes: int | Unset = UNSET
    reason: str


class Event(Struct, frozen=True):
    at: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    device: str = ""
    display_name: str = ""
    id: int = 0
    kind: str = ""
    model: str = ""
    received_at: str = ""
    rollout: str | None = None


class Group(Struct, frozen=True):
    created_at: str = ""
    created_by: str = ""
    devices: int = 0
    name: str = ""
    selector: str = ""


class GroupChangeIn(Body, frozen=True, kw_only=True):
    selector: str


class GroupIn(Body, frozen=True, kw_only=True):
    name: str
    selector: str


class Hit(Struct, frozen=True):
    detail: str = ""
    display_name: str = ""
    id: str = ""
    kind: str = ""
    url: str = ""


class ModelCount(Struct, frozen=True):
    devices: int = 0
    model: str = ""
    state: str = ""
    version: str = ""


class ProtectionRule(Struct, frozen=True):
    broken: tuple[BreakGlass, ...] = ()
    created_at: str = ""
    created_by: str = ""
    devices: int = 0
    ending_by: str = ""
    ends_at: str | None = None
    name: str = ""
    selector: str = ""


class ProtectionRuleIn(Body, frozen=True, kw_only=True):
    name: str
    selector: str


class FleetSummary(Struct, frozen=True):
    devices: int = 0
    models: tuple[ModelCount, ...] = ()
    profiles: dict[str, int] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
