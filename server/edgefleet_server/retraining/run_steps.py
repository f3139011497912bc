"""How a retraining goes on: states, what happens, and where that leads. Pure.

Rules:
1. Nothing is collected or trained before an approval where the trigger asks for one.
2. A training whose runner died is queued again, and ends when that happened LOST_MOST times. One that is given back may be taken at
   once the first time (a runner is restarted), then after pauses that double, and ends when that happened GIVEN_BACK_MOST times.
3. What has ended stays as it is; only `drift_after` is written to it.
4. Once a rollout is made, that decides: it is stopped by the commands of rollouts.
5. A release that is proven worse than its parent is stopped before any device has it.
Source: ADRs 0135, 0142.
"""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Final

from edgefleet_server.retraining.model import OPEN, RunState

LOST_MOST: Final = 5
GIVEN_BACK_MOST: Final = 20
FIRST_PAUSE: Final = timedelta(minutes=1)
LONGEST_PAUSE: Final = timedelta(hours=1)


class RunEvent(StrEnum):
    """What happens to a retraining."""

    APPROVED = "approved"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    COLLECTED = "collected"
    TAKEN = "taken"
    LOST = "lost"
    COMPLETED = "completed"
    FAILED = "failed"
    PUBLISHED = "published"
    FOUND_WORSE = "found_worse"
    ROLLOUT_MADE = "rollout_made"
    ROLLED_OUT = "rolled_out"
    ROLLOUT_STOPPED = "rollout_stopped"


class IllegalStepError(ValueError):
    """The event cannot happen in this state."""


_S, _E = RunState, RunEvent
STEPS: Final[Mapping[tuple[RunState, RunEvent], RunState]] = {
    (_S.AWAITING_APPROVAL, _E.APPROVED): _S.COLLECTING,
    (_S.AWAITING_APPROVAL, _E.REJECTED): _S.REJECTED,
    (_S.AWAITING_APPROVAL, _E.EXPIRED): _S.EXPIRED,
    (_S.COLLECTING, _E.COLLECTED): _S.QUEUED,
    (_S.QUEUED, _E.TAKEN): _S.TRAINING,
    (_S.QUEUED, _E.COMPLETED): _S.CONVERTING,  # what a launcher called may answer before it is noted that it was called
    (_S.QUEUED, _E.EXPIRED): _S.EXPIRED,
    (_S.TRAINING, _E.LOST): _S.QUEUED,
    (_S.TRAINING, _E.COMPLETED): _S.CONVERTING,
    (_S.TRAINING, _E.EXPIRED): _S.EXPIRED,
    (_S.CONVERTING, _E.PUBLISHED): _S.PUBLISHED,
    (_S.CONVERTING, _E.ROLLOUT_MADE): _S.ROLLING_OUT,
    (_S.CONVERTING, _E.FOUND_WORSE): _S.STOPPED,
    (_S.CONVERTING, _E.EXPIRED): _S.EXPIRED,
    (_S.ROLLING_OUT, _E.ROLLED_OUT): _S.PROMOTED,
    (_S.ROLLING_OUT, _E.ROLLOUT_STOPPED): _S.STOPPED,
    **{(state, _E.FAILED): _S.FAILED for state in OPEN if state is not _S.AWAITING_APPROVAL},
    **{(state, _E.CANCELLED): _S.CANCELLED for state in OPEN if state is not _S.ROLLING_OUT},
}
"""Every step that there is."""


def step(state: RunState, event: RunEvent) -> RunState:
    """Return the state after an event. Raises IllegalStepError."""
    after = STEPS.get((state, event))
    if after is None:
        raise IllegalStepError(f"{event} cannot happen to one that is {state}")
    return after


def pause_after(lost: int, given_back: int) -> timedelta | None:
    """Return how long a training that lost its runner waits before another may take it; None: it ends.

    lost: how many runners were not heard of any more; given_back: how often it was given back; both with the last one.
    """
    if lost >= LOST_MOST or given_back >= GIVEN_BACK_MOST:
        return None
    if given_back < 2:
        return timedelta(0)
    return min(FIRST_PAUSE * (1 << (given_back - 2)), LONGEST_PAUSE)


def is_open(state: RunState) -> bool:
    """Return whether a retraining in this state has not ended."""
    return state in OPEN
