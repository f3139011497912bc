"""What is inside a signed bundle: its manifest, read out of the blob without loading the whole of it.

It joins the blob store with the bundle format, which nothing else of the registry reads. A bundle never
changes, so what was read once is kept.
"""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, Final, cast

from edgefleet_protocol.bundle import Bundle, open_bundle
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.manifest import Manifest

KEPT: Final = 128
BUFFER_BYTES: Final = 64 * 1024

ReadRange = Callable[[Sha256, int, int], bytes]


class _BlobFile(io.RawIOBase):
    """A blob as a seekable file of `length` bytes."""

    def __init__(self, read_range: ReadRange, sha256: Sha256, length: int) -> None:
        super().__init__()
        self._read_range = read_range
        self._sha256 = sha256
        self._length = length
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._length - self._at))
        data = self._read_range(self._sha256, self._at, wanted) if wanted else b""
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


class Manifests:
    """The manifests of stored bundles. Thread-safe; calls block."""

    def __init__(self, read_range: ReadRange) -> None:
        self._read_range = read_range
        self._lock = threading.Lock()
        self._kept: OrderedDict[Sha256, Manifest] = OrderedDict()

    def of(self, sha256: Sha256, length: int) -> Manifest:
        """Return the manifest of a bundle of `length` bytes. Raises BundleError, ManifestError, BlobUnknownError, BlobStoreError.

        The structure is checked, the members' digests are not: devices do that with what they got.
        """
        with self._lock:
            known = self._kept.get(sha256)
            if known is not None:
                self._kept.move_to_end(sha256)
                return known
        manifest = self._opened(sha256, length).manifest
        with self._lock:
            self._kept[sha256] = manifest
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return manifest

    def member(self, sha256: Sha256, length: int, name: str, most_bytes: int) -> bytes | None:
        """Return a member of a bundle, its digest checked; None when it has none of this name, or a larger one. Raises as `of`."""
        bundle = self._opened(sha256, length)
        entry = bundle.entries.get(name)
        return bundle.read(name) if entry is not None and entry.length <= most_bytes else None

    def _opened(self, sha256: Sha256, length: int) -> Bundle:
        file = io.BufferedReader(_BlobFile(self._read_range, sha256, length), BUFFER_BYTES)
        return open_bundle(cast("BinaryIO", file))
