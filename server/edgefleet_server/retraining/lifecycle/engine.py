"""The engine of retraining: looks at triggers, and moves what they started. Any number of servers may run it.

- Each retraining is moved in a transaction that holds its row, so that of several servers one does a step, and one that dies half-way
  leaves it as it was. Asking devices and making the rollout are parts of that transaction.
- Calling a launcher is not: the call is written down first, and one that dies in between calls again. Its body names the retraining.
- One that fails for a reason of its own ends with it; a bug in one is logged, and the others go on.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.db.database import Database
from edgefleet_server.retraining import store
from edgefleet_server.retraining.errors import LaunchError, LaunchRefusedError
from edgefleet_server.retraining.lifecycle import record_collection
from edgefleet_server.retraining.lifecycle.alert_causes import DRIFT, AlertCauses
from edgefleet_server.retraining.lifecycle.record_collection import Capturing, Devices, Look
from edgefleet_server.retraining.lifecycle.rollout_maker import RolloutMaker
from edgefleet_server.retraining.model import (
    DriftAfter,
    Launcher,
    LauncherKind,
    LaunchOrder,
    RetrainingView,
    RunCause,
    RunState,
    RunTrouble,
    TriggerOn,
)
from edgefleet_server.retraining.run_maker import TAKEN_WITHIN, RunMaker, terms_of
from edgefleet_server.retraining.run_steps import RunEvent
from edgefleet_server.retraining.runner_leases import LeaseBook
from edgefleet_server.retraining.service import cause_of, view_of
from edgefleet_server.retraining.tables import RetrainingRun, RetrainingTrigger
from edgefleet_server.retraining.trigger_book import TriggerBook, next_at
from edgefleet_server.retraining.trigger_rules import CauseSeen, TriggerHistory, decide

FOLLOWED: Final = timedelta(days=1)
"""After so long a cause that is still there stays, and one that nobody could judge is unknown."""
SETTLED: Final = timedelta(minutes=10)
"""A cause that is gone earlier was perhaps only not looked at yet."""
UNTAKEN: Final = timedelta(minutes=10)
LAUNCH_AGAIN: Final = timedelta(minutes=2)
MAX_LAUNCHES: Final = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the engine works with besides its own services."""

    causes: AlertCauses
    captures: Capturing
    devices: Devices
    rollouts: RolloutMaker
    launchers: Mapping[LauncherKind, Launcher]


class RetrainingEngine:
    """Ticks for one process. Calls block."""

    def __init__(
        self, db: Database, maker: RunMaker, triggers: TriggerBook, leases: LeaseBook, around: Surroundings
    ) -> None:
        """Wire the parts."""
        self._db = db
        self._maker = maker
        self._triggers = triggers
        self._leases = leases
        self._around = around
        self._clock = maker.clock
        self._steps: Mapping[RunState, Callable[[Session, RetrainingRun, datetime], str | None]] = {
            RunState.AWAITING_APPROVAL: self._await_answer,
            RunState.COLLECTING: self._collect,
            RunState.QUEUED: self._await_taker,
            RunState.TRAINING: self._train,
            RunState.CONVERTING: self._convert,
            RunState.ROLLING_OUT: self._follow,
        }

    def tick(self, _now: datetime | None = None) -> int:
        """Look at all triggers and all retrainings that have not ended; return how many were started."""
        now = self._clock.now()
        with self._db.read() as session:
            rows = [row for row in store.triggers(session) if row.enabled and row.terms["on"] != TriggerOn.HAND]
        started = sum(self._safely("trigger", row.name, partial(self._fire, row, now)) for row in rows)
        with self._db.read() as session:
            ids = store.open_ids(session)
        for run_id in ids:
            self._safely("retraining", run_id, partial(self._advance, run_id))
        return started

    # ---- triggers

    def _fire(self, row: RetrainingTrigger, now: datetime) -> bool:
        """Let one trigger start a retraining if it may; return whether it did."""
        terms, found = terms_of(row), self._cause(row, now)
        if found is None:
            self._note(row, decide(terms, None, TriggerHistory(), now).words, None)
            return False
        cause, seen = found
        with self._db.read() as session:
            decision = decide(terms, seen, self._maker.history(session, row, now), now)
        made = None
        if decision.fires:
            decision, made = self._maker.start(row.name, cause, seen, by=f"trigger {row.name}", is_own=True)
        # a time of a schedule that was held is left out
        self._note(row, "" if made is not None else decision.words, now if row.terms["schedule"] else None)
        return made is not None

    def _cause(self, row: RetrainingTrigger, now: datetime) -> tuple[RunCause, CauseSeen] | None:
        on = TriggerOn(row.terms["on"])
        if on is not TriggerOn.SCHEDULE:
            return self._around.causes.find(on, row.model, row.terms["objective"], now)
        due = next_at(row)
        if due is None or due > now:
            return None
        words = f"its schedule {row.terms['schedule']} was due at {due:%Y-%m-%d %H:%M} UTC"
        return RunCause(on=on, words=words, since=due.isoformat()), CauseSeen(due, words)

    def _note(self, row: RetrainingTrigger, words: str, after: datetime | None) -> None:
        """Write down what held a trigger, and up to when its schedule is over, where that is news."""
        if words == row.held and after is None:
            return
        with self._db.session() as session:
            now = store.find_trigger(session, row.name, lock=True)
            if now is None or now.changed_at != row.changed_at:  # it says something else meanwhile
                return
            now.held = words
            if after is not None:
                now.after = max(after, now.after)
            session.add(now)

    # ---- retrainings

    def _advance(self, run_id: str) -> bool:
        """Do the next step of one retraining."""
        launch: tuple[RetrainingView, LaunchOrder] | None = None
        with self._db.session() as session:
            row = store.find_run(session, run_id, lock=True)
            if row is None:
                return False
            now = self._clock.now()
            state = RunState(row.state)
            if state in self._steps:
                if row.until is not None and now >= row.until:
                    self._expire(session, row)
                    return True
                waits = self._steps[state](session, row, now)
                if waits is not None and waits != row.says:
                    row.says = waits
                launch = self._claimed_launch(session, row, now)
                session.add(row)
            elif row.drift_state == DriftAfter.WAITING:
                self._follow_cause(session, row, now)
        if launch is not None:
            self._launch(*launch)
        return True

    def _expire(self, session: Session, row: RetrainingRun) -> None:
        words = {
            RunState.AWAITING_APPROVAL: "nobody answered in time",
            RunState.QUEUED: "no runner took it in time",
            RunState.TRAINING: "the training took longer than its launcher's deadline",
            RunState.CONVERTING: f"{row.release} was not signed, or its rollout could not begin, in time",
        }
        self._maker.move(session, row, RunEvent.EXPIRED, words[RunState(row.state)])

    def _await_answer(self, _session: Session, _row: RetrainingRun, _now: datetime) -> str | None:
        return "it waits for an approval"

    def _collect(self, session: Session, row: RetrainingRun, now: datetime) -> str | None:
        captures = self._around.captures
        if not row.collected:
            waits = record_collection.begin(session, row, captures, self._around.devices)
            if waits:
                return waits
        found, how = record_collection.look(row, captures, now)
        row.collected = asdict(found)
        if how is Look.WAITS_FOR_FIRST:
            return f"no record has come from {found.asked} devices, so there is nothing to train on; it waits for the first"
        if how is Look.NOTHING_CAME:
            why = f"none of {found.asked} devices sent a captured record"
            next_step = "see whether they are connected and capture (`edgectl device show ID`), then start it again"
            self._maker.fail(session, row, RunTrouble("retraining.no_records", why, next_step))
            return None
        if how is Look.WAITS:
            return f"{found.answered} of {found.asked} devices have answered, {found.records} records came"
        says = f"{found.records} records came from {found.answered} of {found.asked} devices"
        self._maker.move(session, row, RunEvent.COLLECTED, f"{says}; {_taker(row)}", until=now + TAKEN_WITHIN)
        return None

    def _await_taker(self, _session: Session, row: RetrainingRun, now: datetime) -> str | None:
        waits_since = max(
            row.state_since, row.next_at or row.state_since
        )  # one that was given back may have to wait first
        if row.launcher != LauncherKind.RUNNER or now - waits_since < UNTAKEN:
            return None
        return (
            f"no runner has asked for it for {int((now - waits_since).total_seconds() // 60)} minutes: "
            f"start one with `edgectl retrain worker {row.model} --key FILE -- COMMAND`"
        )

    def _train(self, session: Session, row: RetrainingRun, now: datetime) -> str | None:
        if row.lease_until is not None and now >= row.lease_until:
            self._leases.lose(session, row, f"the runner {row.holder} was not heard of")
            return None
        return None

    def _convert(self, session: Session, row: RetrainingRun, _now: datetime) -> str | None:
        return self._around.rollouts.await_signature(session, row)

    def _follow(self, session: Session, row: RetrainingRun, _now: datetime) -> str | None:
        waits = self._around.rollouts.follow(session, row)
        if row.state == RunState.PROMOTED and row.cause.get("alert") is not None:
            row.drift_state, row.drift_words = DriftAfter.WAITING.value, "it is followed from now on"
        return waits

    # ---- launchers

    def _claimed_launch(
        self, session: Session, row: RetrainingRun, now: datetime
    ) -> tuple[RetrainingView, LaunchOrder] | None:
        """Return what a launcher is called with, and write down that it is; None: nothing is to be called now."""
        kind = LauncherKind(row.launcher)
        if (
            row.state != RunState.QUEUED
            or kind is LauncherKind.RUNNER
            or (row.next_at is not None and now < row.next_at)
        ):
            return None
        if kind not in self._around.launchers:
            why = f"this server has no launcher {kind}"
            self._maker.fail(
                session, row, RunTrouble("retraining.launch_unavailable", why, "change the trigger's launcher")
            )
            return None
        if row.attempts >= MAX_LAUNCHES:
            next_step = "correct the trigger's launcher, and start it again"
            self._maker.fail(session, row, RunTrouble("retraining.launch_unavailable", row.progress, next_step))
            return None
        try:
            order = self._triggers.order(session, row.trigger, row.plan["launcher"])
        except LaunchRefusedError as error:
            self._maker.fail(session, row, RunTrouble(error.code, error.message, error.next_step))
            return None
        row.attempts, row.next_at = row.attempts + 1, now + LAUNCH_AGAIN
        row.began_at = row.began_at or now
        return view_of(row), order

    def _launch(self, run: RetrainingView, order: LaunchOrder) -> None:
        error: EdgefleetError | None = None
        where = ""
        try:
            where = self._around.launchers[order.kind].launch(run, order)
        except EdgefleetError as refused:
            error = refused
        with self._db.session() as session:
            row = store.find_run(session, run.id, lock=True)
            if row is None or row.state != RunState.QUEUED:  # it was cancelled, or has called back already
                return
            now = self._clock.now()
            if isinstance(error, LaunchRefusedError):
                self._maker.fail(session, row, RunTrouble(error.code, error.message, error.next_step))
                return
            if error is not None:
                row.progress = error.message
                row.says = f"{order.kind} could not be called: {error.message}; it is tried again"
                if isinstance(error, LaunchError) and error.after_s:
                    row.next_at = now + timedelta(seconds=error.after_s)
                session.add(row)
                return
            row.progress = where
            until = now + timedelta(seconds=order.deadline_s)
            self._maker.move(session, row, RunEvent.TAKEN, f"{order.kind} was called, and trains", until=until)

    # ---- afterwards

    def _follow_cause(self, session: Session, row: RetrainingRun, now: datetime) -> None:
        ended = row.ended_at or now
        version = ReleaseRef.parse(row.release).version
        found, words = self._around.causes.after(cause_of(row.cause), row.model, version, ended, now)
        is_late = now - ended >= FOLLOWED
        if found is DriftAfter.GONE and now - ended < SETTLED and row.cause.get("rule") != DRIFT:
            found = DriftAfter.WAITING
        if found is DriftAfter.STILL_THERE and not is_late:
            found = DriftAfter.WAITING
        if found is DriftAfter.WAITING and is_late:
            found = DriftAfter.UNKNOWN
        if found is DriftAfter.WAITING:
            row.drift_words = words
        else:
            self._maker.settle(session, row, found, words)
        session.add(row)

    def _safely(self, kind: str, name: str, step: Callable[[], bool]) -> bool:
        try:
            return step()
        except Exception:  # noqa: BLE001  # a bug in one must not keep the others waiting
            _log.exception("a step of retraining failed", extra={"kind": kind, "subject": name})
            return False


def _taker(row: RetrainingRun) -> str:
    return "it waits for a runner" if row.launcher == LauncherKind.RUNNER else f"{row.launcher} is called"
