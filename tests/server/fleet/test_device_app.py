"""The device listener's routes."""

import os

import pytest
from fastapi.testclient import TestClient

from edgefleet_protocol.digest import sha256_hex
from tests.server.fleet.apps import device_client
from tests.server.fleet.house import FACTS, PROFILE, House, KeyedDevice


@pytest.fixture
def client(house: House) -> TestClient:
    """A client of the device app."""
    return device_client(house)


def bearer(house: House, device: KeyedDevice, **claims: str) -> dict[str, str]:
    """Return the header of one request."""
    return {"authorization": f"Bearer {device.token(house.clock.now(), **claims)}"}


def enroll(client: TestClient, house: House) -> KeyedDevice:
    """Enrol over HTTP."""
    device = KeyedDevice()
    body = {
        "token": house.fleet.enrolment.create_claims()[0].token,
        "csr": device.csr("d-evil").decode(),
        "facts": FACTS,
        "nonce": "n-1",
    }
    answer = client.post("enroll", json=body)
    assert answer.status_code == 200, answer.text

    class Answer:
        """Attributes of the answer."""

        device_id = answer.json()["device_id"]
        server_id = answer.json()["server_id"]
        body = answer.json()

    device.enrolment = Answer
    return device


def test_enrolment_answer_holds_all_that_a_device_needs(client: TestClient, house: House) -> None:
    house.fleet.addresses.announce_broker("127.0.0.1", 8883, "5")
    device = enroll(client, house)
    body = device.enrolment.body
    assert {
        "device_id",
        "tenant",
        "cert",
        "ca",
        "root_chain",
        "profile",
        "broker",
        "url",
        "server_id",
        "nonce",
        "display_name",
    } == set(body)
    assert body["broker"] == {"host": "127.0.0.1", "port": 8883, "mqtt": "5"}
    assert (body["tenant"], body["profile"], body["nonce"]) == ("default", PROFILE, "n-1")
    assert body["device_id"] != "d-evil"
    assert client.get("ca").text == body["ca"]


def test_bundle_metadata_and_document_over_https(client: TestClient, house: House) -> None:
    device = enroll(client, house)
    data = os.urandom(100_000)
    ref = house.release("digits@1.0.0", bundles={PROFILE: data})
    house.fleet.deployer.deploy(ref, selector="")
    bundle = house.registry.bundle_for(ref, PROFILE)
    assert bundle is not None
    whole = client.get(f"blobs/{bundle.sha256}", headers=bearer(house, device))
    assert sha256_hex(whole.content) == bundle.sha256
    part = client.get(f"blobs/{bundle.sha256}", headers={**bearer(house, device), "range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, data[10:20])
    assert client.get(f"blobs/{bundle.leaves}", headers=bearer(house, device)).status_code == 200
    assert client.get("tuf/timestamp.json", headers=bearer(house, device)).content == house.signing.metadata_file(
        "timestamp.json"
    )
    document = house.fleet.documents.of_device(device.id)
    assert document is not None
    assert client.get("desired", headers=bearer(house, device)).content == document.envelope


def test_renewal_over_https(client: TestClient, house: House) -> None:
    device = enroll(client, house)
    fresh = KeyedDevice()
    answer = client.post("renew", json={"csr": fresh.csr().decode()}, headers=bearer(house, device))
    assert answer.status_code == 200
    fresh.enrolment = device.enrolment
    assert client.get("desired", headers=bearer(house, fresh)).status_code == 200
    assert client.get("desired", headers=bearer(house, device)).status_code == 401


def test_who_captures_a_token_gets_no_certificate_with_it(client: TestClient, house: House) -> None:
    """As somebody with the key of the CA can, who has a place in the network. Devices of agents of before say nothing of a request."""
    device, fresh, thief = enroll(client, house), KeyedDevice(), KeyedDevice()

    def status(request: bytes, **claims: str) -> int:
        headers = bearer(house, device, **claims)
        answer = client.post("renew", json={"csr": request.decode()}, headers=headers)
        return int(answer.status_code)

    own, his = fresh.csr(), thief.csr()
    assert status(his, csr=sha256_hex(own)) == 401, "the first one that names its request is held to it, too"
    assert status(own) == 200
    assert status(own, csr=sha256_hex(own)) == 200
    assert status(his) == 401, "of another request: this device names what it asks for, from now on"
    assert status(his, csr=sha256_hex(own)) == 401
    assert status(own, csr=sha256_hex(own)) == 200
    assert client.get("desired", headers=bearer(house, device)).status_code == 200


def test_a_device_says_when_it_enrols_that_it_names_its_requests(client: TestClient, house: House) -> None:
    device, thief = house.device(FACTS | {"names_requests": True}), KeyedDevice()
    answer = client.post("renew", json={"csr": thief.csr().decode()}, headers=bearer(house, device))
    assert (answer.status_code, answer.json()["code"]) == (401, "device.unauthorized")
    assert "does not name this certificate request" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["tuf/timestamp.json", "desired", "blobs/" + "a" * 64])
def test_without_a_device_token_nothing_is_served(client: TestClient, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer x"}, {"authorization": "Basic x"}):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "device.unauthorized")


def test_a_blob_of_another_device_is_forbidden(client: TestClient, house: House) -> None:
    mine, other = enroll(client, house), enroll(client, house)
    ref = house.release("digits@1.0.0", bundles={PROFILE: b"bundle"})
    house.fleet.deployer.deploy(ref, device=other.id)
    bundle = house.registry.bundle_for(ref, PROFILE)
    assert bundle is not None
    answer = client.get(f"blobs/{bundle.sha256}", headers=bearer(house, mine))
    assert (answer.status_code, answer.json()["code"]) == (403, "blob.forbidden")


def test_refused_enrolments_have_their_own_codes(client: TestClient, house: House) -> None:
    csr = KeyedDevice().csr().decode()
    claim = house.fleet.enrolment.create_claims()[0].token

    def refused(**body: object) -> tuple[int, str]:
        answer = client.post("enroll", json={"token": claim, "csr": csr, "facts": FACTS, **body})
        return answer.status_code, answer.json()["code"]

    assert refused(token="efc1.nonsense") == (401, "enroll.unauthorized")
    assert refused(csr="no request") == (422, "signing.bad_csr")
    assert refused(facts={}) == (422, "enroll.bad_facts")
    assert refused(facts={"arch": "s390x"}) == (422, "enroll.bad_hardware")
    assert refused(token="x" * 9000) == (422, "request.invalid")
    assert client.post("enroll", json={"token": claim, "csr": csr, "facts": FACTS}).status_code == 200
    assert refused(csr=KeyedDevice().csr().decode()) == (409, "enroll.token_used_up")
    house.clock.turn(days=2)
    old = house.fleet.enrolment.create_claims()[0].token
    house.clock.turn(days=2)
    assert refused(token=old) == (401, "enroll.token_expired")
