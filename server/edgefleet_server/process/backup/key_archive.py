"""The part of a backup that must stay secret: keys, settings and the first token, as one tar archive, sealed by a passphrase.

Form of a sealed one: `EFKEYS1`, 16 bytes of salt, 12 of nonce, and ChaCha20-Poly1305 of the archive; the key is the first half of what
scrypt makes of the passphrase, and the second half authenticates the manifest (ADR 0151).
"""

import hashlib
import hmac
import io
import os
import tarfile
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
FOLDER: Final = "keys"
FILES: Final = ("server.toml", "admin.token")


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


def archive_of(data: Path) -> bytes:
    """Return keys, settings and first token of a data folder as a tar archive."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for path in sorted((data / FOLDER).rglob("*")):
            if path.is_file() and not path.is_symlink():
                _add(tar, data, path)
        for name in FILES:
            if (data / name).is_file():
                _add(tar, data, data / name)
    return made.getvalue()


def settings_of(data: Path) -> bytes:
    """Return an archive of the settings alone."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        _add(tar, data, data / FILES[0])
    return made.getvalue()


def _add(tar: tarfile.TarFile, data: Path, path: Path) -> None:
    info = tarfile.TarInfo(path.relative_to(data).as_posix())
    body = path.read_bytes()
    info.size, info.mode = len(body), path.stat().st_mode & 0o700
    tar.addfile(info, io.BytesIO(body))


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


def unpack(archive: bytes, data: Path) -> list[str]:
    """Write the files of an archive into a data folder; return their names. Raises DamagedBackupError, OSError."""
    names: list[str] = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for info in tar:
            parts = Path(info.name).parts
            if not info.isfile() or ".." in parts or not (parts[0] == FOLDER or info.name in FILES):
                raise DamagedBackupError(f"the archive of keys holds {info.name!r}", next_step="use another backup")
            body = tar.extractfile(info)
            assert body is not None
            path = data / info.name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, info.mode & 0o700)
            with os.fdopen(descriptor, "wb") as file:
                file.write(body.read())
                file.flush()
                os.fsync(file.fileno())
            names.append(info.name)
    return names
