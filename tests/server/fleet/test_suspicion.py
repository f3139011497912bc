"""Suspect devices: marked once, cleared by a person only, and still suspect when they enrol again."""

import datetime as dt
from typing import Any

import pytest

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.access.model import Role
from edgefleet_server.fleet import store
from edgefleet_server.fleet.enrolment.approval import Choice
from edgefleet_server.fleet.enrolment.model import DeviceIdentity
from edgefleet_server.fleet.enrolment.pending_devices import ApprovalPendingError
from edgefleet_server.fleet.errors import BadLabelError, DeviceUnknownError
from edgefleet_server.fleet.tables import FleetDevice
from tests.server.fleet.apps import Operators
from tests.server.fleet.house import FACTS, START, House, KeyedDevice

API = "http://server.test/api/v1"
LIED = "it reported a golden failure that the server refuted"


def stored(house: House, device: str) -> tuple[dt.datetime | None, str]:
    with house.db.read() as session:
        row = session.get(FleetDevice, device)
        assert row is not None
        return row.suspect_since, row.suspect_reason


def kinds(house: House, device: str) -> list[str]:
    return [one.kind for one in house.fleet.feed.page(device_id=device, before=None, since=None, limit=10)[0]]


def enrolled(house: House, device: KeyedDevice, token: str, facts: dict[str, Any]) -> str:
    """Enrol a key with a token; return the device's id."""
    return str(house.fleet.enrolment.enroll(token, device.csr(), facts).device_id)


def named(hostname: str, board: str = "Raspberry Pi 5") -> dict[str, Any]:
    return {**FACTS, "hostname": hostname, "board": board}


def test_the_first_reason_stays_until_a_person_clears_it(any_house: House) -> None:
    house, suspicion = any_house, any_house.fleet.suspicion
    device, other = house.device(), house.device()
    assert suspicion.mark(device.id, LIED)
    house.clock.turn(hours=1)
    assert not suspicion.mark(device.id, "once more")
    assert stored(house, device.id) == (START, LIED)
    assert (suspicion.suspects(), stored(house, other.id)) == (frozenset({device.id}), (None, ""))
    assert suspicion.clear(device.id, "ann", "new memory")
    assert not suspicion.clear(device.id, "ann")
    assert (suspicion.suspects(), stored(house, device.id)) == (frozenset(), (None, ""))
    assert kinds(house, device.id) == ["suspicion_cleared", "suspect", "enrolled"]
    cleared = house.fleet.feed.page(device_id=device.id, before=None, since=None, limit=1)[0][0]
    assert cleared.detail == {"by": "ann", "reason": "new memory", "was": LIED, "since": "2026-11-25T12:00:00+00:00"}
    assert suspicion.mark(device.id, "again"), "a person's word is about the past"
    with pytest.raises(DeviceUnknownError):
        suspicion.clear("d-none", "ann")


def test_what_was_rolled_back_made_nobody_suspect(house: House) -> None:
    device = house.device()
    with house.db.session() as session:
        assert store.mark_suspect(session, device.id, LIED, house.clock.now())
        assert store.suspects(session) == {device.id}
        session.rollback()
    assert house.fleet.suspicion.suspects() == frozenset()


def test_a_revoked_device_is_not_among_the_suspects(house: House) -> None:
    device = house.device()
    house.fleet.suspicion.mark(device.id, LIED)
    house.fleet.revocation.revoke(device.id)
    assert house.fleet.suspicion.suspects() == frozenset()
    assert stored(house, device.id) == (START, LIED)


@pytest.mark.parametrize("way", ["key", "renewed key", "claim token", "hostname and board"])
def test_a_suspect_device_that_enrols_again_is_suspect(any_house: House, way: str) -> None:
    house = any_house
    claim, fresh = house.fleet.enrolment.create_claims(uses=3)[0], house.fleet.enrolment.create_claims(uses=3)[0]
    first, other = KeyedDevice(), KeyedDevice()
    liar = enrolled(house, first, claim.token, named("cam-1"))
    if way == "renewed key":
        first.key = other.key
        house.fleet.enrolment.renew(_identity(house, liar), first.csr())
    house.fleet.suspicion.mark(liar, LIED)
    house.fleet.revocation.revoke(liar)
    again = {
        "key": lambda: enrolled(house, first, fresh.token, named("cam-2")),
        "renewed key": lambda: enrolled(house, first, fresh.token, named("cam-2")),
        "claim token": lambda: enrolled(house, other, claim.token, named("cam-2")),
        "hostname and board": lambda: enrolled(house, other, fresh.token, named("cam-1")),
    }[way]()
    since, reason = stored(house, again)
    assert (since, reason) == (START, f"same {way.removeprefix('renewed ')} as the suspect device {liar}: {LIED}")
    assert kinds(house, again) == ["suspect", "enrolled"]


def test_a_third_identity_names_the_first_reason(house: House) -> None:
    device = KeyedDevice()
    reasons = []
    for number in range(3):
        one = enrolled(house, device, house.fleet.enrolment.create_claims()[0].token, named(f"cam-{number}"))
        house.fleet.suspicion.mark(one, LIED)
        reasons.append(stored(house, one)[1])
    assert reasons[2].count("suspect device") == 1
    assert reasons[2].endswith(LIED)


def test_a_device_that_was_let_in_by_a_person_is_suspect_too(house: House) -> None:
    claim = house.fleet.enrolment.create_claims(uses=2, approval=True)[0]
    liar, again = KeyedDevice(), KeyedDevice()
    for device in (liar, again):
        with pytest.raises(ApprovalPendingError):
            house.fleet.enrolment.enroll(claim.token, device.csr(), FACTS)
    ids = {}
    for device in (liar, again):
        [decided] = house.fleet.approvals.approve(Choice(ids=[device.fingerprint()]), "ann").done
        ids[device.fingerprint()] = decided.device
        house.fleet.suspicion.mark(ids[liar.fingerprint()], LIED)
    assert stored(house, ids[again.fingerprint()])[1].startswith("same claim token")


def test_a_lost_answer_asked_for_again_changes_nothing(house: House) -> None:
    claim, device = house.fleet.enrolment.create_claims()[0], KeyedDevice()
    first = enrolled(house, device, claim.token, FACTS)
    house.fleet.suspicion.mark(first, LIED)
    assert enrolled(house, device, claim.token, FACTS) == first
    assert house.fleet.suspicion.suspects() == {first}


def test_others_are_not_taken_for_a_suspect(house: House) -> None:
    """A hostname that trusted devices share names no machine; no hostname at all names none either."""
    liar = house.device(named("raspberrypi"))
    house.device(named("raspberrypi"))
    nameless = house.device(named(""))
    house.fleet.suspicion.mark(liar.id, LIED)
    house.fleet.suspicion.mark(nameless.id, LIED)
    before = house.fleet.suspicion.suspects()
    house.device(named("raspberrypi"))
    house.device(named(""))
    house.device(named("raspberrypi", "another board"))
    assert house.fleet.suspicion.suspects() == before


def test_who_is_cleared_before_enrols_again_trusted(house: House) -> None:
    liar = house.device(named("cam-1"))
    house.fleet.suspicion.mark(liar.id, LIED)
    house.fleet.revocation.revoke(liar.id)
    house.fleet.suspicion.clear(liar.id, "ann")
    house.device(named("cam-1"))
    assert house.fleet.suspicion.suspects() == frozenset()


def test_an_operator_clears_over_http_and_a_viewer_does_not(house: House) -> None:
    device, other = house.device(named("cam-1")), house.device(named("cam-2"))
    house.fleet.suspicion.mark(device.id, LIED)
    operators = Operators(house)
    client, path = operators.as_role(Role.OPERATOR), f"{API}/devices/{device.id}"
    shown = client.get(path).json()
    assert (shown["suspect_since"], shown["suspect_reason"]) == ("2026-11-25T12:00:00Z", LIED)
    for selector, expected in (("suspect", [device.id]), ("!suspect", [other.id])):
        listed = client.get(f"{API}/devices", params={"selector": selector}).json()["items"]
        assert [one["id"] for one in listed] == expected
    refused = operators.as_role(Role.VIEWER).post(f"{path}:clear-suspicion", json={})
    assert refused.status_code == 403
    dry = client.post(f"{path}:clear-suspicion", json={}, params={"dry_run": True})
    assert dry.json()["suspect_since"] is None
    assert house.fleet.suspicion.suspects() == {device.id}
    done = client.post(f"{path}:clear-suspicion", json={"reason": "new memory"})
    assert (done.status_code, done.json()["suspect_since"], done.json()["suspect_reason"]) == (200, None, "")
    cleared = house.fleet.feed.page(device_id=device.id, before=None, since=None, limit=1)[0][0]
    assert (cleared.kind, cleared.detail["reason"], bool(cleared.detail["by"])) == (
        "suspicion_cleared",
        "new memory",
        True,
    )
    assert client.post(f"{API}/devices/d-none:clear-suspicion", json={}).json()["code"] == "fleet.device_unknown"


def test_no_label_may_be_called_so(house: House) -> None:
    with pytest.raises(BadLabelError):
        house.device(labels={"suspect": "no"})


def _identity(house: House, device: str) -> DeviceIdentity:
    with house.db.read() as session:
        row = session.get(FleetDevice, device)
        assert row is not None
        return DeviceIdentity(DeviceId(row.id), ProfileName(row.profile), row.public_key)
