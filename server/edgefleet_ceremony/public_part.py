"""The public part of a holder's keys: what `edgectl key init` writes for the server, and what proves that the keys are there.

Both keys sign it. So a file that was damaged, or put together from two, is found before any device trusts it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, Signature  # type: ignore[attr-defined]  # documented, but not in __all__

from edgefleet_ceremony.file_format import (
    BadCeremonyFileError,
    canonical,
    checked_name,
    key_id,
    read_document,
    write_document,
)
from edgefleet_ceremony.root_fields import OFFLINE_ROLES

PUBLIC_FORMAT: Final = "edgefleet-public-keys/1"
MAX_HOLDERS: Final = 16
SCHEMES: Final = {"ed25519": "ed25519", "ecdsa-sha2-nistp256": "ecdsa"}
"""Schemes of signatures that are taken, each with its type of key."""


@dataclass(frozen=True, kw_only=True)
class PublicPart:
    """Keys of one holder by role. threshold: how many holders must sign, as they agreed when they made their keys."""

    holder: str
    threshold: int
    keys: Mapping[str, Key]
    proof: Mapping[str, str]
    """Signature (hex) over `signed_bytes` by role."""

    def signed_bytes(self) -> bytes:
        """Return what both keys sign."""
        return canonical(_body(self.holder, self.threshold, self.keys))


def body_of(holder: str, threshold: int, keys: Mapping[str, Key]) -> bytes:
    """Return what the keys of a new part are to sign."""
    return canonical(_body(checked_name(holder), threshold, keys))


def part_bytes(part: PublicPart) -> bytes:
    """Return the file."""
    body = _body(part.holder, part.threshold, part.keys)
    return write_document({"format": PUBLIC_FORMAT, **body, "proof": dict(part.proof)})


def part_of(data: bytes) -> PublicPart:
    """Return a part whose keys signed it. Raises BadCeremonyFileError."""
    found = read_document(data, PUBLIC_FORMAT)
    keys, proof, threshold = found.get("keys"), found.get("proof"), found.get("threshold")
    if not isinstance(keys, dict) or not isinstance(proof, dict) or set(keys) != set(OFFLINE_ROLES):
        raise BadCeremonyFileError(f"it must have a key for each of {', '.join(OFFLINE_ROLES)}, and their proof")
    if type(threshold) is not int or not 1 <= threshold <= MAX_HOLDERS:
        raise BadCeremonyFileError(f"its threshold must be 1 to {MAX_HOLDERS}")
    part = PublicPart(
        holder=checked_name(found.get("holder")),
        threshold=threshold,
        keys={role: _key(keys[role]) for role in OFFLINE_ROLES},
        proof={role: str(proof.get(role, ""))[:1000] for role in OFFLINE_ROLES},
    )
    if part.keys["root"].keyid == part.keys["targets"].keyid:
        raise BadCeremonyFileError("root and targets must not have the same key")
    for role, key in part.keys.items():
        try:
            key.verify_signature(Signature(key.keyid, part.proof[role]), part.signed_bytes())
        except (UnverifiedSignatureError, VerificationError) as error:
            raise BadCeremonyFileError(f"its {role} key did not sign it: it was damaged, or put together") from error
    return part


def _key(document: Any) -> Key:
    """Return a key whose id is made here, so that none can be claimed."""
    try:
        keytype, scheme, public = document["keytype"], document["scheme"], document["keyval"]["public"]
    except (KeyError, TypeError) as error:
        raise BadCeremonyFileError("one of its keys cannot be read") from error
    if not isinstance(scheme, str) or not isinstance(public, str) or SCHEMES.get(scheme, "") != keytype:
        raise BadCeremonyFileError(f"keys must be of {' or '.join(SCHEMES)}, not {str(scheme)[:40]!r}")
    keyval = {"public": public}
    plain = {"keytype": str(keytype), "scheme": scheme, "keyval": keyval}
    return Key.from_dict(key_id(str(keytype), scheme, keyval), plain)


def _body(holder: str, threshold: int, keys: Mapping[str, Key]) -> dict[str, Any]:
    return {"holder": holder, "threshold": threshold, "keys": {role: key.to_dict() for role, key in keys.items()}}
