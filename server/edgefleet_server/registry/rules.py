"""Rules of the registry: pure functions over values.

* One version is one source with one set of data and options; asking again is answered, asking for something else refused.
* A version is taken once a bundle of it was signed. Until then a failed or cancelled attempt gives way to the next one.
* The digest of a single file is its own; the digest of a folder is that of its sorted list of files.
* A path of a source file is relative, flat or nested, without `.`/`..`, and never joined to a path by the server as it came.
* A release may name a parent: another release of the same model that there is.
* A release is `ready` when every profile got its bundle, `partial` when some did, `failed` when none, `cancelled` when none did and
  a person stopped a conversion. It is `unsigned` while all of its bundles wait for the signatures of its model's team.
* Versions of numbers, with a pre-release or without, are ordered as Semantic Versioning 2.0.0 does (item 11); `1.0` and `1.0.0` are alike.
  Where one of the two is something else, such as a date with letters or a hash, the one that was published later is newer.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from edgefleet_profiles.profile import HardwareProfile, profile_to_dict
from edgefleet_protocol.digest import Sha256, folder_sha256, parse_sha256, sha256_hex
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import ProfileName, ReleaseRef
from edgefleet_protocol.manifest import RANDOM_DATA
from edgefleet_server.registry.errors import (
    BadMetricError,
    BadParentError,
    BadRangeError,
    BadSourceError,
    BlobLengthError,
    BlobUnknownError,
    PickleNotAllowedError,
)
from edgefleet_server.registry.model import PARENT_DATA, JobSpec, Publication, ReleaseState, SourceFile

PARENT: Final = "parent"
"""The fact of a release's lineage that is checked: the release that it was made from, `name@version`."""
PASSED: Final = "passed"
UNPROVEN: Final = "unproven"
MAX_SOURCE_FILES = 4096
MAX_PATH_CHARS = 255
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@ -]{0,127}")
_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
_NUMBERS: Final = re.compile(r"v?(\d{1,18}(?:\.\d{1,18})*)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")
_Part = tuple[int, int, str]
_Key = tuple[tuple[int, ...], tuple[_Part, ...]]
_RELEASED: Final[_Part] = (2, 0, "")
"""Above every part of a pre-release."""
_OPEN_JOB_STATES = frozenset({"queued", "running"})


def check_source(kind: str, files: Sequence[SourceFile]) -> None:
    """Refuse a list of source files that cannot be a model. Raises BadSourceError."""
    if kind == "file" and len(files) != 1:
        raise BadSourceError(
            f"a source of kind `file` has exactly one file, this one has {len(files)}",
            next_step="publish the folder when the model has external data files",
        )
    if not 1 <= len(files) <= MAX_SOURCE_FILES:
        raise BadSourceError(
            f"a source has 1 to {MAX_SOURCE_FILES} files, this one has {len(files)}",
            next_step="publish only the folder of the model",
        )
    seen: set[str] = set()
    for file in files:
        check_source_path(file.path)
        if file.path.casefold() in seen:
            raise BadSourceError(f"the path {file.path!r} is listed twice", next_step="list every file once")
        seen.add(file.path.casefold())
    folders = {"/".join(path.split("/")[:depth]) for path in seen for depth in range(1, path.count("/") + 1)}
    if both := sorted(folders & seen):
        raise BadSourceError(
            f"the path {both[0]!r} is listed as a file and as a folder", next_step="give one of them another name"
        )


def check_source_path(path: str) -> None:
    """Refuse a path that is absolute, climbs, hides or has strange characters. Raises BadSourceError."""
    segments = path.split("/")
    if len(path) > MAX_PATH_CHARS or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise BadSourceError(
            f"the path {path[:80]!r} is not allowed in a model source",
            next_step="use relative paths of letters, digits, `._+@ -`, without hidden files, `..` or a leading slash",
        )


def check_metric(metric: str | None, allowed: Collection[str]) -> None:
    """Refuse a metric that names code (`pkg.mod:func`) unless the server's operator allowed it. Raises BadMetricError.

    Any function that is installed with the converter could be named, so a publisher may not choose freely.
    """
    if metric is not None and ":" in metric and metric not in allowed:
        raise BadMetricError(
            f"this server does not run the metric {metric!r}: it names code, and code is not a publisher's to choose",
            next_step="name a metric such as top1, agreement or mae-share, run `edgectl convert MODEL` locally, or have it listed in"
            " `custom_metrics` of server.toml",
        )


def check_pickle(wanted: bool, allowed: bool) -> None:
    """Refuse a source that may be a pickle unless the server's operator allowed them. Raises PickleNotAllowedError.

    Reading a pickle runs the code in it; the sandbox bounds what that code can do, and the choice is the operator's.
    """
    if wanted and not allowed:
        raise PickleNotAllowedError(
            "this server reads no pickles: a pickle is code, and code is not a publisher's to choose",
            next_step="export the model to ONNX where it was trained, and publish that file",
        )


def parent_of(publication: Publication) -> ReleaseRef | None:
    """Return the release that a publication continues, as its `lineage` says, None without. Raises BadParentError.

    Whether it exists is for the caller to look up.
    """
    text = publication.lineage.get(PARENT)
    if text is None:
        return None
    next_step = (
        f"name another release of {publication.ref.model}: `edgectl release list --model {publication.ref.model}`"
    )
    try:
        parent = ReleaseRef.parse(text)
    except EdgefleetError as error:
        raise BadParentError(
            f"{text[:130]!r} is no release, so it cannot be the parent", next_step=next_step
        ) from error
    if parent.model != publication.ref.model:
        raise BadParentError(
            f"{parent} cannot be the parent of {publication.ref}: it is a release of another model", next_step=next_step
        )
    if parent == publication.ref:
        raise BadParentError(f"{parent} cannot be its own parent", next_step=next_step)
    return parent


def compared_with(source: Mapping[str, Any]) -> dict[str, Sha256]:
    """Return what the data of a job has of a parent: its ONNX file, by name; nothing of a source in another form or several files."""
    files = source.get("files") or []
    if source.get("kind") != "file" or len(files) != 1 or not str(files[0]["path"]).lower().endswith(".onnx"):
        return {}
    return {PARENT_DATA: parse_sha256(files[0]["sha256"])}


def jobs_of(
    publication: Publication, chosen: Sequence[HardwareProfile], have: Collection[str], against: Mapping[str, Sha256]
) -> list[JobSpec]:
    """Return the conversions that a publication needs. have: profiles that have one; against: the data of the first one besides its own."""
    made: list[JobSpec] = []
    for profile in chosen:
        if profile.name in have:
            continue
        # Which inputs matter, and how the parent does, are facts of the source: the first job measures them for all.
        explains = not have and profile is chosen[0]
        made.append(
            JobSpec(
                ref=publication.ref,
                profile=ProfileName(profile.name),
                profile_facts=profile_to_dict(profile),
                kind=publication.kind,
                files=publication.files,
                data={**publication.data, **against} if explains else publication.data,
                options={**publication.options, "explain": True} if explains else publication.options,
            )
        )
    return made


def blobs_of(publication: Publication) -> list[Sha256]:
    """Return the digests of all files that a publication names."""
    return [*(file.sha256 for file in publication.files), *publication.data.values()]


def check_blobs(publication: Publication, lengths: Mapping[str, int]) -> None:
    """Refuse a publication whose files are not uploaded or have other lengths. Raises BlobUnknownError, BlobLengthError.

    lengths: bytes of those of its blobs that are stored, by digest.
    """
    wanted = {file.sha256: f"source file {file.path!r}" for file in publication.files}
    wanted |= {digest: f"data file {name!r}" for name, digest in publication.data.items()}
    for digest, what in wanted.items():
        if digest not in lengths:
            raise BlobUnknownError(
                f"{what} names blob {digest}, which is not uploaded",
                next_step=f"send it with PUT /api/v1/blobs/{digest} first",
            )
    for file in publication.files:
        if lengths[file.sha256] != file.length:
            raise BlobLengthError(
                f"source file {file.path!r} is declared with {file.length} bytes, its blob has {lengths[file.sha256]}",
                next_step="compute length and sha256 from the same file and publish again",
            )


def source_digest(kind: str, files: Sequence[SourceFile]) -> Sha256:
    """Return the sha256 that names a source: the file's own, or the folder's, as the bundle's manifest has it."""
    return files[0].sha256 if kind == "file" else folder_sha256((file.path, file.sha256) for file in files)


def identity(publication: Publication) -> Sha256:
    """Return the digest of what makes a release the same: source, data and options.

    Profiles do not count, nor does the name of a single file.
    """
    document = {
        "source": source_digest(publication.kind, publication.files),
        "data": {name: digest for name, digest in sorted(publication.data.items()) if digest},
        "options": dict(publication.options),
    }
    return sha256_hex(canonical(document))


def differences(existing: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of the parts in which two publications differ, for the message of a refusal."""
    found = []
    for part in ("source", "data", "options"):
        old, new = existing[part], wanted[part]
        keys = sorted(set(old) | set(new))
        found += [f"{part}.{key}" for key in keys if old.get(key) != new.get(key)]
    return found


def canonical(document: object) -> bytes:
    """Return one JSON encoding of plain data: sorted keys, no spaces."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def release_state(job_states: Iterable[str], bundles: int, unsigned: int = 0) -> ReleaseState:
    """Return a release's state from the states of its jobs, the number of its signed bundles, and of those that wait for signatures."""
    states = list(job_states)
    if any(state in _OPEN_JOB_STATES for state in states):
        return ReleaseState.CONVERTING
    if unsigned:
        return ReleaseState.PARTIAL if bundles else ReleaseState.UNSIGNED
    if bundles == 0:
        return ReleaseState.CANCELLED if "cancelled" in states else ReleaseState.FAILED
    return ReleaseState.READY if all(state == "done" for state in states) else ReleaseState.PARTIAL


class Outcome(StrEnum):
    """What becomes of a publication whose version exists: it is the same, the next attempt, or refused for one of three reasons."""

    SAME = "same"
    NEXT = "next"
    BUSY = "busy"
    TAKEN = "taken"
    WITHDRAWN = "withdrawn"


def publish_outcome(state: ReleaseState, bundles: int, *, is_same: bool, is_withdrawn: bool = False) -> Outcome:
    """Return what becomes of a publication under an existing version. bundles: how many of it are signed; is_same: same identity."""
    if is_withdrawn:
        return Outcome.WITHDRAWN
    if is_same:
        return Outcome.SAME
    if bundles:
        return Outcome.TAKEN
    return Outcome.BUSY if state in {ReleaseState.CONVERTING, ReleaseState.UNSIGNED} else Outcome.NEXT


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return (start, length) of a single-range ``Range`` header, or None for the whole (RFC 9110 §14.2).

    A header of another unit or with several ranges is ignored, as the standard allows. Raises BadRangeError (416).
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        start = size - length
    else:
        start = int(first)
        end = min(int(last), size - 1) if last else size - 1
        length = end - start + 1
        if last and int(last) < start:
            return None
    if length <= 0 or start >= size:
        raise BadRangeError(
            f"the range {header!r} lies outside the blob of {size} bytes", next_step="request a range inside it"
        )
    return start, length


def is_measured(report: Mapping[str, Any]) -> bool:
    """Say whether a bundle's metric was measured on data that somebody gave; a bundle without a metric has nothing to doubt.

    Bundles of servers before this one say so by the words alone.
    """
    metric = report.get("metric")
    if not isinstance(metric, Mapping):
        return True
    return metric.get("is_measured") is not False and metric.get("data") != RANDOM_DATA


def verdict_of(report: Mapping[str, Any]) -> str:
    """Return the verdict on a bundle: `unproven` where it passed and nothing but random input judged it, "" where there is none."""
    verdict = str(report.get("verdict") or "")
    return UNPROVEN if verdict == PASSED and not is_measured(report) else verdict


def is_newer(version: str, than: str, published: Mapping[str, int]) -> bool:
    """Return whether a version is newer than another one. published: their places in the order of publication; unknown ones are oldest."""
    one, other = _key(version), _key(than)
    if one is not None and other is not None:
        return one > other
    return version != than and published.get(version, 0) > published.get(than, 0)


def downgrade(ref: ReleaseRef, running: Mapping[str, int], devices: int, published: Mapping[str, int]) -> str:
    """Return what to say before a release goes out to devices that run newer ones of its model; "" when none does.

    running: how many of them run each version; devices: all of them.
    """
    newer = sorted(version for version in running if is_newer(version, ref.version, published))
    if not newer:
        return ""
    count = sum(running[version] for version in newer)
    named = " or ".join(f"{ref.model}@{version}" for version in newer)
    return f"{count} of {devices} devices run {named}, which {'is' if len(newer) == 1 else 'are'} newer than {ref}"


def _key(version: str) -> _Key | None:
    found = _NUMBERS.fullmatch(version)
    if found is None:
        return None
    numbers = [int(part) for part in found[1].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), (*(_part(part) for part in found[2].split(".")), (-1, 0, "")) if found[2] else (_RELEASED,)


def _part(text: str) -> _Part:
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)
