"""The JSON of files that are carried on a medium: read with limits, named by a format, so that no file is taken for another."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from securesystemslib.formats import encode_canonical

from edgefleet_protocol.digest import sha256_hex

MAX_BYTES: Final = 1_000_000
MAX_NAME: Final = 40


class BadCeremonyFileError(ValueError):
    """A file is not of the kind that it should be, or says something that cannot be."""


def read_document(data: bytes, kind: str) -> dict[str, Any]:
    """Return the JSON object of a file of this format. Raises BadCeremonyFileError."""
    if len(data) > MAX_BYTES:
        raise BadCeremonyFileError(f"it has {len(data)} bytes, more than {MAX_BYTES}")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadCeremonyFileError(f"it is no JSON: {error}") from error
    if not isinstance(found, dict) or found.get("format") != kind:
        said = found.get("format") if isinstance(found, dict) else None
        raise BadCeremonyFileError(f"its format is {str(said)[:60]!r}, not {kind!r}")
    return found


def write_document(document: Mapping[str, Any]) -> bytes:
    """Return a document as one line of plain characters, so that it can be pasted into a form as well as carried."""
    return (json.dumps(document, sort_keys=True, ensure_ascii=True, separators=(",", ":")) + "\n").encode()


def canonical(document: Any) -> bytes:
    """Return the bytes that are signed: canonical JSON, as TUF has it. Raises BadCeremonyFileError."""
    try:
        return str(encode_canonical(document)).encode()
    except Exception as error:
        raise BadCeremonyFileError(f"it holds what cannot be signed: {error}") from error


def key_id(keytype: str, scheme: str, keyval: Mapping[str, Any]) -> str:
    """Return the id of a public key: the digest of what it is, so that no other key can have it. Raises BadCeremonyFileError."""
    return sha256_hex(canonical({"keytype": keytype, "scheme": scheme, "keyval": dict(keyval)}))


def checked_name(name: Any) -> str:
    """Return the name of a holder: 1 to 40 printable characters without spaces at its ends. Raises BadCeremonyFileError."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable() or name != name.strip():
        raise BadCeremonyFileError(f"a holder's name must have 1 to {MAX_NAME} printable characters, not {name!r:.60}")
    return name


def moment_of(text: Any) -> datetime:
    """Return a time with its zone. Raises BadCeremonyFileError."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise BadCeremonyFileError(f"{str(text)[:40]!r} is no time") from error
    if found.tzinfo is None:
        raise BadCeremonyFileError(f"{str(text)[:40]!r} has no time zone")
    return found
