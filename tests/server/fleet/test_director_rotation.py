"""A new key of the director: all that it had signed for devices is signed again, a part in each tick, and the hold as well."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from edgefleet_protocol.desired import DESIRED_TYPE, HOLD_TYPE
from edgefleet_protocol.verify import verify_envelope
from edgefleet_server.access.model import Role
from edgefleet_server.fleet.desired import documents
from edgefleet_server.signing.keys.rotation import KeyOrder
from tests.server.fleet.apps import Operators
from tests.server.fleet.house import House, TurnedClock
from tests.server.signing.test_keys import again


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A server without devices."""
    made = House(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a", TurnedClock())
    yield made
    made.db.dispose()


def fleet_of(house: House, count: int) -> list[str]:
    """Enrol devices that have documents."""
    devices = [house.device().id for _ in range(count)]
    for one in devices:
        house.fleet.desired.ensure(one)
    return devices


def signed_by(house: House, device: str) -> tuple[int, str]:
    """Return gen and key of a device's document."""
    found = house.fleet.documents.of_device(device)  # type: ignore[arg-type]
    assert found is not None
    return found.gen, json.loads(found.envelope)["signatures"][0]["keyid"]


def test_every_document_is_signed_again_with_a_higher_gen(any_house: House) -> None:
    house = any_house
    devices = fleet_of(house, 5)
    before = {one: signed_by(house, one) for one in devices}
    assert house.fleet.desired.resign_for_key() == 0
    house.signing.keys.rotate("director", KeyOrder())
    assert house.fleet.desired.signing_progress().waiting == 5
    assert house.fleet.desired.resign_for_key() == 5
    key = house.signing.director_key()
    for one in devices:
        gen, keyid = signed_by(house, one)
        assert (gen, keyid) == (before[one][0] + 1, key.keyid)
        found = house.fleet.documents.of_device(one)  # type: ignore[arg-type]
        assert found is not None
        verify_envelope(found.envelope, DESIRED_TYPE, [key])
    assert house.fleet.desired.signing_progress().waiting == house.fleet.desired.resign_for_key() == 0


def test_a_tick_signs_a_part_and_a_stop_in_between_costs_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "RESIGN_BATCH", 3)
    monkeypatch.setattr(documents, "NEW_KEY_BATCHES", 2)
    fleet_of(house, 10)
    house.signing.keys.rotate("director", KeyOrder())
    assert house.fleet.desired.resign_for_key() == 6
    assert house.fleet.desired.signing_progress().waiting == 4
    assert house.fleet.desired.resign_for_key() == 4, "as another process does that starts later"


def test_a_document_that_is_signed_in_between_is_not_signed_twice(house: House) -> None:
    first, second = fleet_of(house, 2)
    house.signing.keys.rotate("director", KeyOrder())
    house.fleet.desired.resign(first)  # type: ignore[arg-type]
    assert house.fleet.desired.resign_for_key() == 1
    assert signed_by(house, first)[1] == signed_by(house, second)[1]


def test_a_document_that_a_slow_transaction_signed_with_the_old_key_is_found_later(house: House) -> None:
    (device,) = fleet_of(house, 1)
    old = signed_by(house, device)[1]
    house.signing.keys.rotate("director", KeyOrder())
    house.fleet.desired.resign_for_key()
    with house.db.session() as session:
        session.execute(text("UPDATE fleet_desired SET key_id = :old"), {"old": old})
    assert house.fleet.desired.resign_for_key() == 1


def test_the_hold_is_signed_again_and_higher(house: House) -> None:
    house.fleet.hold.set(["r-1"], [])
    before = house.fleet.hold.envelope()
    assert not house.fleet.hold.resign_due(house.clock.now())
    house.signing.keys.rotate("director", KeyOrder())
    assert house.fleet.hold.resign_due(house.clock.now())
    after = house.fleet.hold.envelope()
    assert after is not None
    assert after != before
    verify_envelope(after, HOLD_TYPE, [house.signing.director_key()])
    assert not house.fleet.hold.resign_due(house.clock.now())


def test_an_admin_rotates_and_revokes_by_the_api(house: House) -> None:
    fleet_of(house, 2)
    house.signing.add_target("digits/1.0.0/p.bundle", 1, "a" * 64, {})  # type: ignore[arg-type]
    operators = Operators(house)
    admin = operators.as_role(Role.ADMIN)
    assert operators.as_role(Role.OPERATOR).post("/keys/director:rotate", json={}).status_code == 403
    before = house.signing.director_keyid()
    tried = admin.post("/keys/director:rotate", json={}, params={"dry_run": "true"})
    assert tried.status_code == 200
    assert house.signing.director_keyid() == before
    done = admin.post("/keys/director:rotate", json={}).json()
    assert done["roles"] == [{"role": "director", "before": [before], "keyid": house.signing.director_keyid()}]
    assert done["roles"][0]["keyid"] == tried.json()["roles"][0]["keyid"], "what a trial prepared is used"
    assert admin.get("/signing-progress").json()["waiting"] == 2
    revoked = admin.post("/keys/m.digits:revoke", json={"algorithm": "ecdsa-sha2-nistp256"}).json()
    assert revoked["revoked"] == revoked["roles"][0]["before"]
    assert [one.state for one in again(house).role("m.digits").key_details] == ["active", "revoked"]
    later = admin.post("/keys/director:revoke", json={"keyid": before}).json()
    assert (later["roles"], later["revoked"]) == ([], [before])
    assert not (house.folder / "keys" / "director.pem").exists()
    for path, status, code in (
        ("/keys/root:rotate", 409, "signing.not_rotatable"),
        ("/keys/none:rotate", 404, "signing.role_unknown"),
        ("/keys/none:revoke", 404, "signing.role_unknown"),
    ):
        answer = admin.post(path, json={})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (
        admin.post("/keys/director:rotate", json={"uri": "x", "public_key": "y"}).json()["code"]
        == "signing.bad_key_order"
    )
    (house.folder / "keys" / "root.passphrase").unlink()
    assert admin.post("/keys/timestamp:rotate", json={}).json()["code"] == "signing.root_offline"
