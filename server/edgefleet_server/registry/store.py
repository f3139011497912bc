"""The only place with SQL of the registry. Every function takes the session of its caller."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, delete, exists, func, select, tuple_, update
from sqlmodel import Session, col

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.db.bulk import among, insert_new
from edgefleet_server.db.keyset import Page, PageRequest, cut_page, walked
from edgefleet_server.registry.tables import (
    AliasRow,
    AttemptRow,
    BlobRow,
    BundleRow,
    ModelRow,
    ProfileRow,
    ReleaseRow,
    RemovedVersionRow,
    UnsignedBundleRow,
)


def add_blob(session: Session, sha256: Sha256, length: int, now: datetime) -> bool:
    """Record a stored blob; return whether it is new. A discarded one is taken back, one that is recorded is renewed."""
    taken_back = update(BlobRow).where(col(BlobRow.sha256) == sha256, col(BlobRow.discarded_at).is_not(None))
    taken_back = taken_back.values(length=length, created_at=now, discarded_at=None, unnamed_since=None)
    while not insert_new(session, BlobRow, {"sha256": sha256, "length": length, "created_at": now}):
        if session.scalar(taken_back.returning(col(BlobRow.sha256))) is not None:
            return True
        if renew_blob(session, sha256, now):  # else its record was removed since the first statement
            return False
    return True


def renew_blob(session: Session, sha256: Sha256, now: datetime) -> bool:
    """Note that somebody is about to name a blob; False when it is none. A collection that wants it waits, and then leaves it."""
    is_it = (col(BlobRow.sha256) == sha256, col(BlobRow.discarded_at).is_(None))
    renewed = update(BlobRow).where(*is_it).values(renewed_at=now, unnamed_since=None)
    return session.scalar(renewed.returning(col(BlobRow.sha256))) is not None


def is_marked(session: Session, sha256: Sha256) -> bool:
    """Return whether a collection of garbage has seen that nothing names a blob."""
    is_it = (
        col(BlobRow.sha256) == sha256,
        col(BlobRow.discarded_at).is_(None),
        col(BlobRow.unnamed_since).is_not(None),
    )
    return session.scalar(select(col(BlobRow.sha256)).where(*is_it)) is not None


def blob_length(session: Session, sha256: str) -> int | None:
    """Return a recorded blob's length in bytes."""
    is_it = (col(BlobRow.sha256) == sha256, col(BlobRow.discarded_at).is_(None))
    return session.scalar(select(col(BlobRow.length)).where(*is_it))


def newest_blobs(session: Session, limit: int) -> dict[Sha256, int]:
    """Return the lengths of the blobs that were recorded last, by digest."""
    query = select(col(BlobRow.sha256), col(BlobRow.length)).where(col(BlobRow.discarded_at).is_(None))
    query = query.order_by(col(BlobRow.created_at).desc(), col(BlobRow.sha256)).limit(limit)
    return {Sha256(sha256): int(length) for sha256, length in session.execute(query)}


def blob_lengths(session: Session, digests: Collection[str]) -> dict[str, int]:
    """Return the lengths of those of `digests` that are recorded, and keep them from being removed until the transaction ends."""
    query = select(col(BlobRow.sha256), col(BlobRow.length), col(BlobRow.discarded_at), col(BlobRow.unnamed_since))
    query = query.where(col(BlobRow.sha256).in_(digests)).order_by(col(BlobRow.sha256)).with_for_update(key_share=True)
    found = list(session.execute(query))
    marked = [sha256 for sha256, _, gone_at, since in found if gone_at is None and since is not None]
    if marked:  # the caller names them: a collection of garbage leaves them from now on
        session.execute(update(BlobRow).where(col(BlobRow.sha256).in_(marked)).values(unnamed_since=None))
    return {str(sha256): int(length) for sha256, length, gone_at, _ in found if gone_at is None}


def lock_blobs(session: Session, digests: Collection[str]) -> None:
    """Wait for all who keep these blobs from being removed, and hold them (PostgreSQL) until the transaction ends."""
    query = select(col(BlobRow.sha256)).where(col(BlobRow.sha256).in_(digests)).order_by(col(BlobRow.sha256))
    session.execute(query.with_for_update())


def ensure_model(session: Session, name: str, now: datetime, by: str) -> None:
    """Record a model name, a second time changes nothing, and hold it as `lock_model` does."""
    while not lock_model(session, name):
        insert_new(session, ModelRow, {"name": name, "created_at": now, "created_by": by})


def lock_model(session: Session, name: str) -> bool:
    """Let nobody publish or delete a release of a model until the transaction ends (PostgreSQL); False when there is no such model.

    Both take it first, then the release, then the blobs: in another order one could wait for the other for ever.
    """
    query = select(col(ModelRow.name)).where(col(ModelRow.name) == name)
    return session.scalar(query.with_for_update(key_share=True)) is not None


def find_release(session: Session, ref: ReleaseRef, *, lock: bool = False) -> ReleaseRow | None:
    """Return the row of a release; `lock` reads it again and holds it (PostgreSQL) until the transaction ends."""
    query = select(ReleaseRow).where(col(ReleaseRow.model) == ref.model, col(ReleaseRow.version) == ref.version)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return session.scalars(query).one_or_none()


def find_releases(session: Session, refs: Sequence[ReleaseRef]) -> list[ReleaseRow]:
    """Return the rows of those of these releases that there are."""
    pairs = [(ref.model, ref.version) for ref in refs]
    return list(
        session.scalars(select(ReleaseRow).where(tuple_(col(ReleaseRow.model), col(ReleaseRow.version)).in_(pairs)))
    )


def ensure_release(session: Session, row: ReleaseRow) -> bool:
    """Insert a release unless its name and version exist; return whether this call inserted it."""
    return insert_new(session, ReleaseRow, row.model_dump(exclude={"id"}))


def attempts_of(session: Session, refs: Sequence[ReleaseRef]) -> dict[ReleaseRef, list[AttemptRow]]:
    """Return the attempts that were kept of releases, the newest first."""
    found: dict[ReleaseRef, list[AttemptRow]] = {ref: [] for ref in refs}
    pairs = [(ref.model, ref.version) for ref in refs]
    query = select(AttemptRow).where(tuple_(col(AttemptRow.model), col(AttemptRow.version)).in_(pairs))
    for row in session.scalars(query.order_by(col(AttemptRow.number).desc())) if refs else ():
        found[ReleaseRef.parse(f"{row.model}@{row.version}")].append(row)
    return found


def add_attempt(session: Session, row: AttemptRow, most: int) -> None:
    """Keep an attempt; of each version the newest `most`."""
    session.add(row)
    same = (col(AttemptRow.model) == row.model, col(AttemptRow.version) == row.version)
    session.execute(delete(AttemptRow).where(*same, col(AttemptRow.number) <= row.number - most))
    session.flush()


def removed_version(session: Session, ref: ReleaseRef) -> RemovedVersionRow | None:
    """Return what is known of a signed version that was deleted."""
    return session.get(RemovedVersionRow, (ref.model, ref.version))


def lock_shared(session: Session, ref: ReleaseRef) -> ReleaseRow | None:
    """Return the row of a release, read again, and keep others from changing it (PostgreSQL) until the transaction ends."""
    query = select(ReleaseRow).where(col(ReleaseRow.model) == ref.model, col(ReleaseRow.version) == ref.version)
    return session.scalars(query.with_for_update(read=True).execution_options(populate_existing=True)).one_or_none()


def withdrawn_digests(session: Session, model: str) -> list[str]:
    """Return the digests of all bundles of a model's withdrawn releases."""
    query = select(col(BundleRow.sha256)).join(ReleaseRow, col(ReleaseRow.id) == col(BundleRow.release_id))
    return list(session.scalars(query.where(col(ReleaseRow.model) == model, col(ReleaseRow.withdrawn_at).is_not(None))))


def published_order(session: Session, model: str, versions: Collection[str]) -> dict[str, int]:
    """Return the places of these versions of a model in the order of publication; unknown ones are left out."""
    query = select(col(ReleaseRow.version), col(ReleaseRow.id))
    of_it = (col(ReleaseRow.model) == model, col(ReleaseRow.version).in_(versions))
    return {str(version): int(place) for version, place in session.execute(query.where(*of_it))}


def signed_versions(session: Session, model: str) -> list[tuple[str, datetime, datetime | None]]:
    """Return version, publication and withdrawal of each release of a model that has a signed bundle, in the order of publication."""
    has_bundle = exists().where(col(BundleRow.release_id) == col(ReleaseRow.id))
    query = select(col(ReleaseRow.version), col(ReleaseRow.created_at), col(ReleaseRow.withdrawn_at))
    found = session.execute(query.where(col(ReleaseRow.model) == model, has_bundle).order_by(col(ReleaseRow.id)))
    return [(str(version), made_at, withdrawn_at) for version, made_at, withdrawn_at in found]


def withdrawn_reasons(session: Session) -> dict[str, str]:
    """Return why releases were withdrawn, by release."""
    query = select(col(ReleaseRow.model), col(ReleaseRow.version), col(ReleaseRow.withdrawn_reason))
    rows = session.execute(query.where(col(ReleaseRow.withdrawn_at).is_not(None)))
    return {f"{model}@{version}": reason for model, version, reason in rows}


def signed_bundles_by_release(session: Session) -> dict[tuple[str, str], int]:
    """Return how many signed bundles each release has, by (model, version); releases without one have 0."""
    keys = (col(ReleaseRow.model), col(ReleaseRow.version))
    query = select(*keys, func.count(col(BundleRow.id))).join(BundleRow, isouter=True).group_by(*keys)
    return {(model, version): int(n) for model, version, n in session.execute(query)}


def remove_release(session: Session, row: ReleaseRow, removed: RemovedVersionRow | None) -> None:
    """Remove a release with its bundles and attempts, and its model, which is locked, when that was the last one.

    removed: what stays known of it.
    """
    of_it = (col(AttemptRow.model) == row.model, col(AttemptRow.version) == row.version)
    session.execute(delete(AttemptRow).where(*of_it))
    session.execute(delete(BundleRow).where(col(BundleRow.release_id) == row.id))
    session.execute(delete(UnsignedBundleRow).where(col(UnsignedBundleRow.release_id) == row.id))
    session.delete(row)
    if removed is not None:
        session.add(removed)
    session.flush()
    others = select(func.count()).select_from(ReleaseRow).where(col(ReleaseRow.model) == row.model)
    if not session.scalar(others):
        session.execute(delete(ModelRow).where(col(ModelRow.name) == row.model))


def blobs_of(session: Session, row: ReleaseRow) -> set[str]:
    """Return the digests of all blobs that a release and its attempts name, the reports of its present jobs excepted."""
    of_it = (col(AttemptRow.model) == row.model, col(AttemptRow.version) == row.version)
    attempts = list(session.scalars(select(AttemptRow).where(*of_it)))
    named = {digest for _, _, digest, _, _ in refs_of(session, ReleaseRef.parse(f"{row.model}@{row.version}"))}
    named |= set(session.scalars(select(col(BundleRow.leaves)).where(col(BundleRow.release_id) == row.id)))
    unsigned = select(col(UnsignedBundleRow.sha256), col(UnsignedBundleRow.leaves))
    for digests in session.execute(unsigned.where(col(UnsignedBundleRow.release_id) == row.id)):
        named |= set(digests)
    for source, data in [(row.source, row.data), *((one.source, one.data) for one in attempts)]:
        named |= {file["sha256"] for file in source.get("files", ())} | set(data.values())
    return {*named, *(job["report"] for one in attempts for job in one.jobs)} - {""}


def used_blobs(session: Session, reports: Collection[str]) -> set[str]:
    """Return the digests of all blobs that something names. reports: those that conversion jobs name."""
    used = {*session.scalars(select(col(BundleRow.sha256))), *session.scalars(select(col(BundleRow.leaves))), *reports}
    for digests in session.execute(select(col(UnsignedBundleRow.sha256), col(UnsignedBundleRow.leaves))):
        used |= set(digests)
    now = select(col(ReleaseRow.source), col(ReleaseRow.data))
    before = select(col(AttemptRow.source), col(AttemptRow.data))
    for source, data in (*session.execute(now), *session.execute(before)):
        used |= {one["sha256"] for one in source.get("files", ())} | set(data.values())
    for (jobs,) in session.execute(select(col(AttemptRow.jobs))):
        used |= {job["report"] for job in jobs}
    return used


def stored_blobs(session: Session) -> Iterator[tuple[str, str, int, bool]]:
    """Yield (model, digest, bytes, whether it is of the source) of stored blobs that releases name; once for each release that does."""
    lengths = {sha256: int(n) for sha256, n in session.execute(select(col(BlobRow.sha256), col(BlobRow.length)))}
    for table in (BundleRow, UnsignedBundleRow):
        columns = (col(ReleaseRow.model), col(table.sha256), col(table.leaves))
        made = select(*columns).join(table, col(table.release_id) == col(ReleaseRow.id))
        for model, bundle, leaves in session.execute(made):
            yield from ((model, one, lengths[one], False) for one in (bundle, leaves) if one in lengths)
    for origin in (ReleaseRow, AttemptRow):
        named = select(col(origin.model), col(origin.source), col(origin.data))
        for model, source, data in session.execute(named):
            digests = {file["sha256"] for file in source.get("files", ())} | set(data.values())
            yield from ((model, one, lengths[one], True) for one in sorted(digests) if one in lengths)


def discard_blobs(session: Session, digests: Collection[str], now: datetime) -> None:
    """Let blobs be blobs no more; `discarded` returns them until `remove_discarded` has removed their records."""
    session.execute(update(BlobRow).where(col(BlobRow.sha256).in_(digests)).values(discarded_at=now))


def discarded(session: Session) -> list[Sha256]:
    """Return the digests of discarded blobs."""
    return [
        Sha256(one)
        for one in session.scalars(select(col(BlobRow.sha256)).where(col(BlobRow.discarded_at).is_not(None)))
    ]


def remove_discarded(session: Session, sha256: str) -> bool:
    """Remove the record of a discarded blob; False when it is none. An upload of the same bytes waits until the transaction ends."""
    gone = delete(BlobRow).where(col(BlobRow.sha256) == sha256, col(BlobRow.discarded_at).is_not(None))
    return session.scalar(gone.returning(col(BlobRow.sha256))) is not None


def blob_ages(session: Session) -> Iterator[tuple[str, int, datetime, datetime | None]]:
    """Yield digest, bytes, when it was last uploaded or asked for, and since when nothing names it, of all blobs by digest."""
    last = func.coalesce(col(BlobRow.renewed_at), col(BlobRow.created_at))
    query = select(col(BlobRow.sha256), col(BlobRow.length), last, col(BlobRow.unnamed_since))
    for sha256, length, at, since in session.execute(
        query.where(col(BlobRow.discarded_at).is_(None)).order_by(col(BlobRow.sha256))
    ):
        yield str(sha256), int(length), at, since


def recorded_digests(session: Session) -> set[str]:
    """Return the digests of all records of blobs, discarded ones too."""
    return set(session.scalars(select(col(BlobRow.sha256))))


def mark_unnamed(session: Session, digests: Collection[str], old: datetime, now: datetime) -> int:
    """Note that nothing names these blobs, of those that were last uploaded or asked for before `old`; return how many.

    Those that somebody holds are left out: they are being named.
    """
    free = select(col(BlobRow.sha256)).where(among(session, col(BlobRow.sha256), digests))
    held = list(session.scalars(free.order_by(col(BlobRow.sha256)).with_for_update(key_share=True, skip_locked=True)))
    marked = update(BlobRow).where(among(session, col(BlobRow.sha256), held), *_is_old(old))
    marked = marked.where(col(BlobRow.unnamed_since).is_(None)).values(unnamed_since=now)
    return len(list(session.scalars(marked.returning(col(BlobRow.sha256)))))


def unmark(session: Session, digests: Collection[str]) -> None:
    """Note that something names these blobs."""
    query = select(col(BlobRow.sha256)).where(among(session, col(BlobRow.sha256), digests))
    held = list(session.scalars(query.order_by(col(BlobRow.sha256)).with_for_update(key_share=True)))
    session.execute(update(BlobRow).where(among(session, col(BlobRow.sha256), held)).values(unnamed_since=None))


def discard_marked(session: Session, sha256: str, old: datetime, now: datetime) -> bool:
    """Discard a blob that has been marked since `old` and not been asked for; waits for those that name it just now."""
    gone = update(BlobRow).where(col(BlobRow.sha256) == sha256, *_is_old(old), col(BlobRow.unnamed_since) <= old)
    return session.scalar(gone.values(discarded_at=now).returning(col(BlobRow.sha256))) is not None


def add_discarded(session: Session, sha256: str, length: int, now: datetime) -> bool:
    """Record bytes without a record as a discarded blob; False when they have one."""
    row = {"sha256": sha256, "length": length, "created_at": now, "discarded_at": now}
    return insert_new(session, BlobRow, row)


def unnamed_total(session: Session) -> tuple[int, int]:
    """Return how many blobs are marked, and their bytes."""
    query = select(func.count(), func.coalesce(func.sum(col(BlobRow.length)), 0))
    count, size = session.execute(
        query.where(col(BlobRow.unnamed_since).is_not(None), col(BlobRow.discarded_at).is_(None))
    ).one()
    return int(count), int(size)


def _is_old(old: datetime) -> tuple[ColumnElement[bool], ...]:
    last = func.coalesce(col(BlobRow.renewed_at), col(BlobRow.created_at))
    return (col(BlobRow.discarded_at).is_(None), last <= old)


def bundles_of(session: Session, release_ids: Sequence[int]) -> dict[int, list[BundleRow]]:
    """Return the bundles of releases, by release id, sorted by profile."""
    grouped: dict[int, list[BundleRow]] = {release_id: [] for release_id in release_ids}
    query = select(BundleRow).where(col(BundleRow.release_id).in_(release_ids)).order_by(col(BundleRow.profile))
    for row in session.scalars(query):
        grouped[row.release_id].append(row)
    return grouped


def unsigned_versions(session: Session, model: str) -> list[str]:
    """Return the versions of a model that have bundles which wait for signatures, in the order of publication."""
    query = select(col(ReleaseRow.version)).join(UnsignedBundleRow).where(col(ReleaseRow.model) == model)
    return list(dict.fromkeys(session.scalars(query.order_by(col(ReleaseRow.id)))))


def count_unsigned(session: Session, release_id: int) -> int:
    """Return how many bundles of a release wait for signatures."""
    query = select(func.count()).select_from(UnsignedBundleRow)
    return int(session.scalar(query.where(col(UnsignedBundleRow.release_id) == release_id)) or 0)


def refs_of(session: Session, ref: ReleaseRef) -> list[tuple[str, str, str, int, bool]]:
    """Return profile, target, digest, length of a release's bundles, and whether they are sealed, without what else is known of them."""
    row = BundleRow
    query = (
        select(col(row.profile), col(row.target), col(row.sha256), col(row.length), col(row.sealed_key).is_not(None))
        .join(ReleaseRow, col(ReleaseRow.id) == col(BundleRow.release_id))
        .where(col(ReleaseRow.model) == ref.model, col(ReleaseRow.version) == ref.version)
    )
    return [(profile, target, sha256, n, is_sealed) for profile, target, sha256, n, is_sealed in session.execute(query)]


def find_bundle(session: Session, ref: ReleaseRef, profile: str) -> BundleRow | None:
    """Return the bundle of a release for a profile."""
    query = (
        select(BundleRow)
        .join(ReleaseRow, col(ReleaseRow.id) == col(BundleRow.release_id))
        .where(
            col(ReleaseRow.model) == ref.model,
            col(ReleaseRow.version) == ref.version,
            col(BundleRow.profile) == profile,
        )
    )
    return session.scalars(query).one_or_none()


def newest_bundles(session: Session, profile: str, limit: int) -> list[tuple[BundleRow, ReleaseRow]]:
    """Return the newest bundles of a profile with their releases."""
    query = (
        select(BundleRow, ReleaseRow)
        .join(ReleaseRow, col(ReleaseRow.id) == col(BundleRow.release_id))
        .where(col(BundleRow.profile) == profile)
        .order_by(col(BundleRow.id).desc())
        .limit(limit)
    )
    return [(bundle, release) for bundle, release in session.execute(query)]


def list_bundles(
    session: Session, page: PageRequest, model: str | None, profile: str | None
) -> Page[tuple[BundleRow, ReleaseRow]]:
    """Return one page of bundles (of a model, of a profile) with their releases, newest first as usual."""
    is_of = col(ReleaseRow.id) == col(BundleRow.release_id)
    query = select(BundleRow, ReleaseRow).join(ReleaseRow, is_of)
    count = select(func.count()).select_from(BundleRow).join(ReleaseRow, is_of)
    for column, wanted in ((col(ReleaseRow.model), model), (col(BundleRow.profile), profile)):
        if wanted is not None:
            query, count = query.where(column == wanted), count.where(column == wanted)
    own, after = col(BundleRow.id), page.after_number()
    found = session.execute(walked(query, own, after, page.limit + 1, is_down=not page.is_turned))
    rows = [(bundle, release) for bundle, release in found]
    total = session.scalar(count) or 0
    return cut_page(rows, page, total, lambda row: str(row[0].id))


def find_bundles_by_sha256(session: Session, digests: Sequence[str]) -> list[tuple[BundleRow, ReleaseRow]]:
    """Return bundles with their releases by bundle digest."""
    query = (
        select(BundleRow, ReleaseRow)
        .join(ReleaseRow, col(ReleaseRow.id) == col(BundleRow.release_id))
        .where(col(BundleRow.sha256).in_(digests))
    )
    return [(bundle, release) for bundle, release in session.execute(query)]


def list_releases(session: Session, model: str | None, page: PageRequest) -> Page[ReleaseRow]:
    """Return one page of releases, newest first as usual."""
    own, after = col(ReleaseRow.id), page.after_number()
    query = walked(select(ReleaseRow), own, after, page.limit + 1, is_down=not page.is_turned)
    count = select(func.count()).select_from(ReleaseRow)
    if model is not None:
        query, count = query.where(col(ReleaseRow.model) == model), count.where(col(ReleaseRow.model) == model)
    rows = list(session.scalars(query))
    return cut_page(rows, page, session.scalar(count) or 0, lambda row: str(row.id))


def list_models(session: Session, page: PageRequest) -> Page[ModelRow]:
    """Return one page of models by name."""
    query = walked(select(ModelRow), col(ModelRow.name), page.after, page.limit + 1, is_down=page.is_turned)
    total = session.scalar(select(func.count()).select_from(ModelRow)) or 0
    return cut_page(list(session.scalars(query)), page, total, lambda row: row.name)


def model_names(session: Session) -> list[str]:
    """Return the names of all models, in order."""
    return list(session.scalars(select(col(ModelRow.name)).order_by(col(ModelRow.name))))


def find_model(session: Session, name: str) -> ModelRow | None:
    """Return the row of a model."""
    return session.get(ModelRow, name)


def newest_releases(session: Session, models: Sequence[str]) -> dict[str, tuple[int, ReleaseRow]]:
    """Return for each model the number of its releases and the newest one."""
    summary = (
        select(col(ReleaseRow.model), func.count(), func.max(col(ReleaseRow.id)))
        .where(col(ReleaseRow.model).in_(models))
        .group_by(col(ReleaseRow.model))
    )
    counts = {name: (count, newest) for name, count, newest in session.execute(summary)}
    ids = [newest for _, newest in counts.values()]
    rows = {row.model: row for row in session.scalars(select(ReleaseRow).where(col(ReleaseRow.id).in_(ids)))}
    return {name: (count, rows[name]) for name, (count, _) in counts.items()}


def find_profile(session: Session, name: str) -> ProfileRow | None:
    """Return a profile that came with a publication."""
    return session.get(ProfileRow, name)


def list_profiles(session: Session) -> list[ProfileRow]:
    """Return all profiles that came with publications, by name."""
    return list(session.scalars(select(ProfileRow).order_by(col(ProfileRow.name))))


def aliases(session: Session, models: Sequence[str]) -> list[AliasRow]:
    """Return the aliases of models, by model and name."""
    query = select(AliasRow).where(col(AliasRow.model).in_(models))
    return list(session.scalars(query.order_by(col(AliasRow.model), col(AliasRow.alias))))


def find_alias(session: Session, model: str, alias: str, *, lock: bool = False) -> AliasRow | None:
    """Return the row of an alias; `lock` holds it until the transaction ends."""
    return session.get(AliasRow, (model, alias), with_for_update=True if lock else None)


def remove_alias(session: Session, model: str, alias: str) -> bool:
    """Remove an alias; False when there was none."""
    done = session.execute(delete(AliasRow).where(col(AliasRow.model) == model, col(AliasRow.alias) == alias))
    return int(done.rowcount) == 1  # type: ignore[attr-defined]


def find_named(session: Session, text: str, limit: int) -> tuple[list[str], list[ReleaseRow]]:
    """Return up to `limit` models and releases, the newest first, whose name or `name@version` has a text (lower case) in it."""
    names = select(col(ModelRow.name)).where(col(ModelRow.name).contains(text, autoescape=True))
    models = list(session.scalars(names.order_by(col(ModelRow.name)).limit(limit)))
    ref = col(ReleaseRow.model) + "@" + col(ReleaseRow.version)
    releases = (
        select(ReleaseRow).where(func.lower(ref).contains(text, autoescape=True)).order_by(col(ReleaseRow.id).desc())
    )
    return models, list(session.scalars(releases.limit(limit)))


def sealed_bundles(session: Session) -> list[str]:
    """Return the names of all bundles with a sealed model, `MODEL@VERSION for PROFILE`, also of those that wait for a team."""
    found = set[tuple[str, str, str]]()
    for table in (BundleRow, UnsignedBundleRow):
        named = select(col(ReleaseRow.model), col(ReleaseRow.version), col(table.profile))
        named = named.join(table, col(table.release_id) == col(ReleaseRow.id)).where(col(table.sealed_key).is_not(None))
        found.update((model, version, profile) for model, version, profile in session.execute(named))
    return [f"{model}@{version} for {profile}" for model, version, profile in sorted(found)]
