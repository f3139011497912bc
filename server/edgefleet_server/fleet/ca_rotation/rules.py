"""Which CAs devices and brokers trust in each state of a rotation, which one stays, and when it may end. Pure.

Rules:
1. While a rotation is under way both CAs are trusted and announced. When it ends one is left, and the key of the other is destroyed.
2. Devices that are told get certificates of the CA that is to stay, spread over a time; who was not told gets one of the CA that it knows.
3. It ends when no device that is online holds a certificate of the CA that goes, or when somebody says how many are left behind, and why.
Source: ADR 0133.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from edgefleet_server.fleet.ca_rotation.model import UNDER_WAY, CaFollowers, CaRotationState

YEAR_DAYS: Final = 365
SOON_DAYS: Final = 90


def stays(state: CaRotationState, old: str, new: str) -> str:
    """Return the CA that is to stay."""
    return new if state in {CaRotationState.STARTED, CaRotationState.FINISHED} else old


def trusted(state: CaRotationState, old: bytes, new: bytes) -> Sequence[bytes]:
    """Return the CAs (PEM) to announce, the one that is to stay first."""
    match state:
        case CaRotationState.STARTED:
            return [new, old]
        case CaRotationState.UNDOING:
            return [old, new]
        case CaRotationState.FINISHED:
            return [new]
        case CaRotationState.UNDONE:
            return [old]


def missing(followers: CaFollowers, leave_behind: int) -> int:
    """Return how many devices that are online have to follow still before the rotation may end."""
    return max(0, followers.online - followers.online_followed - leave_behind)


def end_of(state: CaRotationState) -> CaRotationState:
    """Return the state that ends this one; an ended one stays."""
    return CaRotationState.FINISHED if stays(state, "", "new") else CaRotationState.UNDONE


def next_step(state: CaRotationState, followers: CaFollowers, *, in_force: bool, settled: bool, request: str) -> str:
    """Return what to do next."""
    if request:
        return f"let the holders sign request {request}: `edgectl key ceremony`"
    if state not in UNDER_WAY:
        return "nothing: the rotation has ended" if settled else "wait: the server ends it by itself within a minute"
    if not in_force:
        return (
            "the announcement is not signed: `edgectl key device-ca start` again"
            if state is CaRotationState.STARTED
            else ("the announcement is not signed: `edgectl key device-ca undo` again")
        )
    short, away = missing(followers, 0), followers.devices - followers.followed
    if short:
        return f"wait: {short} of {followers.online} devices that are online have not followed yet"
    if away:
        return f"wait for {away} devices that are away, or `edgectl key device-ca finish`: they come back when they are told"
    return "`edgectl key device-ca finish`"


def life_in_words(not_after: datetime, now: datetime) -> str:
    """Return what to say of the end of the CA, "" while it is far."""
    days = (not_after - now).days
    if days >= YEAR_DAYS:
        return ""
    haste = "now" if days < SOON_DAYS else "soon"
    return f"the device CA ends in {days} days: rotate it {haste}, `edgectl key device-ca start`"
