"""Archives of evidence as files: `.tar`, `.tar.gz` and `.zip`, written in one way only and read no other way.

Reading hashes each file and keeps it in memory, a large one under a number in a temporary folder: no path of an archive reaches the disk.
"""

from __future__ import annotations

import gzip
import io
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, BinaryIO, Final

from edgefleet_cli.compliance.errors import EvidenceNotProvenError
from edgefleet_terms.evidence.evidence_manifest import MAX_FILES, is_member_path
from edgefleet_terms.evidence.tar_layout import BLOCK, END, header, named_in, padding

PIECE_BYTES: Final = 256 * 1024
SMALL_BYTES: Final = 512 * 1024
MAX_UNPACKED: Final = 1100 * 1024 * 1024
_GZIP: Final = b"\x1f\x8b"
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
_ZIP: Final = b"PK\x03\x04"
_ZIP_END: Final = b"PK\x05\x06"
_ZIP_END_BYTES: Final = 22
_DATE: Final = (1980, 1, 1, 0, 0, 0)
_MODE: Final = 0o100644 << 16
_UNIX: Final = 3
_NEEDED: Final = (20, 45)
"""Versions of the format that a small and a large file need."""
ENDINGS: Final = (".tar.gz", ".tgz", ".zip", ".tar")
Write = Callable[[str, int, Iterable[bytes]], None]


@dataclass(frozen=True)
class Unpacked:
    """A file of an archive. place: its bytes, or where they lie now when they are many."""

    path: str
    length: int
    sha256: str
    place: bytes | Path

    def data(self) -> bytes:
        """Return its bytes."""
        return self.place if isinstance(self.place, bytes) else self.place.read_bytes()

    def open(self) -> BinaryIO:
        """Return a stream of its bytes."""
        return io.BytesIO(self.place) if isinstance(self.place, bytes) else self.place.open("rb")


class _Zeros:
    """A sink for gzip that is written without a name and a time."""

    def __init__(self, sink: BinaryIO) -> None:
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=sink, mtime=0)

    def write(self, data: bytes) -> int:
        return self._gzip.write(data)

    def close(self) -> None:
        self._gzip.close()


@contextmanager
def writing(sink: BinaryIO, name: str) -> Iterator[Write]:
    """Yield what appends a file (path, length, pieces) to an archive of the kind that a name ends in: the same bytes each time."""
    if name.endswith(".zip"):
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            yield lambda path, length, pieces: _put_zip(archive, path, length, pieces)
        return
    out = sink if name.endswith(".tar") else _Zeros(sink)

    def put(path: str, length: int, pieces: Iterable[bytes]) -> None:
        out.write(header(path, length))
        for piece in pieces:
            out.write(piece)
        out.write(padding(length))

    yield put
    out.write(END)
    if isinstance(out, _Zeros):
        out.close()


def _put_zip(archive: zipfile.ZipFile, path: str, length: int, pieces: Iterable[bytes]) -> None:
    with archive.open(_zip_info(path, length), "w", force_zip64=length >= zipfile.ZIP64_LIMIT) as sink:
        for piece in pieces:
            sink.write(piece)


def _zip_info(path: str, length: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(path, _DATE)
    info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, _UNIX, _MODE
    info.file_size = length
    return info


def unpacked(archive: Path, folder: Path, advance: Callable[[int], None] = lambda _count: None) -> list[Unpacked]:
    """Unpack an archive into a folder and return its files in their order. advance: called with each count of bytes that were unpacked.

    Raises EvidenceNotProvenError for what `writing` would not write so, OSError.
    """
    try:
        with archive.open("rb") as stream:
            begin = stream.read(len(_GZIP_HEADER))
            stream.seek(0)
            if begin.startswith(_ZIP):
                return _collect(_zip_members(stream), folder, advance)
            if begin.startswith(_GZIP):
                if begin != _GZIP_HEADER:
                    raise _odd("its beginning is not as an archive of evidence has it")
                with gzip.GzipFile(fileobj=stream) as tar:
                    return _collect(tar_members(tar), folder, advance)
            return _collect(tar_members(stream), folder, advance)
    except (zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise _odd(str(error) or "it ends too early") from error


def _collect(
    members: Iterable[tuple[str, Iterable[bytes]]], folder: Path, advance: Callable[[int], None]
) -> list[Unpacked]:
    found, total = list[Unpacked](), 0
    for path, pieces in members:
        if len(found) > MAX_FILES + 2 or not is_member_path(path):
            raise _odd(f"{path[:80]!r} is no file of an archive of evidence")
        digest, length = sha256(), 0
        with SpooledTemporaryFile(SMALL_BYTES) as sink:
            for piece in pieces:
                total += len(piece)
                if total > MAX_UNPACKED:
                    raise _odd(f"it unpacks to more than {MAX_UNPACKED >> 20} MiB")
                sink.write(piece)
                digest.update(piece)
                length += len(piece)
                advance(len(piece))
            sink.seek(0)
            found.append(Unpacked(path, length, digest.hexdigest(), _placed(sink, length, folder / str(len(found)))))
    return found


def _placed(spool: IO[bytes], length: int, file: Path) -> bytes | Path:
    if length <= SMALL_BYTES:
        return spool.read()
    with file.open("wb") as sink:
        shutil.copyfileobj(spool, sink, PIECE_BYTES)
    return file


def tar_members(stream: BinaryIO | gzip.GzipFile) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield path and pieces of each file of a tar, of which all pieces have to be read. Raises EvidenceNotProvenError."""
    while True:
        block = _exactly(stream, BLOCK)
        if not any(block):
            if _exactly(stream, BLOCK) != END[BLOCK:] or stream.read(1):
                raise _odd("something stands behind its end")
            return
        named = named_in(block)
        if named is None:
            raise _odd("the header of a file was changed")
        path, length = named
        yield path, _pieces(stream, length)
        if _exactly(stream, len(padding(length))) != padding(length):
            raise _odd(f"something stands behind {path}")


def _pieces(stream: BinaryIO | gzip.GzipFile, length: int) -> Iterator[bytes]:
    while length:
        piece = _exactly(stream, min(length, PIECE_BYTES))
        length -= len(piece)
        yield piece


def _exactly(stream: BinaryIO | gzip.GzipFile, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = stream.read(length - len(data))
        if not piece:
            raise _odd("it ends too early")
        data += piece
    return data


def _zip_members(stream: BinaryIO) -> Iterator[tuple[str, Iterator[bytes]]]:
    with zipfile.ZipFile(stream) as archive:
        infos, end = archive.infolist(), 0
        stream.seek(-_ZIP_END_BYTES, io.SEEK_END)
        if archive.comment or not stream.read().startswith(_ZIP_END):
            raise _odd("something stands behind its end")
        for info in infos:
            plain = _zip_info(info.filename, info.file_size)
            said = (
                info.compress_type,
                info.create_system,
                info.external_attr,
                info.date_time,
                info.comment,
                info.flag_bits,
            )
            wanted = (plain.compress_type, _UNIX, _MODE, _DATE, b"", 0)
            if said != wanted or info.internal_attr or info.extract_version not in _NEEDED or info.header_offset != end:
                raise _odd(f"the entry of {info.filename[:80]!r} was changed")
            end = _checked_local(stream, info)
            yield info.filename, _zip_pieces(archive, info)
        if end != archive.start_dir:
            raise _odd("something stands between its files and its list of them")


def _checked_local(stream: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Return where a file of a zip ends. Raises EvidenceNotProvenError where the header in front of it is not as the list says."""
    stream.seek(info.header_offset)
    expected = info.FileHeader(zip64=info.file_size >= zipfile.ZIP64_LIMIT)
    if _exactly(stream, len(expected)) != expected:
        raise _odd(f"the header of {info.filename[:80]!r} was changed")
    return info.header_offset + len(expected) + info.compress_size


def _zip_pieces(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(info) as source:
        while piece := source.read(PIECE_BYTES):
            yield piece


def _odd(why: str) -> EvidenceNotProvenError:
    return EvidenceNotProvenError(
        "this is not an archive of evidence as edgefleet writes it",
        why=why,
        next_step="it was changed, or damaged on the way: compare with another copy, or make it again",
    )
