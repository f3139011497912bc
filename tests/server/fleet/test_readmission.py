"""Devices whose certificate ended: who comes back by rule, who waits for a person, and what is kept from them meanwhile."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.events.model import EventFilter
from edgefleet_server.fleet.readmission.model import ReadmissionCase, ReadmissionState, ReadmissionTerms
from edgefleet_server.fleet.readmission.rules import APPROVAL_LIFE, judge
from edgefleet_server.signing.service import DEVICE_CERT_LIFE
from tests.server.fleet.apps import device_client
from tests.server.fleet.house import START, House, KeyedDevice, TurnedClock
from tests.server.fleet.test_device_app import bearer, enroll

TERMS = ReadmissionTerms(timedelta(days=30), 2)
CASE = ReadmissionCase(ended_at=START, is_suspect=False, by_rule=0)
P, A, R, IN = (
    ReadmissionState.PENDING,
    ReadmissionState.APPROVED,
    ReadmissionState.REFUSED,
    ReadmissionState.READMITTED,
)


# ---- the rule


@pytest.mark.parametrize(
    ("days", "case", "state", "why"),
    [
        (1, CASE, IN, ""),
        (30, CASE, IN, ""),
        (31, CASE, P, "its certificate ended 31 days ago; the rule lets in up to 30 days"),
        (1, replace(CASE, by_rule=2), P, "2 devices came back by rule within 24 hours, which is the limit"),
        (1, replace(CASE, is_suspect=True), P, "it is suspect"),
        (400, replace(CASE, state=P), P, "its certificate ended 400 days ago; the rule lets in up to 30 days"),
        (1, replace(CASE, state=R, decided_by="ann", reason="stolen"), R, "stolen"),
        (400, replace(CASE, state=A, decided_at=START + timedelta(days=395), is_suspect=True, by_rule=9), IN, ""),
        (400, replace(CASE, state=A, decided_at=START + timedelta(days=392)), P, "its certificate ended 400 days ago"),
    ],
)  # fmt: skip
def test_the_rule_and_the_word_of_a_person(days: int, case: ReadmissionCase, state: ReadmissionState, why: str) -> None:
    said = judge(TERMS, case, START + timedelta(days=days))
    assert (said.state, said.why.startswith(why)) == (state, True), said


@given(
    days=st.integers(0, 4000),
    suspect=st.booleans(),
    by_rule=st.integers(0, 5),
    state=st.sampled_from([None, *ReadmissionState]),
    decided_days=st.none() | st.integers(0, 4000),
)
def test_nothing_gets_around_a_refusal_the_quota_or_a_suspicion(
    days: int, suspect: bool, by_rule: int, state: ReadmissionState | None, decided_days: int | None
) -> None:
    now = START + timedelta(days=days)
    decided = None if decided_days is None else START + timedelta(days=decided_days)
    said = judge(TERMS, ReadmissionCase(START, suspect, by_rule, state, decided, "ann"), now)
    by_person = state is A and decided is not None and now - decided <= APPROVAL_LIFE
    by_rule_too = state is not R and not suspect and days <= 30 and by_rule < 2
    assert (said.state is IN) == (by_person or by_rule_too)
    assert (said.state is R) == (state is R)


# ---- the whole way


@pytest.fixture
def client(house: House) -> Iterator[TestClient]:
    with device_client(house) as made:
        yield made


def away(house: House, **past_the_end: float) -> None:
    """Let the certificates of all devices end, and more time pass."""
    house.clock.turn(seconds=DEVICE_CERT_LIFE.total_seconds())
    house.clock.turn(**past_the_end)


def renewal(client: TestClient, house: House, device: KeyedDevice) -> tuple[int, str]:
    answer = client.post("renew", json={"csr": KeyedDevice().csr().decode()}, headers=bearer(house, device))
    return answer.status_code, answer.json().get("code", "")


def waiting(house: House, state: ReadmissionState = P) -> list[str]:
    return [one.device for one in house.fleet.readmissions.page(PageRequest(), state)[0]]


def kinds(house: House, device: DeviceId) -> list[str]:
    return [one.kind for one in house.fleet.feed.after(0, EventFilter(device=device), 500)[0]]


def test_a_device_whose_certificate_ended_gets_nothing_but_a_new_one(client: TestClient, house: House) -> None:
    device = enroll(client, house)
    away(house, days=29)
    for path in ("desired", "tuf/timestamp.json", "blobs/" + "a" * 64):
        answer = client.get(path, headers=bearer(house, device))
        assert (answer.status_code, answer.json()["code"]) == (401, "device.certificate_ended")
    assert renewal(client, house, device) == (200, "")
    assert client.get("desired", headers=bearer(house, device)).status_code == 200
    assert waiting(house, IN) == [device.id]
    assert kinds(house, device.id)[-2:] == ["readmitted", "identity_renewed"]


def test_a_device_that_was_away_too_long_waits_for_a_person(client: TestClient, house: House) -> None:
    device = enroll(client, house)
    away(house, days=31)
    for _ in range(3):
        assert renewal(client, house, device) == (403, "device.readmission_pending")
        house.clock.turn(hours=6)
    assert waiting(house) == [device.id]
    assert kinds(house, device.id).count("readmission_pending") == 1
    done = house.fleet.readmissions.approve([device.id, "d-nobody"], "ann")
    assert ([one.device for one in done.done], [one.device for one in done.skipped]) == ([device.id], ["d-nobody"])
    assert client.get("desired", headers=bearer(house, device)).status_code == 401
    assert renewal(client, house, device) == (200, "")
    assert [one.device for one in house.fleet.readmissions.refuse([device.id], "ann").skipped] == [device.id]


def test_a_refused_device_stays_out_until_a_person_lets_it_in(client: TestClient, house: House) -> None:
    device = enroll(client, house)
    away(house, days=31)
    renewal(client, house, device)
    house.fleet.readmissions.refuse([device.id], "ann", "it was stolen")
    assert renewal(client, house, device) == (403, "device.readmission_refused")
    house.fleet.readmissions.prune(house.clock.now() + timedelta(days=4000))
    assert renewal(client, house, device) == (403, "device.readmission_refused")
    house.fleet.readmissions.approve([device.id], "bob")
    assert renewal(client, house, device) == (200, "")
    away(house, days=31)  # the yes was for the certificate that had ended then
    assert renewal(client, house, device) == (403, "device.readmission_pending")


def test_no_more_come_back_within_a_day_than_the_fleet_allows(database_url: str, tmp_path: Path) -> None:
    house = House(database_url, tmp_path / "a", TurnedClock(), readmit_per_day=2)
    with device_client(house) as client:
        devices = [enroll(client, house) for _ in range(4)]
        away(house, days=1)
        assert [renewal(client, house, one)[0] for one in devices] == [200, 200, 403, 403]
        house.fleet.readmissions.approve([devices[3].id], "ann")  # a person is not bound by it
        assert [renewal(client, house, one)[0] for one in devices[2:]] == [403, 200]
        house.clock.turn(days=1, minutes=1)
        assert renewal(client, house, devices[2]) == (200, "")
    house.db.dispose()


def test_a_device_that_comes_back_again_counts_again(client: TestClient, house: House) -> None:
    device = enroll(client, house)
    for times in (1, 2):
        away(house, days=1)
        assert renewal(client, house, device) == (200, "")
        (found,), _ = house.fleet.readmissions.page(PageRequest(), IN)
        assert found.readmitted_at == house.clock.now()
        assert kinds(house, device.id).count("readmitted") == times


def test_a_bad_request_for_a_certificate_uses_up_nothing(client: TestClient, house: House) -> None:
    device = enroll(client, house)
    away(house, days=1)
    answer = client.post("renew", json={"csr": "no csr"}, headers=bearer(house, device))
    assert answer.status_code == 422
    assert waiting(house, IN) == []
