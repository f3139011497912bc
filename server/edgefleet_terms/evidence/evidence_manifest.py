"""The manifest of an archive of evidence: every file with its SHA-256, and the statement over it that the audit key signs. Pure.

The manifest is canonical JSON: keys sorted, no spaces, UTF-8 as it is. Bytes in another notation are refused, so that one changed byte is
found even where it would say the same. The signed form is that of DSSE, whose type keeps it apart from TUF's metadata by the same key.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

FORMAT: Final = 1
MANIFEST: Final = "evidence.json"
SIGNATURE: Final = "evidence.sig.json"
FAILURE: Final = "failure.json"
"""What stands at the end of an archive that could not be finished; then there is no manifest."""
STATEMENT: Final = "edgefleet-evidence"
PAYLOAD_TYPE: Final = "application/vnd.edgefleet.evidence+json"
MAX_FILES: Final = 20_000
MAX_MANIFEST_BYTES: Final = 8 * 1024 * 1024
MAX_SIGNATURE_BYTES: Final = 4096
MAX_PATH: Final = 100
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_STEP: Final = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
_PATH: Final = re.compile(rf"{_STEP}(/{_STEP}){{0,3}}")
_SIGNATURE_HEX: Final = re.compile(r"([0-9a-f]{2}){32,512}")


class BadEvidenceError(ValueError):
    """What should be a manifest, or its signature, is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceFile:
    """One file. source: the address of the API whose answer it is, or what else it was made from; length: in bytes."""

    length: int
    path: str
    sha256: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What is not in the archive, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceManifest:
    """What an archive is about and has. release, since: "" = all; made_at: UTC; head_size: entries under the head of the audit trail."""

    files: tuple[EvidenceFile, ...]
    head_size: int
    left_out: tuple[LeftOut, ...]
    made_at: str
    made_by: str
    model: str
    release: str
    server: str
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceSignature:
    """Who signed a manifest: id of a key of the role `audit`, and the signature in hex."""

    keyid: str
    sig: str


def is_member_path(path: str) -> bool:
    """Tell whether a file may have this path: no absolute one, none with dots at the beginning of a step."""
    return len(path) <= MAX_PATH and _PATH.fullmatch(path) is not None


def manifest_bytes(manifest: EvidenceManifest) -> bytes:
    """Return the bytes of a manifest, the same wherever it is written."""
    return _canonical({"_type": STATEMENT, "v": FORMAT, **asdict(manifest)})


def manifest_of(data: bytes) -> EvidenceManifest:
    """Return the manifest of its bytes. Raises BadEvidenceError, also for the same in another notation."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise BadEvidenceError(f"it has more than {MAX_MANIFEST_BYTES} bytes")
    found = _object(data)
    if (found.get("_type"), found.get("v")) != (STATEMENT, FORMAT):
        raise BadEvidenceError(f"it is no statement of evidence in format {FORMAT}")
    try:
        manifest = EvidenceManifest(
            files=tuple(EvidenceFile(**one) for one in found["files"]),
            left_out=tuple(LeftOut(**one) for one in found["left_out"]),
            head_size=found["head_size"],
            **{name: found[name] for name in ("made_at", "made_by", "model", "release", "server", "since")},
        )
    except (TypeError, KeyError) as error:
        raise BadEvidenceError(f"a field is missing or unknown: {error}") from error
    _check(manifest)
    if manifest_bytes(manifest) != data:
        raise BadEvidenceError("it is not written in canonical JSON")
    return manifest


def signature_bytes(signature: EvidenceSignature) -> bytes:
    """Return the bytes of a signature's file."""
    return _canonical({"v": FORMAT, **asdict(signature)})


def signature_of(data: bytes) -> EvidenceSignature:
    """Return the signature of its file. Raises BadEvidenceError, also for the same in another notation."""
    found = _object(data)
    try:
        signature = EvidenceSignature(keyid=found["keyid"], sig=found["sig"])
    except KeyError as error:
        raise BadEvidenceError(f"the field {error} is missing") from error
    if not _is_text(signature.keyid, _SHA256) or not _is_text(signature.sig, _SIGNATURE_HEX):
        raise BadEvidenceError("its key id or its signature is no hex")
    if signature_bytes(signature) != data:
        raise BadEvidenceError("it is not written in canonical JSON")
    return signature


def _check(manifest: EvidenceManifest) -> None:
    texts = [manifest.made_at, manifest.made_by, manifest.model, manifest.release, manifest.server, manifest.since]
    texts += [text for one in manifest.left_out for text in (one.what, one.why)]
    texts += [text for one in manifest.files for text in (one.path, one.sha256, one.source)]
    numbers = [manifest.head_size, *(one.length for one in manifest.files)]
    if not all(isinstance(one, str) for one in texts) or not all(type(one) is int and one >= 0 for one in numbers):
        raise BadEvidenceError("a field has another type than it should")
    paths = [one.path for one in manifest.files]
    if len(paths) > MAX_FILES or len(set(paths)) != len(paths):
        raise BadEvidenceError(f"it names more than {MAX_FILES} files, or one of them twice")
    for one in manifest.files:
        if not is_member_path(one.path) or one.path in {MANIFEST, SIGNATURE, FAILURE}:
            raise BadEvidenceError(f"{one.path[:80]!r} is no path of a file")
        if not _is_text(one.sha256, _SHA256):
            raise BadEvidenceError(f"the SHA-256 of {one.path} is none")


def _is_text(value: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadEvidenceError(f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadEvidenceError("it is no JSON object")
    return found


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
