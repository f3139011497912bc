"""Who may note and purge data sets; labels that were sent to the server stand with captured records."""

from typing import Any

import pytest

from edgefleet_server.access.model import Role
from edgefleet_server.db.keyset import decode_cursor, encode_cursor
from edgefleet_server.telemetry.ground_truth import store as truth_store
from edgefleet_server.telemetry.ground_truth.uploads import LABELS_KEPT
from edgefleet_server.telemetry.predictions import data_set_book, store
from edgefleet_server.telemetry.tables import TelemetryCapture
from tests.server.fleet.apps import Operators
from tests.server.fleet.house import House

WRITTEN = {
    "model": "digits", "digest": "a" * 64, "format": "npz", "place": "ann:/data/fog",
    "records": [{"device": "d-1", "record": "ab12", "trace_id": "t1"}],
}  # fmt: skip


def test_who_may_read_the_records_may_note_and_purge_their_data_set(any_house: House) -> None:
    operators = Operators(any_house)
    answers = {
        role: operators.as_role(role).post("/data-sets", json={**WRITTEN, "place": f"{role}:/data"}).status_code
        for role in Role
    }
    assert {role for role, code in answers.items() if code == 201} == {Role.OPERATOR, Role.PUBLISHER, Role.ADMIN}
    assert {code for code in answers.values() if code != 201} == {403}
    reader = operators.as_role(Role.VIEWER)
    listed = reader.get("/data-sets", params={"model": "digits"}).json()["items"]
    assert {one["place"] for one in listed} == {"operator:/data", "publisher:/data", "admin:/data"}
    assert reader.get("/data-sets", params={"digest": "b" * 64}).json()["items"] == []
    word = {"erasure": "e-1", "digest": "b" * 64}
    one = f"/data-sets/{listed[0]['id']}"
    assert reader.get(f"{one}/records").json()["items"] == []
    assert operators.as_role(Role.OPERATOR).post(f"{one}:purge", json=word).status_code == 404
    mistakes: list[dict[str, Any]] = [{"records": []}, {"digest": "A"}, {"place": ""}, {"format": "zip"}]
    for wrong in mistakes:
        assert operators.as_role(Role.OPERATOR).post("/data-sets", json={**WRITTEN, **wrong}).status_code == 422


def test_a_purge_counts_for_no_record_that_its_holder_was_not_told_of(any_house: House) -> None:
    client = Operators(any_house).as_role(Role.OPERATOR)
    records = [{"device": "d-1", "record": f"ab{n}", "trace_id": f"t{n}"} for n in (1, 2)]
    one = f"/data-sets/{client.post('/data-sets', json={**WRITTEN, 'records': records}).json()['id']}"
    word = {"erasure": "e-1", "digest": "b" * 64, "records": 1}
    with any_house.db.session() as session:
        store.mark_records(session, "e-1", "d-1", ["t1"])
    assert len(client.get(f"{one}/records").json()["items"]) == 1
    with any_house.db.session() as session:
        store.mark_records(session, "e-1", "d-1", ["t2"])  # it came in while the holder removed the first one
    assert client.post(f"{one}:purge", json=word).json()["code"] == "data_set.purge_conflict"
    assert len(client.get(f"{one}/records").json()["items"]) == 2
    assert client.post(f"{one}:purge", json=word | {"records": 2}).json()["records"] == 0
    assert client.post(f"{one}:purge", json=word | {"records": 2}).status_code == 200


def test_so_many_data_sets_of_a_model_are_noted_in_a_day(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_set_book, "MOST_A_DAY", 3)
    monkeypatch.setattr(data_set_book, "MOST_RECORDS_A_DAY", 4)
    client = Operators(house).as_role(Role.PUBLISHER)
    records = [{"device": "d-1", "record": f"ab{n}", "trace_id": f"t{n}"} for n in (1, 2)]

    def note(place: str, **more: Any) -> Any:
        return client.post("/data-sets", json={**WRITTEN, "place": place, **more})

    assert note("a:/1", records=records).status_code == 201
    house.clock.turn(hours=1)
    assert note("a:/2").status_code == 201
    refused = note("a:/3", records=records)
    assert (refused.status_code, refused.json()["code"]) == (429, "data_set.too_many")
    assert refused.headers["retry-after"] == str(23 * 3600)
    assert "data sets of digits noted in the last 24 hours: 2, with 3 records" in refused.json()["detail"]
    assert "in 23 h" in refused.text
    assert note("a:/3").status_code == 201
    assert note("a:/4").status_code == 429
    assert note("a:/3").status_code == 201, "it is noted already"
    assert note("a:/4", model="hall").status_code == 201
    house.clock.turn(hours=23)
    assert note("a:/4").status_code == 201
    places = [f"a:/{n}" for n in (1, 2, 3, 4)]
    for sort, expected in (("made_at", places), ("-made_at", places[::-1])):
        found: list[str] = []
        query: dict[str, Any] = {"model": "digits", "limit": 2, "sort": sort}
        while len(found) < 4:
            answer = client.get("/data-sets", params=query).json()
            assert answer["total"] == 4
            found += [one["place"] for one in answer["items"]]
            query["cursor"] = answer["next_cursor"]
        assert query["cursor"] is None
        assert sorted(found) == places
        assert [found[0], found[-1]] == [expected[0], expected[-1]]
    marked = answer_key(client.get("/data-sets", params={"limit": 1}).json()["next_cursor"])
    assert client.get("/data-sets", params={"limit": 1, "cursor": encode_cursor(marked + "x")}).status_code == 422


def answer_key(cursor: str) -> str:
    """Return the mark of a query, which its cursors begin with."""
    return decode_cursor(cursor).partition(":")[0] + ":"


def test_a_captured_record_has_the_label_that_was_sent_for_its_answer(any_house: House) -> None:
    house = any_house
    device = house.device().id
    now = house.clock.now()
    with house.db.session() as session:
        for trace in ("own", "any", "other", "none", ""):
            session.add(
                TelemetryCapture(
                    device_id=device, record=f"r{trace}", fetch_id="c", model="digits", sha256="a" * 64, reason="flag", label=1,
                    trace_id=trace, taken_at=now, received_at=now, seen=1, key_id="k", size_bytes=1, sealed=b"x",
                )
            )  # fmt: skip
        row = {"model": "digits", "label": "seven", "received_at": now}
        labels = [
            (device, "own", "digits"),
            ("", "own", "digits"),
            ("", "any", "digits"),
            ("d-9", "other", "digits"),
            ("", "none", "hall"),
        ]
        truth_store.set_labels(
            session,
            [
                {**row, "device_id": who, "trace_id": trace, "model": model, "label": f"by {who or 'any'}"}
                for who, trace, model in labels
            ],
        )
        truth_store.set_labels(session, [{**row, "device_id": "", "trace_id": "any"}])
    path = f"/devices/{device}/captures"
    client = Operators(house).as_role(Role.OPERATOR)
    found: dict[str, Any] = {one["trace_id"]: one["ground_truth"] for one in client.get(path).json()["items"]}
    assert found == {"own": f"by {device}", "any": "seven", "other": "", "none": "", "": ""}
    assert client.get(f"{path}/rown").json()["ground_truth"] == f"by {device}"
    with house.db.session() as session:
        truth_store.delete_labels(session, device, ["own"])
        truth_store.delete_labels_before(session, now - LABELS_KEPT)
    found = {one["trace_id"]: one["ground_truth"] for one in client.get(path).json()["items"]}
    assert (found["own"], found["any"]) == ("", "seven")
    with house.db.session() as session:
        truth_store.delete_labels_before(session, now + LABELS_KEPT)
    assert client.get(f"{path}/rany").json()["ground_truth"] == ""
