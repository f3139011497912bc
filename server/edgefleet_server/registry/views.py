"""Rows of the registry as the values that the rest of the server sees.

Publishing and reading both end in these views; it asks the database nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_server.registry.model import (
    AttemptView,
    BundleView,
    JobView,
    ModelView,
    ReleaseState,
    ReleaseView,
    SourceFile,
    SourceView,
    Withdrawal,
)
from edgefleet_server.registry.tables import AttemptRow, BundleRow, ModelRow, ReleaseRow

_KEPT_OF_JOBS: Final = ("id", "profile", "state", "code", "reason", "next_step", "report")


def ref_of(row: ReleaseRow) -> ReleaseRef:
    """Return the name and version of a release."""
    return ReleaseRef.parse(f"{row.model}@{row.version}")


def release_view(
    row: ReleaseRow,
    bundles: Sequence[BundleRow],
    jobs: Sequence[JobView],
    aliases: Sequence[str] = (),
    attempts: Sequence[AttemptRow] = (),
) -> ReleaseView:
    """Return a release with its bundles, jobs, aliases and the attempts before it."""
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
        attempt=row.attempt,
        attempts=tuple(_attempt_view(one) for one in attempts),
        withdrawn=withdrawal_of(row),
    )


def withdrawal_of(row: ReleaseRow) -> Withdrawal | None:
    """Return that a release was withdrawn, None when it was not."""
    at = row.withdrawn_at
    return None if at is None else Withdrawal(at, row.withdrawn_by, row.withdrawn_reason)


def attempt_of(row: ReleaseRow, jobs: Sequence[JobView]) -> AttemptRow:
    """Return what is kept of a publication that signed nothing when its version is published with other content."""
    return AttemptRow(
        model=row.model,
        version=row.version,
        number=row.attempt,
        state=row.state,
        source_sha256=row.source_sha256,
        source=row.source,
        data=row.data,
        options=row.options,
        lineage=row.lineage,
        jobs=[{name: getattr(job, name) for name in _KEPT_OF_JOBS} for job in jobs],
        created_at=row.created_at,
        created_by=row.created_by,
    )


def _attempt_view(row: AttemptRow) -> AttemptView:
    return AttemptView(
        number=row.number,
        state=ReleaseState(row.state),
        source_sha256=Sha256(row.source_sha256),
        files=_files_of(row.source),
        options=row.options,
        created_at=row.created_at,
        created_by=row.created_by,
        jobs=tuple(JobView(stage="", message="", pct=100.0, **job) for job in row.jobs),
    )


def _files_of(source: Mapping[str, Any]) -> tuple[SourceFile, ...]:
    return tuple(SourceFile(one["path"], Sha256(one["sha256"]), one["length"]) for one in source.get("files", ()))


def source_view(row: ReleaseRow) -> SourceView:
    """Return what a release was made of."""
    return SourceView(
        kind=str(row.source.get("kind", "")),
        files=_files_of(row.source),
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
        sealed_key=row.sealed_key or "",
    )


def model_view(
    row: ModelRow, summary: tuple[int, ReleaseRow] | None, aliases: Mapping[str, str] | None = None
) -> ModelView:
    """Return a model; summary: the number of its releases and the newest one, None when it has none; aliases: name -> version."""
    if summary is None:
        return ModelView(row.name, row.created_at, 0, None, None, aliases or {})
    count, last = summary
    return ModelView(row.name, row.created_at, count, str(ref_of(last)), last.state, aliases or {})
