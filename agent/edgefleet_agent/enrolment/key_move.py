"""The private keys of a device, from plain files to files that its TPM wraps, and back. Never imported by agentd, which may run meanwhile.

1. To the TPM: its secret is on the disk, and was given back once, before a key is wrapped. Back: it goes after the last key is plain.
2. Each file is replaced whole, and every reader takes a file in either form: after a power cut the device works, and the same command
   does what is left.
3. The key that the device connects with is wrapped last and made plain first, so what it says of itself (`key_storage`) holds for all.
"""

import contextlib
import errno
import os
from pathlib import Path

from edgefleet_agent.core.durable import fsync_dir, write_file
from edgefleet_agent.enrolment.server_api import key_pem, load_key
from edgefleet_agent.enrolment.wrapped_key import opened, wrapped
from edgefleet_agent.identity.store import KEY_FILE
from edgefleet_agent.identity.takeover import identity_lock
from edgefleet_agent.identity.tpm_secret import TPM_FILE, make_secret, model_secret, secret_of
from edgefleet_agent.paths import StatePaths


def move_keys(state: Path, *, to_tpm: bool = True) -> list[Path]:
    """Wrap every private key in a state folder, or make each plain; return the files that were changed. Blocks on disk and TPM.

    Raises TpmError, IdentityBusyError, SealedError, StateFileError, OSError.
    """
    paths = StatePaths(state)
    for file in state.glob("identity/key.pem"):
        if file.stat().st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "another user's, whose agent could not read it then", str(file))
    with identity_lock(paths.identity) if paths.identity.is_dir() else contextlib.nullcontext():
        for left in (*state.glob(".*key*.tmp"), *paths.identity.rglob(".*key*.tmp")):
            left.unlink()  # what a power cut left may hold a plain key
        secret = secret_of(state)
        if to_tpm and not secret:
            secret = make_secret(state)
        target = secret if to_tpm else b""
        last = paths.identity / KEY_FILE
        found = {*state.glob("*key.pem"), *state.glob(".identity.new/*key.pem"), *paths.identity.rglob("*key.pem")}
        files = [*sorted(found - {last}), *({last} & found)]
        moved = [] if not to_tpm else _move_model_key(paths.model_key, target)
        moved += [file for file in (files if to_tpm else reversed(files)) if _move(file, target)]
        if not to_tpm:
            moved += _move_model_key(paths.model_key, target)
            (state / TPM_FILE).unlink(missing_ok=True)
            fsync_dir(state)
    return moved


def _move(file: Path, secret: bytes) -> bool:
    if (b"ENCRYPTED" in file.read_bytes()) == bool(secret):
        return False
    key = load_key(file)
    if key is None:
        return False  # it holds none: whoever needs it says so
    write_file(file, key_pem(key, secret), mode=0o600)
    return True


def _move_model_key(file: Path, secret: bytes) -> list[Path]:
    """Return the file where it was changed. secret: of the state folder, b"" to make it plain."""
    with contextlib.suppress(FileNotFoundError):
        data, wrapping = file.read_bytes(), model_secret(file.parent)
        key = opened(data, wrapping)
        if (data != key) != bool(secret):
            write_file(file, wrapped(key, wrapping if secret else b""), mode=0o600)
            return [file]
    return []
