"""The file of one table in a backup: frames of a length (4 bytes, big-endian) and a zlib stream of a msgpack array of rows (ADR 0151)."""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import msgspec

from edgefleet_server.process.backup.database_reader import Batch
from edgefleet_server.process.backup.errors import DamagedBackupError
from edgefleet_server.process.backup.table_shapes import Row, RowSum

LEVEL: Final = 1
MOST_FRAME: Final = 1 << 30
_ARRAY32: Final = b"\xdd"
_decode = msgspec.msgpack.Decoder(list[tuple[Any, ...]]).decode


class Source(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most so many; none at the end."""
        ...


class WrittenTable(msgspec.Struct, frozen=True):
    """What a file of rows holds. sum: of the rows; bytes, sha256: of the file."""

    rows: int
    sum: str
    bytes: int
    sha256: str


def write_rows(path: Path, batches: Iterable[Batch]) -> WrittenTable:
    """Write a new file of rows. Raises OSError."""
    total, digest, length = RowSum(), hashlib.sha256(), 0
    with path.open("xb") as file:
        for batch in batches:
            total.add(batch.encoded)
            body = b"".join((_ARRAY32, len(batch.encoded).to_bytes(4, "big"), *batch.encoded))
            frame = zlib.compress(body, LEVEL)
            for piece in (len(frame).to_bytes(4, "big"), frame):
                digest.update(piece)
                file.write(piece)
                length += len(piece)
    return WrittenTable(total.rows, total.text, length, digest.hexdigest())


def read_rows(file: Source, name: str, sha256: str) -> Iterator[list[Row]]:
    """Yield the rows of a file, then check its digest. Raises DamagedBackupError, at the end at the latest."""
    digest = hashlib.sha256()
    while header := _exactly(file, 4, name):
        digest.update(header)
        length = int.from_bytes(header, "big")
        if length > MOST_FRAME:
            raise damaged(name, "a frame is too long")
        frame = _exactly(file, length, name)
        digest.update(frame)
        try:
            rows = _decode(zlib.decompress(frame))
        except (zlib.error, msgspec.DecodeError, msgspec.ValidationError) as error:
            raise damaged(name, str(error)) from error
        yield rows
    if digest.hexdigest() != sha256:
        raise damaged(name, "its sha256 is not the one in the manifest")


def _exactly(file: Source, length: int, name: str) -> bytes:
    """Return so many bytes, none at the end. Raises DamagedBackupError where the file ends in between."""
    pieces: list[bytes] = []
    left = length
    while left and (piece := file.read(left)):
        pieces.append(bytes(piece))
        left -= len(piece)
    if left and (pieces or length != 4):
        raise damaged(name, "it is cut off")
    return b"".join(pieces) if not left else b""


def damaged(name: str, why: str) -> DamagedBackupError:
    """Return the error for a file of a backup that is not what was written."""
    return DamagedBackupError(
        f"{name} is damaged: {why}",
        next_step="use another backup; `edgectl server verify-backup WHERE` says which are whole",
    )


def digest_of(file: BinaryIO | Source) -> tuple[str, int]:
    """Return the SHA-256 and the length of what can be read."""
    digest, length = hashlib.sha256(), 0
    while piece := file.read(1 << 20):
        digest.update(piece)
        length += len(piece)
    return digest.hexdigest(), length
