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


class CaStraggler(Struct, frozen=True):
    device: str = ""
    is_online: bool = False
    is_told: bool = False
    last_seen: str | None = None


class CaFollowers(Struct, frozen=True):
    behind: tuple[CaStraggler, ...] = ()
    devices: int = 0
    followed: int = 0
    online: int = 0
    online_followed: int = 0
    told: int = 0


class CaRotation(Struct, frozen=True):
    followers: CaFollowers = CaFollowers()
    new_ca: str = ""
    next: str = ""
    number: int = 0
    old_ca: str = ""
    reason: str = ""
    started_at: str = ""
    started_by: str = ""
    state: str = ""


class CaRotationFinishIn(Body, frozen=True, kw_only=True):
    leave_behind: int | Unset = UNSET
    reason: str | Unset = UNSET


class CaRotationStartIn(Body, frozen=True, kw_only=True):
    reason: str | Unset = UNSET
    spread_s: int | Unset = UNSET


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


class Followers(Struct, frozen=True):
    behind: tuple[str, ...] = ()
    devices: int = 0
    followed: int = 0
    told: int = 0


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


class MoveFinishIn(Body, frozen=True, kw_only=True):
    leave_behind: int | Unset = UNSET


class MovePlace(Struct, frozen=True):
    broker_host: str = ""
    broker_port: int = 0
    url: str = ""


class MovePlanIn(Body, frozen=True, kw_only=True):
    broker_host: str | Unset = UNSET
    broker_port: int | Unset = UNSET
    device_port: int | Unset = UNSET
    host: str | Unset = UNSET


class MoveStartIn(Body, frozen=True, kw_only=True):
    ahead: bool | Unset = UNSET
    spread_s: int | Unset = UNSET


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


class ServerMove(Struct, frozen=True):
    after: MovePlace = MovePlace()
    before: MovePlace = MovePlace()
    followers: Followers = Followers()
    next: str = ""
    number: int = 0
    planned_at: str = ""
    planned_by: str = ""
    started_at: str | None = None
    state: str = ""


class FleetSummary(Struct, frozen=True):
    devices: int = 0
    models: tuple[ModelCount, ...] = ()
    profiles: dict[str, int] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
