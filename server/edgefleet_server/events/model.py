"""Values of events. `EventView` is public: routes and webhooks return it, and a field is never renamed. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class EventView:
    """One event. type: its public name, see docs/reference/events.md. display_name: of the device now, "" when it has none."""

    id: int
    device: str
    at: datetime
    received_at: datetime
    kind: str
    type: str
    model: str
    rollout: str | None
    detail: Mapping[str, Any]
    display_name: str = ""


@dataclass(frozen=True)
class NewEvent:
    """Something that happened here; `device` "" when it concerns none, `rollout` when it belongs to one."""

    kind: str
    device: str = ""
    model: str = ""
    rollout: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EventFilter:
    """Which events: all that are given must hold; `kinds` and `ids` empty mean any.

    since, until: when it was received; but_of: of none of these devices.
    """

    device: str | None = None
    rollout: str | None = None
    kinds: Sequence[str] = ()
    since: datetime | None = None
    until: datetime | None = None
    model: str | None = None
    but_of: Collection[str] = ()
    ids: Collection[int] = ()
