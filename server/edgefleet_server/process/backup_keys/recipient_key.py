"""A key pair for backups, so that a timer holds nothing that opens what it writes (ADR 0155).

- The identity, a private X25519 key as PEM, stays offline. It opens the keys of a backup.
- The recipient, one line of text, is on the server. It has the public key, and a second key made of the identity, by which each manifest
  is authenticated. It opens nothing. Anyone who steals it can write a backup that passes for one of yours, and read none.

The archive is sealed by HPKE (`edgefleet_protocol.hpke`), bound to the name of its backup.
"""

import hmac
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edgefleet_protocol import hpke
from edgefleet_server.process.backup.errors import BackupKeyError, KeysLockedError
from edgefleet_server.signing.keys.key_files import write_private

FORM: Final = "edgefleet-backup-recipient-1"
_LINE: Final = re.compile(rf"{FORM} ([0-9a-f]{{64}}) ([0-9a-f]{{64}})")
_LONGEST: Final = 64 << 10
_OTHER_IDENTITY: Final = "give the private key that `edgectl server backup-key create --out FILE` wrote"
_MAC: Final = b"edgefleet backup manifest v1"


@dataclass(frozen=True, slots=True)
class Recipient:
    """What seals keys and authenticates manifests."""

    public: bytes
    mac: bytes

    @property
    def key_id(self) -> str:
        """How the pair is named in backups."""
        return hpke.key_id(self.public)

    @property
    def text(self) -> str:
        """The line that stands in a file."""
        return f"{FORM} {self.public.hex()} {self.mac.hex()}\n"

    def mac_of(self, manifest: bytes) -> bytes:
        """Return the code that authenticates a manifest."""
        return hmac.digest(self.mac, manifest, "sha256")

    def sealed(self, archive: bytes, backup: str) -> bytes:
        """Return an archive that only the identity opens, in the backup of that name only."""
        return hpke.seal(self.public, archive, _about(backup))


@dataclass(frozen=True, slots=True)
class Identity:
    """What opens keys. secret: a raw X25519 key."""

    secret: bytes

    @property
    def recipient(self) -> Recipient:
        """The other half."""
        return Recipient(hpke.public_of(self.secret), hmac.digest(self.secret, _MAC, "sha256"))

    def opened(self, stored: bytes, backup: str) -> bytes:
        """Return the archive of a sealed one. Raises KeysLockedError."""
        try:
            return hpke.unseal(self.secret, stored, _about(backup))
        except hpke.SealedError:
            raise KeysLockedError(
                "the keys of this backup do not open with that identity",
                next_step="use another backup: the archive is not what was sealed",
            ) from None


def new_pair(identity_file: Path, recipient_file: Path) -> Recipient:
    """Make a pair and write both halves into new files, 0600. Raises BackupKeyError, KeysExistError, OSError."""
    if recipient_file.exists():
        raise BackupKeyError(f"{recipient_file} is there already", next_step="name another file with --recipient")
    secret = X25519PrivateKey.generate()
    recipient = Identity(secret.private_bytes_raw()).recipient
    write_private(identity_file, secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_private(recipient_file, recipient.text.encode())
    return recipient


def recipient_of(file: Path) -> Recipient:
    """Return the recipient in a file. Raises BackupKeyError."""
    text = _content(file).decode(errors="replace").strip()
    found = _LINE.fullmatch(text)
    if found is None:
        is_private = "PRIVATE KEY" in text
        raise BackupKeyError(
            f"{file} is {'an identity, which opens backups' if is_private else 'no recipient of backups'}",
            next_step="give the recipient that `edgectl server backup-key create --out FILE` wrote"
            + ("; keep this file away from the server" if is_private else ""),
        )
    return Recipient(bytes.fromhex(found[1]), bytes.fromhex(found[2]))


def identity_of(file: Path) -> Identity:
    """Return the identity in a file. Raises BackupKeyError."""
    content = _content(file)
    try:
        key = load_pem_private_key(content, None)
    except (ValueError, TypeError) as error:
        raise BackupKeyError(
            f"{file} is no identity of backups",
            next_step=_OTHER_IDENTITY,
        ) from error
    if not isinstance(key, X25519PrivateKey):
        raise BackupKeyError(
            f"{file} has another kind of key: X25519 is needed",
            next_step=_OTHER_IDENTITY,
        )
    return Identity(key.private_bytes_raw())


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_LONGEST)
    except OSError as error:
        raise BackupKeyError(
            f"the key file {file} cannot be read: {error.strerror}", next_step="check its path and rights"
        ) from error


def _about(backup: str) -> bytes:
    """Return what an archive is bound to; no capture, log and bundle has such a text: ids have no blank."""
    return f"backup keys\0{backup}".encode()
