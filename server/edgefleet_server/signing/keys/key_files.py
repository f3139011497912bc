"""Files of the key folder: private keys as PEM, made once, mode 0600, and the inventory, replaced as a whole.

Existing key files are never overwritten. Everything is on the disk (fsync, of the folder too) before a function returns.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgefleet_server.signing.errors import KeysExistError, KeysMissingError, KeysUnreadableError
from edgefleet_server.signing.keys.inventory import KeyAlgorithm

INVENTORY_FILE: Final = "keys.json"
LOCK_FILE: Final = "keys.lock"
ROOT_FILE: Final = "root.pem"
PASSPHRASE_FILE: Final = "root.passphrase"  # noqa: S105  # a file name
NOTE_FILE: Final = "README.txt"

NOTE: Final = """\
KEYS OF THIS EDGEFLEET SERVER

root.pem is the root of trust of every device that enrols here. It is ONE key with threshold 1, and its passphrase lies
next to it in root.passphrase. That is fine for a trial and NOT for production: anyone who copies this folder can sign
anything for your fleet.

Do this now:
  1. Copy root.pem and root.passphrase to two offline media, kept apart from each other.
  2. Delete root.passphrase (and best root.pem too) from this machine. The server runs without them; they are needed
     only to change the root: new keys of targets, snapshot and timestamp, new root keys.
  3. Back up device-ca.pem and targets.pem offline as well.

The other files are used by the running server and must stay here, readable by its user only:
  targets.pem                 says which keys sign releases and what devices should run
  releases.pem                says which key signs the bundles of which model
  m.MODEL.KEYID.pem           signs the bundles of one model; made at its first release
  secrets.key                 opens what is sealed in the database; keep its copy apart from copies of the database
  director.pem                signs what each device should run
  snapshot.pem timestamp.pem  keep the metadata together and fresh
  audit.pem                   signs heads of the audit trail; made with the first one
  ROLE.KEYID.pem              the key of a role after `edgectl key rotate ROLE`
  device-ca.pem device-ca.crt issue the certificates of devices, listeners and services
  server.key server.crt       of the device listener and the broker
  srv-*.key srv-*.crt         of the server's own clients of the broker
  keys.json                   which keys there are, where each lies, and what became of it; nothing secret
  keys.lock                   empty

`edgectl key list` shows them; docs/operate/keys.md says how to rotate and revoke each.
"""

NOTE_AFTER_CEREMONY: Final = """\
KEYS OF THIS EDGEFLEET SERVER

The keys of root and targets are not here: their holders have them (`edgectl key ceremony`). The files here are used by the running
server and must stay, readable by its user only. `edgectl key list` shows what each key signs; docs/operate/keys.md says more.
"""

_log = logging.getLogger(__name__)
PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey


def secret_of(passphrase: str | None, file: Path | None) -> Callable[[], bytes | None]:
    """Return what reads the passphrase of key files and the PIN of tokens: as given, else from a file, without its last line end.

    What is returned raises KeysMissingError when the file cannot be read.
    """

    def read() -> bytes | None:
        if passphrase:
            return passphrase.encode()
        if file is None:
            return None
        try:
            return file.read_bytes().rstrip(b"\r\n") or None
        except OSError as e:
            raise KeysMissingError(
                f"the passphrase of the keys cannot be read from {file}: {e.strerror}",
                next_step="check keys_passphrase_file, and that the server may read the file",
            ) from e

    return read


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


def replace_private(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file again, atomically: a reader sees the old or the new one."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    write_private(fresh, data, mode=mode)
    fresh.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def destroy_files(files: Sequence[Path]) -> list[str]:
    """Overwrite and unlink those files that are there; return their names. May be repeated after a crash.

    On flash and on file systems that copy, old blocks may remain. One that cannot be destroyed (a link, a protected file) is named on
    the log and stays: the server must go on signing.
    """
    gone = []
    for path in files:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
            with os.fdopen(fd, "wb", buffering=0) as out:
                out.write(b"\0" * os.fstat(out.fileno()).st_size)
                os.fsync(out.fileno())
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.error("%s is trusted no more and cannot be destroyed (%s): destroy it by hand", path, error.strerror)
            continue
        gone.append(path.name)
    if gone:
        sync_folder(files[0].parent)
    return gone


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the key folder against all other processes that change it."""
    fd = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def new_private_key(algorithm: KeyAlgorithm) -> PrivateKey:
    """Return a fresh private key."""
    if algorithm is KeyAlgorithm.ED25519:
        return Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(key: PrivateKey, passphrase: bytes | None) -> bytes:
    """Return the key as PKCS#8 PEM, encrypted when there is a passphrase."""
    encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def load_private_key(path: Path, passphrase: bytes | None) -> PrivateKey:
    """Return the private key in a file, plain or encrypted. Raises KeysMissingError, KeysUnreadableError."""
    try:
        pem = path.read_bytes()
    except OSError as e:
        raise KeysMissingError(
            f"the key file {path.name} cannot be read: {e.strerror}",
            next_step="run `edgectl server init` for a new server, or restore the key folder from its backup",
        ) from e
    is_encrypted = b"ENCRYPTED" in pem[:60]
    if is_encrypted and not passphrase:
        raise KeysMissingError(
            f"the key file {path.name} is encrypted, and this server has no passphrase",
            next_step="set keys_passphrase_file, or EDGEFLEET_SERVER_KEYS_PASSPHRASE, and start again",
        )
    try:
        key = serialization.load_pem_private_key(pem, passphrase if is_encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise KeysUnreadableError(
            f"the key file {path.name} holds no usable private key"
            + (", or the passphrase is another one" if is_encrypted else f": {e}"),
            next_step="restore the file from its backup; a server with a wrong key is refused by its devices",
        ) from e
    if isinstance(key, Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise KeysUnreadableError(
        f"the key file {path.name} holds a key that is neither Ed25519 nor ECDSA P-256",
        next_step="restore the file from its backup, or rotate the role",
    )
