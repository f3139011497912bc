"""Private keys in files: made once, mode 0600, each read when it is first needed.

The file name is not one of the usual feature names because it is one implementation of "something that signs"; a KMS
or PKCS#11 signer will stand next to it with the same `signer(role)`.

Rules:
- Existing key files are never overwritten.
- `root.pem` is encrypted. Its passphrase is written next to it in `root.passphrase`, so that a first start works
  without a ceremony; `README.txt` in the folder says plainly that this protects nothing until both leave the machine.
"""

import os
import secrets
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # documented, but not in __all__

from edgefleet_server.signing.errors import KeysExistError, KeysMissingError, KeysUnreadableError

ONLINE_ROLES: Final = ("targets", "releases", "snapshot", "timestamp", "director")
ROOT_FILE: Final = "root.pem"
PASSPHRASE_FILE: Final = "root.passphrase"  # noqa: S105  # a file name
NOTE_FILE: Final = "README.txt"

NOTE: Final = """\
KEYS OF THIS EDGEFLEET SERVER

root.pem is the root of trust of every device that enrols here. It is ONE key with threshold 1, and its passphrase lies
beside it in root.passphrase. That is fine for a trial and NOT for production: anyone who copies this folder can sign
anything for your fleet.

Do this now:
  1. Copy root.pem and root.passphrase to two offline media, kept apart from each other.
  2. Delete root.passphrase (and best root.pem too) from this machine. The server runs without them; they are needed
     only to change the root: new online keys, new root keys.
  3. Back up device-ca.pem and targets.pem offline as well.

The other .pem files are used by the running server and must stay here, readable by its user only.
"""


def write_private(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a new file with `mode` and fsync it. Raises KeysExistError if it is there already."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError as e:
        raise KeysExistError(
            f"{path} exists already; keys are never overwritten",
            next_step="use the existing keys, or choose an empty data folder for a new server",
        ) from e
    with os.fdopen(fd, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


class FileSigner:
    """The TUF and director keys of one key folder."""

    def __init__(self, folder: Path) -> None:
        """Remember the folder; nothing is read before it is needed."""
        self._folder = folder
        self._cache: dict[str, CryptoSigner] = {}
        self._keys: dict[str, Ed25519PrivateKey] = {}

    def create(self) -> None:
        """Make the folder (0700), all keys and the note. Blocks on fsync. Raises KeysExistError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        passphrase = secrets.token_urlsafe(32).encode()
        encrypted = serialization.BestAvailableEncryption(passphrase)
        write_private(self._folder / ROOT_FILE, _new_pem(encrypted))
        write_private(self._folder / PASSPHRASE_FILE, passphrase)
        write_private(self._folder / NOTE_FILE, NOTE.encode())
        for role in ONLINE_ROLES:
            write_private(self._folder / f"{role}.pem", _new_pem(serialization.NoEncryption()))

    def ensure(self, role: str) -> None:
        """Make the key of a role that came after this server was, unless it is there. Blocks on fsync."""
        path = self._folder / f"{role}.pem"
        if not path.is_file():
            write_private(path, _new_pem(serialization.NoEncryption()))

    def exists(self) -> bool:
        """Return whether the online keys are all there."""
        return all((self._folder / f"{role}.pem").is_file() for role in ONLINE_ROLES)

    def has_root(self) -> bool:
        """Return whether the root key and its passphrase both lie here: then a copy of the folder is enough to own the fleet."""
        return all((self._folder / name).is_file() for name in (ROOT_FILE, PASSPHRASE_FILE))

    def signer(self, role: str) -> CryptoSigner:
        """Return the signer of an online role. Raises KeysMissingError, KeysUnreadableError."""
        if role not in self._cache:
            self._cache[role] = self._load(self._folder / f"{role}.pem", None, role)
        return self._cache[role]

    def sign(self, role: str, payload: bytes) -> tuple[str, bytes]:
        """Return the key id of an online role and its signature. Raises KeysMissingError, KeysUnreadableError.

        Ed25519 is asked directly: what the signer does around it costs as much as signing, which counts for 100,000 documents.
        """
        signer = self.signer(role)
        key = self._keys.get(role)
        if key is None:
            signature = signer.sign(payload)
            return signature.keyid, bytes.fromhex(signature.signature)
        return signer.public_key.keyid, key.sign(payload)

    def root_signer(self) -> CryptoSigner:
        """Return the root signer; needs `root.pem` and `root.passphrase` here. Raises KeysMissingError."""
        passphrase_file = self._folder / PASSPHRASE_FILE
        if not passphrase_file.is_file():
            raise KeysMissingError(
                f"{PASSPHRASE_FILE} is not in the key folder, so the root key cannot be used",
                next_step="bring root.pem and root.passphrase back from their offline medium for this one operation",
            )
        return self._load(self._folder / ROOT_FILE, passphrase_file.read_bytes())

    def _load(self, path: Path, passphrase: bytes | None, role: str = "") -> CryptoSigner:
        try:
            pem = path.read_bytes()
        except OSError as e:
            raise KeysMissingError(
                f"the key file {path.name} cannot be read: {e.strerror}",
                next_step="run `edgectl server init` for a new server, or restore the key folder from its backup",
            ) from e
        try:
            private_key = serialization.load_pem_private_key(pem, passphrase)
            if role and isinstance(private_key, Ed25519PrivateKey):
                self._keys[role] = private_key
            return CryptoSigner(private_key)  # checks the key type itself
        except (ValueError, TypeError) as e:
            raise KeysUnreadableError(
                f"the key file {path.name} holds no usable private key: {e}",
                next_step="restore the file from its backup; a server with a wrong key is refused by its devices",
            ) from e


def _new_pem(encryption: serialization.KeySerializationEncryption) -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
