"""The folder of one holder on a medium: two encrypted private keys, their public part, and the last root that the holder signed.

It appears whole, by a rename, or not at all, so that making it can be repeated after any interruption. Nothing in it is overwritten
but the remembered root.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgefleet_ceremony.root_fields import OFFLINE_ROLES
from edgefleet_cli.core.errors import UnreadableFileError, UsageError
from edgefleet_cli.keys.errors import BadMediumError, BadRequestFileError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # documented, but not in __all__

    from edgefleet_ceremony.public_part import PublicPart
    from edgefleet_cli.keys.passphrases import Passphrase

FOLDER: Final = "edgefleet-keys"
PUBLIC_FILE: Final = "public.json"
ROOT_FILE: Final = "trusted-root.json"
ALGORITHMS: Final = ("ed25519", "ecdsa")
_PART: Final = f".{FOLDER}.part"
_NOTE: Final = """\
KEYS OF ONE HOLDER, FOR ROOT AND TARGETS OF AN EDGEFLEET FLEET

root.pem and targets.pem are private and encrypted. Keep this medium where nobody else comes to it, the passphrase elsewhere, and no
copy on a machine with a network. public.json is for the operator of the server. To sign a request, on a machine without a network:
  edgectl key sign REQUEST --key THIS-FOLDER
If this medium is lost or may have been copied, tell the other holders: they replace its keys (docs: operate/ceremony).
"""


def make_holder(
    medium: Path, holder: str, threshold: int, algorithm: str, passphrase: Passphrase
) -> tuple[PublicPart, bool]:
    """Make the keys of a holder on a medium, unless they are there; return their public part, and whether they were made.

    Raises UsageError, BadMediumError.
    """
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

    from edgefleet_ceremony.public_part import PublicPart, body_of, part_bytes

    _check_place(medium)
    folder = medium / FOLDER
    if folder.exists():
        part = read_public(folder / PUBLIC_FILE)
        if part.holder != holder or part.threshold != threshold:
            raise BadMediumError(
                f"{folder} holds keys of {part.holder!r} for a threshold of {part.threshold} already",
                why="keys are never overwritten",
                next_step="give another medium, or the same --holder and --threshold as when they were made",
            )
        return part, False
    secret = passphrase(f"the keys of {holder}")
    private = {role: _new_key(algorithm) for role in OFFLINE_ROLES}
    signers = {role: CryptoSigner(key) for role, key in private.items()}
    keys = {role: one.public_key for role, one in signers.items()}
    body = body_of(holder, threshold, keys)
    proof = {role: one.sign(body).signature for role, one in signers.items()}
    part = PublicPart(holder=holder, threshold=threshold, keys=keys, proof=proof)
    fresh = medium / _PART
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        for role, key in private.items():
            _write(fresh / f"{role}.pem", _encrypted(key, secret), 0o600)
        _write(fresh / PUBLIC_FILE, part_bytes(part), 0o644)
        _write(fresh / "README.txt", _NOTE.encode(), 0o644)
        _sync(fresh)
        fresh.rename(folder)
        _sync(medium)
    except OSError as error:
        raise BadMediumError(
            f"cannot write the keys of {holder} to {medium}",
            why=error.strerror or str(error),
            next_step="check that the medium is there and can be written to, and run the command again: it goes on",
        ) from error
    return part, True


def read_public(path: Path, data: bytes | None = None) -> PublicPart:
    """Return a public part whose keys signed it. data: of the file, where it was read already. Raises BadRequestFileError."""
    from edgefleet_ceremony.file_format import BadCeremonyFileError
    from edgefleet_ceremony.public_part import part_of

    try:
        return part_of(read_file(path) if data is None else data)
    except BadCeremonyFileError as error:
        raise BadRequestFileError(
            f"{path} is no public part of a holder's keys",
            why=str(error),
            next_step="give the public.json that `edgectl key init --offline --out MEDIUM` wrote",
        ) from error


def read_signers(where: Path, passphrase: Passphrase) -> list[CryptoSigner]:
    """Return the signers of a holder's folder, or of one PEM file. Raises BadMediumError, BadRequestFileError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

    folder = holder_folder(where)
    files = [folder / f"{role}.pem" for role in OFFLINE_ROLES] if folder is not None else [where]
    secret = passphrase(str(where))
    found = []
    for file in files:
        try:
            found.append(CryptoSigner(load_pem_private_key(read_file(file), secret)))
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BadMediumError(
                f"{file} does not open",
                why="the passphrase is wrong, or it is no encrypted private key",
                next_step="try again; without its passphrase a key is lost, and the other holders replace it",
            ) from error
    return found


def holder_folder(where: Path) -> Path | None:
    """Return the holder's folder that a path means: itself or the one on a medium; None for a file."""
    if (where / FOLDER).is_dir():
        return where / FOLDER
    return where if where.is_dir() else None


def remembered_root(where: Path) -> bytes | None:
    """Return the last root that this holder signed, None before the first or for a file that is of no holder's folder."""
    folder = _memory(where)
    return read_file(folder / ROOT_FILE) if folder is not None and (folder / ROOT_FILE).is_file() else None


def remember_root(where: Path, root: bytes) -> None:
    """Keep a root that this holder signs, in place of the one before. Raises BadMediumError."""
    from edgefleet_cli.core.files import write_whole

    folder = _memory(where)
    if folder is None:
        return
    try:
        write_whole(folder / ROOT_FILE, root)
    except UnreadableFileError as error:
        raise BadMediumError(
            f"{folder} cannot keep the root that is signed, so nothing was signed",
            why=error.why,
            next_step="let the medium be written to, and run the command again",
        ) from error


def _memory(where: Path) -> Path | None:
    """Return the holder's folder of a path, also of a key file in it: naming that must not leave the memory out."""
    folder = holder_folder(where)
    return where.parent if folder is None and (where.parent / PUBLIC_FILE).is_file() else folder


def read_file(path: Path) -> bytes:
    """Return the bytes of a file of a ceremony. Raises BadRequestFileError."""
    from edgefleet_ceremony.file_format import MAX_BYTES

    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadRequestFileError(
            f"cannot read {path}",
            why=error.strerror or str(error),
            next_step="check that the medium is there, and the path",
        ) from error


def checked_holders(names: Mapping[Path, str]) -> None:
    """Raise UsageError where two media would have the same holder's name, or one that cannot be."""
    from edgefleet_ceremony.file_format import BadCeremonyFileError, checked_name

    try:
        for name in names.values():
            checked_name(name)
    except BadCeremonyFileError as error:
        raise UsageError(str(error), next_step="name the holders with --holder, once for each --out") from error
    if len(set(names.values())) != len(names):
        raise UsageError(
            "two holders have the same name", next_step="name the holders with --holder, once for each --out"
        )


def _check_place(medium: Path) -> None:
    if not medium.is_dir():
        raise BadMediumError(
            f"{medium} is no folder", why="a medium has to be mounted", next_step="mount it, or give another --out"
        )
    for above in (medium.resolve(), *medium.resolve().parents):
        if (above / ".git").exists():
            raise BadMediumError(
                f"{medium} is inside the git work tree {above}",
                why="private keys there end up in a repository sooner or later",
                next_step="give a medium that is kept offline",
            )


def _new_key(algorithm: str) -> Ed25519PrivateKey | EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    if algorithm == "ecdsa":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def _encrypted(key: Ed25519PrivateKey | EllipticCurvePrivateKey, passphrase: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))


def _write(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
