"""A glance at small rollouts that had nothing to do when this process last looked: most of them have nothing to do again.

It is made in the transaction that would claim them, while their rows are locked, and reads for all of them at once what devices say.
Who has nothing to do is only told when to be looked at next: it is neither leased nor is its fence raised, since nothing of it is
written. Who has something to do is claimed like all others, and looked at anew in a transaction of its own. An exception
ends the tick; after it each of these is looked at alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.rollout.loading import Loader, can_be_read_again
from edgefleet_server.rollout.model import Plan, Snapshot
from edgefleet_server.rollout.planner import plan_tick
from edgefleet_server.rollout.tables import Rollout


class Glancer:
    """Glances at rollouts for one process."""

    def __init__(self, loader: Loader, clock: Clock) -> None:
        self._loader = loader
        self._clock = clock

    def glance(self, session: Session, rows: Sequence[Rollout]) -> dict[str, timedelta]:
        """Return which of these rollouts have nothing to do, by id, and for how long each was due; their next look is set.

        The caller has locked their rows, and commits.
        """
        memory = self._loader.memory
        rested = [(row, kept) for row in rows if (kept := memory.rested(row.id, row.fence)) is not None]
        try:
            fresh = self._loader.again(session, [kept for _, kept in rested])
            found = {row.id: self._look(row, snapshot) for (row, _), snapshot in zip(rested, fresh, strict=True)}
        except Exception:  # a bug in one must not stop the others for good: the next look at each is one of its own
            for row, _ in rested:
                memory.rouse(row.id)
            raise
        return {rollout_id: late for rollout_id, late in found.items() if late is not None}

    def after_look(self, rollout_id: str, fence: int, snapshot: Snapshot, plan: Plan, now: datetime) -> None:
        """Note, after the commit of a whole look, whether a glance may be enough next time."""
        if _is_at_rest(snapshot, plan, now):
            self._loader.memory.rest(rollout_id, fence, snapshot)
        else:
            self._loader.memory.rouse(rollout_id)

    def _look(self, row: Rollout, snapshot: Snapshot) -> timedelta | None:
        now = self._clock.now()
        late = lateness(row, now)
        plan = plan_tick(replace(snapshot, missed=late), now)
        if not _is_at_rest(snapshot, plan, now):
            self._loader.memory.rouse(row.id)
            return None
        row.next_eval_at, row.lease_until = plan.next_at, None
        return late


def _is_at_rest(snapshot: Snapshot, plan: Plan, now: datetime) -> bool:
    return not plan.effects and plan.next_at != now and can_be_read_again(snapshot)


def lateness(row: Rollout, now: datetime) -> timedelta:
    """Return for how long a rollout has been due, nothing when it is not due yet."""
    due_at = row.next_eval_at
    return now - due_at if due_at is not None and due_at < now else timedelta()
