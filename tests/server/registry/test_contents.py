"""What is inside a stored bundle, and what a release was made of, as the registry tells it."""

from pathlib import Path

import pytest

from edgefleet_protocol.bundle import BundleError
from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.registry.errors import ReleaseUnknownError
from edgefleet_server.registry.manifests import KEPT, Manifests
from tests.protocol.test_bundle import a_bundle
from tests.server.dashboard.fleet import LITERT, ORT, Fleet
from tests.server.dashboard.shelf import shelve


class Counted:
    """Blobs in memory that count how often and how much was read."""

    def __init__(self, *blobs: bytes) -> None:
        self.blobs = {sha256_hex(one): one for one in blobs}
        self.reads: list[int] = []

    def read_range(self, sha256: Sha256, start: int, length: int) -> bytes:
        self.reads.append(length)
        return self.blobs[sha256][start : start + length]


def test_a_manifest_is_read_without_the_model_and_once_only() -> None:
    data = a_bundle({"zz.bin": b"x" * 3_000_000})
    blobs = Counted(data)
    manifests = Manifests(blobs.read_range)
    found = manifests.of(sha256_hex(data), len(data))
    assert set(found.members) == {"model.onnx", "zz.bin"}
    assert sum(blobs.reads) < 500_000
    before = len(blobs.reads)
    assert manifests.of(sha256_hex(data), len(data)) is found
    assert len(blobs.reads) == before


def test_what_is_no_bundle_is_refused_and_not_kept() -> None:
    blobs = Counted(b"no bundle at all, but long enough to look at")
    manifests = Manifests(blobs.read_range)
    (digest,) = blobs.blobs
    for _ in range(2):
        with pytest.raises(BundleError):
            manifests.of(digest, len(blobs.blobs[digest]))
    assert len(blobs.reads) >= 2


def test_the_store_of_manifests_is_bounded() -> None:
    many = [a_bundle({"n.txt": str(number).encode()}) for number in range(KEPT + 5)]
    blobs = Counted(*many)
    manifests = Manifests(blobs.read_range)
    for one in many:
        manifests.of(sha256_hex(one), len(one))
    before = len(blobs.reads)
    manifests.of(sha256_hex(many[-1]), len(many[-1]))
    assert len(blobs.reads) == before
    manifests.of(sha256_hex(many[0]), len(many[0]))
    assert len(blobs.reads) > before


def test_bundles_come_in_pages_newest_first_and_a_source_tells_its_files(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "server")
    registry = fleet.parts.registry
    for version in ("1.0.0", "1.1.0"):
        shelve(fleet, f"digits@{version}", ORT, LITERT)
    seen, after = [], None
    while True:
        page = registry.bundles(PageRequest(3, after))
        assert page.total == 4
        seen += [(str(one.ref.version), str(one.profile)) for one in page.items]
        after = page.next_key
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 4
    assert [version for version, _ in seen] == ["1.1.0", "1.1.0", "1.0.0", "1.0.0"]
    source = registry.source_of(ReleaseRef.parse("digits@1.0.0"))
    assert [(one.path, one.length) for one in source.files] == [("digits.onnx", 22)]
    assert source.options["max_drop"] == 0.01
    assert set(source.data) == {"eval"}
    with pytest.raises(ReleaseUnknownError):
        registry.source_of(ReleaseRef.parse("digits@9.9.9"))
    fleet.close()
