"""States of a rollout and which of them are ends, for the server and for every program that reads its answers. Pure."""

from enum import StrEnum
from typing import Final


class RolloutState(StrEnum):
    """Where a rollout stands. Stored and public: never renamed."""

    DRAFT = "draft"
    VALIDATING = "validating"
    AWAITING_APPROVAL = "awaiting_approval"
    RUNNING = "running"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_INCOMPLETE = "rollback_incomplete"
    FINISHED = "finished"
    REGRESSED = "regressed"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


ROLLOUT_FINAL: Final = frozenset(
    {
        RolloutState.ROLLED_BACK,
        RolloutState.ROLLBACK_INCOMPLETE,
        RolloutState.FINISHED,
        RolloutState.REGRESSED,
        RolloutState.SUPERSEDED,
        RolloutState.CANCELLED,
    }
)
"""The server has nothing left to do of its own. FINISHED may still regress or be reopened, and REGRESSED be rolled back."""


def is_final(state: str) -> bool:
    """Tell whether a rollout in this state moves no more by itself. False for a word that is no state."""
    return state in ROLLOUT_FINAL


def shown_state(state: str) -> str:
    """Return a state as people read it: a person or an alert *aborts* a rollout, which is stored as `cancelled`."""
    return "aborted" if state == RolloutState.CANCELLED else state
