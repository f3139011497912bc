"""The engine of rollouts: claims what is due and does one tick of each. Replicas may all run it.

Source: docs/explanation/rollouts.md, "When the server dies".
A claim is a short transaction that raises the fence and takes a lease; the tick is a second one that
begins by locking the row with that fence. Who has lost it (a lease that ran out, a person's command) writes nothing. Of those whose
last tick had nothing to do the claim looks whether they have now (`workqueue`), and takes only those.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.rollout.controller.workqueue import IdleCheck, WorkQueue, lateness
from edgefleet_server.rollout.execution.batches import BatchExecutor, Ending, Tick, portions, write_claim
from edgefleet_server.rollout.execution.executor import BRAKE_LIFE
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.ports import RolloutFleet
from edgefleet_server.rollout.service import RolloutService
from edgefleet_server.rollout.store import claims, rollouts, throttle

_log = logging.getLogger(__name__)
TURN_S: Final = 1.0
"""A tick takes no further claim after so long, so that the other work of its thread has its turn."""


class RolloutController:
    """Ticks rollouts for one process. `owner` is unique among the processes that share the database."""

    def __init__(self, db: Database, fleet: RolloutFleet, service: RolloutService, clock: Clock, owner: str) -> None:
        self._db = db
        self._fleet = fleet
        self._service = service
        self._clock = clock
        self._owner = owner
        self._crew = BatchExecutor(db, fleet.offers, service.carrier, clock)
        self._glancer = IdleCheck(service.loader, clock)
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
            is_due = claims.is_any_due(session, self._clock.now(), is_woken=self._round.is_woken)
            is_brake_right = self._is_brake_right(session)
        if not is_brake_right:
            with self._db.session() as session:
                self._service.carrier.set_brake(session, self._clock.now())
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
            if len(found) < claims.CLAIM_BATCH:
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
            rows = claims.lock_due(session, self._owner, now, but=others, woken_but=done, last=last)
            calm = self._glancer.glance(session, rows)
            claimed = claims.lease([row for row in rows if row.id not in calm], self._owner, now)
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
        service = self._service
        with self._db.session() as session:
            row = claims.hold_fence(session, rollout_id, fence)
            if row is None:
                _log_taken_over(rollout_id, fence)
                return
            throttle.lock_line_for(session, row.spec)
            snapshot = service.loader.snapshot(session, row)
            now = self._clock.now()
            snapshot = replace(snapshot, missed=lateness(row, now))
            self._tell_lag(snapshot.missed, is_first=fence == 1)
            snapshot = service.measurer.take(session, snapshot, row.model, now)
            made = plan_tick(snapshot, now)
            first, *todo = portions(made)
            known = {one.device: one for one in snapshot.assignments}
            service.carrier.carry_part(session, row, snapshot, first, known, actor="engine", now=now)
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
        service.loader.memory.wrote(rollout_id, fence, [known[device] for device in sorted(known)])
        self._glancer.after_look(rollout_id, fence, snapshot, made, now)
        if made.effects:
            _log.info("rollout ticked", extra={"rollout_id": rollout_id, "effects": len(made.effects)})

    def _tell_lag(self, late: timedelta, *, is_first: bool) -> None:
        for listener in self._lag_listeners if late else ():
            listener(late.total_seconds(), is_first)

    def _is_brake_right(self, session: Session) -> bool:
        """Whether the brake names what it should: not rollouts that ended long ago, nor less than two processes wrote at the same time."""
        wanted = rollouts.braked(session, self._clock.now() - BRAKE_LIFE), rollouts.failed_digests(session)
        return wanted == (self._fleet.hold.rollouts(), self._fleet.hold.digests())


def _log_taken_over(rollout_id: str, fence: int) -> None:
    _log.info("rollout taken over", extra={"rollout_id": rollout_id, "fence": fence})
