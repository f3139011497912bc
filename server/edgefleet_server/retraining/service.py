"""Retrainings as the rest of the server sees them: listed, shown, approved, rejected, cancelled; and what was captured for one.

Thread-safe; calls block; writes join the caller's transaction.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final, Protocol

from edgefleet_server.access.grants.grant_scope import Touched
from edgefleet_server.access.grants.scoped_caller import out_of_scope
from edgefleet_server.access.model import PersonKind, Principal, Role
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.retraining import store
from edgefleet_server.retraining.errors import OwnTriggerError, RetrainingStateError
from edgefleet_server.retraining.model import (
    Collected,
    DataSetView,
    DataWanted,
    DriftAfter,
    DriftAfterView,
    LauncherKind,
    MovedSignal,
    RetrainingView,
    RunCause,
    RunState,
    RunTrouble,
    TriggerOn,
)
from edgefleet_server.retraining.run_maker import RunMaker
from edgefleet_server.retraining.run_steps import RunEvent
from edgefleet_server.retraining.tables import RetrainingRun
from edgefleet_server.rollout.commands.duty_separation import Makers
from edgefleet_server.telemetry.model import CaptureView

MAX_PAGE_BYTES: Final = 8 * 1024 * 1024


class Captures(Protocol):
    """What is needed of captured records."""

    def records_of(
        self, fetches: Sequence[str], after: str | None, limit: int, max_bytes: int
    ) -> tuple[list[tuple[CaptureView, bytes]], str | None, int]:
        """Return records of these fetches with their sealed bytes, the key after which more come, and how many there are."""
        ...


class RetrainingService:
    """Shows retrainings, and takes the answers of people."""

    def __init__(self, db: Database, maker: RunMaker, captures: Captures) -> None:
        """Wire the parts."""
        self._db = db
        self._maker = maker
        self._captures = captures

    def page(
        self, page: PageRequest, *, model: str = "", trigger: str = "", states: Sequence[str] = ()
    ) -> tuple[list[RetrainingView], int]:
        """Return up to `limit` + 1 retrainings, newest first unless the page is turned, and how many there are."""
        with self._db.read() as session:
            rows, total = store.runs_page(
                session, model=model, trigger=trigger, states=states, after=page.after, is_up=page.is_turned, limit=page.limit + 1
            )  # fmt: skip
            return [view_of(row) for row in rows], total

    def run(self, run_id: str) -> RetrainingView:
        """Return one retraining. Raises RetrainingUnknownError."""
        with self._db.read() as session:
            return view_of(store.known_run(session, run_id))

    def makers(self, run_id: str) -> Makers:
        """Return who may not approve a retraining: who made its trigger or started it. Raises RetrainingUnknownError."""
        with self._db.read() as session:
            row = store.known_run(session, run_id)
            return Makers(tuple(row.makers), row.maker_name)

    def counts(self) -> dict[str, int]:
        """Return how many retrainings there are by state."""
        with self._db.read() as session:
            return store.counts(session)

    def approve(self, run_id: str, reason: str, caller: Principal) -> RetrainingView:
        """Let a retraining begin. Raises RetrainingUnknownError, ForbiddenError, OwnTriggerError, RetrainingStateError."""
        return self._answer(run_id, RunEvent.APPROVED, "approved", reason, caller)

    def reject(self, run_id: str, reason: str, caller: Principal) -> RetrainingView:
        """Refuse a retraining. Raises RetrainingUnknownError, ForbiddenError, OwnTriggerError, RetrainingStateError."""
        return self._answer(run_id, RunEvent.REJECTED, "rejected", reason, caller)

    def cancel(self, run_id: str, reason: str, by: str) -> RetrainingView:
        """End a retraining; what a runner trains is for nothing then. Raises RetrainingUnknownError, RetrainingStateError."""
        with self._db.session() as session:
            row = store.known_run(session, run_id, lock=True)
            if row.state == RunState.ROLLING_OUT:
                raise RetrainingStateError(
                    f"the release of the retraining {row.id} is being rolled out",
                    next_step=f"stop its rollout: `edgectl rollout abort {row.rollout}`",
                )
            self._maker.move(session, row, RunEvent.CANCELLED, _words("cancelled", by, reason))
            return view_of(row)

    def captures(
        self, run_id: str, after: str | None, limit: int
    ) -> tuple[list[tuple[CaptureView, bytes]], str | None, int]:
        """Return sealed records that were collected for a retraining, the key after which more come, and how many there are.

        Fewer than `limit` may come where they are large: at least one, and at most MAX_PAGE_BYTES. Raises RetrainingUnknownError.
        """
        with self._db.read() as session:
            fetches = [one["fetch"] for one in store.known_run(session, run_id).fetches if one.get("fetch")]
        return self._captures.records_of(fetches, after, limit, MAX_PAGE_BYTES) if fetches else ([], None, 0)

    def _answer(self, run_id: str, event: RunEvent, word: str, reason: str, caller: Principal) -> RetrainingView:
        with self._db.session() as session:
            row = store.known_run(session, run_id, lock=True)
            _refuse_unless_second_person(row, caller)
            row.answered_by, row.answered_at = caller.name[:80], self._maker.clock.now()
            says = _words(word, caller.name, reason)
            if event is RunEvent.APPROVED:
                says += "; records are collected from devices"
            self._maker.move(session, row, event, says)
            return view_of(row)


def _refuse_unless_second_person(row: RetrainingRun, caller: Principal) -> None:
    """Raise ForbiddenError for a caller who is no approver of the model, OwnTriggerError for a service and for one of the makers."""
    touched = Touched(frozenset({row.model}), None)
    if not caller.may(Role.APPROVER, touched):
        raise out_of_scope(caller, Role.APPROVER, touched)
    if caller.kind is not PersonKind.PERSON or not caller.person:
        what = "is a service" if caller.person else "has a token that belongs to nobody"
        raise OwnTriggerError(
            f"a retraining is answered by a person; {caller.name} {what}",
            next_step="ask a person with the role approver; an admin adds one with `edgectl person add NAME`",
        )
    if caller.person in row.makers or caller.name in (row.maker_name, row.created_by):
        raise OwnTriggerError(
            f"the retraining {row.id} needs a second person: {caller.name} made its trigger, or started it",
            next_step="ask another person with the role approver",
        )


def _words(what: str, by: str, reason: str) -> str:
    return f"{what} by {by}: {reason.strip()}" if reason.strip() else f"{what} by {by}"


def view_of(row: RetrainingRun) -> RetrainingView:
    """Return a retraining as it is shown."""
    plan = row.plan
    return RetrainingView(
        id=row.id, trigger=row.trigger, model=row.model, state=RunState(row.state), says=row.says, cause=cause_of(row.cause),
        parent=row.parent, launcher=LauncherKind(row.launcher), approval=bool(plan["approval"]), data=DataWanted(**plan["data"]),
        collected=Collected(**row.collected), data_set=None if row.data_set is None else DataSetView(**row.data_set),
        rollout_spec=plan["rollout"], holder=row.holder, lease_until=row.lease_until, attempts=row.attempts,
        given_back=row.given_back, progress=row.progress, release=row.release, rollout=row.rollout,
        error=None if row.error is None else RunTrouble(**row.error),
        drift_after=DriftAfterView(DriftAfter(row.drift_state), row.drift_words, row.drift_at) if row.drift_state else None,
        created_at=row.created_at, created_by=row.created_by, maker=row.maker_name, answered_by=row.answered_by,
        answered_at=row.answered_at, state_since=row.state_since, until=row.until, began_at=row.began_at, ended_at=row.ended_at,
    )  # fmt: skip


def cause_of(stored: dict[str, Any]) -> RunCause:
    """Return a cause as it is stored."""
    signals = [MovedSignal(**one) for one in stored.get("signals", ())]
    return RunCause(**{**stored, "on": TriggerOn(stored["on"]), "signals": signals})


def stored_data_set(found: DataSetView) -> dict[str, Any]:
    """Return a data set as it is stored."""
    return {**asdict(found), "counts": dict(found.counts)}
