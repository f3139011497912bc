"""What a command does with blobs in a bucket: garbage collection, comparison with the database, and a kill in the middle of a part."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_server.process.blob_collection.garbage_collector import Terms
from edgefleet_server.process.server_check import describe
from edgefleet_server.registry import blobs
from edgefleet_server.registry.blobs import RemoteBlobs, open_blob_store
from tests.house.soak import SOAKS
from tests.server.registry import upload_kills
from tests.server.registry.collection_races import publish
from tests.server.registry.test_garbage_collection import DELETE, LOOK, WEEK, run
from tests.server.registry.test_object_store import bucket_settings
from tests.support.buckets import make_bucket, moto_server
from tests.support.servers import ApiHouse

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_server(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture
def house(moto: str, tmp_path: Path) -> Iterator[ApiHouse]:
    """A server with its blobs in a bucket."""
    httpx.post(f"{moto}/moto-api/reset", timeout=30).raise_for_status()
    make_bucket(moto, "blobs")
    given = bucket_settings(tmp_path, moto)
    names = ("blob_url", "blob_endpoint", "blob_access_key_id", "blob_secret_key", "blob_region")
    made = ApiHouse(tmp_path / "server", **{name: getattr(given, name) for name in names})
    yield made
    made.close()


def stored(house: ApiHouse) -> list[Sha256]:
    """Return what lies in the bucket, as another process sees it."""
    return sorted(one.sha256 for one in open_blob_store(house.settings).list())


def test_garbage_in_a_bucket_is_looked_at_marked_and_removed(house: ApiHouse) -> None:
    kept, gone = Sha256(house.put(b"named")), Sha256(house.put(b"nobody's"))
    publish(house, "1.0.0", b"named")
    house.clock.turn(days=8)
    assert run(house, LOOK)["waiting"]["count"] == 1
    assert run(house)["marked"] == 1
    assert stored(house) == sorted([kept, gone]), "neither a look nor a mark removes a byte"
    house.clock.turn(days=8)
    assert run(house, LOOK)["due"]["count"] == 1
    assert stored(house) == sorted([kept, gone])
    found = run(house)
    assert (found["deleted"]["count"], found["deleted"]["bytes"], found["failed"]) == (1, 8, 0)
    assert stored(house) == [kept]
    with house.parts.registry.upload() as writer:
        writer.write(b"killed before its record")
        stray = writer.finish(None)
    house.clock.turn(days=3650)  # objects have the time of the machine
    assert run(house)["strays"]["count"] == 1
    assert stray in stored(house)
    assert run(house, Terms(WEEK, deletes=True, strays=True))["strays_deleted"]["count"] == 1
    assert stored(house) == [kept]
    assert run(house, DELETE)["deleted"]["count"] == 0


def test_a_host_with_another_bucket_than_the_others_is_named(house: ApiHouse, moto: str) -> None:
    make_bucket(moto, "another")
    other = house.settings.model_copy(update={"blob_url": "s3://another/fleet"})
    nothing = describe(other)["blobs"]
    assert (nothing["problem"], nothing["compared"]) == ("", 0), "no blob says yet which store it is"
    sha256 = Sha256(house.put(b"at the first host"))
    house.put(b"a second one")
    same = describe(house.settings)["blobs"]
    assert (same["problem"], same["compared"], same["missing"]) == ("", 2, 0)
    assert "get-bucket-lifecycle-configuration --bucket blobs" in same["unchecked"]
    found = describe(other)["blobs"]
    assert (found["compared"], found["missing"]) == (2, 2)
    assert "s3://another/fleet lacks 2 of the newest 2 blobs" in found["problem"]
    assert "use another store" in found["problem"]
    assert "migrate --blobs" in found["next"]
    folder = describe(house.settings.model_copy(update={"blob_url": None}))["blobs"]
    assert (folder["kind"], folder["missing"]) == ("folder", 2), "a folder of one host is another store as well"
    open_blob_store(house.settings).remove(sha256)
    some = describe(house.settings)["blobs"]
    assert (some["missing"], "some were removed" in some["problem"]) == (1, True)


def test_what_a_killed_upload_left_here_goes_and_what_is_written_stays(house: ApiHouse) -> None:
    spool = house.settings.run_dir / "spool"
    spool.mkdir(parents=True)
    left, young = spool / "upload-killed", spool / "upload-young"
    for file in (left, young):
        file.write_bytes(b"half")
    store = open_blob_store(house.settings)
    assert isinstance(store, RemoteBlobs)
    with store.writer(limit_bytes=10) as writer:
        assert [left.exists(), young.exists()] == [True, True], "both are new"
        writer.write(b"mine")
        old = time.time() - 2 * blobs.YOUNG_S
        for file in spool.iterdir():
            os.utime(file, (old, old))
        with open_blob_store(house.settings).writer(limit_bytes=10):  # as another process of this folder
            assert [left.exists(), young.exists()] == [False, False]
        assert writer.finish(None) == sha256_hex(b"mine")
    assert list(spool.iterdir()) == []
    assert store.size(sha256_hex(b"mine")) == 4


def test_a_move_that_is_killed_in_the_middle_of_a_part_is_not_seen_and_the_next_is_whole(moto: str) -> None:
    for number in range(SOAKS["upload-kills"].in_ci):
        problems, unfinished = upload_kills.play(moto, "move", random.Random(number))
        assert problems == []
        assert unfinished == 1, "what a lifecycle rule of the bucket removes"
