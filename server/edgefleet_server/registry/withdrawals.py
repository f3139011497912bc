"""Releases that are taken away: withdrawn ones stay and are not deployed any more, deleted ones are gone with their bytes.

Thread-safe; calls block; every write joins the caller's transaction. Whether a release may be deleted, and what else must change with
it, `rollout.retirement` decides, which sees the whole server.
- A withdrawal is final. The first one counts, and its reason stays.
- The version of a signed release that was deleted is never used again: a copy of the signed bundle may be anywhere.
- A blob that nothing names any more is discarded together with the rows that named it. Its bytes are removed after that is
  committed, together with its record; what could not be removed stays discarded and is tried again every hour.
- Locks are taken in one order: model, release, blobs by digest, as a publication takes them.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ModelName, ReleaseRef, Version
from edgefleet_server.db.database import Database
from edgefleet_server.registry import store
from edgefleet_server.registry.blobs import BlobStore
from edgefleet_server.registry.errors import BlobStoreError, ReleaseRemovedError, ReleaseUnknownError, withdrawn_error
from edgefleet_server.registry.model import JobSpec, JobView
from edgefleet_server.registry.tables import ReleaseRow, RemovedVersionRow

_log = logging.getLogger(__name__)


class Jobs(Protocol):
    """What a removal needs of the conversion queue. Every call joins the caller's transaction."""

    def forget(self, ref: ReleaseRef) -> None:
        """Remove all jobs of a release: a worker that still has one can change nothing any more."""
        ...

    def reports(self) -> Collection[str]:
        """Return the digests of all reports that jobs name."""
        ...

    def jobs_of(self, refs: Sequence[ReleaseRef]) -> Mapping[ReleaseRef, list[JobView]]:
        """Return the jobs of releases, in the order in which they were queued."""
        ...


class JobQueue(Jobs, Protocol):
    """What the registry needs of the conversion queue. Every call joins the caller's transaction."""

    def enqueue(self, spec: JobSpec) -> None:
        """Queue one job."""
        ...

    def retry_failed(self, ref: ReleaseRef) -> int:
        """Queue the failed and cancelled (not the refused) jobs of a release again; return how many."""
        ...


@dataclass(frozen=True, slots=True)
class SignedVersion:
    """A release with a signed bundle: when it was published, and when it was withdrawn (None: it was not)."""

    ref: ReleaseRef
    made_at: datetime
    withdrawn_at: datetime | None


class WithdrawalBook:
    """Withdraws and removes releases, and says which are withdrawn."""

    def __init__(self, db: Database, blob_store: BlobStore, clock: Clock, jobs: Jobs) -> None:
        """Wire the parts."""
        self._db = db
        self._blobs = blob_store
        self._clock = clock
        self._jobs = jobs
        self._guards: list[Callable[[ReleaseRef], None]] = []
        self._also_named: list[Callable[[], Collection[str]]] = []

    def add_guard(self, guard: Callable[[ReleaseRef], None]) -> None:
        """Let something refuse releases before they are deployed, by raising."""
        self._guards.append(guard)

    def leave(self, named: Callable[[], Collection[str]]) -> None:
        """Let blobs stay that something else than releases names."""
        self._also_named.append(named)

    def keep_deployable(self, ref: ReleaseRef) -> None:
        """Let nobody withdraw or delete a release until the caller's transaction ends.

        Raises ReleaseUnknownError, ReleaseWithdrawnError, and what a guard raises.
        """
        with self._db.session() as session:
            row = _known(store.lock_shared(session, ref), ref)
            if row.withdrawn_at is not None:
                raise withdrawn_error(ref, row.withdrawn_reason)
            for guard in self._guards:
                guard(ref)

    def check_deployable(self, ref: ReleaseRef) -> None:
        """Raise what `keep_deployable` would raise for a release; it may be withdrawn right after."""
        with self._db.read() as session:
            row = known_release(session, ref)
            if row.withdrawn_at is not None:
                raise withdrawn_error(ref, row.withdrawn_reason)
        for guard in self._guards:
            guard(ref)

    def withdrawn_digests(self, model: ModelName) -> frozenset[str]:
        """Return the digests of all bundles of a model's withdrawn releases."""
        with self._db.read() as session:
            return frozenset(store.withdrawn_digests(session, model))

    def signed_versions(self, model: ModelName) -> list[SignedVersion]:
        """Return the releases of a model that have a signed bundle, in the order of publication."""
        with self._db.read() as session:
            return [
                SignedVersion(ReleaseRef(model, Version(version)), made_at, withdrawn_at)
                for version, made_at, withdrawn_at in store.signed_versions(session, model)
            ]

    def reasons(self) -> dict[str, str]:
        """Return why releases were withdrawn, by release."""
        with self._db.read() as session:
            return store.withdrawn_reasons(session)

    def hold(self, ref: ReleaseRef) -> None:
        """Let nobody publish, deploy or change a release until the caller's transaction ends. Raises ReleaseUnknownError."""
        with self._db.session() as session:
            store.lock_model(session, ref.model)
            known_release(session, ref, lock=True)

    def withdraw(self, ref: ReleaseRef, by: str, reason: str) -> bool:
        """Note that a release may not be deployed any more; return False when it was withdrawn before. Raises ReleaseUnknownError."""
        with self._db.session() as session:
            row = known_release(session, ref, lock=True)
            if row.withdrawn_at is not None:
                return False
            row.withdrawn_at, row.withdrawn_by, row.withdrawn_reason = self._clock.now(), by[:80], reason
            session.add(row)
            session.flush()
            return True

    def remove(self, ref: ReleaseRef, by: str, reason: str) -> Sequence[Sha256]:
        """Remove a release and what is known of it; return the digests of blobs that nothing names any more.

        Hand them to `drop` once that is committed. Raises ReleaseUnknownError.
        """
        with self._db.session() as session:
            store.lock_model(session, ref.model)
            row = known_release(session, ref, lock=True)
            named = store.blobs_of(session, row) | {job.report for job in self._jobs.jobs_of([ref]).get(ref, ())}
            store.lock_blobs(session, named)  # before it is asked who else names them: a publication may be about to
            self._jobs.forget(ref)
            is_signed = bool(store.refs_of(session, ref))
            removed = RemovedVersionRow(
                model=ref.model, version=ref.version, removed_at=self._clock.now(), removed_by=by[:80], reason=reason
            )
            store.remove_release(session, row, removed if is_signed else None)
            others = {digest for also in self._also_named for digest in also()}
            gone = sorted(named - store.used_blobs(session, self._jobs.reports()) - others - {""})
            store.discard_blobs(session, gone, self._clock.now())
            return [Sha256(sha256) for sha256 in gone]

    def drop(self, digests: Sequence[Sha256]) -> int:
        """Remove discarded blobs unless they were uploaded again; return how many could not be removed, which is logged."""
        failed = 0
        for sha256 in digests:
            try:
                with self._db.session() as session:  # the record first: the database refuses while a bundle needs it
                    if store.remove_discarded(session, sha256):
                        self._blobs.remove(sha256)
            except BlobStoreError as error:
                failed += 1
                _log.warning("bytes of a deleted release stay for now", extra={"blob": sha256, "reason": str(error)})
        return failed

    def drop_left(self) -> int:
        """Remove what earlier calls of `drop` could not; return how many blobs are still left."""
        with self._db.read() as session:
            left = store.discarded(session)
        return self.drop(left)


def unknown_release(ref: ReleaseRef) -> ReleaseUnknownError:
    """Return the refusal of a release that is not there."""
    return ReleaseUnknownError(f"there is no release {ref}", next_step="`edgectl release list` shows all releases")


def known_release(session: Session, ref: ReleaseRef, *, lock: bool = False) -> ReleaseRow:
    """Return the row of a release; `lock`: as `store.find_release`. Raises ReleaseUnknownError."""
    return _known(store.find_release(session, ref, lock=lock), ref)


def _known(row: ReleaseRow | None, ref: ReleaseRef) -> ReleaseRow:
    if row is None:
        raise unknown_release(ref)
    return row


def check_not_removed(session: Session, ref: ReleaseRef) -> None:
    """Raise ReleaseRemovedError where a release of this name was signed once and is deleted."""
    gone = store.removed_version(session, ref)
    if gone is not None:
        raise ReleaseRemovedError(
            f"{ref} had a signed bundle and was deleted on {gone.removed_at:%Y-%m-%d} by {gone.removed_by}",
            next_step="publish under a new version: somebody may have a copy of the signed bundle, so this one is never used again",
        )
