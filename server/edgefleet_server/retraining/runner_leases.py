"""What those who train call: take a retraining, say how far it is, end it well or badly.

A runner holds a lease: a secret that is shown once, and that counts for LEASE_S unless it is renewed. A system that was called by a
launcher has none; its training ends with its deadline. With all of it a caller can only do what a publisher of the model may: nothing
here reaches a device but by the rollout that the trigger's maker wrote down.
"""

import secrets
from datetime import datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final, Protocol

from sqlmodel import Session

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.db.database import Database
from edgefleet_server.retraining import store
from edgefleet_server.retraining.errors import LeaseLostError, WrongReleaseError
from edgefleet_server.retraining.model import (
    DataSetView,
    LauncherKind,
    LeasedRetraining,
    RetrainingView,
    RunState,
    RunTrouble,
)
from edgefleet_server.retraining.run_maker import CONVERTED_WITHIN, TAKEN_WITHIN, RunMaker
from edgefleet_server.retraining.run_steps import RunEvent, pause_after
from edgefleet_server.retraining.service import stored_data_set, view_of
from edgefleet_server.retraining.tables import RetrainingRun

LEASE_S: Final = 120
PARENT: Final = "parent"
RETRAINING: Final = "retraining"
"""Keys of a release's lineage: what it was trained from, and by which retraining."""


class Releases(Protocol):
    """What is needed of the registry."""

    def resolve(self, text: str) -> ReleaseRef:
        """Return the release that `name@version` or `name@alias` means."""
        ...

    def release(self, ref: ReleaseRef) -> Any:
        """Return a release. Raises ReleaseUnknownError."""
        ...


class LeaseBook:
    """Gives retrainings to runners, and takes what comes of them. Thread-safe; calls block; writes join the caller's transaction."""

    def __init__(self, db: Database, maker: RunMaker, releases: Releases) -> None:
        """Wire the parts."""
        self._db = db
        self._maker = maker
        self._releases = releases
        self._clock = maker.clock

    def lease(self, model: str, holder: str) -> LeasedRetraining | None:
        """Give the retraining of a model that has waited longest to a runner; None when none waits."""
        now = self._clock.now()
        with self._db.session() as session:
            row = store.to_lease(session, model, now)
            if row is None:
                return None
            if row.state == RunState.TRAINING:
                self.lose(session, row, "its runner was not heard of")
                if row.state != RunState.QUEUED:
                    return None
            secret = secrets.token_urlsafe(32)
            row.holder, row.attempts, row.progress = holder, row.attempts + 1, ""
            row.began_at = row.began_at or now  # what the one before published counts: it died after that
            until = now + timedelta(seconds=row.plan["launcher"]["deadline_s"])
            self._maker.move(session, row, RunEvent.TAKEN, f"{holder} trains", until=until)
            row.lease_sha256, row.lease_until = _digest(secret), now + timedelta(seconds=LEASE_S)
            session.add(row)
            session.flush()
            return LeasedRetraining(view_of(row), secret, LEASE_S)

    def renew(
        self, run_id: str, lease: str, progress: str, data_set: DataSetView | None, *, gives_back: bool
    ) -> RetrainingView:
        """Keep a lease, and say how far the training is; `gives_back`: let another runner take it. Raises LeaseLostError."""
        with self._db.session() as session:
            row = self._held(session, run_id, lease)
            row.progress = progress or row.progress
            if data_set is not None:
                row.data_set = stored_data_set(data_set)
            row.lease_until = self._clock.now() + timedelta(seconds=LEASE_S)
            if gives_back:
                self.lose(session, row, f"{row.holder} gave it back", is_given_back=True)
            session.add(row)
            session.flush()
            return view_of(row)

    def complete(self, run_id: str, lease: str, release: str) -> RetrainingView:
        """Take the release that came of a training. Raises LeaseLostError, WrongReleaseError, RetrainingStateError, ReleaseUnknownError."""
        with self._db.session() as session:
            row = self._held(session, run_id, lease, is_end=True)
            ref = self._releases.resolve(release)
            if row.state == RunState.CONVERTING and row.release == str(ref):
                return view_of(row)  # the answer to the first call was lost
            self._check(row, ref)
            row.release = str(ref)
            until = self._clock.now() + CONVERTED_WITHIN
            self._maker.move(session, row, RunEvent.COMPLETED, f"{ref} is converted and signed", until=until)
            return view_of(row)

    def fail(self, run_id: str, lease: str, error: RunTrouble) -> RetrainingView:
        """End a training that failed. Raises LeaseLostError, RetrainingStateError."""
        with self._db.session() as session:
            row = self._held(session, run_id, lease, is_end=True)
            self._maker.fail(session, row, error)
            return view_of(row)

    def lose(self, session: Session, row: RetrainingRun, why: str, *, is_given_back: bool = False) -> None:
        """Queue a training whose runner is gone again, or end it where that happened too often (`run_steps`, rule 2)."""
        if is_given_back:
            row.attempts, row.given_back = row.attempts - 1, row.given_back + 1
        times = row.given_back if is_given_back else row.attempts
        said = why if times == 1 else f"{why}, {times} times"
        pause = pause_after(row.attempts, row.given_back)
        if pause is None:
            code = "runner.gave_back" if is_given_back else "runner.lost"
            next_step = "see the runner's log; start it again by hand: `edgectl retrain start TRIGGER`"
            self._maker.fail(session, row, RunTrouble(code, said, next_step))
            return
        now = self._clock.now()
        waits = is_given_back and bool(pause)
        from_ = now + pause
        says = (
            f"{said}: a runner may take it from {_moment(from_)}" if waits else f"{said}: it waits for a runner again"
        )
        row.holder = ""
        self._maker.move(session, row, RunEvent.LOST, says, until=now + TAKEN_WITHIN)
        row.next_at = from_ if waits else None

    def _check(self, row: RetrainingRun, ref: ReleaseRef) -> None:
        """Raise WrongReleaseError unless a release can be the result of this retraining."""
        if ref.model != row.model:
            raise WrongReleaseError(f"{ref} is a release of another model than {row.model}")
        found = self._releases.release(ref)
        began = row.began_at or row.created_at
        if found.created_at < began:
            raise WrongReleaseError(f"{ref} was published before this training began ({_moment(began)})")
        if any(one.signed_at < began for one in found.bundles):
            raise WrongReleaseError(f"{ref} was signed before this training began ({_moment(began)})")
        parent, named = found.lineage.get(PARENT, ""), found.lineage.get(RETRAINING, row.id)
        if parent != row.parent:
            raise WrongReleaseError(
                f"the parent of {ref} is {parent or 'not named'}, this retraining is of {row.parent or 'none'}"
            )
        if named != row.id:
            raise WrongReleaseError(f"{ref} is the result of the retraining {named[:40]}")

    def _held(self, session: Session, run_id: str, lease: str, *, is_end: bool = False) -> RetrainingRun:
        """Return the locked row of a retraining whose lease this is; a launcher's has none. Raises LeaseLostError."""
        row = store.known_run(session, run_id, lock=True)
        if row.launcher != LauncherKind.RUNNER:
            return row
        is_known = row.lease_sha256 != "" and compare_digest(row.lease_sha256, _digest(lease))
        if not is_known or not (is_end or row.state == RunState.TRAINING):
            raise LeaseLostError(
                f"the retraining {row.id} is {row.state}, and this lease of it does not count any more"
            )
        return row


def _digest(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
