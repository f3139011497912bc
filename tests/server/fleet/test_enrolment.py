"""Claims, enrolment, renewal, device tokens."""

import datetime as dt
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from edgefleet_protocol.desired import decode_desired
from edgefleet_protocol.envelope import parse_envelope
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.fleet.enrolment.model import BrokerAddress
from edgefleet_server.fleet.errors import (
    BadClaimError,
    BadDeviceTokenError,
    BadFactsError,
    BadLabelError,
    ClaimExpiredError,
    ClaimUsedUpError,
    DeviceRevokedError,
    NoProfileError,
)
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.signing.errors import BadCsrError
from tests.server.fleet.house import FACTS, PROFILE, House, KeyedDevice, TurnedClock, claim_body, pinned


def test_a_claim_and_a_key_become_a_device(house: House) -> None:
    device = house.device(labels={"site": "north"})
    answer = device.enrolment
    assert answer.profile == PROFILE
    assert answer.device_id.startswith("d-")
    cert = x509.load_pem_x509_certificate(answer.cert.encode())
    assert cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == answer.device_id
    cert.verify_directly_issued_by(x509.load_pem_x509_certificate(answer.ca.encode()))
    view = house.fleet.reader.device(device.id)
    assert (view.labels, view.status, view.desired.gen) == ({"site": "north"}, DeviceStatus.UNKNOWN, 1)
    [enrolled] = house.fleet.feed.page(device_id=device.id, before=None, since=None, limit=10)[0]
    assert enrolled.kind == "enrolled"


def test_claim_token_pins_ca_and_root(house: House) -> None:
    claim = house.fleet.enrolment.create_claims()[0]
    body = claim_body(claim.token)
    assert set(body) == {"url", "id", "secret", "ca", "root"}
    assert body["url"] == "https://127.0.0.1:8443"
    assert body["ca"] == house.signing.ca_sha256()
    device = KeyedDevice()
    answer = house.fleet.enrolment.enroll(claim.token, device.csr(), FACTS)
    assert pinned(answer.root_chain[0]) == body["root"]


def test_secret_of_a_claim_is_not_stored(house: House) -> None:
    claim = house.fleet.enrolment.create_claims()[0]
    secret = claim_body(claim.token)["secret"].encode()
    house.db.dispose()
    for file in house.folder.parent.rglob("*.db*"):
        assert secret not in file.read_bytes()


def test_a_claim_is_used_up(house: House) -> None:
    claim = house.fleet.enrolment.create_claims(uses=2)[0]
    for _ in range(2):
        house.fleet.enrolment.enroll(claim.token, KeyedDevice().csr(), FACTS)
    with pytest.raises(ClaimUsedUpError):
        house.fleet.enrolment.enroll(claim.token, KeyedDevice().csr(), FACTS)
    view = house.fleet.enroller.claims(None, 10)[0][0]
    assert (view.uses, view.uses_left, len(view.devices)) == (2, 0, 2)


def test_the_same_key_may_ask_again(house: House) -> None:
    claim = house.fleet.enrolment.create_claims()[0]
    device = KeyedDevice()
    first = house.fleet.enrolment.enroll(claim.token, device.csr(), FACTS)
    house.clock.turn(days=2)
    again = house.fleet.enrolment.enroll(claim.token, device.csr("other subject"), FACTS)
    assert (again.device_id, again.cert) == (first.device_id, first.cert)
    assert len(house.fleet.devices.select("")) == 1


def test_many_devices_cannot_share_the_last_use(any_house: House) -> None:
    house = any_house
    claim = house.fleet.enrolment.create_claims(uses=3)[0]

    def enroll(_: int) -> bool:
        try:
            house.fleet.enrolment.enroll(claim.token, KeyedDevice().csr(), FACTS)
        except ClaimUsedUpError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(enroll, range(12))) == 3
    assert len(house.fleet.devices.select("")) == 3


def test_an_expired_claim_is_refused(house: House) -> None:
    claim = house.fleet.enrolment.create_claims(ttl=dt.timedelta(hours=1))[0]
    house.clock.turn(hours=1)
    with pytest.raises(ClaimExpiredError):
        house.fleet.enrolment.enroll(claim.token, KeyedDevice().csr(), FACTS)


@pytest.mark.parametrize("token", ["", "efc1.", "efc1.!!!", "efc2.e30", "efc1.e30", "x" * 5000, "efc1." + "A" * 5000])
def test_what_is_no_claim_token_is_refused(house: House, token: str) -> None:
    with pytest.raises(BadClaimError):
        house.fleet.enrolment.enroll(token, KeyedDevice().csr(), FACTS)


def test_a_wrong_secret_and_an_unknown_claim_read_the_same(house: House) -> None:
    import base64
    import json

    body = claim_body(house.fleet.enrolment.create_claims()[0].token)
    texts = []
    for change in ({"secret": secrets.token_urlsafe(32)}, {"id": "0" * 16}):
        forged = base64.urlsafe_b64encode(json.dumps({**body, **change}).encode()).decode().rstrip("=")
        with pytest.raises(BadClaimError) as caught:
            house.fleet.enrolment.enroll(f"efc1.{forged}", KeyedDevice().csr(), FACTS)
        texts.append(caught.value.message)
    assert texts[0] == texts[1]


def test_a_bad_request_costs_no_use(house: House) -> None:
    claim = house.fleet.enrolment.create_claims()[0]
    with pytest.raises(BadCsrError):
        house.fleet.enrolment.enroll(claim.token, b"no request", FACTS)
    with pytest.raises(BadFactsError):
        house.fleet.enrolment.enroll(claim.token, KeyedDevice().csr(), {"arch": 5})
    with pytest.raises(NoProfileError):
        house.fleet.enrolment.enroll(claim.token, KeyedDevice().csr(), {**FACTS, "arch": "s390x"})
    assert house.fleet.enrolment.enroll(claim.token, KeyedDevice().csr(), FACTS)


def test_claim_may_fix_profile_and_name(house: House) -> None:
    device = house.device({"arch": "s390x"}, profile="raspberry-pi-4-ort", name_prefix="cam")
    assert device.enrolment.profile == "raspberry-pi-4-ort"
    assert device.id.startswith("cam-")


@pytest.mark.parametrize("prefix", ["srv", "UP", "a/b", "+", ""])
def test_a_prefix_that_makes_no_device_id_is_refused(house: House, prefix: str) -> None:
    with pytest.raises(EdgefleetError):
        house.fleet.enrolment.create_claims(name_prefix=prefix)


def test_claim_with_a_reserved_label_is_refused(house: House) -> None:
    with pytest.raises(BadLabelError):
        house.fleet.enrolment.create_claims(labels={"status": "online"})


def test_device_token_names_its_device(house: House) -> None:
    device = house.device()
    assert house.fleet.authenticator.authenticate(device.token(house.clock.now())).id == device.id


def test_device_token_works_once(house: House) -> None:
    device = house.device()
    token = device.token(house.clock.now())
    house.fleet.authenticator.authenticate(token)
    with pytest.raises(BadDeviceTokenError, match="used before"):
        house.fleet.authenticator.authenticate(token)


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 0},
        {"exp": 99_999_999_999},
        {"exp": None},
        {"exp": "soon"},
        {"aud": "other-server"},
        {"aud": None},
        {"jti": None},
        {"jti": "short"},
        {"jti": "x" * 500},
        {"sub": "d-unknown"},
        {"sub": "srv-main"},
        {"sub": "+"},
        {"sub": None},
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(house: House, claims: dict[str, Any]) -> None:
    device = house.device()
    token = device.token(house.clock.now(), **claims)
    with pytest.raises(BadDeviceTokenError):
        house.fleet.authenticator.authenticate(token)


def test_expired_token_is_refused_by_our_clock(house: House) -> None:
    device = house.device()
    token = device.token(house.clock.now())
    house.clock.turn(minutes=10)
    with pytest.raises(BadDeviceTokenError, match="expired"):
        house.fleet.authenticator.authenticate(token)


def test_one_device_cannot_sign_for_another(house: House) -> None:
    mine, other = house.device(), house.device()
    with pytest.raises(BadDeviceTokenError):
        house.fleet.authenticator.authenticate(mine.token(house.clock.now(), sub=other.id))


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_a_token_of_another_algorithm_is_refused(house: House, algorithm: str) -> None:
    device = house.device()
    body = {
        "sub": device.id,
        "aud": device.enrolment.server_id,
        "exp": int(house.clock.now().timestamp()) + 60,
        "jti": secrets.token_hex(16),
    }
    key = None if algorithm == "none" else "k" * 64
    with pytest.raises(BadDeviceTokenError):
        house.fleet.authenticator.authenticate(jwt.encode(body, key, algorithm=algorithm))  # type: ignore[arg-type]


@pytest.mark.parametrize("token", ["", "a", "a.b.c", "x" * 10_000])
def test_garbage_is_no_device_token(house: House, token: str) -> None:
    with pytest.raises(BadDeviceTokenError):
        house.fleet.authenticator.authenticate(token)


def test_renewal_keeps_the_old_key_until_the_new_one_is_used(house: House) -> None:
    device = house.device()
    renewed = KeyedDevice()
    identity = house.fleet.authenticator.authenticate(device.token(house.clock.now()))
    answer = house.fleet.enrolment.renew(identity, renewed.csr())
    renewed.enrolment = answer
    assert (answer.device_id, answer.profile) == (device.id, device.enrolment.profile)
    assert house.fleet.authenticator.authenticate(device.token(house.clock.now())).id == device.id
    assert house.fleet.authenticator.authenticate(renewed.token(house.clock.now())).id == device.id
    with pytest.raises(BadDeviceTokenError):
        house.fleet.authenticator.authenticate(device.token(house.clock.now()))


def test_revoked_device_is_out_for_good(house: House) -> None:
    claim = house.fleet.enrolment.create_claims()[0]
    device = KeyedDevice()
    device.enrolment = house.fleet.enrolment.enroll(claim.token, device.csr(), FACTS)
    house.fleet.revocation.revoke(device.id)
    house.fleet.revocation.revoke(device.id)
    with pytest.raises(DeviceRevokedError):
        house.fleet.authenticator.authenticate(device.token(house.clock.now()))
    with pytest.raises(DeviceRevokedError):
        house.fleet.enrolment.enroll(claim.token, device.csr(), FACTS)
    assert house.fleet.documents.of_device(device.id) is None
    assert house.fleet.reader.device(device.id).status is DeviceStatus.REVOKED
    assert house.fleet.reader.profiles_in_use() == []


def test_first_document_is_empty_and_for_this_device(house: House) -> None:
    device = house.device()
    signed = house.fleet.documents.of_device(device.id)
    assert signed is not None
    document = decode_desired(parse_envelope(signed.envelope).payload)
    assert (document.device, document.gen, document.models) == (device.id, 1, {})


def test_a_process_without_a_gateway_names_an_external_broker(tmp_path: Path) -> None:
    house = House(f"sqlite:///{tmp_path / 'b.db'}", tmp_path / "b", TurnedClock(), broker="mqtts://mqtt.example:1884")
    assert house.device().enrolment.broker == BrokerAddress("mqtt.example", 1884, "5")
    house.db.dispose()
