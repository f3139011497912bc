"""The model member of a sealed bundle: AES-256-GCM in chunks, under a key of this bundle alone (ADR 0122).

1. Chunk i holds CHUNK_BYTES of the model, the last one what is left, at least 1 byte; each is followed by its tag of 16 bytes.
2. Nonce: i in 11 bytes, then 1 for the last chunk, else 0. So none can be left out, doubled, cut off or put elsewhere.
3. Associated data: model, version, profile, member and length, so that a member opens in its own bundle only.
4. The key comes to a device sealed to the device's own key (`hpke`), bound to the bundle's digest (`about_key`).
Needs `cryptography`: imported by workers and install children of sealed bundles and by the server, never by agentd.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgefleet_protocol.bundle import MemberDigestError
from edgefleet_protocol.hpke import SealedError, unseal
from edgefleet_protocol.manifest import CHUNK_BYTES, TAG_BYTES, Manifest

KEY_BYTES = 32


def key_id(key: bytes) -> str:
    """Return how a manifest names the key of its bundle: 32 hex digits of a digest, which no second key has."""
    return hashlib.sha256(b"edgefleet model key\0" + key).hexdigest()[:32]


def about_key(sha256: str) -> bytes:
    """Return what a sealed copy of a bundle's key is bound to; no capture and no log has such a text: ids have no blank."""
    return f"model key\0{sha256}".encode()


def opened_key(secret: bytes, sealed_key: bytes, sha256: str, manifest: Manifest) -> bytes:
    """Return the key of a sealed bundle from its copy for one device. secret: of that device. Raises SealedError."""
    assert manifest.sealed
    key = unseal(secret, sealed_key, about_key(sha256))
    if key_id(key) != manifest.sealed.key:
        raise SealedError("it is another key than the one that the bundle names")
    return key


def seal_model(key: bytes, plain: bytes | memoryview, manifest: Manifest) -> Iterator[bytes]:
    """Yield the sealed chunks of a model, which is not empty. manifest: of its bundle, plain. key: KEY_BYTES, of this model alone."""
    cipher, about, view = AESGCM(key), _about(manifest, len(plain)), memoryview(plain)
    last = (len(plain) - 1) // CHUNK_BYTES
    for i in range(last + 1):
        yield cipher.encrypt(_nonce(i, last), view[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES], about)


def open_model(key: bytes, read: Callable[[int], bytes], manifest: Manifest) -> bytes:
    """Return the model of a sealed bundle. read: returns so many next bytes of the member. Holds the model once.

    Raises MemberDigestError: another key, or a member that is not what was sealed.
    """
    assert manifest.sealed
    length = manifest.sealed.length
    cipher, about, plain = AESGCM(key), _about(manifest, length), io.BytesIO()
    last = (length - 1) // CHUNK_BYTES
    try:
        for i in range(last + 1):
            size = min(CHUNK_BYTES, length - i * CHUNK_BYTES) + TAG_BYTES
            plain.write(cipher.decrypt(_nonce(i, last), read(size), about))
    except (InvalidTag, ValueError) as error:
        raise MemberDigestError(f"chunk {i} of the sealed {manifest.model_member} does not open") from error
    return plain.getvalue()


def _about(manifest: Manifest, length: int) -> bytes:
    names = (manifest.model, manifest.version, manifest.profile, manifest.model_member, str(length))
    return "\0".join(("edgefleet sealed model v1", *names)).encode()


def _nonce(i: int, last: int) -> bytes:
    return i.to_bytes(11, "big") + bytes([i == last])
