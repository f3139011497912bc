"""Unix sockets under paths of any length: the kernel takes 107 bytes, so the folder is named by its descriptor."""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgefleet_server.signing.signer.messages import MAX_FRAME

_CREDENTIALS = struct.Struct("3i")


@contextmanager
def _short(path: Path) -> Iterator[str]:
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listen(path: Path, *, mode: int = 0o600, backlog: int = 64) -> socket.socket:
    """Return a socket that listens at a path, in place of one that a killed process left. Raises OSError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as short:
            path.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                listening.bind(short)
            finally:
                os.umask(before)
        path.chmod(mode)
        listening.listen(backlog)
    except BaseException:
        listening.close()
        raise
    return listening


def mark_of(path: Path) -> tuple[int, int]:
    """Return what tells the socket at a path from a later one there. Raises OSError."""
    found = path.lstat()
    return found.st_dev, found.st_ino


def remove_own(path: Path, mark: tuple[int, int]) -> None:
    """Remove the socket at a path, unless another process has put its own in its place."""
    with suppress(FileNotFoundError):
        if mark_of(path) == mark:
            path.unlink()


def connect(path: Path, timeout_s: float) -> socket.socket:
    """Return a connection to what listens at a path. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        with _short(path) as short:
            connection.connect(short)
    except BaseException:
        connection.close()
        raise
    return connection


def peer_uid(connection: socket.socket) -> int:
    """Return the user of the process at the other end, as the kernel has it."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])


def read_frame(connection: socket.socket) -> bytes | None:
    """Return the body of the next frame, None when the other end has closed. Raises OSError, for what is too long too."""
    head = _read(connection, 4)
    if not head:
        return None
    length = int.from_bytes(head, "big")
    if length > MAX_FRAME:
        raise OSError(f"a frame of {length} bytes; the limit is {MAX_FRAME}")
    body = _read(connection, length)
    if len(body) != length:
        raise OSError("the other end closed within a frame")
    return body


def _read(connection: socket.socket, length: int) -> bytes:
    """Return so many bytes, fewer where the other end has closed."""
    parts, left = bytearray(), length
    while left and (part := connection.recv(min(left, 1 << 18))):
        parts += part
        left -= len(part)
    return bytes(parts)
