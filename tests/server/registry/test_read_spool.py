"""The spool of blobs from a remote store: one fetch each, checked, bounded, nothing on the disk that has a name."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_server.registry.errors import BlobStoreError, BlobUnknownError
from edgefleet_server.registry.object_store.read_spool import ReadSpool


class Source:
    """Blobs elsewhere, and how often each was fetched."""

    def __init__(self, *blobs: bytes) -> None:
        self.blobs = {sha256_hex(one): one for one in blobs}
        self.fetched: list[Sha256] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def fetch(self, sha256: Sha256) -> Coming:
        self.fetched.append(sha256)
        return Coming(self, self.blobs[sha256])


class Coming:
    """One blob on its way."""

    def __init__(self, source: Source, data: bytes) -> None:
        self._source, self._data, self.length = source, data, len(data)

    def chunks(self) -> Iterator[bytes]:
        for at in range(0, len(self._data), 1000):
            assert self._source.gate.wait(30)
            if self._source.error is not None:
                raise self._source.error
            yield self._data[at : at + 1000]


@given(data=st.data(), lengths=st.lists(st.integers(0, 5000), min_size=1, max_size=6), limit=st.integers(0, 9000))
def test_any_read_gives_the_bytes_and_the_disk_never_holds_more_than_the_limit(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, lengths: list[int], limit: int
) -> None:
    source = Source(*(hashlib.shake_128(bytes([number])).digest(length) for number, length in enumerate(lengths)))
    spool = ReadSpool(source.fetch, tmp_path_factory.getbasetemp() / "spool", limit)
    for _ in range(12):
        sha256 = data.draw(st.sampled_from(sorted(source.blobs)))
        start, length = data.draw(st.integers(0, 6000)), data.draw(st.integers(0, 6000))
        whole = source.blobs[sha256]
        came = spool.read(sha256, start, length)
        assert came == (whole[start : start + length] if len(whole) <= limit else None)
        assert spool.figures.bytes <= limit


def test_many_readers_of_a_blob_cause_one_fetch(tmp_path: Path) -> None:
    source = Source(os.urandom(50_000))
    source.gate.clear()
    spool, (sha256, whole) = ReadSpool(source.fetch, tmp_path, 100_000), next(iter(source.blobs.items()))
    came: list[bytes | None] = []
    readers = [threading.Thread(target=lambda: came.append(spool.read(sha256, 0, 50_000))) for _ in range(20)]
    for one in readers:
        one.start()
    source.gate.set()
    for one in readers:
        one.join(30)
    assert came == [whole] * 20
    assert source.fetched == [sha256]
    assert list(tmp_path.iterdir()) == [], "no file has a name"


def test_wrong_bytes_are_refused_and_not_kept(tmp_path: Path) -> None:
    source = Source()
    sha256 = sha256_hex(b"right")
    source.blobs[sha256] = b"wrong"
    spool = ReadSpool(source.fetch, tmp_path, 100)
    for _ in range(2):
        with pytest.raises(BlobUnknownError):
            spool.read(sha256, 0, 5)
    source.blobs[sha256] = b"right"
    assert spool.read(sha256, 0, 5) == b"right"
    assert spool.figures.bytes == 5


def test_a_fetch_that_breaks_reaches_all_who_wait_and_the_next_read_tries_again(tmp_path: Path) -> None:
    source = Source(b"x" * 3000)
    spool, sha256 = ReadSpool(source.fetch, tmp_path, 10_000), next(iter(source.blobs))
    source.error = BlobStoreError("the connection broke")
    with pytest.raises(BlobStoreError, match="broke"):
        spool.read(sha256, 0, 1)
    assert spool.figures.bytes == 0
    source.error = None
    assert spool.read(sha256, 0, 1) == b"x"


def test_a_full_disk_means_that_the_store_is_asked(tmp_path: Path) -> None:
    source = Source(b"x" * 3000)
    spool, sha256 = ReadSpool(source.fetch, tmp_path, 10_000), next(iter(source.blobs))
    source.error = OSError(28, "No space left on device")
    assert spool.read(sha256, 0, 1) is None
    assert spool.figures.bytes == 0


def test_the_least_recently_read_goes_and_a_reader_of_it_goes_on(tmp_path: Path) -> None:
    source = Source(b"a" * 40, b"b" * 40, b"c" * 40)
    a, b, c = (sha256_hex(one * 40) for one in (b"a", b"b", b"c"))
    spool = ReadSpool(source.fetch, tmp_path, 100)
    for one in (a, b, a, c, a):
        assert spool.read(one, 0, 1)
    assert source.fetched == [a, b, c], "b went when c came"
    spool.read(b, 0, 1)
    assert source.fetched == [a, b, c, b]
    spool.forget(a)
    assert spool.figures.bytes == 40
