"""Which due rollouts get a turn in a cycle, and the idle check that spares most of them one.

A cycle may take several ticks; a rollout that is due again in it has another turn. The idle check looks at small rollouts
that had nothing to do when this process last looked, in the transaction that would claim them, while their rows are locked,
and reads at once what the devices of all of them report. One with nothing to do is neither leased nor is its fence raised,
since nothing of it is written. One with something to do is claimed like all others, and read again in a transaction of its
own. An exception ends the tick; the next one looks at each alone.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.rollout.effects import Plan
from edgefleet_server.rollout.model import Snapshot
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.preparation.loader import SnapshotLoader, can_be_read_again
from edgefleet_server.rollout.store.tables import Rollout

REST_S: Final = 1.0
"""So long after a look none of the same round follows, also where the plan wants one at once."""


class WorkQueue:
    """One round. `is_woken`: devices have reported, so all open rollouts have their turn in it, behind those that are due."""

    def __init__(self) -> None:
        self.is_woken = False
        self.done: set[str] = set()
        self._rests_until_s: dict[str, float] = {}

    def wake(self) -> None:
        """Note that devices have reported just now: all open rollouts have their turn, also those that had one."""
        self.is_woken = True
        self.done.clear()

    def note(self, looked_at: Collection[str], now_s: float) -> None:
        """Note whose turn it was. now_s: of a clock that only grows."""
        self.done.update(looked_at)
        self._rests_until_s.update(dict.fromkeys(looked_at, now_s + REST_S))

    def resting(self, now_s: float) -> set[str]:
        """Return who must not be looked at again yet, due or not."""
        return {one for one, until_s in self._rests_until_s.items() if until_s > now_s}


class IdleCheck:
    """Glances at rollouts for one process."""

    def __init__(self, loader: SnapshotLoader, clock: Clock) -> None:
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
