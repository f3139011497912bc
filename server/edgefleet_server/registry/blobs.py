"""The content-addressed blob store behind a port.

Rules of the machine:

* A blob's key is made of its sha256 only; no name that a client gives is ever joined to a path.
* Bytes are written to a temporary file while they are hashed and counted; a wrong digest or a cut upload leaves nothing.
* Local store: file fsync, rename to its place, folder fsync; only then may the row be committed. obstore does not fsync,
  so writing is ours and reading is obstore's. Remote stores (``s3://…`` …): the checked file is put by obstore.
* A blob is immutable. Putting it again checks the bytes and changes nothing.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

from edgefleet_protocol.digest import Sha256, parse_sha256
from edgefleet_server.registry.errors import (
    BlobDigestError,
    BlobStoreError,
    BlobTooLargeError,
    damaged_blob,
    unknown_blob,
)
from edgefleet_server.settings import ServerSettings

READ_BYTES = 1024 * 1024


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


class BlobWriter:
    """Takes the bytes of one blob, hashing and counting while they come. A context manager: leaving it without
    :meth:`finish` removes what was written."""

    def __init__(self, store: BlobStore, folder: Path, limit_bytes: int) -> None:
        self._store = store
        self._limit = limit_bytes
        self._digest = hashlib.sha256()
        self._length = 0
        descriptor, name = tempfile.mkstemp(prefix="upload-", dir=folder)
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
            raise _store_failed("write", error) from error

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
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise _store_failed("flush", error) from error
        self._store.commit(self._path, actual)
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
        store, key = self._store(), _key(sha256)
        try:
            return int(obstore.head(store, key)["size"])
        except (FileNotFoundError, obstore.exceptions.NotFoundError):
            return None
        except (OSError, obstore.exceptions.BaseError) as error:
            raise _store_failed("look up", error) from error

    def remove(self, sha256: Sha256) -> None:
        """Remove a blob's bytes."""
        try:
            obstore.delete(self._store(), _key(sha256))
        except (FileNotFoundError, obstore.exceptions.NotFoundError):
            return
        except (OSError, obstore.exceptions.BaseError) as error:
            raise _store_failed("remove", error) from error

    def read_range(self, sha256: Sha256, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`."""
        if length <= 0:
            return b""
        store, key = self._store(), _key(sha256)
        try:
            data = bytes(obstore.get_range(store, key, start=start, length=length))
        except (FileNotFoundError, obstore.exceptions.NotFoundError) as error:
            raise unknown_blob(sha256) from error
        except (OSError, obstore.exceptions.BaseError) as error:
            raise _store_failed("read", error) from error
        if len(data) != length:
            raise BlobStoreError(f"the blob store gave {len(data)} of {length} bytes of {sha256} from {start}")
        return data


class LocalBlobs(_ObjectBlobs):
    """Blobs in a local folder: ``ab/<sha256>``, files 0444, temporary files in ``tmp/``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(self._open)
        self._folder = folder
        self._tmp = folder / "tmp"

    def writer(self, *, limit_bytes: int) -> BlobWriter:
        """Return a writer for one new blob."""
        self._store()
        return BlobWriter(self, self._tmp, limit_bytes)

    def commit(self, path: Path, sha256: Sha256) -> None:
        """Rename the file into its place and fsync the folders."""
        target = self._folder / _key(sha256)
        try:
            if target.exists():
                path.unlink()
                return
            if not target.parent.exists():
                target.parent.mkdir(exist_ok=True)
                _fsync_folder(self._folder)
            path.chmod(0o444)
            path.replace(target)
            _fsync_folder(target.parent)
        except OSError as error:
            raise _store_failed("store", error) from error

    def _open(self) -> ObjectStore:
        self._tmp.mkdir(parents=True, exist_ok=True)
        return LocalStore(self._folder)


class RemoteBlobs(_ObjectBlobs):
    """Blobs in an object store (S3, GCS, Azure …) under the same keys; uploads are checked in a local file first."""

    def __init__(self, url: str, spool: Path) -> None:
        super().__init__(lambda: from_url(url))
        self._spool = spool

    def writer(self, *, limit_bytes: int) -> BlobWriter:
        """Return a writer for one new blob."""
        self._spool.mkdir(parents=True, exist_ok=True)
        return BlobWriter(self, self._spool, limit_bytes)

    def commit(self, path: Path, sha256: Sha256) -> None:
        """Put the checked file unless the store has it."""
        if self.size(sha256) is not None:
            return
        try:
            obstore.put(self._store(), _key(sha256), path)
        except (OSError, obstore.exceptions.BaseError) as error:
            raise _store_failed("store", error) from error


def open_blob_store(settings: ServerSettings) -> BlobStore:
    """Return the blob store that the settings name. Touches nothing before first use."""
    if settings.blob_url is None:
        return LocalBlobs(settings.blobs_dir)
    return RemoteBlobs(settings.blob_url, settings.run_dir / "spool")


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


def _key(sha256: Sha256) -> str:
    digest = parse_sha256(sha256)
    return f"{digest[:2]}/{digest}"


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _store_failed(what: str, error: Exception) -> BlobStoreError:
    return BlobStoreError(
        f"the blob store could not {what} the bytes: {error}",
        next_step="check the free space and rights of the blob folder, or the object store's address and keys",
    )
