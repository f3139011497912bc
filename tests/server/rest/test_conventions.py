"""What holds for every operation: tags, dry runs, limits, methods, sizes."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from edgefleet_server.access.allowed_methods import AddressBook
from edgefleet_server.access.model import Role
from edgefleet_server.composition.openapi import operations
from edgefleet_server.process.openapi_file import document
from tests.server.fleet.house import FACTS, KeyedDevice
from tests.support.servers import ApiClient, ApiHouse, HandClock


@pytest.fixture
def admin(house: ApiHouse) -> Any:
    """An admin's client."""
    return house.client(Role.ADMIN)


def enrolled(house: ApiHouse, **claim: Any) -> str:
    """Enrol a device and return its id."""
    device = KeyedDevice()
    token = house.parts.fleet.enrolment.create_claims(**claim)[0].token
    return str(house.parts.fleet.enrolment.enroll(token, device.csr(), FACTS).device_id)


# ---- If-Match


def test_a_device_is_changed_only_as_it_was_seen(house: ApiHouse, admin: Any) -> None:
    path = f"/api/v1/devices/{enrolled(house, labels={'site': 'lab'})}"
    seen = admin.get(path).headers["etag"]
    changed = admin.patch(path, json={"labels": {"site": "roof"}}, headers={"if-match": seen})
    assert changed.status_code == 200
    assert changed.headers["etag"] == admin.get(path).headers["etag"] != seen
    for method in ("PATCH", "DELETE"):
        late = admin.request(method, path, json={}, headers={"if-match": seen})
        assert (late.status_code, late.json()["code"]) == (412, "request.precondition_failed")
        assert changed.headers["etag"] in late.json()["detail"]
    assert admin.get(path).json()["labels"] == {"site": "roof"}
    assert admin.delete(path, headers={"if-match": f'"other", {changed.headers["etag"]}'}).status_code == 204
    assert admin.get(path).json()["status"] == "revoked"


def test_reports_of_a_device_do_not_change_its_tag(house: ApiHouse, admin: Any) -> None:
    from edgefleet_protocol.ids import DeviceId
    from edgefleet_protocol.messages import Presence

    device = enrolled(house)
    seen = admin.get(f"/api/v1/devices/{device}").headers["etag"]
    house.parts.fleet.receiver.take_presence(DeviceId(device), Presence(on=True, conn_id="c", boot_id="b", ts=0))
    answer = admin.get(f"/api/v1/devices/{device}")
    assert (answer.json()["status"], answer.headers["etag"]) == ("online", seen)


def test_groups_and_webhooks_have_tags(tmp_path: Path) -> None:
    house = ApiHouse(tmp_path / "server", webhook_networks=("127.0.0.0/8",))
    admin = house.client(Role.ADMIN)
    admin.post("/api/v1/groups", json={"name": "g", "selector": ""})
    made = admin.post("/api/v1/webhooks", json={"url": "http://127.0.0.1:9/x"}).json()["webhook"]["id"]
    for path in ("/api/v1/groups/g", f"/api/v1/webhooks/{made}"):
        tag = admin.get(path).headers["etag"]
        assert admin.delete(path, headers={"if-match": '"no"'}).status_code == 412
        assert admin.delete(path, headers={"if-match": tag}).status_code == 204
        assert admin.delete(path, headers={"if-match": "*"}).status_code == 404
    house.close()


def test_an_own_token_is_ended_only_as_it_was_seen(house: ApiHouse, admin: Any) -> None:
    made = admin.post("/api/v1/own-tokens", json={"name": "laptop"})
    path, tag = f"/api/v1/own-tokens/{made.json()['id']}", made.headers["etag"]
    assert admin.delete(path, headers={"if-match": '"no"'}).status_code == 412
    tried = admin.delete(path, params={"dry_run": True}, headers={"if-match": tag})
    assert (tried.status_code, tried.json()["revoked_at"] is None) == (200, False)
    bob = house.parts.access.create_token("bob", [Role.VIEWER], by="ann").token
    others = ApiClient(house.app, bob).delete(path, headers={"if-match": '"no"'})
    assert others.status_code == 404, "nobody else hears that it is there"
    assert admin.delete(path, headers={"if-match": tag}).json()["revoked_at"] is not None


def test_every_change_and_removal_takes_a_tag_and_can_be_tried() -> None:
    for method, path, operation in operations(document()):
        if method in ("patch", "delete"):
            names = {one["name"] for one in operation["parameters"]}
            assert {"if-match", "dry_run"} <= names, (method, path)


def test_a_group_is_changed_only_as_it_was_seen(any_house: ApiHouse) -> None:
    admin = any_house.client(Role.ADMIN)
    made = admin.post("/api/v1/groups", json={"name": "g", "selector": "site=lab"})
    path, seen = "/api/v1/groups/g", made.headers["etag"]
    told = admin.patch(path, params={"dry_run": True}, json={"selector": "site=roof"}, headers={"if-match": seen})
    assert (told.status_code, told.json()["selector"]) == (200, "site=roof")
    assert (admin.get(path).json()["selector"], admin.get(path).headers["etag"]) == ("site=lab", seen)
    assert told.headers["etag"] != seen
    changed = admin.patch(path, json={"selector": "site=roof"}, headers={"if-match": seen})
    assert changed.headers["etag"] == told.headers["etag"] == admin.get(path).headers["etag"]
    for dry in (True, False):
        late = admin.patch(path, params={"dry_run": dry}, json={"selector": ""}, headers={"if-match": seen})
        assert (late.status_code, late.json()["code"]) == (412, "request.precondition_failed")
    assert admin.patch("/api/v1/groups/none", json={"selector": ""}, headers={"if-match": "*"}).status_code == 404
    refused = admin.patch(path, params={"dry_run": True}, json={"selector": "group=g"})
    assert refused.json()["code"] == "fleet.bad_selector"


def test_what_is_removed_is_removed_as_it_was_seen(tmp_path: Path) -> None:
    house = ApiHouse(tmp_path / "server", webhook_networks=("127.0.0.0/8",))
    admin = house.client(Role.ADMIN)
    hook = admin.post("/api/v1/webhooks", json={"url": "http://127.0.0.1:9/x"}).json()["webhook"]["id"]
    receiver = admin.post("/api/v1/alert-receivers", json={"name": "am"}).json()["receiver"]["id"]
    token = admin.post("/api/v1/tokens", json={"name": "ci", "roles": ["viewer"]}).json()["id"]
    claim = house.parts.fleet.enrolment.create_claims()[0].id
    key = admin.put("/api/v1/capture-key", json={"public_key": "09" + "0" * 62})
    assert key.headers["etag"] == admin.get("/api/v1/capture-key").headers["etag"]
    for path in (
        f"/api/v1/webhooks/{hook}",
        f"/api/v1/alert-receivers/{receiver}",
        f"/api/v1/tokens/{token}",
        f"/api/v1/enrollments/{claim}",
        "/api/v1/capture-key",
    ):
        before = admin.get(path)
        tag = before.headers["etag"]
        assert admin.delete(path, headers={"if-match": '"no"'}).status_code == 412, path
        assert admin.delete(path, params={"dry_run": True}, headers={"if-match": tag}).is_success, path
        assert (admin.get(path).json(), admin.get(path).headers["etag"]) == (before.json(), tag), path
        assert admin.delete(path, headers={"if-match": tag}).is_success, path
        after = admin.get(path)
        assert after.status_code == 404 or after.headers["etag"] != tag, path
        assert admin.delete(path, headers={"if-match": tag}).status_code in (404, 412), path
    for path in ("tokens/none", "enrollments/none", "alert-receivers/none"):
        assert admin.get(f"/api/v1/{path}").status_code == 404
    house.close()


def test_a_capture_key_is_set_only_as_it_was_seen(house: ApiHouse, admin: Any) -> None:
    path, first, second = "/api/v1/capture-key", {"public_key": "09" + "0" * 62}, {"public_key": "0a" + "0" * 62}
    assert admin.put(path, json=first, headers={"if-match": "*"}).status_code == 404
    assert admin.put(path, params={"dry_run": True}, json=first).status_code == 200
    assert admin.get(path).status_code == 404
    seen = admin.put(path, json=first).headers["etag"]
    assert admin.put(path, json=second, headers={"if-match": '"no"'}).status_code == 412
    assert admin.put(path, json=second, headers={"if-match": seen}).json()["public_key"] == second["public_key"]
    assert house.parts.fleet.sampling.key() is not None


# ---- dry runs


def test_a_dry_run_answers_and_refuses_alike_and_writes_nothing(house: ApiHouse, admin: Any) -> None:
    device = enrolled(house, labels={"site": "lab"})
    path = f"/api/v1/devices/{device}"
    before = admin.get(path)
    told = admin.patch(path, params={"dry_run": True}, json={"labels": {"site": "roof"}})
    assert (told.status_code, told.json()["labels"]) == (200, {"site": "roof"})
    assert admin.patch(path, params={"dry_run": True}, json={"labels": {"id": "x"}}).status_code == 422
    assert admin.delete(path, params={"dry_run": True}).status_code == 204
    after = admin.get(path)
    assert (after.json(), after.headers["etag"]) == (before.json(), before.headers["etag"])
    group = {"name": "g", "selector": "site=lab"}
    assert admin.post("/api/v1/groups", params={"dry_run": True}, json=group).json()["devices"] == 1
    assert admin.get("/api/v1/groups").json()["total"] == 0
    actions = {row["action"] for row in admin.get("/api/v1/audit").json()["items"]}
    assert actions == {"update_device (dry run)", "revoke_device (dry run)", "create_group (dry run)"}
    assert house.parts.fleet.documents.of_device(device) is not None  # type: ignore[arg-type]


def test_devices_are_labelled_by_selector(any_house: ApiHouse) -> None:
    house = any_house
    operator = house.client(Role.OPERATOR)
    ids = sorted(enrolled(house, labels={"site": "lab", "n": str(n)}) for n in range(3))
    other = enrolled(house, labels={"site": "roof"})
    gone = enrolled(house, labels={"site": "lab"})
    operator.delete(f"/api/v1/devices/{gone}")
    body = {"selector": "site=lab", "labels": {"ring": "canary", "n": None}}
    told = operator.post("/api/v1/devices:label", json={**body, "dry_run": True}).json()
    assert told == {"matched": 3, "changed": 3, "dry_run": True, "sample": told["sample"]}
    assert sorted(told["sample"]) == ids
    assert operator.get(f"/api/v1/devices/{ids[0]}").json()["labels"]["site"] == "lab"
    assert "ring" not in operator.get(f"/api/v1/devices/{ids[0]}").json()["labels"]
    done = operator.post("/api/v1/devices:label", json=body).json()
    assert (done["matched"], done["changed"], done["dry_run"]) == (3, 3, False)
    for device in ids:
        assert operator.get(f"/api/v1/devices/{device}").json()["labels"] == {"site": "lab", "ring": "canary"}
    assert operator.get(f"/api/v1/devices/{other}").json()["labels"] == {"site": "roof"}
    assert operator.post("/api/v1/devices:label", json=body).json()["changed"] == 0
    for bad in ({"status": "x"}, {"a b": "x"}, {"a": "ä"}, {}):
        assert operator.post("/api/v1/devices:label", json={**body, "labels": bad}).status_code == 422
    assert house.client(Role.VIEWER).post("/api/v1/devices:label", json=body).status_code == 403


def test_labelling_is_all_or_nothing(house: ApiHouse, admin: Any) -> None:
    full = enrolled(house, labels={f"k{n}": "v" for n in range(64)})
    free = enrolled(house, labels={"k1": "v"})
    answer = admin.post("/api/v1/devices:label", json={"selector": "k1=v", "labels": {"new": "x"}})
    assert (answer.status_code, answer.json()["code"]) == (422, "fleet.bad_label")
    assert full in answer.json()["detail"]
    assert admin.get(f"/api/v1/devices/{free}").json()["labels"] == {"k1": "v"}


# ---- limits


def test_a_token_has_so_many_requests_a_minute(tmp_path: Path) -> None:
    clock = HandClock()
    house = ApiHouse(tmp_path / "s", clock=clock, rate_limit_per_min=60)
    client, other = house.client(Role.VIEWER), house.client(Role.VIEWER)
    first = client.get("/api/v1/whoami").headers
    assert (first["ratelimit-limit"], first["ratelimit-remaining"], first["ratelimit-reset"]) == ("60", "59", "1")
    assert all(client.get("/api/v1/whoami").is_success for _ in range(59))
    over = client.get("/api/v1/whoami")
    assert (over.status_code, over.json()["code"]) == (429, "access.too_many_requests")
    assert (over.headers["retry-after"], over.headers["ratelimit-remaining"]) == ("1", "0")
    assert other.get("/api/v1/whoami").is_success
    assert client.get("/healthz").is_success
    clock.turn(seconds=1)
    assert client.get("/api/v1/whoami").is_success
    assert client.get("/api/v1/whoami").status_code == 429
    clock.turn(minutes=5)
    assert client.get("/api/v1/whoami").headers["ratelimit-remaining"] == "59"
    house.close()


def test_without_a_limit_nothing_is_counted(tmp_path: Path) -> None:
    house = ApiHouse(tmp_path / "s", rate_limit_per_min=0)
    assert "ratelimit-limit" not in house.client(Role.VIEWER).get("/api/v1/whoami").headers
    house.close()


# ---- methods


def test_an_address_says_all_its_methods(admin: Any) -> None:
    for method, path, allowed in (
        ("PUT", "/api/v1/devices/d-1", "DELETE, GET, HEAD, PATCH"),
        ("OPTIONS", "/api/v1/groups", "GET, HEAD, POST"),
        ("DELETE", "/api/v1/rollouts/r-1:pause", "POST"),
        ("GET", "/api/v1/devices:label", "POST"),
        ("TRACE", "/api/v1/blobs/x", "GET, HEAD, PUT"),
        ("HEAD", "/api/v1/events/stream", "GET"),
    ):
        answer = admin.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed), (method, path)
        if method != "HEAD":
            assert answer.json()["code"] == "request.method_not_allowed"


def test_head_answers_as_get_without_a_body(admin: Any) -> None:
    for path in ("/api/v1/devices", "/api/v1/whoami", "/api/v1/groups/none"):
        got, head = admin.get(path), admin.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers["content-length"] == str(len(got.content))
        assert head.headers["content-type"] == got.headers["content-type"]


def test_the_most_specific_address_decides() -> None:
    book = AddressBook([("GET", "/a/{x}"), ("POST", "/a/{x}:go"), ("PUT", "/a/all")])
    assert book.methods("/a/1") == frozenset({"GET", "HEAD"})
    assert book.methods("/a/1:go") == frozenset({"POST"})
    assert book.methods("/a/all") == frozenset({"PUT"})
    assert book.methods("/a") is None
    assert book.methods("/a/1/2") is None
    assert not book.has_head("/a/1")


# ---- size


def test_long_answers_come_packed_and_blobs_as_they_are(house: ApiHouse, admin: Any) -> None:
    packed = admin.get("/api/v1/profiles", headers={"accept-encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in admin.get("/api/v1/profiles", headers={"accept-encoding": "identity"}).headers
    blob = house.put(gzip.compress(b"x") + b"y" * 100_000)
    got = admin.get(f"/api/v1/blobs/{blob}", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in got.headers
    assert got.headers["content-length"] == str(len(got.content))
