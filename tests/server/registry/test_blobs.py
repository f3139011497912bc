"""The blob store: durable, content-addressed, nothing half-way; and blobs over REST."""

import os
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import from_url

from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_server.access.model import Role
from edgefleet_server.registry.blobs import BlobStore, LocalBlobs, RemoteBlobs, open_blob_store, read_chunks
from edgefleet_server.registry.errors import (
    BadRangeError,
    BlobDigestError,
    BlobStoreError,
    BlobTooLargeError,
    BlobUnknownError,
)
from edgefleet_server.registry.rules import parse_range
from edgefleet_server.settings import load_settings
from tests.support.servers import ApiHouse, copy_server, server_process

DATA = os.urandom(3 * 1024 * 1024 + 17)
DIGEST = sha256_hex(DATA)


@pytest.fixture(params=["local", "object store"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """Both adapters; the object store is obstore's own on a folder, behind its URL."""
    if request.param == "local":
        return LocalBlobs(tmp_path / "blobs")
    (tmp_path / "bucket").mkdir()
    return RemoteBlobs(lambda: from_url((tmp_path / "bucket").as_uri()), tmp_path / "spool", 64 * 1024 * 1024)


def put_chunks(store: BlobStore, chunks: list[bytes], *, limit_bytes: int, expected: Sha256 | None) -> Sha256:
    """Store the bytes of `chunks` as one blob and return its digest."""
    with store.writer(limit_bytes=limit_bytes) as writer:
        for chunk in chunks:
            writer.write(chunk)
        return writer.finish(expected)


def leftovers(folder: Path) -> list[str]:
    """Return all files that are no blobs."""
    return [path.name for path in folder.rglob("*") if path.is_file() and len(path.name) != 64]


def test_what_stays_on_this_disk_is_brought_to_it_and_nothing_else(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought, fsync = list[str](), os.fsync

    def noted(descriptor: int) -> None:
        place = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        brought.append(place.removeprefix(str(tmp_path)))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    put_chunks(store, [DATA], limit_bytes=len(DATA), expected=DIGEST)
    if isinstance(store, RemoteBlobs):
        assert brought == [], "the file here is read once and removed"
    else:
        assert brought[0].startswith("/blobs/tmp/upload-")
        assert brought[1:] == ["/blobs", f"/blobs/{DIGEST[:2]}"], "then its name"


def test_a_blob_comes_back_whole_and_in_parts(store: BlobStore, tmp_path: Path) -> None:
    assert store.size(DIGEST) is None
    pieces = [DATA[i : i + 100_000] for i in range(0, len(DATA), 100_000)]
    assert put_chunks(store, pieces, limit_bytes=len(DATA), expected=DIGEST) == DIGEST
    assert store.size(DIGEST) == len(DATA)
    assert b"".join(read_chunks(store, DIGEST, 5, len(DATA) - 5)) == DATA[5:]
    assert store.read_range(DIGEST, 70_000, 3) == DATA[70_000:70_003]
    assert store.read_range(DIGEST, 0, 0) == b""
    assert [(one.sha256, one.length) for one in store.list()] == [(DIGEST, len(DATA))]
    assert leftovers(tmp_path) == []


def test_putting_a_blob_again_changes_nothing(store: BlobStore) -> None:
    for _ in range(2):
        put_chunks(store, [b"abc"], limit_bytes=10, expected=None)
    assert store.size(sha256_hex(b"abc")) == 3


def test_wrong_digest_too_large_and_cut_uploads_leave_nothing(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(BlobDigestError):
        put_chunks(store, [b"abc"], limit_bytes=10, expected=DIGEST)
    with pytest.raises(BlobTooLargeError):
        put_chunks(store, [b"abc"], limit_bytes=2, expected=None)
    with pytest.raises(RuntimeError, match="cut"), store.writer(limit_bytes=10) as writer:  # noqa: PT012
        writer.write(b"abc")
        raise RuntimeError("cut")
    assert store.size(sha256_hex(b"abc")) is None
    assert leftovers(tmp_path) == []


def test_unknown_blobs_and_ranges_outside_are_refused(store: BlobStore) -> None:
    with pytest.raises(BlobUnknownError):
        store.read_range(DIGEST, 0, 1)
    put_chunks(store, [b"abc"], limit_bytes=10, expected=None)
    with pytest.raises(BlobStoreError):
        store.read_range(sha256_hex(b"abc"), 2, 5)


def test_a_key_that_is_no_digest_never_reaches_the_store(store: BlobStore) -> None:
    with pytest.raises(Exception, match="sha256"):
        store.size(Sha256("../../etc/passwd"))


def test_local_blobs_are_read_only_files(tmp_path: Path) -> None:
    put_chunks(LocalBlobs(tmp_path), [b"abc"], limit_bytes=10, expected=None)
    digest = sha256_hex(b"abc")
    assert (tmp_path / digest[:2] / digest).stat().st_mode & 0o777 == 0o444


@given(st.integers(1, 1000), st.integers(0, 1200), st.integers(0, 1200))
def test_ranges_lie_inside_the_blob(size: int, first: int, last: int) -> None:
    data = bytes(i % 251 for i in range(size))
    for header, expected in (
        (f"bytes={first}-{last}", data[first : last + 1]),
        (f"bytes={first}-", data[first:]),
        (f"bytes=-{last}", data[-last:] if last else b""),
    ):
        try:
            part = parse_range(header, size)
        except BadRangeError:
            assert expected == b""
            continue
        if part is None:
            assert last < first
        else:
            assert data[part[0] : part[0] + part[1]] == expected


@pytest.mark.parametrize("header", [None, "", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=1-2,4-5"])
def test_ranges_that_are_not_understood_mean_the_whole(header: str | None) -> None:
    assert parse_range(header, 10) is None


def test_blobs_over_rest(any_house: ApiHouse) -> None:
    client = any_house.client(Role.PUBLISHER)
    address = f"/api/v1/blobs/{DIGEST}"
    assert client.head(address).status_code == 404
    assert client.get(address).json()["code"] == "blob.unknown"
    first, again = client.put(address, content=DATA), client.put(address, content=DATA)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == {"sha256": DIGEST, "length": len(DATA)}
    assert client.head(address).headers["content-length"] == str(len(DATA))
    assert client.get(address).content == DATA
    part = client.get(address, headers={"range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.content == DATA[10:20]
    assert part.headers["content-range"] == f"bytes 10-19/{len(DATA)}"
    outside = client.get(address, headers={"range": f"bytes={len(DATA)}-"})
    assert outside.status_code == 416
    assert client.put(f"/api/v1/blobs/{'0' * 64}", content=b"x").json()["code"] == "blob.digest_mismatch"
    assert client.put("/api/v1/blobs/ABC", content=b"x").json()["code"] == "id.bad"


def test_uploads_beyond_the_limit_are_refused_announced_or_not(tmp_path: Path) -> None:
    house = ApiHouse(tmp_path / "server", max_blob_bytes=1024 * 1024)
    client = house.client(Role.PUBLISHER)
    announced = client.put(f"/api/v1/blobs/{DIGEST}", content=DATA)
    streamed = client.put(f"/api/v1/blobs/{DIGEST}", content=iter([DATA[:2_000_000], DATA[2_000_000:]]))
    for answer in (announced, streamed):
        assert answer.status_code == 413
        assert answer.json()["code"] == "blob.too_large"
    assert leftovers(tmp_path / "server" / "blobs") == []
    house.close()


def test_an_upload_cut_half_way_leaves_nothing(tmp_path: Path) -> None:
    import socket

    data = tmp_path / "server"
    token = copy_server(data)
    with server_process(data, token, "--roles", "api") as server:
        url = httpx.URL(server.url)
        with socket.create_connection((url.host, url.port or 80)) as link:
            link.sendall(
                f"PUT /api/v1/blobs/{DIGEST} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Length: {len(DATA)}\r\n\r\n".encode()
                + DATA[:2_000_000]
            )
        with server.client() as client:
            assert client.head(f"/api/v1/blobs/{DIGEST}").status_code == 404
            while leftovers(data / "blobs"):
                pass
            assert client.put(f"/api/v1/blobs/{DIGEST}", content=DATA).status_code == 201
    assert leftovers(data / "blobs") == []


def test_a_folder_named_by_a_url_is_the_folder_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was acknowledged is there after a power cut, whichever way the folder was named."""
    brought, fsync = list[str](), os.fsync

    def noted(descriptor: int) -> None:
        brought.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    folder = tmp_path / "a store"
    store = open_blob_store(load_settings(tmp_path, blob_url=folder.as_uri()))
    with pytest.raises(BlobStoreError, match="is not there"):
        store.size(DIGEST)  # a mount that is missing is no empty store
    folder.mkdir()
    assert put_chunks(store, [DATA], limit_bytes=len(DATA), expected=None) == DIGEST
    assert len([place for place in brought if place.startswith(str(folder))]) == 3, "the file and both folders"
    assert (folder / DIGEST[:2] / DIGEST).read_bytes() == DATA
