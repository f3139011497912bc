"""An archive of evidence as it is sent: tar, file by file, each hashed as it goes; the signed manifest comes last.

One file is in memory at a time, those of the audit trail in pieces through a temporary file.
"""

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from tempfile import SpooledTemporaryFile
from typing import Final

import anyio
import anyio.to_thread

from edgefleet_server.governance.errors import EvidenceTooLargeError
from edgefleet_terms.evidence.evidence_manifest import EvidenceFile
from edgefleet_terms.evidence.tar_layout import END, header, padding

PIECE_BYTES: Final = 256 * 1024
SPOOL_BYTES: Final = 8 * 1024 * 1024
MAX_BYTES: Final = 1024**3
"""Of all files together."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file to be sent. source: where it is from; pieces: its bytes."""

    path: str
    source: str
    pieces: Iterable[bytes]


def archived(
    members: Iterable[Member], ending: Callable[[tuple[EvidenceFile, ...]], Iterable[Member]]
) -> Iterator[bytes]:
    """Yield the archive in pieces. ending: what stands behind the files, made when they are known. Raises EvidenceTooLargeError."""
    files: list[EvidenceFile] = []
    total = 0
    for member in members:
        with SpooledTemporaryFile(SPOOL_BYTES) as spool:
            digest, length = sha256(), 0
            for piece in member.pieces:
                spool.write(piece)
                digest.update(piece)
                length += len(piece)
                if total + length > MAX_BYTES:
                    raise EvidenceTooLargeError(f"the evidence has more than {MAX_BYTES >> 20} MiB")
            total += length
            files.append(EvidenceFile(path=member.path, length=length, sha256=digest.hexdigest(), source=member.source))
            yield header(member.path, length)
            spool.seek(0)
            while piece := spool.read(PIECE_BYTES):
                yield piece
            yield padding(length)
    yield from closed(ending(tuple(files)))


def closed(members: Iterable[Member]) -> Iterator[bytes]:
    """Yield the last files, small ones, and the end of the archive."""
    for member in members:
        data = b"".join(member.pieces)
        yield header(member.path, len(data)) + data + padding(len(data))
    yield END


async def in_own_thread(pieces: Generator[bytes, None, None]) -> AsyncIterator[bytes]:
    """Yield pieces that are made in a thread outside the pool of requests: their maker may wait for minutes, and nobody waits with it."""
    own = anyio.CapacityLimiter(1)
    try:
        while piece := await anyio.to_thread.run_sync(next, pieces, b"", limiter=own):
            yield piece
    finally:
        pieces.close()
