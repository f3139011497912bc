"""Values of a move of the server. Pure. Those that routes return are public: a field is never renamed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

SHOWN: Final = 20
"""So many of the devices that have not followed are named."""
MOVES: Final = 5
"""So many moves are shown."""
SPREAD_S: Final = 300
"""Devices try a place that they are told of within this time, each at its own moment."""
LONGEST_SPREAD_S: Final = 86_400


class MoveState(StrEnum):
    """How far a move is. Stored, so never renamed."""

    PLANNED = "planned"
    STARTED = "started"
    UNDOING = "undoing"
    FINISHED = "finished"
    UNDONE = "undone"
    DROPPED = "dropped"


UNDER_WAY: Final = frozenset({MoveState.PLANNED, MoveState.STARTED, MoveState.UNDOING})


@dataclass(frozen=True, slots=True)
class MovePlace:
    """Where devices reach the server: base URL of the device listener, and the broker. mqtt: "5" or "3.1.1"."""

    url: str
    broker_host: str
    broker_port: int
    mqtt: str


@dataclass(frozen=True, slots=True)
class Followers:
    """How many live devices know the newest announcement, and how many use its first place. behind: some of the others."""

    devices: int
    told: int
    followed: int
    behind: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ServerMove:
    """A move of the server.

    number: of the newest announcement, 0 before the first. in_force: whether it is signed. signing_request: what waits for holders'
    signatures, "" = nothing. followers: in a state that has ended, of its last announcement. next: what to do next.
    """

    state: MoveState
    before: MovePlace
    after: MovePlace
    number: int
    in_force: bool
    signing_request: str
    followers: Followers
    planned_at: datetime
    planned_by: str
    started_at: datetime | None
    ended_at: datetime | None
    next: str
