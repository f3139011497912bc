"""Bundles that were converted and wait for the signatures of their model's team. No device is offered one, and nobody can deploy it.

They become bundles of their release in the transaction that publishes what the team signed.
"""

from collections.abc import Callable, Sequence

from sqlmodel import Session, col, select

from edgefleet_protocol.blocks import LEAF_BYTES
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ProfileName, ReleaseRef, parse_model_name
from edgefleet_server.db.database import Database
from edgefleet_server.registry import store
from edgefleet_server.registry.model import BundleView, ReleaseState
from edgefleet_server.registry.tables import UnsignedBundleRow
from edgefleet_server.registry.withdrawals import known_release
from edgefleet_server.signing.teams.role_proposal import NewTarget


class UnsignedBook:
    """Keeps the bundles that wait. Every call joins the caller's transaction."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        accept: Callable[[BundleView], None],
        refresh: Callable[[ReleaseRef], ReleaseState],
    ) -> None:
        """Wire the parts. accept: records a signed bundle; refresh: brings a release's state in line."""
        self._db, self._clock, self._accept, self._refresh = db, clock, accept, refresh

    def add(self, bundle: BundleView) -> None:
        """Keep a bundle until its team has signed it. Its blobs must be stored. Raises ReleaseUnknownError."""
        with self._db.session() as session:
            release = known_release(session, bundle.ref, lock=True)
            assert release.id is not None
            session.merge(
                UnsignedBundleRow(
                    release_id=release.id,
                    profile=bundle.profile,
                    target=bundle.target,
                    sha256=bundle.sha256,
                    length=bundle.length,
                    leaves=bundle.leaves,
                    runtime=bundle.runtime,
                    precision=bundle.precision,
                    report=dict(bundle.report),
                    sealed_key=bundle.sealed_key or None,
                )
            )
            session.flush()

    def versions(self, model: str) -> Sequence[str]:
        """Return the versions of a model that have some."""
        with self._db.read() as session:
            return store.unsigned_versions(session, parse_model_name(model))

    def targets(self, model: str, version: str) -> Sequence[NewTarget]:
        """Return those of a release, none while it is being converted or when it was withdrawn. Raises ReleaseUnknownError."""
        with self._db.read() as session:
            release = known_release(session, ReleaseRef.parse(f"{model}@{version}"))
            if release.state == ReleaseState.CONVERTING or release.withdrawn_at is not None:
                return []
            return [_target(model, version, one) for one in _rows(session, release.id)]

    def accept(self, model: str, version: str) -> None:
        """Make those of a release its signed bundles. Raises ReleaseUnknownError, ReleaseWithdrawnError, BlobUnknownError."""
        ref = ReleaseRef.parse(f"{model}@{version}")
        with self._db.session() as session:
            release = known_release(session, ref, lock=True)
            for row in _rows(session, release.id):
                self._accept(
                    BundleView(
                        ref=ref,
                        profile=ProfileName(row.profile),
                        target=row.target,
                        sha256=Sha256(row.sha256),
                        length=row.length,
                        leaves=Sha256(row.leaves),
                        runtime=row.runtime,
                        precision=row.precision,
                        signed_at=self._clock.now(),
                        report=row.report,
                        sealed_key=row.sealed_key or "",
                    )
                )
                session.delete(row)
            session.flush()
            self._refresh(ref)


def _rows(session: Session, release_id: int | None) -> Sequence[UnsignedBundleRow]:
    row = UnsignedBundleRow
    return session.exec(select(row).where(col(row.release_id) == release_id).order_by(col(row.profile))).all()


def _target(model: str, version: str, row: UnsignedBundleRow) -> NewTarget:
    custom = {
        "leaves": row.leaves,
        "leaf_bytes": LEAF_BYTES,
        "model": model,
        "version": version,
        "profile": row.profile,
    }
    return NewTarget(row.target, row.length, row.sha256, custom)
