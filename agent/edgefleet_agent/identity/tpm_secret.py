"""The secret under which the private keys of this device lie on its disk, where its TPM keeps it (ADR 0128).

1. `tpm-key` holds 32 random bytes as the TPM of this board sealed them, under its storage root key. No other TPM gives them back, nor
   this one once it was cleared. Without that file, keys are plain files.
2. tpm2-tools do it, by argument list. The secret goes through pipes; temporary files hold what the TPM alone can read.
3. It is bound to the board, not to what was booted (PCRs): an update of the firmware would lock the device out.
"""

import hashlib
import os
import secrets
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from edgefleet_agent.core.durable import read_record, write_record
from edgefleet_agent.errors import TpmError
from edgefleet_protocol.errors import EdgefleetError

TPM_FILE = "tpm-key"
KEY_BYTES = 32
TIMEOUT_S = 8.0
AWAY_S = 30.0  # so long one that failed is not asked again: each question may hold up agentd
TCTI = "TPM2TOOLS_TCTI"
TPM = "device:/dev/tpmrm0"
_LOST = (
    "on another board, or after its TPM was cleared, the keys are lost: move the state folder away and enrol again; else see that "
    "this user may open /dev/tpmrm0 (group tss)"
)

_opened: dict[tuple[Path, bytes], bytes] = {}
_failed: dict[tuple[Path, bytes], tuple[float, TpmError]] = {}
_lock = threading.Lock()


class KeysAwayError(OSError):
    """What sealed models are opened with is not to be had now: no fault of a version."""


class SealedSecret(msgspec.Struct, frozen=True):
    """The secret as the TPM gave it out: its public and its private part."""

    public: bytes
    private: bytes
    v: int = 1


def secret_of(folder: Path) -> bytes:
    """Return the secret for keys in a folder, which is the state folder or at most two below it; b"" where keys are plain.

    Blocks the first time, some 0.2 s or more. Raises TpmError, the same one for AWAY_S, StateFileError, OSError.
    """
    for one in (folder, *folder.parents[:2]):
        sealed = read_record(SealedSecret, one / TPM_FILE)
        if sealed is not None:
            with _lock:
                known = (one, sealed.private)
                if known not in _opened:
                    _opened[known] = _asked(known, sealed)
                return _opened[known]
    return b""


def _asked(known: tuple[Path, bytes], sealed: SealedSecret) -> bytes:
    until_s, before = _failed.get(known, (0.0, None))
    if before is not None and time.monotonic() < until_s:
        raise TpmError(before.message, next_step=before.next_step)
    try:
        with tempfile.TemporaryDirectory(prefix="ef-") as name:
            return _unseal(Path(name), sealed)
    except TpmError as error:
        _failed[known] = time.monotonic() + AWAY_S, error
        raise


def passphrase(folder: Path) -> bytes:
    """Return what wrapped PEM files in a folder open with. Blocks and raises as `secret_of`, TpmError also where `tpm-key` is missing."""
    secret = secret_of(folder)
    if not secret:
        raise TpmError(f"the keys in {folder} are wrapped, and the file {TPM_FILE} is missing", next_step=_LOST)
    return secret.hex().encode()


def model_secret(folder: Path) -> bytes:
    """Return what the file `model-key` opens with, b"" where it is plain. It opens no other key. Blocks and raises as `secret_of`."""
    secret = secret_of(folder)
    return hashlib.sha256(b"edgefleet model-key\0" + secret).digest() if secret else b""


def key_secret(file: Path) -> bytes:
    """Return what a worker opens the file `model-key` with. Blocks the first time. Raises KeysAwayError."""
    try:
        return model_secret(file.parent)
    except (EdgefleetError, OSError) as error:
        raise KeysAwayError(f"sealed models cannot be opened: {error}") from error


def make_secret(state: Path) -> bytes:
    """Have the TPM seal a new secret, and return it when it is on the disk and was given back once.

    Blocks on TPM and disk. Raises TpmError, OSError.
    """
    secret = secrets.token_bytes(KEY_BYTES)
    with tempfile.TemporaryDirectory(prefix="ef-") as name:
        folder = Path(name)
        _storage_root(folder)
        # noda: wrong passwords elsewhere that lock the TPM do not lock this
        attributes = "fixedtpm|fixedparent|noda|userwithauth"
        _run(folder, "create", "-C", "root", "-i", "-", "-a", attributes, "-u", "public", "-r", "private", given=secret)
        sealed = SealedSecret((folder / "public").read_bytes(), (folder / "private").read_bytes())
        if _unseal(folder, sealed) != secret:
            raise TpmError("the TPM gave back another secret than it had sealed")
    write_record(state / TPM_FILE, sealed)
    return secret


def _unseal(folder: Path, sealed: SealedSecret) -> bytes:
    (folder / "public").write_bytes(sealed.public)
    (folder / "private").write_bytes(sealed.private)
    _storage_root(folder)
    _run(folder, "load", "-C", "root", "-u", "public", "-r", "private", "-c", "object")
    return _run(folder, "unseal", "-c", "object")


def _storage_root(folder: Path) -> None:
    _run(folder, "createprimary", "-C", "o", "-g", "sha256", "-G", "ecc", "-c", "root")


def _run(folder: Path, tool: str, *arguments: str, given: bytes = b"") -> bytes:
    import subprocess

    environment = {TCTI: TPM} | os.environ

    def tool_run(*command: str) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            command, cwd=folder, input=given, capture_output=True, timeout=TIMEOUT_S, env=environment, check=False
        )

    try:
        done = tool_run(f"tpm2_{tool}", "-Q", *arguments)
        if TCTI in os.environ:  # nothing of the kernel is between that would free the few places of a TPM
            tool_run("tpm2_flushcontext", "-t")
    except FileNotFoundError as error:
        raise TpmError("tpm2-tools are not installed", next_step="install them: apt-get install tpm2-tools") from error
    except subprocess.TimeoutExpired as error:
        raise TpmError(f"the TPM does not answer: tpm2_{tool} took {TIMEOUT_S:g} s") from error
    if done.returncode:
        said = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.startswith("ERROR: ")]
        what = f"tpm2_{tool}: {said[0][7:207] if said else done.returncode}"
        raise TpmError(f"the TPM does not give back the secret of this device's keys: {what}", next_step=_LOST)
    return done.stdout
