"""Rows of the registry as the values that the rest of the server sees.

Publishing and reading both end in these views; it asks the database nothing.
"""

from collections.abc import Mapping, Sequence

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_server.registry.model import (
    BundleView,
    JobView,
    ModelView,
    ReleaseState,
    ReleaseView,
    SourceFile,
    SourceView,
)
from edgefleet_server.registry.tables import BundleRow, ModelRow, ReleaseRow


def ref_of(row: ReleaseRow) -> ReleaseRef:
    """Return the name and version of a release."""
    return ReleaseRef.parse(f"{row.model}@{row.version}")


def release_view(
    row: ReleaseRow, bundles: Sequence[BundleRow], jobs: Sequence[JobView], aliases: Sequence[str] = ()
) -> ReleaseView:
    """Return a release with its bundles, jobs and aliases."""
    ref = ref_of(row)
    return ReleaseView(
        ref=ref,
        state=ReleaseState(row.state),
        source_sha256=Sha256(row.source_sha256),
        created_at=row.created_at,
        created_by=row.created_by,
        profiles_reason=row.profiles_reason,
        labels_available=bool(row.data.get("labels")),
        lineage=row.lineage,
        bundles=tuple(bundle_view(ref, bundle) for bundle in bundles),
        jobs=tuple(jobs),
        aliases=tuple(aliases),
    )


def source_view(row: ReleaseRow) -> SourceView:
    """Return what a release was made of."""
    files = row.source.get("files", ())
    return SourceView(
        kind=str(row.source.get("kind", "")),
        files=tuple(SourceFile(one["path"], Sha256(one["sha256"]), one["length"]) for one in files),
        data={name: Sha256(digest) for name, digest in row.data.items() if digest},
        options=row.options,
        identity=Sha256(row.identity),
    )


def bundle_view(ref: ReleaseRef, row: BundleRow) -> BundleView:
    """Return a bundle of the release `ref`."""
    return BundleView(
        ref=ref,
        profile=ProfileName(row.profile),
        target=row.target,
        sha256=Sha256(row.sha256),
        length=row.length,
        leaves=Sha256(row.leaves),
        runtime=row.runtime,
        precision=row.precision,
        signed_at=row.signed_at,
        report=row.report,
    )


def model_view(
    row: ModelRow, summary: tuple[int, ReleaseRow] | None, aliases: Mapping[str, str] | None = None
) -> ModelView:
    """Return a model; summary: the number of its releases and the newest one, None when it has none; aliases: name -> version."""
    if summary is None:
        return ModelView(row.name, row.created_at, 0, None, None, aliases or {})
    count, last = summary
    return ModelView(row.name, row.created_at, count, str(ref_of(last)), last.state, aliases or {})
