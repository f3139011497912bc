"""Enrolment with approval: who waits gets nothing, operators decide in bulk, and a leaked token stays cheap."""

import datetime as dt
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from edgefleet_protocol.claim import fingerprint
from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.access.model import Role
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.fleet.enrolment.approval import KEPT, Choice
from edgefleet_server.fleet.enrolment.model import NewClaim
from edgefleet_server.fleet.enrolment.pending_devices import ApprovalPendingError, PendingState, Waiting
from edgefleet_server.fleet.errors import (
    ApprovalExpiredError,
    BadChoiceError,
    BadClaimError,
    BadSelectorError,
    ClaimExpiredError,
    ClaimUnknownError,
    ClaimUsedUpError,
    DeviceRevokedError,
    KeyRejectedError,
    NoProfileError,
    TooManyPendingError,
)
from tests.server.fleet.apps import Operators, device_client
from tests.server.fleet.house import FACTS, PROFILE, House, KeyedDevice, TurnedClock, claim_body

ALL = Choice(selector="")


def claim(house: House, **order: Any) -> NewClaim:
    """Return a claim token whose devices wait."""
    made: NewClaim = house.fleet.enrolment.create_claims(**{"approval": True, "uses": 100, **order})[0]
    return made


def asks(house: House, token: str, device: KeyedDevice, *, is_waiting: bool = False, **facts: Any) -> Waiting:
    """Let a device ask, and return what it is told while it waits."""
    with pytest.raises(ApprovalPendingError) as caught:
        house.fleet.enrolment.enroll(token, device.csr(), {**FACTS, **facts}, is_waiting=is_waiting)
    return caught.value.waiting


def listed(house: House, state: PendingState = PendingState.PENDING, **more: Any) -> list[str]:
    """Return the fingerprints in a state."""
    return [one.id for one in house.fleet.approvals.page(PageRequest(500), state=state, **more)[0]]


def kinds(house: House) -> list[str]:
    """Return the kinds of all events, oldest first."""
    return [one.kind for one in house.fleet.feed.page(before=None, since=None, limit=500)[0]][::-1]


def test_a_key_waits_and_is_let_in(any_house: House) -> None:
    house, device = any_house, KeyedDevice()
    made = claim(house, labels={"site": "north"}, uses=1)
    told = asks(house, made.token, device, hostname="cam-7")
    assert told.fingerprint == device.fingerprint()
    assert house.fleet.devices.select("") == []
    [view] = house.fleet.approvals.page(PageRequest(10), state=PendingState.PENDING)[0]
    assert (view.id, view.profile, view.labels, view.claim) == (told.fingerprint, PROFILE, {"site": "north"}, made.id)
    assert (view.facts["hostname"], view.device) == ("cam-7", "")
    done = house.fleet.approvals.approve(Choice(ids=[told.fingerprint]), "ann")
    assert [one.state for one in done.done] == [PendingState.APPROVED]
    device.enrolment = house.fleet.enrolment.enroll(made.token, device.csr(), FACTS, is_waiting=True)
    assert device.id == done.done[0].device
    assert house.fleet.authenticator.authenticate(device.token(house.clock.now())).id == device.id
    assert house.fleet.documents.of_device(device.id) is not None
    assert house.fleet.reader.device(device.id).labels == {"site": "north"}
    assert kinds(house) == ["pending", "enrolled", "approved"]
    waited = house.fleet.feed.page(before=None, since=None, limit=10, kinds=["pending"])[0][0]
    assert (waited.type, waited.device) == ("edgefleet.device.pending", "")
    assert waited.detail["fingerprint"] == told.fingerprint
    again = house.fleet.approvals.approve(Choice(ids=[told.fingerprint]), "bob")
    assert (again.done, again.skipped) == (done.done, [])
    assert len(house.fleet.devices.select("")) == 1
    [view] = house.fleet.approvals.page(PageRequest(10), state=PendingState.APPROVED)[0]
    assert (view.decided_by, view.device) == ("ann", device.id)


def test_who_waits_gets_nothing(house: House) -> None:
    house.release("digits@1.0.0", bundles={PROFILE: b"bundle"})
    device, made = KeyedDevice(), claim(house)
    answer = device_client(house).post("enroll", json=body(made.token, device))
    assert answer.status_code == 202
    assert answer.headers["retry-after"] == "2"
    assert set(answer.json()) == {"state", "fingerprint", "expires_at", "retry_s"}
    assert house.fleet.devices.select("") == []
    assert house.fleet.documents.all_desired() == []
    device.enrolment = type("Guess", (), {"device_id": "d-guess", "server_id": house.fleet.addresses.server_id})
    bearer = {"authorization": f"Bearer {device.token(house.clock.now())}"}
    for path in ("desired", "tuf/timestamp.json", f"blobs/{sha256_hex(b'bundle')}"):
        assert device_client(house).get(path, headers=bearer).status_code == 401


def body(token: str, device: KeyedDevice, **more: Any) -> dict[str, Any]:
    """Return what a device sends."""
    return {"token": token, "csr": device.csr().decode(), "facts": FACTS, **more}


def test_over_http_from_202_to_a_certificate(house: House) -> None:
    client, device, made = device_client(house), KeyedDevice(), claim(house)
    first = client.post("enroll", json=body(made.token, device))
    again = client.post("enroll", json=body(made.token, device, waiting=True))
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    operator = Operators(house).as_role(Role.OPERATOR)
    done = operator.post("enrollments/pending:approve", json={"ids": [first.json()["fingerprint"]]})
    assert (done.status_code, done.json()["matched"]) == (200, 1)
    answer = client.post("enroll", json=body(made.token, device, waiting=True, nonce="n-1"))
    assert (answer.status_code, answer.json()["nonce"]) == (200, "n-1")
    assert answer.json()["device_id"] == done.json()["done"][0]["device"]


def test_the_longer_it_waits_the_seldomer_it_asks(house: House) -> None:
    device, made = KeyedDevice(), claim(house)
    seen = [asks(house, made.token, device).retry_s]
    for seconds in (30, 60, 3_600):
        house.clock.turn(seconds=seconds)
        seen.append(asks(house, made.token, device, is_waiting=True).retry_s)
    assert seen == [2, 3, 9, 60]
    [view] = house.fleet.approvals.page(PageRequest(10), state=PendingState.PENDING)[0]
    assert view.heard_at == house.clock.now()
    assert kinds(house) == ["pending"]


def test_a_poll_does_not_wait_for_whoever_writes(house: House) -> None:
    device, made = KeyedDevice(), claim(house)
    asks(house, made.token, device)
    with house.db.session(), ThreadPoolExecutor(1) as pool:
        told = pool.submit(lambda: asks(house, made.token, device, is_waiting=True)).result(timeout=3)
    assert told.fingerprint == device.fingerprint()


def test_fifty_are_let_in_at_once_by_selector(any_house: House) -> None:
    house = any_house
    here, there = claim(house, labels={"site": "north"}), claim(house, labels={"site": "south"})
    north = {asks(house, here.token, KeyedDevice()).fingerprint for _ in range(50)}
    south = asks(house, there.token, KeyedDevice()).fingerprint
    assert set(listed(house, selector="site=north")) == north
    done = house.fleet.approvals.approve(Choice(selector="site=north"), "ann")
    assert (done.matched, {one.id for one in done.done}, done.skipped) == (50, north, [])
    assert len({one.device for one in done.done}) == 50
    assert listed(house) == [south]
    assert len(house.fleet.devices.select("site=north")) == 50


def test_two_operators_at_once_make_each_device_once(any_house: House) -> None:
    house, made = any_house, claim(any_house)
    for _ in range(12):
        asks(house, made.token, KeyedDevice())
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda n: house.fleet.approvals.approve(ALL, f"op-{n}"), range(4)))
    assert len(house.fleet.devices.select("")) == 12
    assert house.fleet.enroller.claims(None, 10)[0][0].uses_left == 88
    by_key: dict[str, set[str]] = {}
    for one in (one for decisions in told for one in decisions.done):
        by_key.setdefault(one.id, set()).add(one.device)
    assert all(len(devices) == 1 for devices in by_key.values())


def test_uses_count_when_devices_are_let_in(house: House) -> None:
    made = claim(house, uses=1)
    first, second = KeyedDevice(), KeyedDevice()
    for one in (first, second):
        asks(house, made.token, one)
    assert house.fleet.enroller.claims(None, 10)[0][0].uses_left == 1
    done = house.fleet.approvals.approve(ALL, "ann")
    assert (len(done.done), len(done.skipped)) == (1, 1)
    assert "used 1 of 1 times" in done.skipped[0].reason
    assert listed(house) == [done.skipped[0].id]
    with pytest.raises(ClaimUsedUpError):
        house.fleet.enrolment.enroll(made.token, KeyedDevice().csr(), FACTS)


def test_a_rejection_is_final_for_the_key_whatever_it_shows(house: House) -> None:
    device, made = KeyedDevice(), claim(house)
    told = asks(house, made.token, device)
    done = house.fleet.approvals.reject(Choice(ids=[told.fingerprint.upper().replace("-", "")]), "ann", "not ours")
    assert [one.id for one in done.done] == [told.fingerprint]
    for token in (made.token, claim(house).token, house.fleet.enrolment.create_claims()[0].token):
        with pytest.raises(KeyRejectedError, match="not ours"):
            house.fleet.enrolment.enroll(token, device.csr(), FACTS)
    again = house.fleet.approvals.approve(Choice(ids=[told.fingerprint]), "bob")
    assert "final" in again.skipped[0].reason
    assert house.fleet.approvals.reject(Choice(ids=[told.fingerprint]), "bob").skipped == []
    house.clock.turn(days=400)
    house.fleet.approvals.prune(house.clock.now())
    assert listed(house, PendingState.REJECTED) == [told.fingerprint]
    assert kinds(house) == ["pending", "rejected"]
    refused = house.fleet.feed.page(before=None, since=None, limit=10, kinds=["rejected"])[0][0]
    assert (refused.type, refused.detail["by"]) == ("edgefleet.device.rejected", "ann")
    assert house.fleet.devices.select("") == []


def test_who_was_let_in_cannot_be_rejected_but_revoked(house: House) -> None:
    device, made = KeyedDevice(), claim(house)
    told = asks(house, made.token, device)
    [let_in] = house.fleet.approvals.approve(ALL, "ann").done
    [skipped] = house.fleet.approvals.reject(Choice(ids=[told.fingerprint]), "ann").skipped
    assert let_in.device in skipped.next


def test_who_is_not_decided_about_in_time_is_told_and_may_ask_anew(house: House) -> None:
    device, made = KeyedDevice(), claim(house, ttl=dt.timedelta(days=30))
    told = asks(house, made.token, device)
    house.clock.turn(hours=73)
    assert listed(house) == []
    assert listed(house, PendingState.EXPIRED) == [told.fingerprint]
    [skipped] = house.fleet.approvals.approve(Choice(ids=[told.fingerprint]), "ann").skipped
    assert "has expired" in skipped.reason
    with pytest.raises(ApprovalExpiredError):
        house.fleet.enrolment.enroll(made.token, device.csr(), FACTS, is_waiting=True)
    assert asks(house, made.token, device).expires_at == house.clock.now() + dt.timedelta(hours=72)
    house.clock.turn(days=3, seconds=(KEPT + dt.timedelta(days=1)).total_seconds())
    house.fleet.approvals.prune(house.clock.now())
    assert listed(house, PendingState.EXPIRED) == []


def test_a_token_that_expires_meanwhile_does_not_end_the_wait(house: House) -> None:
    device, made = KeyedDevice(), claim(house, ttl=dt.timedelta(hours=1))
    asks(house, made.token, device)
    house.clock.turn(hours=2)
    with pytest.raises(ClaimExpiredError):
        house.fleet.enrolment.enroll(made.token, KeyedDevice().csr(), FACTS)
    house.fleet.approvals.approve(ALL, "ann")
    assert house.fleet.enrolment.enroll(made.token, device.csr(), FACTS, is_waiting=True)


@pytest.fixture
def narrow(database_url: str, tmp_path: Path) -> Iterator[House]:
    """A server on each kind of database where three keys may wait with one claim."""
    made = House(database_url, tmp_path / "n", TurnedClock(), enrol_pending_max=3)
    yield made
    made.db.dispose()


def test_a_leaked_token_fills_its_own_room_and_no_other(narrow: House) -> None:
    house, leaked, other = narrow, claim(narrow), claim(narrow)

    def flood(_: int) -> bool:
        try:
            house.fleet.enrolment.enroll(leaked.token, KeyedDevice().csr(), FACTS)
        except ApprovalPendingError:
            return True
        except TooManyPendingError:
            return False
        raise AssertionError("nobody is let in")

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(flood, range(12))) == 3
    assert asks(house, other.token, KeyedDevice())
    views = {one.id: one for one in house.fleet.enroller.claims(None, 10)[0]}
    assert (views[leaked.id].pending, views[leaked.id].uses_left, views[other.id].pending) == (3, 100, 1)
    house.fleet.enroller.revoke_claim(leaked.id)
    house.fleet.enroller.revoke_claim(leaked.id)
    assert len(listed(house)) == 1
    with pytest.raises(ClaimExpiredError):
        house.fleet.enrolment.enroll(leaked.token, KeyedDevice().csr(), FACTS)
    with pytest.raises(ClaimUnknownError):
        house.fleet.enroller.revoke_claim("none")


def test_the_same_key_has_one_row_however_often_it_asks_at_once(any_house: House) -> None:
    house, device, made = any_house, KeyedDevice(), claim(any_house)
    with ThreadPoolExecutor(6) as pool:
        told = set(pool.map(lambda _: asks(house, made.token, device).fingerprint, range(12)))
    assert told == {device.fingerprint()}
    assert kinds(house) == ["pending"]


def test_a_key_that_waits_may_come_in_with_a_token_that_needs_no_approval(house: House) -> None:
    device, made = KeyedDevice(), claim(house)
    told = asks(house, made.token, device)
    enrolled = house.fleet.enrolment.enroll(house.fleet.enrolment.create_claims()[0].token, device.csr(), FACTS)
    assert listed(house) == []
    [known] = house.fleet.approvals.approve(Choice(ids=[told.fingerprint]), "ann").done
    assert known.device == enrolled.device_id
    assert (
        house.fleet.enrolment.enroll(made.token, device.csr(), FACTS, is_waiting=True).device_id == enrolled.device_id
    )
    assert len(house.fleet.devices.select("")) == 1


def test_a_key_with_two_tokens_waits_once_and_gets_one_device(house: House) -> None:
    device, tokens = KeyedDevice(), [claim(house).token, claim(house).token]
    for _ in range(4):
        assert {asks(house, token, device).fingerprint for token in tokens} == {device.fingerprint()}
    assert kinds(house) == ["pending"]
    [done] = house.fleet.approvals.approve(ALL, "ann").done
    assert {
        house.fleet.enrolment.enroll(token, device.csr(), FACTS, is_waiting=True).device_id for token in tokens
    } == {done.device}
    assert len(house.fleet.devices.select("")) == 1
    house.fleet.revocation.revoke(done.device)
    for token in tokens:
        with pytest.raises(DeviceRevokedError):
            house.fleet.enrolment.enroll(token, device.csr(), FACTS)


def test_a_key_whose_token_is_used_up_moves_to_a_new_one(house: House) -> None:
    first, second, old = KeyedDevice(), KeyedDevice(), claim(house, uses=1)
    for one in (first, second):
        asks(house, old.token, one)
    house.fleet.approvals.approve(Choice(ids=[first.fingerprint()]), "ann")
    new = claim(house)
    asks(house, new.token, second)
    assert listed(house, claim=new.id) == [second.fingerprint()]
    assert len(house.fleet.approvals.approve(ALL, "ann").done) == 1
    assert house.fleet.enrolment.enroll(new.token, second.csr(), FACTS)


def test_what_cannot_be_a_device_never_waits(house: House) -> None:
    made = claim(house)
    with pytest.raises(NoProfileError):
        house.fleet.enrolment.enroll(made.token, KeyedDevice().csr(), {**FACTS, "arch": "s390x"})
    with pytest.raises(BadClaimError):
        house.fleet.enrolment.enroll("efc1.e30", KeyedDevice().csr(), FACTS)
    assert listed(house) == []


def test_the_setting_is_the_default_and_the_token_wins(tmp_path: Path) -> None:
    house = House(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a", TurnedClock(), enrol_approval=True)
    assert [one.approval for one in house.fleet.enrolment.create_claims()] == [True]
    made = house.fleet.enrolment.create_claims(approval=False)[0]
    assert house.fleet.enrolment.enroll(made.token, KeyedDevice().csr(), FACTS)
    assert "approval" not in claim_body(made.token)
    house.db.dispose()


# ---- operators, over HTTP


@pytest.fixture
def operator(house: House) -> TestClient:
    """An operator's client."""
    return Operators(house).as_role(Role.OPERATOR)


def test_the_list_comes_in_pages_who_asked_first_first(house: House, operator: TestClient) -> None:
    made = operator.post("enrollments", json={"approval": True, "uses": 9, "labels": {"site": "a"}}).json()["tokens"][0]
    assert made["approval"]
    order = []
    for _ in range(5):
        order.append(asks(house, made["token"], KeyedDevice()).fingerprint)
        house.clock.turn(seconds=1)
    for params in ({}, {"selector": "site=a"}, {"claim": made["id"]}):
        seen, cursor = [], None
        while True:
            page = operator.get("enrollments/pending", params={"limit": 2, "cursor": cursor, **params}).json()
            seen += [one["id"] for one in page["items"]]
            assert page["total"] == 5
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == order
    assert operator.get("enrollments/pending", params={"claim": "none"}).json()["items"] == []
    assert operator.get("enrollments/pending", params={"selector": "site=b"}).json()["total"] == 0
    [shown] = operator.get("enrollments").json()["items"]
    assert (shown["approval"], shown["pending"]) == (True, 5)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({}, 422, "enroll.bad_choice"),
        ({"ids": ["x"], "selector": ""}, 422, "enroll.bad_choice"),
        ({"selector": "a=="}, 200, ""),
        ({"selector": "=("}, 422, "fleet.bad_selector"),
        ({"selector": "group=none"}, 422, "fleet.bad_selector"),
        ({"ids": "all"}, 422, "request.invalid"),
        ({"surprise": 1}, 422, "request.invalid"),
    ],
)
def test_a_choice_that_says_nothing_is_refused(
    operator: TestClient, sent: dict[str, Any], status: int, code: str
) -> None:
    for verb in ("approve", "reject"):
        answer = operator.post(f"enrollments/pending:{verb}", json=sent)
        assert (answer.status_code, answer.json().get("code", "")) == (status, code)


def test_unknown_fingerprints_are_told_and_the_others_decided(house: House, operator: TestClient) -> None:
    told = asks(house, claim(house).token, KeyedDevice())
    answer = operator.post(
        "enrollments/pending:approve", json={"ids": ["ab", told.fingerprint, "\N{SNOWMAN}" * 90]}
    ).json()
    assert [one["id"] for one in answer["done"]] == [told.fingerprint]
    assert len(answer["skipped"]) == 2
    assert all(one["next"] for one in answer["skipped"])


def test_a_cursor_of_another_list_is_refused(operator: TestClient) -> None:
    answer = operator.get("enrollments/pending", params={"cursor": "ZC0x"})
    assert (answer.status_code, answer.json()["code"]) == (422, "request.bad_cursor")


def test_viewers_look_and_decide_nothing(house: House) -> None:
    viewer = Operators(house).as_role(Role.VIEWER)
    assert viewer.get("enrollments/pending").status_code == 200
    for path in ("enrollments/pending:approve", "enrollments/pending:reject"):
        assert viewer.post(path, json={"selector": ""}).status_code == 403
    assert viewer.delete("enrollments/x").status_code == 403


def test_a_token_is_revoked_over_http(house: House, operator: TestClient) -> None:
    made = claim(house)
    asks(house, made.token, KeyedDevice())
    assert operator.delete(f"enrollments/{made.id}").status_code == 204
    assert operator.get("enrollments/pending").json()["items"] == []
    gone = operator.delete("enrollments/none")
    assert (gone.status_code, gone.json()["code"]) == (404, "enroll.claim_unknown")


def test_refusals_of_the_device_listener_have_their_own_codes(house: House) -> None:
    client, device, made = device_client(house), KeyedDevice(), claim(house, ttl=dt.timedelta(days=9))

    def refused(one: KeyedDevice, **more: Any) -> tuple[int, str]:
        answer = client.post("enroll", json=body(made.token, one, **more))
        return answer.status_code, answer.json()["code"]

    told = asks(house, made.token, device)
    house.fleet.approvals.reject(Choice(ids=[told.fingerprint]), "ann")
    assert refused(device, waiting=True) == (403, "enroll.rejected")
    late = KeyedDevice()
    asks(house, made.token, late)
    house.clock.turn(hours=72)
    assert refused(late, waiting=True) == (410, "enroll.approval_expired")
    for _ in range(100):
        asks(house, made.token, KeyedDevice())
    assert refused(KeyedDevice()) == (429, "enroll.too_many_pending")


def test_a_selector_may_name_groups(house: House) -> None:
    house.fleet.groups.create("north", "site=north", "ann")
    told = asks(house, claim(house, labels={"site": "north"}).token, KeyedDevice())
    asks(house, claim(house).token, KeyedDevice())
    assert listed(house, selector="group=north") == [told.fingerprint]
    assert len(listed(house, selector=f"profile={PROFILE},arch=x86_64,status=pending")) == 2
    with pytest.raises(BadSelectorError):
        listed(house, selector="group=south")
    with pytest.raises(BadChoiceError):
        house.fleet.approvals.approve(Choice(), "ann")


def test_a_fingerprint_is_the_beginning_of_the_digest_in_groups() -> None:
    assert fingerprint("0123456789abcdef" * 4) == "0123-4567-89ab-cdef-0123"
