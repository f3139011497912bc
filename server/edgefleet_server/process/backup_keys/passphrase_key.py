"""A passphrase as the seal of a backup's keys: scrypt makes one key that seals the archive and one that authenticates the manifest.

Form of a sealed archive: `EFKEYS1`, 16 bytes of salt, 12 of nonce, and ChaCha20-Poly1305 of the archive (ADR 0151).
"""

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from edgefleet_server.process.backup.errors import DamagedBackupError, KeysLockedError

MAGIC: Final = b"EFKEYS1"
SALT_BYTES: Final = 16
NONCE_BYTES: Final = 12
SCRYPT: Final = {"n": 1 << 15, "r": 8, "p": 3}
LEAST_CHARS: Final = 12
_MEMORY: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class PassphraseKeys:
    """What a passphrase and a salt make. box: seals the archive; mac: authenticates the manifest."""

    salt: bytes
    box: bytes
    mac: bytes

    def mac_of(self, manifest: bytes) -> bytes:
        """Return the code that authenticates a manifest."""
        return hmac.digest(self.mac, manifest, "sha256")


def passphrase_of(file: Path) -> bytes:
    """Return the first line of a file. Raises KeysLockedError."""
    try:
        with file.open("rb") as opened:
            given = opened.readline(4096).rstrip(b"\r\n")
    except OSError as error:
        raise KeysLockedError(
            f"the passphrase file {file} cannot be read: {error.strerror}", next_step="check its path and rights"
        ) from error
    if len(given) < LEAST_CHARS:
        raise KeysLockedError(
            f"the passphrase in {file} has {len(given)} characters, and at least {LEAST_CHARS} are needed",
            next_step="take five words at random; anyone with the backup can try as often as they like",
        )
    return given


def keys_of(passphrase: bytes, salt: bytes) -> PassphraseKeys:
    """Return what a passphrase makes with a salt: 0.3 s of work and 32 MiB."""
    made = hashlib.scrypt(passphrase, salt=salt, maxmem=_MEMORY, dklen=64, **SCRYPT)
    return PassphraseKeys(salt, made[:32], made[32:])


def new_salt() -> bytes:
    """Return a new salt."""
    return os.urandom(SALT_BYTES)


def sealed(archive: bytes, keys: PassphraseKeys) -> bytes:
    """Return an archive that only the passphrase opens."""
    nonce = os.urandom(NONCE_BYTES)
    head = MAGIC + keys.salt + nonce
    return head + ChaCha20Poly1305(keys.box).encrypt(nonce, archive, head)


def salt_in(stored: bytes) -> bytes:
    """Return the salt of a sealed archive. Raises DamagedBackupError."""
    if not stored.startswith(MAGIC):
        raise DamagedBackupError("the sealed keys are none", next_step="use another backup")
    return stored[len(MAGIC) : len(MAGIC) + SALT_BYTES]


def opened(stored: bytes, keys: PassphraseKeys) -> bytes:
    """Return the archive of a sealed one. Raises KeysLockedError."""
    end = len(MAGIC) + SALT_BYTES + NONCE_BYTES
    head, box = stored[:end], stored[end:]
    try:
        return ChaCha20Poly1305(keys.box).decrypt(head[-NONCE_BYTES:], box, head)
    except InvalidTag:
        raise KeysLockedError(
            "the keys of this backup do not open with that passphrase",
            next_step="give the passphrase that it was made with",
        ) from None
