"""The content-addressed blob store behind a port.

Rules of the machine:

* A blob's key is made of its sha256 only; no name that a client gives is ever joined to a path.
* Bytes are written to a temporary file while they are hashed and counted; a wrong digest or a cut upload leaves nothing.
* Local store: file fsync, rename to its place, folder fsync; only then may the row be committed. obstore does not fsync,
  so writing is ours and reading is obstore's. Remote stores (``s3://…`` …): the checked file is put by obstore, large
  ones in parts, and its length there is asked before the row is committed. Reads go through a spool (ADR 0154).
* A temporary file is locked while its writer lives; what a process that was killed has left is removed by the next one.
* A blob is immutable. Putting it again checks the bytes and changes nothing.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self
from urllib.parse import unquote, urlsplit

import obstore
from obstore.store import LocalStore, ObjectStore

from edgefleet_protocol.digest import Sha256, parse_sha256
from edgefleet_server.clock import SystemClock
from edgefleet_server.registry.errors import (
    BlobDigestError,
    BlobStoreError,
    BlobTooLargeError,
    damaged_blob,
    unknown_blob,
)
from edgefleet_server.registry.object_store.blob_keys import key_of, sha256_of
from edgefleet_server.registry.object_store.opened_store import is_remote, open_object_store
from edgefleet_server.registry.object_store.read_spool import ReadSpool
from edgefleet_server.registry.object_store.store_failures import is_lost_bucket, store_failed
from edgefleet_server.settings import ServerSettings

READ_BYTES = 1024 * 1024
PART_BYTES = 8 * 1024 * 1024
"""One part of a large upload; S3 takes 10,000 of them."""
UPLOAD_PREFIX = "upload-"
YOUNG_S = 60.0
"""A temporary file that is younger may be one that its writer has not locked yet."""
ASKED_BYTES = 64 * 1024
"""A smaller blob is sent without asking whether the store has it: the question takes as long (`bench/blob_store.py`)."""
PARTS_AT_ONCE = 4
"""An upload holds so many parts in memory."""


@dataclass(frozen=True)
class StoredBlob:
    """A blob as the store lists it."""

    sha256: Sha256
    length: int
    stored_at: datetime


class BlobStore(Protocol):
    """What the registry needs of a store of immutable blobs. All calls block."""

    def writer(self, *, limit_bytes: int) -> "BlobWriter":
        """Return a writer for one new blob of at most `limit_bytes`."""
        ...

    def commit(self, path: Path, sha256: Sha256) -> None:
        """Move the checked file at `path` into the store, durably. Raises BlobStoreError."""
        ...

    def size(self, sha256: Sha256) -> int | None:
        """Return the blob's length in bytes, or None when it is not there."""
        ...

    def read_range(self, sha256: Sha256, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`. Raises BlobUnknownError, BlobStoreError."""
        ...

    def remove(self, sha256: Sha256) -> None:
        """Remove a blob's bytes; nothing when they are not there. Raises BlobStoreError."""
        ...

    def list(self) -> Iterator[StoredBlob]:
        """Yield all blobs of the store by digest, whether or not a row names them. Raises BlobStoreError."""
        ...


class BlobWriter:
    """Takes the bytes of one blob, hashing and counting while they come. A context manager: leaving it without
    :meth:`finish` removes what was written."""

    def __init__(self, store: BlobStore, folder: Path, limit_bytes: int) -> None:
        self._store = store
        self._limit = limit_bytes
        self._digest = hashlib.sha256()
        self._length = 0
        descriptor, name = tempfile.mkstemp(prefix=UPLOAD_PREFIX, dir=folder)
        with suppress(OSError):  # on a file system without locks the next process cannot lock it either, and leaves it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._path = Path(name)
        self._file: BinaryIO = os.fdopen(descriptor, "wb")

    @property
    def length(self) -> int:
        """Bytes written so far."""
        return self._length

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append bytes. Raises BlobTooLargeError, BlobStoreError (disk full)."""
        self._length += len(chunk)
        if self._length > self._limit:
            raise BlobTooLargeError(
                f"the upload is larger than the {self._limit} bytes that this server accepts",
                next_step="publish a smaller model, or raise `max_blob_bytes` in server.toml",
            )
        self._digest.update(chunk)
        try:
            self._file.write(chunk)
        except OSError as error:
            raise store_failed("write", error) from error

    def finish(self, expected: Sha256 | None) -> Sha256:
        """Check the digest, make the blob durable and return its digest. Raises BlobDigestError, BlobStoreError."""
        actual = Sha256(self._digest.hexdigest())
        if expected is not None and actual != expected:
            raise BlobDigestError(
                f"the bytes received have sha256 {actual}, the request named {expected} ({self._length} bytes came)",
                next_step="send the file again; if this repeats, compute its sha256 again",
            )
        try:
            self._file.flush()
        except OSError as error:
            raise store_failed("flush", error) from error
        self._store.commit(self._path, actual)  # the file stays open, and so locked, meanwhile
        return actual

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class _ObjectBlobs:
    """What both stores have in common: reading, which is obstore's."""

    def __init__(self, open_store: Callable[[], ObjectStore]) -> None:
        self._store = cache(open_store)

    def size(self, sha256: Sha256) -> int | None:
        """Return the blob's length in bytes, or None."""
        store, key = self._store(), key_of(sha256)
        try:
            return int(obstore.head(store, key)["size"])
        except (FileNotFoundError, obstore.exceptions.NotFoundError):
            return None
        except (OSError, obstore.exceptions.BaseError) as error:
            raise store_failed("look up", error) from error

    def remove(self, sha256: Sha256) -> None:
        """Remove a blob's bytes."""
        try:
            obstore.delete(self._store(), key_of(sha256))
        except (FileNotFoundError, obstore.exceptions.NotFoundError):
            return
        except (OSError, obstore.exceptions.BaseError) as error:
            raise store_failed("remove", error) from error

    def read_range(self, sha256: Sha256, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`."""
        if length <= 0:
            return b""
        store, key = self._store(), key_of(sha256)
        try:
            data = bytes(obstore.get_range(store, key, start=start, length=length))
        except (FileNotFoundError, obstore.exceptions.NotFoundError) as error:
            raise (store_failed("read", error) if is_lost_bucket(error) else unknown_blob(sha256)) from error
        except (OSError, obstore.exceptions.BaseError) as error:
            raise store_failed("read", error) from error
        if len(data) != length:
            raise BlobStoreError(f"the blob store gave {len(data)} of {length} bytes of {sha256} from {start}")
        return data

    def list(self) -> Iterator[StoredBlob]:
        """Yield all blobs; objects with other names are not ours."""
        try:
            for page in obstore.list(self._store()):
                for entry in page:
                    found = sha256_of(str(entry["path"]))
                    if found is not None:
                        yield StoredBlob(found, int(entry["size"]), entry["last_modified"])
        except (OSError, obstore.exceptions.BaseError) as error:
            raise store_failed("list", error) from error


class LocalBlobs(_ObjectBlobs):
    """Blobs in a local folder: ``ab/<sha256>``, files 0444, temporary files in ``tmp/``.

    is_ours: the folder is made where there is none. One that the operator named may be a mount that is missing: it must be there.
    """

    def __init__(self, folder: Path, *, is_ours: bool = True) -> None:
        super().__init__(self._open)
        self._folder = folder
        self._is_ours = is_ours
        self._tmp = folder / "tmp"

    def writer(self, *, limit_bytes: int) -> BlobWriter:
        """Return a writer for one new blob."""
        self._store()
        return BlobWriter(self, self._tmp, limit_bytes)

    def commit(self, path: Path, sha256: Sha256) -> None:
        """Bring the file to the disk, rename it into its place and fsync the folders."""
        target = self._folder / key_of(sha256)
        try:
            if target.exists():
                path.unlink()
                return
            with path.open("rb") as file:
                os.fsync(file.fileno())
            if not target.parent.exists():
                target.parent.mkdir(exist_ok=True)
                _fsync_folder(self._folder)
            path.chmod(0o444)
            path.replace(target)
            _fsync_folder(target.parent)
        except OSError as error:
            raise store_failed("store", error) from error

    def _open(self) -> ObjectStore:
        if not self._is_ours and not self._folder.is_dir():
            raise BlobStoreError(
                f"the folder {self._folder} of `blob_url` is not there",
                next_step="mount it, or make it if the store is new",
            )
        try:
            self._tmp.mkdir(parents=self._is_ours, exist_ok=True)
        except OSError as error:
            raise store_failed("open", error) from error
        remove_abandoned(self._tmp)
        return LocalStore(self._folder)


class _Fetched:
    """A blob that comes from the store."""

    def __init__(self, store: ObjectStore, sha256: Sha256) -> None:
        try:
            self._answer = obstore.get(store, key_of(sha256))
        except (FileNotFoundError, obstore.exceptions.NotFoundError) as error:
            raise (store_failed("read", error) if is_lost_bucket(error) else unknown_blob(sha256)) from error
        except (OSError, obstore.exceptions.BaseError) as error:
            raise store_failed("read", error) from error
        self.length = int(self._answer.meta["size"])

    def chunks(self) -> Iterator[bytes]:
        """Yield its bytes. Raises BlobStoreError."""
        chunks = iter(self._answer.stream(min_chunk_size=READ_BYTES))
        while True:
            try:
                chunk = next(chunks, None)
            except (OSError, obstore.exceptions.BaseError) as error:
                raise store_failed("read", error) from error
            if chunk is None:
                return
            yield bytes(chunk)


class RemoteBlobs(_ObjectBlobs):
    """Blobs in an object store (S3, GCS, Azure …) under the same keys; uploads are checked in a local file first.

    folder: for uploads and for blobs that are read. spool_bytes: what is kept of those; 0 = each range is asked of the store.
    """

    def __init__(self, open_store: Callable[[], ObjectStore], folder: Path, spool_bytes: int = 0) -> None:
        super().__init__(open_store)
        self._folder = folder
        self._is_swept = False
        self.spool = (
            ReadSpool(lambda sha256: _Fetched(self._store(), sha256), folder, spool_bytes) if spool_bytes else None
        )

    def writer(self, *, limit_bytes: int) -> BlobWriter:
        """Return a writer for one new blob."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._is_swept:
            self._is_swept = True
            remove_abandoned(self._folder)
        return BlobWriter(self, self._folder, limit_bytes)

    def commit(self, path: Path, sha256: Sha256) -> None:
        """Put the checked file unless it is large and the store has it, in parts then; a broken part is sent again.

        The file here is not brought to the disk: nobody reads it again.
        """
        length = path.stat().st_size
        if length >= ASKED_BYTES and self.size(sha256) == length:
            return
        key = key_of(sha256)
        try:
            obstore.put(self._store(), key, path, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise store_failed("store", error) from error
        held = self.size(sha256)
        if held != length:
            raise BlobStoreError(
                f"the blob store has {held} of {length} bytes of {sha256} after it took them",
                next_step="send the file once more; if this repeats, look for a proxy in front of the store",
            )

    def read_range(self, sha256: Sha256, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, out of the spool where the blob fits into it."""
        if self.spool is None or length <= 0:
            return super().read_range(sha256, start, length)
        data = self.spool.read(parse_sha256(sha256), start, length)
        if data is None:
            return super().read_range(sha256, start, length)
        if len(data) != length:
            raise BlobStoreError(f"blob {sha256} ends before {start + length}")
        return data

    def remove(self, sha256: Sha256) -> None:
        """Remove a blob's bytes, here and in the store."""
        super().remove(sha256)
        if self.spool is not None:
            self.spool.forget(sha256)


def open_blob_store(settings: ServerSettings, *, is_spooled: bool = True) -> BlobStore:
    """Return the blob store that the settings name. Touches nothing before first use.

    is_spooled: what is read of a remote store is kept on this disk for a while; not for what people may erase.
    """
    url = settings.blob_url
    if url is None:
        return LocalBlobs(settings.blobs_dir)
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc:
        return LocalBlobs(Path(unquote(parts.path)), is_ours=False)
    spool_bytes = settings.blob_spool_bytes if is_spooled and is_remote(url) else 0
    return RemoteBlobs(lambda: open_object_store(settings), settings.run_dir / "spool", spool_bytes)


def read_chunks(store: BlobStore, sha256: Sha256, start: int, length: int) -> Iterator[bytes]:
    """Yield `length` bytes from `start` in pieces of at most 1 MiB."""
    done = 0
    while done < length:
        piece = store.read_range(sha256, start + done, min(READ_BYTES, length - done))
        yield piece
        done += len(piece)


def read_whole(store: BlobStore, sha256: Sha256, length: int, max_bytes: int) -> bytes:
    """Return a blob's bytes, its digest checked. Raises BlobTooLargeError, BlobUnknownError, BlobStoreError."""
    if length > max_bytes:
        raise BlobTooLargeError(f"blob {sha256} has {length} bytes, at most {max_bytes} are read at once")
    data = b"".join(read_chunks(store, sha256, 0, length))
    if hashlib.sha256(data).hexdigest() != sha256:
        raise damaged_blob(sha256)
    return data


def save(store: BlobStore, sha256: Sha256, length: int, path: Path) -> None:
    """Write a blob into a new file, checking its digest. Raises BlobUnknownError, BlobStoreError, FileExistsError."""
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for chunk in read_chunks(store, sha256, 0, length):
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sha256:
        raise damaged_blob(sha256)


def remove_abandoned(folder: Path) -> int:
    """Remove the temporary files of writers that were killed; return how many. Those of living ones are locked, also by other processes."""
    count, now_s = 0, SystemClock().now().timestamp()
    for path in folder.glob(f"{UPLOAD_PREFIX}*"):
        try:
            with path.open("rb") as file:
                if now_s - os.fstat(file.fileno()).st_mtime < YOUNG_S:
                    continue
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                count += 1
        except OSError:  # locked by its writer, or gone
            continue
    return count


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
