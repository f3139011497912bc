"""Captured records on the server: only what was asked for, from who was asked, once; the key is the tenant's and public."""

from typing import Any

import msgspec
import pytest

from edgefleet_protocol.desired import decode_desired
from edgefleet_protocol.envelope import parse_envelope
from edgefleet_protocol.hpke import new_key
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import Event, EventKind, Sample
from edgefleet_server.access.model import Role
from edgefleet_server.fleet.errors import BadCaptureKeyError
from edgefleet_server.telemetry.captures import CaptureService
from edgefleet_server.telemetry.errors import CaptureUnknownError, NoCaptureKeyError
from tests.server.fleet.apps import Operators
from tests.server.fleet.house import House

KEY = new_key()[1].hex()


def desired_of(house: House, device: str) -> Any:
    """Return the device's document."""
    return decode_desired(parse_envelope(house.fleet.desired.ensure(DeviceId(device)).envelope).payload)


def sample(device: str, task: str, record: str, *, left: int = 0, seq: int = 1, **fields: Any) -> Sample:
    """Return one record's message."""
    given: dict[str, Any] = {
        "model": "digits",
        "reason": "random",
        "sealed": b"sealed",
        "taken": 1_764_000_000_000,
        "key": "k" * 16,
    }
    return Sample(
        device=device,
        boot_id="b",
        seq=seq,
        ts=0,
        task=task,
        record=record,
        left=left,
        sha256="a" * 64,
        **(given | fields),
    )


@pytest.fixture
def asked(any_house: House) -> tuple[House, CaptureService, str, str]:
    """A house, its capture service, a device, and a fetch of three records."""
    any_house.fleet.sampling.set(KEY, "test")
    fleet = any_house.fleet
    captures = CaptureService(any_house.db, any_house.clock, fleet.reader, fleet.sampling, fleet.desired)
    device = any_house.device().id
    return any_house, captures, device, captures.ask(device, model="", reason="", limit=3, by="ann").id


def test_a_fetch_is_a_signed_task_and_the_key_is_in_the_document(asked: Any) -> None:
    house, captures, device, fetch = asked
    document = desired_of(house, device)
    assert document.capture is not msgspec.UNSET
    assert document.capture.key == KEY
    assert [(t.id, t.kind, t.args) for t in document.tasks] == [
        (fetch, "capture", {"model": "", "reason": "", "limit": 3})
    ]
    assert captures.fetch(device, fetch).state == "asked"
    house.clock.turn(days=2)
    assert captures.fetch(device, fetch).state == "expired"
    house.fleet.desired.resign(DeviceId(device))
    assert desired_of(house, device).tasks == [], "a task that is over is not signed again"


def test_a_fetch_leaves_the_document_when_its_device_says_that_it_is_over(asked: Any) -> None:
    house, _, device, fetch = asked
    stranger = house.device().id

    def told(by: str, state: str, seq: int) -> list[str]:
        detail = {"task": fetch, "task_kind": "capture", "state": state}
        house.fleet.receiver.take_events(
            [Event(device=by, boot_id="b", seq=seq, ts=0, kind=EventKind.TASK, detail=detail)]
        )
        house.fleet.desired.resign(DeviceId(device))
        return [task.id for task in desired_of(house, device).tasks]

    assert told(device, "accepted", 1) == [fetch]
    assert told(stranger, "done", 1) == [fetch], "another device's word counts for nothing"
    assert told(device, "done", 2) == []


def test_records_count_once_and_the_last_one_ends_the_fetch(asked: Any) -> None:
    house, captures, device, fetch = asked
    first = sample(device, fetch, "r1", left=1, seen=40, label=7)
    assert house.telemetry.ingest_samples([first, first]) == 1
    assert house.telemetry.ingest_samples([first, sample(device, fetch, "r2", seq=2)]) == 1
    found = captures.fetch(device, fetch)
    assert (found.state, found.received) == ("done", 2)
    views, total = captures.records(device, fetch, None, 10)
    assert total == 2
    assert [(v.id, v.seen, v.label, v.bytes) for v in views] == [("r1", 40, 7, 6), ("r2", 1, -1, 6)]
    assert captures.record(device, "r1")[1] == b"sealed"


def test_nobody_gets_in_what_was_not_asked_for(asked: Any) -> None:
    house, captures, device, fetch = asked
    other = house.device().id
    strange = [
        sample(other, fetch, "r1"),
        sample(device, "c-other", "r2"),
        sample(device, fetch, "r3", left=9, sealed=b""),
        sample(device, fetch, "r4", left=9, sealed=bytes(200_000)),
        sample(device, fetch, "r5", left=9, label=2**40),
    ]
    assert house.telemetry.ingest_samples(strange) == 0
    many = [sample(device, fetch, f"m{i}", left=9 - i, seq=i) for i in range(10)]
    assert house.telemetry.ingest_samples(many) == 3, "more than the three that were asked for"
    assert captures.records(other, None, None, 10) == ([], 0)
    with pytest.raises(CaptureUnknownError):
        captures.record(other, "m0")
    with pytest.raises(CaptureUnknownError):
        captures.fetch(other, fetch)


def test_a_device_that_has_nothing_ends_the_fetch(asked: Any) -> None:
    house, captures, device, fetch = asked
    assert house.telemetry.ingest_samples([sample(device, fetch, "", sealed=b"")]) == 0
    assert captures.fetch(device, fetch).state == "done"


def test_text_that_no_database_takes_is_cleaned(asked: Any) -> None:
    house, captures, device, fetch = asked
    odd = sample(device, fetch, "r1", trace_id="a\0b", model="m" * 100, seen=2**63, taken=-5)
    assert house.telemetry.ingest_samples([odd]) == 1
    view = captures.records(device, None, None, 10)[0][0]
    assert (view.trace_id, len(view.model)) == ("a\N{REPLACEMENT CHARACTER}b", 63)


def test_records_go_after_their_time(asked: Any) -> None:
    house, captures, device, fetch = asked
    house.telemetry.ingest_samples([sample(device, fetch, "r1")])
    house.clock.turn(days=31)
    house.telemetry.prune(house.clock.now())
    assert captures.records(device, None, None, 10) == ([], 0)


def test_without_a_key_nothing_can_be_asked_for(house: House) -> None:
    captures = CaptureService(house.db, house.clock, house.fleet.reader, house.fleet.sampling, house.fleet.desired)
    device = house.device().id
    with pytest.raises(NoCaptureKeyError):
        captures.ask(device, model="", reason="", limit=1, by="ann")


@pytest.mark.parametrize("bad", ["", "00" * 32, "zz" * 32, "ab" * 31])
def test_what_is_no_key_is_refused(house: House, bad: str) -> None:
    with pytest.raises(BadCaptureKeyError):
        house.fleet.sampling.set(bad, "test")


def test_a_new_key_reaches_every_document_and_a_removed_one_leaves_them(house: House) -> None:
    device = house.device().id
    before = desired_of(house, device)
    assert before.capture is msgspec.UNSET
    house.fleet.sampling.set(KEY, "test")
    assert house.fleet.desired.resign_due(house.clock.now()) == 1
    after = desired_of(house, device)
    assert (after.capture.key, after.gen > before.gen) == (KEY, True)
    house.fleet.sampling.remove()
    house.fleet.sampling.remove()
    assert house.fleet.desired.resign_due(house.clock.now()) == 1
    assert desired_of(house, device).capture is msgspec.UNSET


def test_roles_and_problems_of_the_routes(house: House) -> None:
    operators = Operators(house)
    device = house.device().id
    admin, operator, viewer = (operators.as_role(role) for role in (Role.ADMIN, Role.OPERATOR, Role.VIEWER))
    assert viewer.get("/capture-key").status_code == 404
    assert operator.put("/capture-key", json={"public_key": KEY}).status_code == 403
    assert operator.post(f"/devices/{device}/captures:fetch", json={}).status_code == 409
    assert admin.put("/capture-key", json={"public_key": "00" * 32}).json()["code"] == "fleet.bad_capture_key"
    assert admin.put("/capture-key", json={"public_key": KEY}).json()["public_key"] == KEY
    assert viewer.post(f"/devices/{device}/captures:fetch", json={}).status_code == 403
    assert viewer.get(f"/devices/{device}/captures").status_code == 403
    assert operator.post(f"/devices/{device}/captures:fetch", json={"reason": "gossip"}).status_code == 422
    assert operator.post("/devices/d-none/captures:fetch", json={}).status_code == 404
    fetch = operator.post(f"/devices/{device}/captures:fetch", json={"limit": 2}).json()
    assert fetch["state"] == "asked"
    house.telemetry.ingest_samples([sample(device, fetch["id"], "r1")])
    assert operator.get(f"/devices/{device}/captures:fetch/{fetch['id']}").json()["state"] == "done"
    listed = operator.get(f"/devices/{device}/captures", params={"fetch": fetch["id"]}).json()
    assert [item["id"] for item in listed["items"]] == ["r1"]
    assert "sealed" not in listed["items"][0]
    assert operator.get(f"/devices/{device}/captures/r1").json()["sealed"] == "c2VhbGVk"
    assert operator.get(f"/devices/{device}/captures/none").status_code == 404
    audited = [(row["action"], row["object"]) for row in admin.get("/audit").json()["items"]]
    assert ("get_capture", f"/api/v1/devices/{device}/captures/r1") in audited
    assert admin.delete("/capture-key").status_code == 204
