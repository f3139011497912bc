"""Values of a rotation of the device CA. Pure. Those that routes return are public: a field is never renamed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from edgefleet_server.fleet.model import CA_FINISHED, CA_STARTED

SHOWN: Final = 20
"""So many of the devices that have not followed are named."""
ROTATIONS: Final = 5
"""So many rotations are shown."""
SPREAD_S: Final = 3_600
"""Devices ask for a new certificate within this time, each at its own moment."""
LONGEST_SPREAD_S: Final = 604_800


class CaRotationState(StrEnum):
    """How far a rotation is. Stored, so never renamed."""

    STARTED = CA_STARTED
    UNDOING = "undoing"
    FINISHED = CA_FINISHED
    UNDONE = "undone"


UNDER_WAY: Final = frozenset({CaRotationState.STARTED, CaRotationState.UNDOING})


@dataclass(frozen=True, slots=True)
class CaStraggler:
    """A device without a certificate of the CA that stays. is_told: it knows that CA, so it comes by itself."""

    device: str
    is_online: bool
    is_told: bool
    last_seen: datetime | None


@dataclass(frozen=True, slots=True)
class CaFollowers:
    """How many live devices there are, know of both CAs, and connected with a certificate of the one that stays; of those online too.

    behind: some of the others, those that are online first, then the ones seen last.
    """

    devices: int
    told: int
    followed: int
    online: int
    online_followed: int
    behind: Sequence[CaStraggler] = ()


@dataclass(frozen=True, slots=True)
class CaRotation:
    """A rotation of the device CA.

    old_ca, new_ca: SHA-256 of the certificates (DER). number: of the newest announcement. in_force: whether it is signed.
    signing_request: what waits for holders' signatures, "" = nothing. settled: whether keys and announcement are as the state says.
    followers: as they are today. next: what to do next.
    """

    state: CaRotationState
    old_ca: str
    new_ca: str
    number: int
    in_force: bool
    settled: bool
    signing_request: str
    followers: CaFollowers
    reason: str
    started_at: datetime
    started_by: str
    ended_at: datetime | None
    left_behind: int
    left_reason: str
    next: str
