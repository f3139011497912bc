"""Captured records sealed to a public key: HPKE base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305.

RFC 9180, one message a context (sequence number 0), written out over the primitives of `cryptography` because its own HPKE needs
a newer release than devices have (ADR 0030). Form: 32 bytes of encapsulated key, then the ciphertext with its tag.

1. The sealing side keeps nothing that opens: the ephemeral private key is forgotten when `seal` returns.
2. `about` (HPKE's `info`) binds the record to what is sent of it in the clear; with another one it does not open.
3. Needs `cryptography`: imported by workers that capture and by edgectl, never by agentd.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgefleet_protocol.errors import EdgefleetError

INFO = b"edgefleet capture v1"
KEY_BYTES = 32
OVERHEAD_BYTES = 48
_KEM_ID, _KDF_ID, _AEAD_ID = 0x0020, 0x0001, 0x0003
_KEM_SUITE = b"KEM" + _KEM_ID.to_bytes(2, "big")
_SUITE = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (_KEM_ID, _KDF_ID, _AEAD_ID))


class SealedError(EdgefleetError):
    """A record cannot be opened: it is for another key, it was altered, or it is none."""

    code = "capture.not_openable"


def seal(public_key: bytes, plain: bytes, about: bytes) -> bytes:
    """Return `plain` sealed to a raw X25519 public key. Raises SealedError for a bad key."""
    secret = X25519PrivateKey.generate()
    encapsulated = _raw(secret.public_key())
    try:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError as error:
        raise SealedError(
            f"this is no X25519 public key: {error}",
            next_step="create one with `edgectl capture-key create --out FILE`",
        ) from error
    key, nonce = _key_schedule(shared, encapsulated, public_key, info_about(about))
    return encapsulated + ChaCha20Poly1305(key).encrypt(nonce, plain, None)


def unseal(private_key: bytes, sealed: bytes, about: bytes) -> bytes:
    """Return what was sealed. private_key: raw X25519. Raises SealedError."""
    if len(sealed) < OVERHEAD_BYTES:
        raise SealedError(f"the record is cut off: it has {len(sealed)} bytes", next_step="fetch it again")
    try:
        return _open(X25519PrivateKey.from_private_bytes(private_key), sealed, info_about(about))
    except (InvalidTag, ValueError) as error:
        raise SealedError(
            "the record does not open with this key: it is for another one, or it was altered",
            next_step="give the private key whose id the record names",
        ) from error


def _open(secret: X25519PrivateKey, sealed: bytes, info: bytes) -> bytes:
    """Return what was sealed, opened by `cryptography` itself where it knows HPKE. Raises InvalidTag, ValueError."""
    try:
        from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
    except ImportError:
        encapsulated, box = sealed[:KEY_BYTES], sealed[KEY_BYTES:]
        shared = secret.exchange(X25519PublicKey.from_public_bytes(encapsulated))
        key, nonce = _key_schedule(shared, encapsulated, _raw(secret.public_key()), info)
        return ChaCha20Poly1305(key).decrypt(nonce, box, None)
    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305).decrypt(sealed, secret, info)


def key_id(public_key: bytes) -> str:
    """Return how a public key is named in records: the first 16 hex digits of its sha256."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def about_record(device: str, record: str, sha256: str) -> bytes:
    """Return what a captured record is bound to: device, record and bundle digest."""
    return "\0".join((device, record, sha256)).encode()


def about_log(device: str, model: str) -> bytes:
    """Return what the key of an epoch of a prediction log is bound to."""
    return "\0".join(("log", device, model)).encode()


def new_key() -> tuple[bytes, bytes]:
    """Return a new (private, public) pair, raw."""
    secret = X25519PrivateKey.generate()
    return secret.private_bytes_raw(), _raw(secret.public_key())


def public_of(private_key: bytes) -> bytes:
    """Return the public key of a raw private one. Raises SealedError."""
    try:
        return _raw(X25519PrivateKey.from_private_bytes(private_key).public_key())
    except ValueError as error:
        raise SealedError(
            f"this is no X25519 private key: {error}", next_step="give the file that `new` wrote"
        ) from error


def info_about(about: bytes) -> bytes:
    """Return the `info` of HPKE for one record."""
    return INFO + b"\0" + about


def _raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _key_schedule(dh: bytes, encapsulated: bytes, public_key: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Return (key, nonce) of sequence number 0. RFC 9180 §4.1 (ExtractAndExpand) and §5.1 (KeySchedule, mode 0)."""
    prk = _extract(_KEM_SUITE, b"", b"eae_prk", dh)
    shared = _expand(_KEM_SUITE, prk, b"shared_secret", encapsulated + public_key, 32)
    context = b"\0" + _extract(_SUITE, b"", b"psk_id_hash", b"") + _extract(_SUITE, b"", b"info_hash", info)
    secret = _extract(_SUITE, shared, b"secret", b"")
    return _expand(_SUITE, secret, b"key", context, 32), _expand(_SUITE, secret, b"base_nonce", context, 12)


def _extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + material, "sha256")


def _expand(suite: bytes, key: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """Return `length` bytes, 32 at most: one block of HKDF-Expand."""
    return hmac.digest(key, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info + b"\x01", "sha256")[:length]
