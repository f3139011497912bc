"""A bounded spool of blobs that were read from a remote store (ADR 0154).

* A blob is fetched whole, once, by the first reader; others who want it at that time wait for the same fetch.
* Its digest is checked before the first byte of it is given out.
* The files have no name: nothing is left when the process ends. The least recently read go first.
* What does not fit (larger than the spool, a full disk) is not spooled; the caller reads it from the store.
"""

import hashlib
import logging
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, Protocol

from edgefleet_protocol.digest import Sha256
from edgefleet_server.registry.errors import damaged_blob

MAX_FILES: Final = 256
_REMEMBERED: Final = 1024
_log = logging.getLogger(__name__)


class Fetched(Protocol):
    """A blob on its way."""

    length: int
    """Bytes of it."""

    def chunks(self) -> Iterator[bytes]:
        """Yield its bytes."""
        ...


Fetch = Callable[[Sha256], Fetched]


class _File:
    """A file without a name; it is closed when nobody reads it any more."""

    def __init__(self, folder: Path, length: int) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed with the object)
        self.length = length

    def fill(self, chunks: Iterator[bytes], sha256: Sha256) -> None:
        """Write all bytes and check them. Raises OSError, BlobUnknownError (damaged)."""
        digest, written = hashlib.sha256(), 0
        for chunk in chunks:
            digest.update(chunk)
            view = memoryview(chunk)
            while view:
                count = self._file.write(view)
                view = view[count:]
                written += count
        if written != self.length or digest.hexdigest() != sha256:
            raise damaged_blob(sha256)

    def read(self, start: int, length: int) -> bytes:
        """Return the bytes of a range, fewer at the end of the file."""
        pieces: list[bytes] = []
        while length > 0 and (piece := os.pread(self._file.fileno(), length, start)):
            pieces.append(piece)
            start, length = start + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __del__(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class SpoolFigures:
    """What a spool has done. Bytes are those on the disk now."""

    files: int
    bytes: int
    hits: int
    fetches: int


class ReadSpool:
    """Blobs of one process on its disk, at most `limit_bytes`. Safe to use from many threads."""

    def __init__(self, fetch: Fetch, folder: Path, limit_bytes: int) -> None:
        self._fetch = fetch
        self._folder = folder
        self._limit = limit_bytes
        self._lock = Lock()
        self._files: OrderedDict[Sha256, _File] = OrderedDict()
        self._coming: dict[Sha256, Future[_File | None]] = {}
        self._unfit: OrderedDict[Sha256, None] = OrderedDict()
        self._bytes = self._hits = self._fetches = 0

    @property
    def figures(self) -> SpoolFigures:
        """What this spool has done so far."""
        with self._lock:
            return SpoolFigures(len(self._files), self._bytes, self._hits, self._fetches)

    def read(self, sha256: Sha256, start: int, length: int) -> bytes | None:
        """Return a range, fewer bytes at the end of the blob; None: the blob does not fit, read it from the store.

        Raises what the fetch raises, BlobUnknownError (damaged in the store).
        """
        file = self._file_of(sha256)
        return None if file is None else file.read(start, length)

    def forget(self, sha256: Sha256) -> None:
        """Remove a blob's bytes here."""
        with self._lock:
            file = self._files.pop(sha256, None)
            if file is not None:
                self._bytes -= file.length

    def _file_of(self, sha256: Sha256) -> _File | None:
        with self._lock:
            file = self._files.get(sha256)
            if file is not None:
                self._files.move_to_end(sha256)
                self._hits += 1
                return file
            if sha256 in self._unfit:
                return None
            coming = self._coming.get(sha256)
            is_mine = coming is None
            if coming is None:
                coming = self._coming[sha256] = Future()
                self._fetches += 1
        if is_mine:
            self._bring(sha256, coming)
        return coming.result()

    def _bring(self, sha256: Sha256, coming: "Future[_File | None]") -> None:
        """Fetch a blob for all who wait for it. The outcome is that of the future."""
        try:
            file = self._filled(sha256)
        except BaseException as error:  # noqa: BLE001 (all who wait get it)
            with self._lock:
                del self._coming[sha256]
            coming.set_exception(error)
            return
        with self._lock:
            if file is not None:
                self._files[sha256] = file
            del self._coming[sha256]
        coming.set_result(file)

    def _filled(self, sha256: Sha256) -> _File | None:
        fetched = self._fetch(sha256)
        if not self._reserve(sha256, fetched.length):
            return None
        is_kept = False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = _File(self._folder, fetched.length)
            file.fill(fetched.chunks(), sha256)
            is_kept = True
            return file
        except OSError as error:
            _log.warning("a blob is not spooled", extra={"blob": sha256, "reason": str(error)})
            return None
        finally:
            if not is_kept:
                with self._lock:
                    self._bytes -= fetched.length

    def _reserve(self, sha256: Sha256, length: int) -> bool:
        """Make room and take it; False where there is none."""
        with self._lock:
            if length > self._limit:
                self._unfit[sha256] = None
                while len(self._unfit) > _REMEMBERED:
                    self._unfit.popitem(last=False)
                return False
            while self._files and (self._bytes + length > self._limit or len(self._files) >= MAX_FILES):
                self._bytes -= self._files.popitem(last=False)[1].length
            if self._bytes + length > self._limit:
                return False
            self._bytes += length
            return True
