"""Questions about one assignment: is the device exposed, healthy, failed, lost, gone? Pure."""

from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.model import (
    GUARD_CLASSES,
    LOST,
    OFFLINE,
    SMALL_CLASSES,
    Assignment,
    Snapshot,
)
from edgefleet_server.rollout.state_machines import EXPOSED_STATES, FAILED_STATES

_S: Final = AssignmentState

_NOT_YET: Final = timedelta(seconds=1)

UNCOUNTED: Final = frozenset({_S.CANCELLED, _S.SUPERSEDED})

OUTSIDE: Final = UNCOUNTED | {_S.INCOMPATIBLE}
"""The device has no part in the rollout any more, or never had one."""

_HEAVIEST: Final = (frozenset(GUARD_CLASSES), frozenset(SMALL_CLASSES), frozenset({LOST}))
"""Classes that stop a stage of any size, a small stratum, or from the third device on; others only add up."""


def is_failure(a: Assignment) -> bool:
    """Return whether the device counts as one on which the release failed: now, or before a person had it tried again."""
    return bool(a.failed_before) or stands_failed(a)


def stands_failed(a: Assignment) -> bool:
    """Return whether the release has failed on the device as it stands. What the server took back is no failure of the device.

    A device that stayed away is one where the spec says `offline: {count: failed}`, until it comes back.
    """
    if a.state is _S.UNREACHABLE:
        return a.error_class == OFFLINE
    return a.state in FAILED_STATES and not (a.state is _S.ROLLED_BACK and not a.error_class)


def is_exposed(a: Assignment) -> bool:
    """Return whether a device counts as one that took the release up."""
    return a.state in EXPOSED_STATES or is_failure(a)


def is_gone(a: Assignment) -> bool:
    """Return whether the device does not run the release any more, so that nothing can be measured of it."""
    return a.state in FAILED_STATES or bool(a.back_gen)


def soak_end(snapshot: Snapshot, a: Assignment, now: datetime) -> datetime:
    """Return when a device has run the release for the soak of its stage; not yet where its candidate does not run just now."""
    soak = snapshot.spec.stages[a.stage].soak
    return now + max(soak, _NOT_YET) if a.switched_at is None else a.switched_at + soak


def standing_class(a: Assignment) -> str:
    """Return the class of the failure in which a device stands."""
    return LOST if a.state is _S.LOST else a.error_class or "internal"


def class_of(a: Assignment) -> str:
    """Return the class of a failure as evidence: of a device that failed more than once, the one that weighs most."""
    now = standing_class(a) if stands_failed(a) else ""
    return min((one for one in (a.failed_before, now) if one), key=_weight)


def _weight(error_class: str) -> int:
    return next((at for at, some in enumerate(_HEAVIEST) if error_class in some), len(_HEAVIEST))
