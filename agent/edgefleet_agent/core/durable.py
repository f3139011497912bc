"""Files that survive a power cut: written whole next to the old one, fsynced, renamed, folder fsynced (ADR 0004).

1. A reader sees the old content or the new one, never a part.
2. Records carry a CRC, because a disk may lie about fsync: a torn record is an error, never wrong data.
3. MessagePack of a struct with version field `v`; readers ignore unknown fields.
"""

import os
import struct
import zlib
from pathlib import Path
from typing import TypeVar

import msgspec

from edgefleet_agent.errors import StateFileError

S = TypeVar("S", bound=msgspec.Struct)

_MAGIC = b"EFR1"
_HEAD = struct.Struct(">4sII")


def fsync_dir(folder: Path) -> None:
    """Make renames in `folder` durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace `path` by `data`: temporary file, fsync, rename, fsync of the folder. Blocks on the disk. Raises OSError.

    durable: False leaves out both fsyncs, for what a power cut may take.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # whatever lies there is not written through: it may be a link
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(fd, "wb") as out:
            out.write(data)
            if durable:
                out.flush()
                os.fsync(out.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_dir(path.parent)


def encode_record(record: msgspec.Struct) -> bytes:
    """Return the record with its length and CRC-32 in front."""
    body = msgspec.msgpack.encode(record)
    return _HEAD.pack(_MAGIC, len(body), zlib.crc32(body)) + body


def decode_record(cls: type[S], data: bytes, *, name: str) -> S:
    """Return the record in `data`. Raises StateFileError when it is torn, altered or of another kind."""
    if len(data) < _HEAD.size:
        raise StateFileError(f"{name} is torn: it has {len(data)} bytes")
    magic, length, crc = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if magic != _MAGIC or length != len(body) or crc != zlib.crc32(body):
        raise StateFileError(f"{name} is torn or altered: its length or checksum is wrong")
    try:
        return msgspec.msgpack.decode(body, type=cls)
    except msgspec.MsgspecError as error:
        raise StateFileError(f"{name} holds another kind of record: {error}") from error


def write_record(path: Path, record: msgspec.Struct) -> None:
    """Replace the record in `path` durably. Blocks on the disk. Raises OSError."""
    write_file(path, encode_record(record))


def read_record(cls: type[S], path: Path) -> S | None:
    """Return the record in `path`, None when there is no such file. Raises StateFileError, OSError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return decode_record(cls, data, name=path.name)
