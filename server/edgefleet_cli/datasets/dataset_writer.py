"""Writes a data set: complete or not at all, the same bytes for the same records, and nothing that the policy does not keep."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

import msgspec

from edgefleet_cli.core.version import own_version
from edgefleet_cli.datasets.formats import coco_format, folder_format, npz_format, parquet_format
from edgefleet_cli.datasets.model import (
    MANIFEST,
    Array,
    DataFormat,
    DataSetError,
    DataSetManifest,
    Record,
    RecordEntry,
    ReleaseEntry,
    Sample,
)
from edgefleet_cli.datasets.places import Place
from edgefleet_cli.datasets.samples import Labels, Samples, samples_of

FORMATS: Final[dict[DataFormat, ModuleType]] = {
    DataFormat.FOLDER: folder_format,
    DataFormat.NPZ: npz_format,
    DataFormat.PARQUET: parquet_format,
    DataFormat.COCO: coco_format,
}


def write_data_set(
    records: Iterable[Record],
    labels: Labels,
    format_: DataFormat,
    place: Place,
    *,
    finish: Callable[[DataSetManifest], None] = lambda _: None,
) -> DataSetManifest:
    """Write records with their labels to a place, and return the manifest. finish: called when all is written and not yet in place.

    Raises DataSetError when nothing is left to write or the place cannot be written, MissingPartError, and what `finish` raises.
    """
    found = samples_of(records, labels)
    if not found.items:
        left = ", ".join(f"{name} of {count}" for name, count in sorted(found.left_out.items()))
        nothing = f"the privacy policy keeps nothing of {found.empty} records"
        raise DataSetError(
            nothing if found.empty else "there is nothing to write",
            why=f"left out: {left}" if left else "no record was found",
            next_step="fetch records first, `edgectl device capture DEVICE`, or see what privacy.json keeps",
        )
    with place.filled() as folder:
        FORMATS[format_].write(found.items, folder)
        manifest = _manifest(found, format_, folder)
        save_manifest(manifest, folder)
        finish(manifest)
    return manifest


def remove_records(place: Place, gone: Collection[tuple[str, str]]) -> DataSetManifest:
    """Remove records, by device and id, from a data set, and return its manifest since then. Raises DataSetError, MissingPartError."""
    manifest = read_manifest(place.manifest())
    if not any((one.device, one.id) in gone for one in manifest.records):
        return manifest
    with place.changed() as folder:
        FORMATS[DataFormat(manifest.format)].remove(folder, gone)
        left = [one for one in manifest.records if (one.device, one.id) not in gone]
        manifest = msgspec.structs.replace(
            manifest,
            records=tuple(left),
            fields=dict(sorted(Counter(name for one in left for name in one.fields).items())),
            reasons=by_reason(left),
            labels=by_label(left),
            unlabelled=sum(one.label is None for one in left),
            files=file_digests(folder),
        )
        save_manifest(manifest, folder)
    return manifest


def save_manifest(manifest: DataSetManifest, folder: Path) -> None:
    """Write `dataset.json`. Raises OSError."""
    from edgefleet_cli.core.files import write_private

    write_private(folder / MANIFEST, encoded(manifest))


def encoded(manifest: DataSetManifest) -> bytes:
    """Return the bytes of `dataset.json`."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1) + b"\n"


def digest_of(manifest: DataSetManifest) -> str:
    """Return the sha256 of `dataset.json`, which names the data set."""
    return hashlib.sha256(encoded(manifest)).hexdigest()


def read_manifest(data: bytes) -> DataSetManifest:
    """Return a manifest. Raises DataSetError."""
    try:
        return msgspec.json.decode(data, type=DataSetManifest)
    except msgspec.MsgspecError as error:
        raise DataSetError(
            f"{MANIFEST} cannot be read", why=str(error), next_step="give the folder that a data set was exported to"
        ) from error


def file_digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of a data set but its manifest, by name. Raises OSError."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _manifest(found: Samples, format_: DataFormat, folder: Path) -> DataSetManifest:
    entries = _entries(found.items)
    bundles = {one.record.facts.bundle: one.record.facts for one in found.items}
    releases = sorted({facts.release for facts in bundles.values()})
    return DataSetManifest(
        model=found.items[0].record.facts.model,
        release=releases[0] if len(releases) == 1 else "",
        format=format_.value,
        records=tuple(entries),
        releases=tuple(
            ReleaseEntry(release=facts.release, bundle=bundle, policy=facts.policy.digest)
            for bundle, facts in sorted(bundles.items())
        ),
        fields=dict(sorted(found.fields.items())),
        left_out=dict(sorted(found.left_out.items())),
        without_fields=found.empty,
        reasons=by_reason(entries),
        labels=by_label(entries),
        unlabelled=sum(one.label is None for one in entries),
        files=file_digests(folder),
        tool=f"edgectl {own_version()}",
    )


def by_reason(entries: Sequence[RecordEntry]) -> dict[str, int]:
    """Return how many records there are by the reason for which they were captured."""
    return dict(sorted(Counter(one.reason for one in entries).items()))


def by_label(entries: Sequence[RecordEntry]) -> dict[str, int]:
    """Return how many records there are by their ground truth."""
    return dict(sorted(Counter(one.label for one in entries if one.label is not None).items()))


def _entries(samples: Sequence[Sample]) -> list[RecordEntry]:
    by_record: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        by_record.setdefault((sample.record.device, sample.record.id), []).append(sample)
    return [
        RecordEntry(
            id=record_id,
            device=device,
            trace_id=some[0].record.trace_id,
            reason=some[0].record.reason,
            release=some[0].record.facts.release,
            label=some[0].label,
            seen=some[0].record.seen,
            samples=len(some),
            fields=tuple(sorted({name for one in some for name in one.values})),
            sha256=_digest(some),
        )
        for (device, record_id), some in by_record.items()
    ]


def _digest(samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        for name, value in sorted(sample.values.items()):
            parts = (value.dtype, repr(value.shape), value.data) if isinstance(value, Array) else (repr(value),)
            for part in (name, *parts):
                data = part if isinstance(part, bytes) else part.encode()
                digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
