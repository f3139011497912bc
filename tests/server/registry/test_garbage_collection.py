"""Blobs that nothing names are found, marked and removed, and nothing else is (ADR 0159). On both databases."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from threading import Event, Thread
from typing import Any

import pytest
from sqlalchemy import text

from edgefleet_protocol.digest import Sha256, sha256_hex
from edgefleet_server.access.model import Role
from edgefleet_server.db.database import metadata
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.process.blob_collection import name_inventory
from edgefleet_server.process.blob_collection.garbage_collector import Terms
from edgefleet_server.process.blob_collection.name_reader import named_digests
from edgefleet_server.registry import store
from edgefleet_server.registry.errors import BlobStoreError
from tests.server.registry.collection_races import collector, publish
from tests.server.registry.worked import refuse, signed
from tests.support.servers import ApiHouse, release_body

WEEK = timedelta(days=7)
LOOK = Terms(WEEK, deletes=False)
DELETE = Terms(WEEK, deletes=True)


def run(house: ApiHouse, terms: Terms = DELETE) -> dict[str, Any]:
    return collector(house).run(terms)


def test_every_column_that_could_name_a_blob_is_classified() -> None:
    """A new column: read what it holds, and put it into ROOTS or NO_ROOTS of `name_inventory`."""
    known = name_inventory.classified()
    assert name_inventory.could_name(metadata()) == set(known)
    assert sum(known.values()) > 20
    listed = [
        f"{table}.{column}"
        for lists in (name_inventory.ROOTS, name_inventory.NO_ROOTS)
        for table, columns in lists.items()
        for column in columns.split()
    ]
    assert len(listed) == len(set(listed)), "no column is in both"


def test_digests_are_found_in_the_middle_of_documents() -> None:
    one, other = sha256_hex(b"1"), sha256_hex(b"2")
    document = json.dumps({"files": [{"sha256": one}], one: {"x": f"sha256:{other}"}})
    assert name_inventory.digests_in(document) == {one, other}
    assert name_inventory.digests_in(document.encode()) == {one, other}
    assert name_inventory.digests_in(f"{one}0 {one[:-1]}") == set(), "longer and shorter ones are none"


def test_whatever_a_release_its_attempts_and_its_jobs_name_is_a_root(any_house: ApiHouse) -> None:
    view = signed(any_house)
    data, report = any_house.put(b"calibration"), any_house.put(b'{"why": 1}')
    body = release_body(b"a model", version="2.0.0", data={"calibration": data})
    publisher = any_house.client(Role.PUBLISHER)
    assert publisher.post("/api/v1/releases", json=body).status_code == 201
    refuse(any_house, report=report)
    any_house.put(b"another model")
    again = publisher.post("/api/v1/releases", json=release_body(b"another model", version="2.0.0"))
    assert again.json()["attempt"] == 2, "data and report are those of an attempt now"
    named = named_digests(any_house.parts.db)
    wanted = {view.sha256, view.leaves, data, report, sha256_hex(b"a model"), sha256_hex(b"another model")}
    assert wanted <= named
    with any_house.parts.db.read() as session:
        assert store.used_blobs(session, any_house.parts.conversion.reports()) - {""} <= named, "both say the same"
    any_house.clock.turn(days=30)
    found = run(any_house)
    any_house.clock.turn(days=30)
    found = run(any_house)
    assert (found["blobs"]["count"], found["deleted"]["count"]) == (len(wanted), 0)


def test_a_blob_goes_when_it_was_unnamed_at_two_looks_a_week_apart(any_house: ApiHouse) -> None:
    house, registry = any_house, any_house.parts.registry
    sha256 = Sha256(house.put(b"nobody's"))
    young = run(house)
    assert (young["young"]["count"], young["marked"], young["due"]["count"]) == (1, 0, 0)
    house.clock.turn(days=8)
    looked = run(house, LOOK)
    assert (looked["waiting"]["count"], looked["waiting"]["bytes"], looked["marked"]) == (1, 8, 0)
    assert run(house, LOOK) == looked, "a dry run changes nothing"
    assert run(house)["marked"] == 1
    assert registry.read_blob(sha256, 100) == b"nobody's", "a mark hides nothing"
    assert registry.unnamed.total() == (1, 8), "what /metrics says"
    house.clock.turn(days=6)
    waits = run(house)
    assert (waits["deleted"]["count"], waits["waiting"]["count"], waits["marked"]) == (0, 1, 0)
    house.clock.turn(days=1)
    assert run(house, LOOK)["due"]["count"] == 1
    gone = run(house)
    assert (gone["deleted"]["count"], gone["deleted"]["bytes"], gone["failed"]) == (1, 8, 0)
    assert registry.blob_size(sha256) is None
    assert registry.unnamed.total() == (0, 0)
    assert not any(path.name == sha256 for path in house.settings.blobs_dir.rglob("*"))
    audit = [one for one in house.parts.access.audit(PageRequest(10)).items if one.action == "collect_blobs"]
    assert [one.object for one in audit] == [
        "1 blobs (8 bytes) and 0 without a record (0 bytes) deleted, 0 marked",
        "0 blobs (0 bytes) and 0 without a record (0 bytes) deleted, 1 marked",
    ]


@pytest.mark.parametrize("how", ["upload", "question", "publication"])
def test_what_is_named_or_asked_for_again_before_it_goes_stays(any_house: ApiHouse, how: str) -> None:
    house, data = any_house, b"a model"
    sha256 = house.put(data)
    house.clock.turn(days=8)
    assert run(house)["marked"] == 1
    house.clock.turn(days=8)
    if how == "upload":
        assert house.client(Role.PUBLISHER).put(f"/api/v1/blobs/{sha256}", content=data).status_code == 200
    elif how == "question":
        assert house.client(Role.VIEWER).head(f"/api/v1/blobs/{sha256}").status_code == 200
    else:
        publish(house, "1.0.0", data)
    found = run(house)
    assert (found["deleted"]["count"], found["young"]["count"]) == (0, 0 if how == "publication" else 1)
    assert house.parts.registry.read_blob(sha256, 100) == data  # type: ignore[arg-type]


def test_a_name_that_comes_without_the_lock_is_seen_by_the_second_look(any_house: ApiHouse) -> None:
    """As from a server of an older version: between the first look and the second, with the mark left as it is."""
    house = any_house
    sha256 = house.put(b"late")
    house.clock.turn(days=8)
    run(house)
    house.clock.turn(days=8)
    publish(house, "1.0.0", b"late")
    with house.parts.db.session() as session:
        session.execute(text("UPDATE blobs SET unnamed_since = created_at"))
    assert run(house)["deleted"]["count"] == 0
    assert house.parts.registry.blob_size(sha256) == 4  # type: ignore[arg-type]
    with house.parts.db.read() as session:
        assert store.unnamed_total(session) == (0, 0), "the mark is taken from it"


def test_a_name_that_is_written_after_the_second_look_wins(any_house: ApiHouse) -> None:
    house, registry = any_house, any_house.parts.registry
    sha256 = Sha256(house.put(b"late"))
    house.clock.turn(days=8)
    run(house)
    house.clock.turn(days=8)
    publish(house, "1.0.0", b"late")  # the look did not see it
    assert registry.unnamed.remove(sha256, house.clock.now() - WEEK) is None
    assert registry.read_blob(sha256, 100) == b"late"


@pytest.mark.parametrize("moment", ["look", "look again", "delete"])
def test_a_publication_that_is_open_while_a_collection_runs_keeps_its_blob(any_house: ApiHouse, moment: str) -> None:
    """It begins at that stage, and is committed when the collection can do no more without waiting for it."""
    house, begun, threads = any_house, Event(), list[Thread]()
    sha256 = Sha256(house.put(b"late"))
    house.clock.turn(days=8)
    run(house)
    house.clock.turn(days=8)

    def name_it() -> None:
        with house.parts.db.session():
            publish(house, "1.0.0", b"late")
            begun.set()
            time.sleep(0.3)

    def progress(stage: str, done: int, total: int, words: str) -> None:
        if stage == moment and not threads:
            threads.append(Thread(target=name_it))
            threads[0].start()
            assert begun.wait(30)

    found = collector(house, progress).run(DELETE)
    threads[0].join(30)
    assert found["deleted"]["count"] == 0
    assert house.parts.registry.read_blob(sha256, 100) == b"late"
    assert run(house)["deleted"]["count"] == 0


def test_bytes_without_a_record_go_only_when_asked(any_house: ApiHouse) -> None:
    house = any_house
    with house.parts.registry.upload() as writer:
        writer.write(b"killed before its record")
        sha256 = writer.finish(None)
    house.clock.turn(days=3650)  # files have the time of the machine
    assert run(house)["strays"]["count"] == 1
    found = run(house, Terms(WEEK, deletes=True, strays=True))
    assert (found["strays_deleted"]["count"], found["deleted"]["count"]) == (1, 0)
    assert not any(path.name == sha256 for path in house.settings.blobs_dir.rglob("*"))
    assert run(house)["strays"]["count"] == 0


def test_what_cannot_be_removed_is_said_and_goes_with_the_next_hour(
    any_house: ApiHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, registry = any_house, any_house.parts.registry
    house.put(b"stuck")
    for _ in range(2):
        house.clock.turn(days=8)
        with monkeypatch.context() as away:
            away.setattr(registry._blobs, "remove", _refuse)
            found = run(house)
    assert (found["deleted"]["count"], found["failed"]) == (0, 1)
    assert house.parts.access.audit(PageRequest(1)).items[0].status == 500
    assert registry.withdrawals.drop_left() == 0
    assert list(registry._blobs.list()) == []


def _refuse(_sha256: object) -> None:
    raise BlobStoreError("no connection")
