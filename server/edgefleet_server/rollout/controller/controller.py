"""The engine of rollouts: claims what is due and does one tick of each. Replicas may all run it.

Source: docs/explanation/rollouts.md, "When the server dies".
A claim is a short transaction that raises the fence and takes a lease; the tick is a second one that
begins by locking the row with that fence. Who has lost it (a lease that ran out, a person's command) writes nothing. Of those whose
last tick had nothing to do the claim looks whether they have now (`IdleCheck`), and takes only those.

A cycle may take several ticks; a rollout that is due again in it has another turn. The idle check looks at small rollouts
that had nothing to do when this process last looked, in the transaction that would claim them, while their rows are locked,
and reads at once what the devices of all of them report. One with nothing to do is neither leased nor is its fence raised,
since nothing of it is written. One with something to do is claimed like all others, and read again in a transaction of its
own. An exception ends the tick; the next one looks at each alone.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.rollout.controller.batches import BatchExecutor, Ending, Tick, portions, write_claim
from edgefleet_server.rollout.controller.executor import BRAKE_LIFE, Executor
from edgefleet_server.rollout.effects import Plan
from edgefleet_server.rollout.model import Snapshot
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.ports import RolloutFleet
from edgefleet_server.rollout.preparation.loader import SnapshotLoader, can_be_read_again
from edgefleet_server.rollout.preparation.metric_collector import MetricCollector
from edgefleet_server.rollout.store import rollouts, throttle
from edgefleet_server.rollout.store.rollouts import CLAIM_BATCH, hold_fence, is_any_due, lease, lock_due
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


_log = logging.getLogger(__name__)
TURN_S: Final = 1.0
"""A tick takes no further claim after so long, so that the other work of its thread has its turn."""


class RolloutParts(Protocol):
    """What a pass works with."""

    loader: SnapshotLoader
    measurer: MetricCollector
    carrier: Executor


class RolloutController:
    """Ticks rollouts for one process. `owner` is unique among the processes that share the database."""

    def __init__(self, db: Database, fleet: RolloutFleet, parts: RolloutParts, clock: Clock, owner: str) -> None:
        self._db = db
        self._fleet = fleet
        self._parts = parts
        self._clock = clock
        self._owner = owner
        self._crew = BatchExecutor(db, fleet.offers, parts.carrier, clock)
        self._glancer = IdleCheck(parts.loader, clock)
        self._lag_listeners: list[Callable[[float, bool], None]] = []
        self._has_more = False
        self._round = WorkQueue()
        self._is_behind = False
        self._failing: set[str] = set()

    def on_lag(self, listener: Callable[[float, bool], None]) -> None:
        """Call `listener` at each look with how many seconds ago it was due, and whether nobody had claimed or steered it before."""
        self._lag_listeners.append(listener)

    @property
    def has_more(self) -> bool:
        """Whether the last tick left something that need not wait for the next one."""
        return self._has_more

    @property
    def is_behind(self) -> bool:
        """Whether the last tick ended with its turn, not with what is due: the next one should begin at once."""
        return self._is_behind

    def tick(self, *, is_woken: bool = False) -> int:
        """Look at each rollout that is due; return at how many. is_woken: devices reported, so all open ones are.

        After `TURN_S` the rest of the round is left to the next tick (`is_behind`). One rollout that fails does not stop the others: it is
        tried again behind all of them, once a round. In a glance it stops this tick, and is looked at alone in the next.
        """
        self._has_more = self._is_behind = False
        if is_woken:
            self._round.wake()
        with self._db.read() as session:
            is_due = is_any_due(session, self._clock.now(), is_woken=self._round.is_woken)
            is_brake_right = self._is_brake_right(session)
        if not is_brake_right:
            with self._db.session() as session:
                self._parts.carrier.set_brake(session, self._clock.now())
        if not is_due:
            self._round = WorkQueue()
            return 0
        looks, turn_ends_s = 0, self._clock.monotonic_s() + TURN_S
        while True:
            found, claimed = self._claim()
            failed = {rollout_id for rollout_id, fence in claimed if not self._attempt(rollout_id, fence)}
            self._failing = self._failing - found | failed
            now_s = self._clock.monotonic_s()
            self._round.note(found, now_s)
            looks += len(found)
            if len(found) < CLAIM_BATCH:
                self._round = WorkQueue()
                return looks
            if now_s >= turn_ends_s:
                self._is_behind = True
                return looks

    def _claim(self) -> tuple[set[str], list[tuple[str, int]]]:
        """Take about CLAIM_BATCH rollouts whose turn it is; return their ids, and (id, fence) of those that need more than a glance."""
        with self._db.session() as session:
            now, turns = self._clock.now(), self._round
            others = self._failing | turns.resting(self._clock.monotonic_s())
            done = turns.done if turns.is_woken else None
            last = self._failing - turns.done
            rows = lock_due(session, self._owner, now, but=others, woken_but=done, last=last)
            calm = self._glancer.glance(session, rows)
            claimed = lease([row for row in rows if row.id not in calm], self._owner, now)
        for late in calm.values():
            self._tell_lag(late, is_first=False)
        return {row.id for row in rows}, claimed

    def _attempt(self, rollout_id: str, fence: int) -> bool:
        """Look at one rollout; return whether that went well."""
        try:
            self._one(rollout_id, fence)
        except Exception:  # noqa: BLE001  # the outermost loop over rollouts: a bug in one must not stop the others for good
            _log.exception("rollout tick failed", extra={"rollout_id": rollout_id})
            return False
        return True

    def _one(self, rollout_id: str, fence: int) -> None:
        """Do one tick: look, plan, and carry the plan out, a portion in a transaction; the first one in that of the look."""
        parts = self._parts
        with self._db.session() as session:
            row = hold_fence(session, rollout_id, fence)
            if row is None:
                _log_taken_over(rollout_id, fence)
                return
            throttle.lock_line_for(session, row.spec)
            snapshot = parts.loader.snapshot(session, row)
            now = self._clock.now()
            snapshot = replace(snapshot, missed=lateness(row, now))
            self._tell_lag(snapshot.missed, is_first=fence == 1)
            if snapshot.spec.gates.quality is not None:
                snapshot = parts.measurer.take(session, snapshot, row.model, now)
            made = plan_tick(snapshot, now)
            first, *todo = portions(made)
            known = {one.device: one for one in snapshot.assignments}
            parts.carrier.carry_part(session, row, snapshot, first, known, actor="engine", now=now)
            tick = Tick(rollout_id, fence, row.model, snapshot, made, now, todo, known)
            write_claim(row, tick, self._clock.now())
        self._has_more |= made.next_at == now
        match self._crew.carry(tick):
            case Ending.TAKEN_OVER:
                _log_taken_over(rollout_id, fence)
                return
            case Ending.DROPPED:
                _log.info("rollout plan dropped", extra={"rollout_id": rollout_id, "portions_left": len(tick.todo)})
                self._has_more = True
                return
        parts.loader.memory.wrote(rollout_id, fence, [known[device] for device in sorted(known)])
        self._glancer.after_look(rollout_id, fence, snapshot, made, now)
        if made.effects:
            _log.info("rollout ticked", extra={"rollout_id": rollout_id, "effects": len(made.effects)})

    def _tell_lag(self, late: timedelta, *, is_first: bool) -> None:
        for listener in self._lag_listeners if late else ():
            listener(late.total_seconds(), is_first)

    def _is_brake_right(self, session: Session) -> bool:
        """Whether the brake names what it should: not rollouts that ended long ago, nor less than two processes wrote at the same time."""
        wanted = rollouts.braked(session, self._clock.now() - BRAKE_LIFE), rollouts.failed_digests(session)
        return wanted == self._fleet.hold.names()


def _log_taken_over(rollout_id: str, fence: int) -> None:
    _log.info("rollout taken over", extra={"rollout_id": rollout_id, "fence": fence})
