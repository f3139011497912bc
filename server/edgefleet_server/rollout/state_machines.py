"""The three state machines of a rollout, one table each: `(state, event) -> state`. Pure; choosing an event is not done here.

1. A rollout is judged while it is running or paused; it ends once. A finished one may regress, and is then rolled back, whole or where
   the evidence turned: then it is finished again. Or a person reopens it for devices that are tried again.
2. A cell (one stage of one stratum) moves on from a verdict only; `held` waits for a person. A done cell moves once more at most: one
   that passed fails when its evidence turns after the end.
3. An assignment follows what the device reports. Reports are snapshots: any forward move along the chain is legal, no backward one.
4. An ended assignment absorbs, but for four ways out:
   - healthy: it may regress, be taken back by the server, or be superseded (a device taken out in its soak proved nothing);
   - regressed: the server may take it back;
   - a failure: a person may give the device another try, which never makes the failure undone (`facts`);
   - unreachable is not an end: the device may come back and report anything, or be taken out of the rollout.
5. An event without an entry is a bug in the planner, never the world's fault: `IllegalTransitionError`.

Source: docs/explanation/rollouts.md, "States".
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, TypeVar

from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.model import (
    GUARD_CLASSES,
    LOST,
    OFFLINE,
    SMALL_CLASSES,
    Assignment,
    RolloutState,
    Snapshot,
    StageState,
)

_State = TypeVar("_State", bound=StrEnum)

_Event = TypeVar("_Event", bound=StrEnum)


class IllegalTransitionError(RuntimeError):
    """An event that the state has no entry for: a bug."""


class RolloutEvent(StrEnum):
    """What can happen to a rollout."""

    VALIDATE = "validate"
    ASK_APPROVAL = "ask_approval"
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    ROLL_BACK = "roll_back"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_STUCK = "rollback_stuck"
    FINISH = "finish"
    REGRESS = "regress"
    REOPEN = "reopen"
    SUPERSEDE = "supersede"
    CANCEL = "cancel"


class StageEvent(StrEnum):
    """What can happen to one stage of one stratum."""

    OPEN = "open"
    SETTLED = "settled"
    SOAKED = "soaked"
    UNSETTLED = "unsettled"
    PASS = "pass"  # noqa: S105 not a password
    FAIL = "fail"
    HOLD = "hold"
    RELEASE = "release"
    SKIP = "skip"
    REGRESS = "regress"


class AssignmentEvent(StrEnum):
    """What can happen to one device in one rollout. OFFER to HEALTHY are the steps of the chain."""

    OFFER = "offer"
    ACK = "ack"
    DOWNLOAD = "download"
    STAGE = "stage"
    PARITY = "parity"
    APPLY = "apply"
    VERIFY = "verify"
    HEALTHY = "healthy"
    FAIL = "fail"
    ROLL_BACK_LOCAL = "roll_back_local"
    ROLL_BACK_REMOTE = "roll_back_remote"
    LOSE = "lose"
    MISS = "miss"
    RETURN = "return"
    UNFIT = "unfit"
    WITHDRAW = "withdraw"
    SUPERSEDE = "supersede"
    CANCEL = "cancel"
    REGRESS = "regress"
    GO_ON = "go_on"
    TRY_AGAIN = "try_again"


def _edges(states: Iterable[_State], event: _Event, to: _State) -> dict[tuple[_State, _Event], _State]:
    return dict.fromkeys(((state, event) for state in states), to)


# ---- rollout

ROLLOUT_ACTIVE: Final = frozenset(
    {
        RolloutState.VALIDATING,
        RolloutState.AWAITING_APPROVAL,
        RolloutState.RUNNING,
        RolloutState.PAUSED,
        RolloutState.ROLLING_BACK,
    }
)
"""The rollout has a claim on its devices: no second one of the same model may want them."""

ROLLOUT_WALKS: Final = frozenset({RolloutState.RUNNING, RolloutState.AWAITING_APPROVAL})
"""Its stages are walked: a tick may offer, and one that waits for an approval runs again once it has it."""

_R, _RE = RolloutState, RolloutEvent

_ROLLOUT_OPEN: Final = ROLLOUT_ACTIVE | {RolloutState.DRAFT}

ROLLOUT_TRANSITIONS: Final[Mapping[tuple[RolloutState, RolloutEvent], RolloutState]] = {
    # on the way to the first offer
    (_R.DRAFT, _RE.VALIDATE): _R.VALIDATING,
    (_R.VALIDATING, _RE.ASK_APPROVAL): _R.AWAITING_APPROVAL,
    (_R.VALIDATING, _RE.START): _R.RUNNING,
    (_R.AWAITING_APPROVAL, _RE.START): _R.RUNNING,
    # under way; between two stages it may wait for an approval again
    (_R.RUNNING, _RE.ASK_APPROVAL): _R.AWAITING_APPROVAL,
    **_edges((_R.RUNNING, _R.AWAITING_APPROVAL), _RE.PAUSE, _R.PAUSED),
    (_R.PAUSED, _RE.RESUME): _R.RUNNING,
    (_R.RUNNING, _RE.FINISH): _R.FINISHED,
    # devices that were exposed go on reporting while it is paused, so it may have to be taken back from there too
    **_edges((_R.RUNNING, _R.AWAITING_APPROVAL, _R.PAUSED, _R.REGRESSED), _RE.ROLL_BACK, _R.ROLLING_BACK),
    (_R.ROLLING_BACK, _RE.ROLLED_BACK): _R.ROLLED_BACK,
    (_R.ROLLING_BACK, _RE.ROLLBACK_STUCK): _R.ROLLBACK_INCOMPLETE,
    (_R.ROLLING_BACK, _RE.FINISH): _R.FINISHED,  # after its end, in some strata only
    (_R.FINISHED, _RE.REGRESS): _R.REGRESSED,
    (_R.FINISHED, _RE.REOPEN): _R.RUNNING,
    # superseded by a newer rollout, or ended by a person
    **_edges(_ROLLOUT_OPEN, _RE.SUPERSEDE, _R.SUPERSEDED),
    **_edges(_ROLLOUT_OPEN, _RE.CANCEL, _R.CANCELLED),
}


# ---- stage (a cell)

CELL_OPEN: Final = frozenset({StageState.EXPOSING, StageState.SOAKING, StageState.JUDGING})
"""Devices are offered the release, or are being watched."""

CELL_DONE: Final = frozenset({StageState.PASSED, StageState.FAILED, StageState.SKIPPED})
"""Nothing of the walk moves the cell any more."""

_S, _SE = StageState, StageEvent

_OPEN_OR_HELD: Final = CELL_OPEN | {StageState.HELD}

STAGE_TRANSITIONS: Final[Mapping[tuple[StageState, StageEvent], StageState]] = {
    (_S.PENDING, _SE.OPEN): _S.EXPOSING,
    (_S.PENDING, _SE.SKIP): _S.SKIPPED,
    (_S.EXPOSING, _SE.SETTLED): _S.SOAKING,
    (_S.SOAKING, _SE.SOAKED): _S.JUDGING,
    # a joiner or a re-offer made work again
    **_edges((_S.SOAKING, _S.JUDGING), _SE.UNSETTLED, _S.EXPOSING),
    **_edges(_OPEN_OR_HELD, _SE.PASS, _S.PASSED),
    **_edges(_OPEN_OR_HELD, _SE.FAIL, _S.FAILED),
    **_edges(CELL_OPEN, _SE.HOLD, _S.HELD),
    (_S.HELD, _SE.RELEASE): _S.EXPOSING,
    (_S.PASSED, _SE.REGRESS): _S.FAILED,
}


# ---- assignment

CHAIN: Final = (
    AssignmentState.ELIGIBLE,
    AssignmentState.OFFERED,
    AssignmentState.ACKED,
    AssignmentState.DOWNLOADING,
    AssignmentState.STAGED,
    AssignmentState.PARITY_OK,
    AssignmentState.APPLYING,
    AssignmentState.VERIFYING,
    AssignmentState.HEALTHY,
)
"""The way of a device on which all goes well, in order."""

CHAIN_EVENTS: Final[Mapping[AssignmentState, AssignmentEvent]] = {
    AssignmentState.OFFERED: AssignmentEvent.OFFER,
    AssignmentState.ACKED: AssignmentEvent.ACK,
    AssignmentState.DOWNLOADING: AssignmentEvent.DOWNLOAD,
    AssignmentState.STAGED: AssignmentEvent.STAGE,
    AssignmentState.PARITY_OK: AssignmentEvent.PARITY,
    AssignmentState.APPLYING: AssignmentEvent.APPLY,
    AssignmentState.VERIFYING: AssignmentEvent.VERIFY,
    AssignmentState.HEALTHY: AssignmentEvent.HEALTHY,
}
"""The event that leads to a state of the chain."""

IN_FLIGHT: Final = frozenset(CHAIN[1:-1])
"""Offered, and no outcome yet."""

UNSWITCHED: Final = frozenset(CHAIN[1:6])
"""Offered, but what serves was not touched yet: a pause withdraws these."""

FAILED_STATES: Final = frozenset(
    {AssignmentState.FAILED, AssignmentState.LOST, AssignmentState.ROLLED_BACK, AssignmentState.REGRESSED}
)
"""The release failed on the device. A `rolled_back` that the server asked for (`back_gen` > 0) did not: the caller tells them apart."""

EXPOSED_STATES: Final = frozenset(CHAIN[2:]) | FAILED_STATES
"""The device took the offer up."""

ASSIGNMENT_FINAL: Final = FAILED_STATES | {
    AssignmentState.HEALTHY,
    AssignmentState.INCOMPATIBLE,
    AssignmentState.SUPERSEDED,
    AssignmentState.CANCELLED,
}
"""The device has an outcome."""

_A, _AE = AssignmentState, AssignmentEvent

_TAKEN_UP: Final = frozenset(CHAIN[2:-1])

_UNDECIDED: Final = IN_FLIGHT | {AssignmentState.ELIGIBLE, AssignmentState.UNREACHABLE}


def _chain() -> dict[tuple[AssignmentState, AssignmentEvent], AssignmentState]:
    forward = {(state, CHAIN_EVENTS[later]): later for place, state in enumerate(CHAIN) for later in CHAIN[place + 1 :]}
    back_again = {(_A.UNREACHABLE, CHAIN_EVENTS[later]): later for later in CHAIN[2:]}
    return forward | back_again


ASSIGNMENT_TRANSITIONS: Final[Mapping[tuple[AssignmentState, AssignmentEvent], AssignmentState]] = {
    **_chain(),
    # what the device reports instead; a snapshot may be the first word after the offer, or after a long absence
    **_edges(IN_FLIGHT | {_A.UNREACHABLE}, _AE.FAIL, _A.FAILED),
    **_edges(IN_FLIGHT | {_A.UNREACHABLE}, _AE.ROLL_BACK_LOCAL, _A.ROLLED_BACK),
    **_edges((_A.ELIGIBLE, _A.OFFERED, _A.UNREACHABLE), _AE.UNFIT, _A.INCOMPATIBLE),
    (_A.HEALTHY, _AE.REGRESS): _A.REGRESSED,
    # what silence means
    **_edges((_A.ELIGIBLE, _A.OFFERED), _AE.MISS, _A.UNREACHABLE),
    (_A.UNREACHABLE, _AE.RETURN): _A.ELIGIBLE,  # it is back, but its offer was recalled meanwhile
    **_edges(_TAKEN_UP, _AE.LOSE, _A.LOST),
    # what the server does
    **_edges(UNSWITCHED, _AE.WITHDRAW, _A.ELIGIBLE),
    **_edges(
        IN_FLIGHT | {_A.HEALTHY, _A.REGRESSED, _A.UNREACHABLE},
        _AE.ROLL_BACK_REMOTE,
        _A.ROLLED_BACK,
    ),
    **_edges(_UNDECIDED | {_A.HEALTHY}, _AE.SUPERSEDE, _A.SUPERSEDED),
    # it ran the release as a candidate, and now belongs to a stage in which the release is to serve
    **_edges((_A.HEALTHY, _A.UNREACHABLE), _AE.GO_ON, _A.ELIGIBLE),
    **_edges(_UNDECIDED, _AE.CANCEL, _A.CANCELLED),
    # what a person does
    **_edges(FAILED_STATES, _AE.TRY_AGAIN, _A.ELIGIBLE),
}


# ---- steps


def _step(table: Mapping[tuple[_State, _Event], _State], state: _State, event: _Event) -> _State:
    try:
        return table[state, event]
    except KeyError:
        raise IllegalTransitionError(f"{type(event).__name__} {event} cannot happen in state {state}") from None


def step_rollout(state: RolloutState, event: RolloutEvent) -> RolloutState:
    """Return the state after `event`. Raises IllegalTransitionError where the table has no entry."""
    return _step(ROLLOUT_TRANSITIONS, state, event)


def step_stage(state: StageState, event: StageEvent) -> StageState:
    """Return the state after `event`. Raises IllegalTransitionError where the table has no entry."""
    return _step(STAGE_TRANSITIONS, state, event)


def step_assignment(state: AssignmentState, event: AssignmentEvent) -> AssignmentState:
    """Return the state after `event`. Raises IllegalTransitionError where the table has no entry."""
    return _step(ASSIGNMENT_TRANSITIONS, state, event)


def forward(state: AssignmentState, reported: AssignmentState) -> AssignmentEvent | None:
    """Return the event that takes an assignment on to a reported state of the chain; None when that is no way forward.

    None is what a repeated, an old or a "retrying the download" report gives: the assignment stays where it is.
    """
    event = CHAIN_EVENTS.get(reported)
    return event if event is not None and (state, event) in ASSIGNMENT_TRANSITIONS else None


def moved(assignment: Assignment, event: AssignmentEvent, now: datetime, **changes: object) -> Assignment:
    """Return the assignment after an event, with the moment it entered its new state."""
    return assignment.but(state=step_assignment(assignment.state, event), entered_at=now, **changes)


# ---- questions about one assignment: is the device exposed, healthy, failed, lost, gone?


_NOT_YET: Final = timedelta(seconds=1)

UNCOUNTED: Final = frozenset({_A.CANCELLED, _A.SUPERSEDED})

OUTSIDE: Final = UNCOUNTED | {_A.INCOMPATIBLE}
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
    if a.state is _A.UNREACHABLE:
        return a.error_class == OFFLINE
    return a.state in FAILED_STATES and not (a.state is _A.ROLLED_BACK and not a.error_class)


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
    return LOST if a.state is _A.LOST else a.error_class or "internal"


def class_of(a: Assignment) -> str:
    """Return the class of a failure as evidence: of a device that failed more than once, the one that weighs most."""
    now = standing_class(a) if stands_failed(a) else ""
    return min((one for one in (a.failed_before, now) if one), key=_weight)


def _weight(error_class: str) -> int:
    return next((at for at, some in enumerate(_HEAVIEST) if error_class in some), len(_HEAVIEST))
