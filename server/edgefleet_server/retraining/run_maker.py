"""Starts retrainings: the one place that does, by hand or by a trigger itself, and that moves them from state to state.

The triggers of a model are locked first, in one order, so that of several servers and people one starts a retraining and the others
find it there. What a trigger may is decided from what is stored then (`trigger_rules`).
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.events.model import NewEvent
from edgefleet_server.retraining import store
from edgefleet_server.retraining.errors import RetrainingStateError
from edgefleet_server.retraining.model import OPEN, DriftAfter, LauncherKind, RunCause, RunState, RunTrouble, TriggerOn
from edgefleet_server.retraining.run_steps import IllegalStepError, RunEvent, step
from edgefleet_server.retraining.tables import RetrainingRun, RetrainingTrigger
from edgefleet_server.retraining.trigger_rules import (
    CauseSeen,
    Decision,
    TriggerHistory,
    TriggerTerms,
    decide,
    may_start,
)

ANSWERED_WITHIN: Final = timedelta(days=7)
TAKEN_WITHIN: Final = timedelta(days=7)
CONVERTED_WITHIN: Final = timedelta(days=1)
EVENT: Final = "retraining"


class Feed(Protocol):
    """What is needed of the event log."""

    def add(self, rows: Sequence[NewEvent]) -> list[int]:
        """Store events in the caller's transaction."""
        ...


class Parents(Protocol):
    """Says which release of a model is trained further."""

    def parent_of(self, model: str) -> str:
        """Return `name@version`, "" when the model has no release that can be."""
        ...


class RunMaker:
    """Starts and moves retrainings. Calls block; writes join the caller's transaction."""

    def __init__(self, db: Database, feed: Feed, parents: Parents, clock: Clock) -> None:
        """Wire the parts. clock: the one that all processes of the database go by."""
        self._db = db
        self._feed = feed
        self._parents = parents
        self.clock = clock

    def start(
        self, name: str, cause: RunCause, seen: CauseSeen | None, *, by: str, person: str = "", is_own: bool
    ) -> tuple[Decision, RetrainingRun | None]:
        """Start a retraining of a trigger if it may be, and return what was decided. Raises TriggerUnknownError.

        seen: what the trigger saw; without it, and with `is_own` false, a person starts it.
        """
        with self._db.session() as session:
            model = store.known_trigger(session, name).model
            locked = {one.name: one for one in store.lock_model(session, model)}
            if name not in locked:  # it was removed meanwhile
                store.known_trigger(session, name)
            row, now = locked[name], self.clock.now()
            terms, history = terms_of(row), self.history(session, row, now)
            found = decide(terms, seen, history, now) if is_own else may_start(terms, history, now)
            if not found.fires:
                return found, None
            return found, self._make(session, row, cause, by=by, person=person, is_own=is_own, now=now)

    def history(self, session: Session, row: RetrainingTrigger, now: datetime) -> TriggerHistory:
        """Return what a trigger has started, as far as its rules need it."""
        terms = terms_of(row)
        since = now - max(terms.budget_period, terms.cool_down)
        found = store.history(session, row.model, row.name, since)
        return TriggerHistory(
            open_run=next((one.id for one in found if one.is_open), ""),
            last_own_at=max((one.at for one in found if one.is_own), default=None),
            made=[one.at for one in found if one.is_mine],
        )

    def move(
        self,
        session: Session,
        row: RetrainingRun,
        event: RunEvent,
        says: str,
        *,
        until: datetime | None = None,
        error: RunTrouble | None = None,
    ) -> None:
        """Let something happen to a retraining whose row is locked, and say so. Raises RetrainingStateError."""
        before = RunState(row.state)
        try:
            after = step(before, event)
        except IllegalStepError as refused:
            raise RetrainingStateError(
                f"the retraining {row.id} is {before}: {refused}",
                next_step=f"see how it stands: `edgectl retrain show {row.id}`",
            ) from refused
        now = self.clock.now()
        row.state, row.says, row.state_since, row.until = after.value, says, now, until
        row.next_at = None
        if after is not RunState.TRAINING:
            row.lease_until = None
        if after is RunState.QUEUED:
            row.lease_sha256 = ""
        if after not in OPEN:
            row.ended_at = now
        if error is not None:
            row.error = asdict(error)
        session.add(row)
        session.flush()
        self._tell(row, before.value)

    def fail(self, session: Session, row: RetrainingRun, error: RunTrouble) -> None:
        """End a retraining whose row is locked with an error. Raises RetrainingStateError."""
        self.move(session, row, RunEvent.FAILED, f"it failed: {error.why}", error=error)

    def settle(self, session: Session, row: RetrainingRun, found: DriftAfter, words: str) -> None:
        """Write down whether the cause of a retraining that has ended is gone, once and for all."""
        row.drift_state, row.drift_words, row.drift_at = found.value, words, self.clock.now()
        session.add(row)
        session.flush()
        self._tell(row, row.state, f"drift_{found.value}", words)

    def _make(
        self,
        session: Session,
        row: RetrainingTrigger,
        cause: RunCause,
        *,
        by: str,
        person: str,
        is_own: bool,
        now: datetime,
    ) -> RetrainingRun:
        launcher = row.terms["launcher"]["kind"]
        waits = bool(row.terms["approval"])
        state = RunState.AWAITING_APPROVAL if waits else RunState.COLLECTING
        made = RetrainingRun(
            id=new_id(now),
            trigger=row.name,
            model=row.model,
            state=state.value,
            says="it waits for an approval" if waits else "records are collected from devices",
            is_own=is_own,
            cause=asdict(cause),
            plan={key: row.terms[key] for key in ("launcher", "data", "rollout", "approval")},
            parent=self._parents.parent_of(row.model),
            fetches=[],
            collected={},
            launcher=LauncherKind(launcher).value,
            maker=row.maker,
            maker_name=row.changed_by,
            makers=[*row.makers, *([person] if person and person not in row.makers else ())],
            created_at=now,
            created_by=by[:80],
            state_since=now,
            until=now + ANSWERED_WITHIN if waits else None,
        )
        session.add(made)
        session.flush()
        self._tell(made, "")
        return made

    def _tell(self, row: RetrainingRun, before: str, after: str = "", reason: str = "") -> None:
        detail: Mapping[str, Any] = {
            "retraining": row.id, "trigger": row.trigger, "from": before, "to": after or row.state, "reason": reason or row.says,
            "release": row.release, "rollout": row.rollout,
        }  # fmt: skip
        self._feed.add([NewEvent(EVENT, model=row.model, detail=detail)])


def terms_of(row: RetrainingTrigger) -> TriggerTerms:
    """Return what a trigger says of when it fires."""
    terms = row.terms
    return TriggerTerms(
        on=TriggerOn(terms["on"]),
        enabled=row.enabled,
        lasting=timedelta(seconds=terms["lasting_s"]),
        cool_down=timedelta(seconds=terms["cool_down_s"]),
        budget=terms["budget"],
        budget_period=timedelta(seconds=terms["budget_period_s"]),
    )


def new_id(now: datetime) -> str:
    """Return the id of a new retraining: ids are in the order of time."""
    return f"rt-{int(now.timestamp() * 1000):012x}{secrets.token_hex(4)}"
