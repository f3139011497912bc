"""From the old identity to the renewed one.

1. A renewed identity lies in `identity/next/`. The old one stays until the new one has connected once.
2. Taking over is repeatable: `next/connected` is written first, then the files are replaced one by one, then `next/` goes. A
   power cut in between leaves the marker, and the next start takes over again.
3. Every writer holds `identity_lock`: agentd taking over, or the one renewal that runs.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from edgefleet_agent.core.durable import fsync_dir, read_record, write_file
from edgefleet_agent.errors import IdentityBusyError
from edgefleet_agent.identity.store import CERT_FILE, KEY_FILE, RECORD_FILE, Identity

NEXT_FOLDER = "next"

CONNECTED_FILE = "connected"

LOCK_FILE = ".lock"


def load_next(folder: Path) -> Identity | None:
    """Return the renewed identity that waits next to the one in `folder`, if any. Raises StateFileError, OSError."""
    return read_record(Identity, folder / NEXT_FOLDER / RECORD_FILE)


@contextlib.contextmanager
def identity_lock(folder: Path) -> Iterator[None]:
    """Hold the identity for writing. Raises IdentityBusyError when another process does, OSError."""
    fd = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise IdentityBusyError(f"another process is renewing the identity in {folder}") from error
    try:
        yield
    finally:
        os.close(fd)


def take_over(folder: Path) -> None:
    """Make the identity in `next/` the only one: it has connected. The caller holds the lock. Raises OSError."""
    new = folder / NEXT_FOLDER
    write_file(new / CONNECTED_FILE, b"")
    write_file(folder / KEY_FILE, (new / KEY_FILE).read_bytes(), mode=0o600)
    write_file(folder / CERT_FILE, (new / CERT_FILE).read_bytes(), mode=0o644)
    write_file(folder / RECORD_FILE, (new / RECORD_FILE).read_bytes(), mode=0o644)
    _remove_next(folder)


def finish_take_over(folder: Path) -> bool:
    """Do the rest of a take-over that a power cut interrupted. Returns whether there was one. Raises OSError."""
    if not (folder / NEXT_FOLDER / CONNECTED_FILE).exists():
        return False
    take_over(folder)
    return True


def _remove_next(folder: Path) -> None:
    # renamed first: a half removed folder must not be taken for an identity
    gone = folder / f".{NEXT_FOLDER}.gone"
    remove_flat(gone)
    (folder / NEXT_FOLDER).rename(gone)
    fsync_dir(folder)
    remove_flat(gone)


def remove_flat(folder: Path) -> None:
    """Remove a folder of files, if it is there. Raises OSError."""
    if folder.is_dir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
