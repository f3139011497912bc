"""The registry as the rest of the server sees it: blobs, models, releases, bundles, profiles.

* Blob bytes are durable before their row; the row is what makes a blob exist.
* Publishing is idempotent: the same source, data and options under a version answer with the existing release. New profiles
  add jobs to it; a job that failed for a reason of the machine is queued again; a signed bundle is never replaced.
* A version is taken once a bundle of it was signed. What failed before that is kept as an attempt, and the next publication
  under the version starts over. All of that is decided while the release's row is locked.
* `accept_bundle` joins the caller's transaction, so that bundle, signature, job and release state change together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sqlmodel import Session

from edgefleet_profiles.profile import HardwareProfile, profile_from_dict
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ModelName, ProfileName, ReleaseRef
from edgefleet_protocol.manifest import Manifest
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import Page, PageRequest
from edgefleet_server.encryption.fleet_key import FleetKey
from edgefleet_server.registry import aliases, blobs, rules, store
from edgefleet_server.registry.aliases import AliasBook
from edgefleet_server.registry.blobs import BlobStore, BlobWriter
from edgefleet_server.registry.errors import (
    BlobStoreError,
    BlobUnknownError,
    BundleUnknownError,
    ModelUnknownError,
    ReleaseBusyError,
    ReleaseDiffersError,
    unknown_blob,
    withdrawn_error,
)
from edgefleet_server.registry.manifests import Manifests
from edgefleet_server.registry.model import (
    AllowedCode,
    BundleView,
    ModelView,
    Publication,
    ReleaseState,
    ReleaseView,
    SourceView,
)
from edgefleet_server.registry.object_store.garbage_collection import UnnamedBlobs
from edgefleet_server.registry.profiles import Profiles
from edgefleet_server.registry.rules import Outcome, downgrade
from edgefleet_server.registry.tables import BundleRow, ReleaseRow
from edgefleet_server.registry.unsigned_bundles import UnsignedBook
from edgefleet_server.registry.views import attempt_of, bundle_view, model_view, ref_of, release_view, source_view
from edgefleet_server.registry.withdrawals import JobQueue, WithdrawalBook, check_not_removed, known_release

DEFAULT_MAX_BLOB_BYTES = 2 * 1024 * 1024 * 1024
KEPT_ATTEMPTS: Final = 50
"""Of each version; the oldest go first."""


class RegistryService:
    """Models, releases, bundles, blobs and profiles. Thread-safe; calls block."""

    def __init__(
        self,
        db: Database,
        blob_store: BlobStore,
        clock: Clock,
        *,
        jobs: JobQueue,
        fleet_profiles: Callable[[], Sequence[ProfileName]],
        max_blob_bytes: int = DEFAULT_MAX_BLOB_BYTES,
        allowed_code: AllowedCode = AllowedCode(),  # noqa: B008 - a frozen value
    ) -> None:
        self._db = db
        self._blobs = blob_store
        self._clock = clock
        self._manifests = Manifests(blob_store.read_range)
        self._profiles = Profiles(db, clock)
        self.aliases = AliasBook(db, clock)
        self.withdrawals = WithdrawalBook(db, blob_store, clock, jobs)
        self.fleet_key = FleetKey(db, clock)
        self.unnamed = UnnamedBlobs(db, blob_store, clock, self.withdrawals.drop)
        self.unsigned = UnsignedBook(db, clock, self.accept_bundle, self.refresh_state)
        self._jobs = jobs
        self._fleet_profiles = fleet_profiles
        self.max_blob_bytes = max_blob_bytes
        self._allowed_code = allowed_code
        self._forecast: Callable[[BundleView], Mapping[str, Any]] = lambda _: {}

    # ---- blobs

    def blob_size(self, sha256: Sha256) -> int | None:
        """Return a blob's length in bytes, or None when it is not stored."""
        with self._db.read() as session:
            return store.blob_length(session, sha256)

    def stored_blobs(self) -> list[tuple[str, str, int, bool]]:
        """Return (model, digest, bytes, whether it is of the source) of all blobs that releases name."""
        with self._db.read() as session:
            return list(store.stored_blobs(session))

    def newest_blobs(self, limit: int) -> dict[Sha256, int]:
        """Return the lengths of the newest blobs by digest, as the database names them."""
        with self._db.read() as session:
            return store.newest_blobs(session, limit)

    def stored_size(self, sha256: Sha256) -> int | None:
        """Return how many bytes of a blob the store really has, or None. Raises BlobStoreError."""
        return self._blobs.size(sha256)

    def open_blob_range(self, sha256: Sha256, start: int, length: int) -> bytes:
        """Return `length` bytes of a blob from `start`. Raises BlobUnknownError, BlobStoreError."""
        return self._blobs.read_range(sha256, start, length)

    def blob_chunks(self, sha256: Sha256, start: int, length: int) -> Iterator[bytes]:
        """Yield a part of a blob in pieces of at most 1 MiB."""
        return blobs.read_chunks(self._blobs, sha256, start, length)

    def upload(self) -> BlobWriter:
        """Return a writer for a new blob; hand it to :meth:`finish_upload`, or leave it to throw the bytes away."""
        return self._blobs.writer(limit_bytes=self.max_blob_bytes)

    def finish_upload(self, writer: BlobWriter, expected: Sha256 | None) -> tuple[Sha256, bool]:
        """Make an upload a blob; return its digest and whether it is new. Raises BlobDigestError, BlobStoreError."""
        sha256 = writer.finish(expected)
        with self._db.session() as session:
            is_new = store.add_blob(session, sha256, writer.length, self._clock.now())
            if is_new and self._blobs.size(sha256) is None:
                raise BlobStoreError(
                    f"blob {sha256} was removed while it was uploaded", next_step="send the file once more"
                )
        return sha256, is_new

    def put_blob_bytes(self, data: bytes) -> Sha256:
        """Store `data` as a blob and return its digest."""
        with self.upload() as writer:
            writer.write(data)
            return self.finish_upload(writer, None)[0]

    def put_blob_file(self, path: Path, expected: Sha256 | None = None) -> Sha256:
        """Store a file's bytes as a blob and return its digest. Raises BlobDigestError, BlobTooLargeError."""
        with path.open("rb") as file, self.upload() as writer:
            while chunk := file.read(blobs.READ_BYTES):
                writer.write(chunk)
            return self.finish_upload(writer, expected)[0]

    def save_blob(self, sha256: Sha256, path: Path) -> None:
        """Write a blob into a new file, checking its digest. Raises BlobUnknownError, BlobStoreError, FileExistsError."""
        length = self.blob_size(sha256)
        if length is None:
            raise unknown_blob(sha256)
        blobs.save(self._blobs, sha256, length, path)

    def read_blob(self, sha256: Sha256, max_bytes: int) -> bytes:
        """Return a whole blob, its digest checked. Raises BlobUnknownError (also when damaged), BlobTooLargeError, BlobStoreError."""
        length = self.blob_size(sha256)
        if length is None:
            raise unknown_blob(sha256)
        return blobs.read_whole(self._blobs, sha256, length, max_bytes)

    # ---- profiles

    def profiles(self) -> list[HardwareProfile]:
        """Return all known hardware profiles by name: those shipped and those that came with publications."""
        return self._profiles.all()

    def profile(self, name: str) -> HardwareProfile:
        """Return a hardware profile. Raises ProfileUnknownError."""
        return self._profiles.get(name)

    # ---- publishing

    def publish(self, publication: Publication, by: str) -> tuple[ReleaseView, bool]:
        """Create a release and queue its conversions, start its next attempt, or answer with the one that exists.

        Returns the release and whether it (or the attempt) is new. Raises BadSourceError, BadMetricError, BadParentError,
        PickleNotAllowedError, BlobUnknownError, BlobLengthError, ProfileUnknownError, ProfileDiffersError, ProfileError,
        VersionIsAliasError, ReleaseUnknownError of its parent, ReleaseDiffersError when the version is taken, ReleaseBusyError while other
        content converts under it, ReleaseWithdrawnError, ReleaseRemovedError.
        """
        rules.check_source(publication.kind, publication.files)
        rules.check_metric(publication.options.get("metric"), self._allowed_code.metrics)
        rules.check_pickle(bool(publication.options.get("allow_pickle")), self._allowed_code.pickle)
        parent = rules.parent_of(publication)
        custom = [profile_from_dict(facts) for facts in publication.profile_files]
        self.fleet_key.ensure_for(publication.options)
        with self._db.session() as session:
            now = self._clock.now()
            store.ensure_model(session, publication.ref.model, now, by)
            against = {} if parent is None else rules.compared_with(known_release(session, parent).source)
            rules.check_blobs(publication, store.blob_lengths(session, rules.blobs_of(publication)))
            for profile in custom:
                self._profiles.add(session, profile, by)
            chosen, reason = self._profiles.choose(publication.profiles, custom, self._fleet_profiles)
            row = ReleaseRow(
                model=publication.ref.model,
                version=publication.ref.version,
                state=ReleaseState.CONVERTING,
                source_sha256=rules.source_digest(publication.kind, publication.files),
                identity=rules.identity(publication),
                source={
                    "kind": publication.kind,
                    "files": [{"path": f.path, "sha256": f.sha256, "length": f.length} for f in publication.files],
                },
                data=dict(publication.data),
                options=dict(publication.options),
                profiles_reason=reason,
                lineage=dict(publication.lineage),
                created_at=now,
                created_by=by,
            )
            is_new = store.ensure_release(session, row)
            stored = store.find_release(session, publication.ref, lock=True)
            assert stored is not None
            if is_new:
                aliases.check_version(session, publication.ref)
                check_not_removed(session, publication.ref)
            else:
                is_new = self._take_up(session, stored, row)
            self._queue_missing(publication, chosen, against, is_new=is_new)
            self._refresh_state(session, stored)
            return self._view(session, [stored])[0], is_new

    def _take_up(self, session: Session, stored: ReleaseRow, wanted: ReleaseRow) -> bool:
        """Make a publication the next attempt of its version where that is free; return whether it is not the same again."""
        assert stored.id is not None
        jobs = self._jobs.jobs_of([ref_of(stored)]).get(ref_of(stored), [])
        signed = len(store.bundles_of(session, [stored.id])[stored.id])
        state = rules.release_state((job.state for job in jobs), signed, store.count_unsigned(session, stored.id))
        is_same = stored.identity == wanted.identity
        is_withdrawn = stored.withdrawn_at is not None
        outcome = rules.publish_outcome(state, signed, is_same=is_same, is_withdrawn=is_withdrawn)
        if outcome is Outcome.SAME:
            stored.lineage = stored.lineage or wanted.lineage  # the first publication has named its origin
            return False
        if outcome is not Outcome.NEXT:
            raise _refusal(outcome, stored, wanted)
        stored.state = state
        store.add_attempt(session, attempt_of(stored, jobs), KEPT_ATTEMPTS)
        self._jobs.forget(ref_of(stored))
        stored.attempt += 1
        for name in _OF_AN_ATTEMPT:
            setattr(stored, name, getattr(wanted, name))
        session.add(stored)
        return True

    def _queue_missing(
        self,
        publication: Publication,
        chosen: Sequence[HardwareProfile],
        against: Mapping[str, Sha256],
        *,
        is_new: bool,
    ) -> None:
        ref = publication.ref
        asked = is_new or publication.profiles or publication.profile_files
        have = {job.profile for job in self._jobs.jobs_of([ref]).get(ref, [])}
        if not is_new:
            self._jobs.retry_failed(ref)
        for job in rules.jobs_of(publication, chosen if asked else (), have, against):
            self._jobs.enqueue(job)

    # ---- what the conversion worker reports

    def forecast_with(self, forecast: Callable[[BundleView], Mapping[str, Any]]) -> None:
        """Name who predicts what a new bundle will cost on its devices."""
        self._forecast = forecast

    def with_forecast(self, bundle: BundleView) -> BundleView:
        """Return a bundle whose report has `predicted`: kept with it, so that it can be compared with what devices report."""
        return replace(bundle, report={**bundle.report, "predicted": self._forecast(bundle)})

    def accept_bundle(self, bundle: BundleView) -> None:
        """Record a signed bundle of a release. Its blobs must be stored. Joins the caller's transaction.

        Raises ReleaseUnknownError, ReleaseWithdrawnError, BlobUnknownError.
        """
        with self._db.session() as session:
            release = known_release(session, bundle.ref, lock=True)
            if release.withdrawn_at is not None:
                raise withdrawn_error(bundle.ref, release.withdrawn_reason)
            stored = store.blob_lengths(session, [bundle.sha256, bundle.leaves])
            for digest in (bundle.sha256, bundle.leaves):
                if digest not in stored:
                    raise BlobUnknownError(f"no blob {digest} is stored for {bundle.target}")
            assert release.id is not None
            session.add(
                BundleRow(
                    release_id=release.id,
                    profile=bundle.profile,
                    target=bundle.target,
                    sha256=bundle.sha256,
                    length=bundle.length,
                    leaves=bundle.leaves,
                    runtime=bundle.runtime,
                    precision=bundle.precision,
                    report=dict(bundle.report),
                    signed_at=bundle.signed_at,
                    sealed_key=bundle.sealed_key or None,
                )
            )
            session.flush()

    def refresh_state(self, ref: ReleaseRef) -> ReleaseState:
        """Bring a release's state in line with its jobs and bundles. Joins the caller's transaction."""
        with self._db.session() as session:
            return self._refresh_state(session, known_release(session, ref, lock=True))

    def _refresh_state(self, session: Session, row: ReleaseRow) -> ReleaseState:
        assert row.id is not None
        ref = ref_of(row)
        jobs = self._jobs.jobs_of([ref]).get(ref, [])
        bundles = store.bundles_of(session, [row.id])[row.id]
        state = rules.release_state((job.state for job in jobs), len(bundles), store.count_unsigned(session, row.id))
        row.state = state
        session.add(row)
        session.flush()
        return state

    # ---- reading

    def resolve(self, text: str) -> ReleaseRef:
        """Return the release that `name@version` or `name@alias` means, known or not. Raises BadIdError."""
        return self.aliases.resolve(ReleaseRef.parse(text))

    def release(self, ref: ReleaseRef) -> ReleaseView:
        """Return a release, also by an alias, with its bundles and jobs. Raises ReleaseUnknownError."""
        with self._db.read() as session:
            return self._view(session, [known_release(session, self.aliases.resolve(ref))])[0]

    def releases_of(self, refs: Sequence[ReleaseRef]) -> dict[ReleaseRef, ReleaseView]:
        """Return those of these releases that there are, each as `release` does."""
        with self._db.read() as session:
            return {one.ref: one for one in self._view(session, store.find_releases(session, refs))}

    def keep_deployable(self, ref: ReleaseRef) -> None:
        """Let nobody withdraw or delete a release until the caller's transaction ends. Raises for one that may not be deployed."""
        self.withdrawals.keep_deployable(ref)

    def check_deployable(self, ref: ReleaseRef) -> None:
        """Raise what `keep_deployable` would raise, and keep nothing."""
        self.withdrawals.check_deployable(ref)

    def downgrade(self, ref: ReleaseRef, running: Mapping[str, int], devices: int) -> str:
        """Return what to say before a release goes out to `devices` devices that run newer ones; "" when none does."""
        with self._db.read() as session:
            published = store.published_order(session, ref.model, [ref.version, *running])
        return downgrade(ref, running, devices, published)

    def withdrawn(self) -> Mapping[str, str]:
        """Return why releases were withdrawn, by release."""
        return self.withdrawals.reasons()

    def bundle_counts(self) -> Mapping[tuple[str, str], int]:
        """Return how many signed bundles each release has, by (model, version)."""
        with self._db.read() as session:
            return store.signed_bundles_by_release(session)

    def releases(self, page: PageRequest, model: str | None = None) -> Page[ReleaseView]:
        """Return one page of releases, newest first as usual."""
        with self._db.read() as session:
            rows = store.list_releases(session, model, page)
            return rows.of(self._view(session, rows.items))

    def bundle_for(self, ref: ReleaseRef, profile: str) -> BundleView | None:
        """Return the signed bundle of a release for a hardware profile, or None when there is none (yet)."""
        with self._db.read() as session:
            row = store.find_bundle(session, ref, profile)
            return None if row is None else bundle_view(ref, row)

    def signed_bundles(self, ref: ReleaseRef) -> list[tuple[ProfileName, str, Sha256, int, bool]]:
        """Return profile, target, digest, length, and whether it is sealed, of a release's signed bundles: for who asks all the time.

        Raises ReleaseUnknownError.
        """
        with self._db.read() as session:
            found = store.refs_of(session, ref)
            if not found:
                known_release(session, ref)
            return [(ProfileName(profile), path, Sha256(sha256), n, seal) for profile, path, sha256, n, seal in found]

    def bundles_by_digest(self, digests: Sequence[str]) -> dict[Sha256, BundleView]:
        """Return the signed bundles that have these digests: what devices report as running."""
        with self._db.read() as session:
            found = store.find_bundles_by_sha256(session, digests)
            return {Sha256(bundle.sha256): bundle_view(ref_of(release), bundle) for bundle, release in found}

    def newest_bundles(self, profile: str, limit: int) -> list[BundleView]:
        """Return the newest signed bundles of a hardware profile."""
        with self._db.read() as session:
            rows = store.newest_bundles(session, profile, limit)
            return [bundle_view(ref_of(release), bundle) for bundle, release in rows]

    def bundles(self, page: PageRequest, *, model: str | None = None, profile: str | None = None) -> Page[BundleView]:
        """Return one page of signed bundles (of a model, of a profile), newest first unless it is turned."""
        with self._db.read() as session:
            rows = store.list_bundles(session, page, model, profile)
            views = [bundle_view(ref_of(release), bundle) for bundle, release in rows.items]
            return rows.of(views)

    def bundle(self, sha256: Sha256) -> BundleView:
        """Return a signed bundle by its digest. Raises BundleUnknownError."""
        found = self.bundles_by_digest([sha256]).get(sha256)
        if found is None:
            raise BundleUnknownError(f"no signed bundle has the digest {sha256}")
        return found

    def manifest_of(self, bundle: BundleView) -> Manifest:
        """Return the manifest inside a signed bundle. Raises BundleError, ManifestError, BlobUnknownError, BlobStoreError."""
        return self._manifests.of(bundle.sha256, bundle.length)

    def member_of(self, bundle: BundleView, name: str, most_bytes: int) -> bytes | None:
        """Return a member of a signed bundle, None without one or when it is larger. Raises as `manifest_of`."""
        return self._manifests.member(bundle.sha256, bundle.length, name, most_bytes)

    def readable_manifest(self, bundle: BundleView) -> tuple[Manifest | None, str]:
        """Return the manifest inside a signed bundle, or None and why it cannot be read: to show what is known of it all the same."""
        try:
            return self.manifest_of(bundle), ""
        except EdgefleetError as error:
            return None, f"{error.message} ({error.code})"

    def source_of(self, ref: ReleaseRef) -> SourceView:
        """Return what a release was made of. Raises ReleaseUnknownError."""
        with self._db.read() as session:
            return source_view(known_release(session, ref))

    def models(self, page: PageRequest) -> Page[ModelView]:
        """Return one page of models by name."""
        with self._db.read() as session:
            rows = store.list_models(session, page)
            names = [row.name for row in rows.items]
            newest, named = store.newest_releases(session, names), aliases.by_model(session, names)
        items = [model_view(row, newest.get(row.name), named.get(row.name)) for row in rows.items]
        return rows.of(items)

    def model_names(self) -> list[ModelName]:
        """Return the names of all models, in order."""
        with self._db.read() as session:
            return [ModelName(name) for name in store.model_names(session)]

    def model(self, name: str) -> ModelView:
        """Return one model. Raises ModelUnknownError."""
        with self._db.read() as session:
            row = store.find_model(session, name)
            if row is None:
                raise ModelUnknownError(f"there is no model {name!r}", next_step="`edgectl model list` shows all")
            named = aliases.by_model(session, [name]).get(name)
            return model_view(row, store.newest_releases(session, [name]).get(name), named)

    def find(self, text: str, limit: int) -> tuple[list[str], list[ReleaseView]]:
        """Return up to `limit` models and releases, the newest first, that have a text in their names."""
        with self._db.read() as session:
            models, rows = store.find_named(session, text, limit)
            return models, self._view(session, rows)

    def _view(self, session: Session, rows: Sequence[ReleaseRow]) -> list[ReleaseView]:
        if not rows:
            return []
        jobs = self._jobs.jobs_of([ref_of(row) for row in rows])
        bundles = store.bundles_of(session, [row.id for row in rows if row.id is not None])
        named = aliases.by_version(session, [row.model for row in rows])
        before = store.attempts_of(session, [ref_of(row) for row in rows if row.attempt > 1])
        return [
            release_view(
                row,
                bundles[row.id or 0],
                jobs.get(ref_of(row), ()),
                named.get((row.model, row.version), ()),
                before.get(ref_of(row), ()),
            )
            for row in rows
        ]


_OF_AN_ATTEMPT: Final = (
    "state", "source_sha256", "identity", "source", "data", "options", "profiles_reason", "lineage", "created_at",
    "created_by",
)  # fmt: skip


def _refusal(outcome: Outcome, stored: ReleaseRow, wanted: ReleaseRow) -> EdgefleetError:
    ref = ref_of(stored)
    if outcome is Outcome.WITHDRAWN:
        return withdrawn_error(ref, stored.withdrawn_reason)
    if outcome is Outcome.BUSY:
        return ReleaseBusyError(
            f"{ref} is being converted from something else, or waits for signatures of that",
            next_step=f"wait until that has ended, or end it: `edgectl release cancel {ref}`, `edgectl release delete {ref}`",
        )
    old = {"source": {"sha256": stored.source_sha256}, "data": stored.data, "options": stored.options}
    new = {"source": {"sha256": wanted.source_sha256}, "data": wanted.data, "options": wanted.options}
    parts = ", ".join(rules.differences(old, new)) or "the source"
    return ReleaseDiffersError(
        f"{ref} exists with different content (differs in: {parts})",
        next_step="publish under a new version; a version with a signed bundle never changes its content",
    )
