"""Verification of signed documents: bytes + keys + now -> payload, or an error that names the reason.

Rules:
1. The type is compared before the payload is parsed; a document of another type is refused even when its signature is good.
2. `threshold` different keys must have signed; a key counts once; unknown keys count for nothing.
3. Ed25519 and ECDSA P-256 (DER signatures over SHA-256), keys as TUF metadata writes them.
4. Order of checks of a desired document: signature, device, generation, expiry. Each has its own error code.
This module alone needs `cryptography`; agentd never imports it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edgefleet_protocol.desired import Desired
from edgefleet_protocol.envelope import pae, parse_envelope
from edgefleet_protocol.errors import EdgefleetError


class SignatureError(EdgefleetError):
    """Not enough valid signatures of the keys that are trusted for this."""

    code = "verify.signature"


class WrongTypeError(EdgefleetError):
    """A signed document of another type than the one expected here."""

    code = "verify.wrong_type"


class WrongDeviceError(EdgefleetError):
    """A desired document made for another device."""

    code = "verify.wrong_device"


class OldGenerationError(EdgefleetError):
    """A desired document that is not newer than the one already accepted."""

    code = "verify.old_generation"


class ExpiredError(EdgefleetError):
    """A signed document has expired."""

    code = "verify.expired"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key as TUF metadata writes it: ed25519 `public` is 64 hex characters, ecdsa `public` is PEM."""

    keyid: str
    keytype: str
    scheme: str
    public: str


def verify_envelope(raw: bytes, expected_type: str, keys: Iterable[PublicKey], threshold: int = 1) -> bytes:
    """Return the payload of a DSSE envelope signed by at least `threshold` of `keys`.

    Raises BadMessageError (not an envelope), WrongTypeError, SignatureError.
    """
    if threshold < 1:
        raise ValueError("threshold must be at least 1")
    envelope = parse_envelope(raw)
    if envelope.payload_type != expected_type:
        raise WrongTypeError(f"expected a document of type {expected_type}, got {envelope.payload_type[:100]!r}")
    by_id = {key.keyid: key for key in keys}
    signed = pae(envelope.payload_type, envelope.payload)
    candidates = ((by_id[s.keyid], s.sig) for s in envelope.signatures if s.keyid in by_id)
    good = {key.public for key, signature in candidates if _is_valid(key, signature, signed)}
    if len(good) < threshold:
        raise SignatureError(
            f"{len(good)} of {threshold} needed signatures are valid; trusted keys: {', '.join(k[:8] for k in sorted(by_id))}",
            next_step="the server's director key must be the one delegated in the TUF targets role",
        )
    return envelope.payload


def check_desired(document: Desired, *, device: str, floor_gen: int, now: datetime) -> None:
    """Refuse a verified desired document that is not for this device, not newer than `floor_gen`, or expired at `now`.

    Raises WrongDeviceError, OldGenerationError, ExpiredError.
    """
    if document.device != device:
        raise WrongDeviceError(f"the document is for device {document.device[:80]!r}, this is {device!r}")
    if document.gen <= floor_gen:
        raise OldGenerationError(f"the document has gen {document.gen}; gen {floor_gen} was already accepted")
    if document.expires <= now:
        raise ExpiredError(f"the document expired at {document.expires.isoformat()}; it is {now.isoformat()} here")


def _is_valid(key: PublicKey, signature: bytes, data: bytes) -> bool:
    try:
        if key.keytype == "ed25519" and key.scheme == "ed25519":
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.public)).verify(signature, data)
            return True
        if key.keytype == "ecdsa" and key.scheme == "ecdsa-sha2-nistp256":
            public = serialization.load_pem_public_key(key.public.encode())
            if isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
                public.verify(signature, data, ec.ECDSA(hashes.SHA256()))
                return True
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return False
