"""A body that nobody vouches for is never read beyond a small limit; uploads keep theirs."""

from collections.abc import Iterator

import httpx
import pytest
from fastapi.testclient import TestClient

from edgefleet_protocol.digest import sha256_hex
from edgefleet_server.access.model import Role
from edgefleet_server.web.body_limit import API_BODY_BYTES, DEVICE_BODY_BYTES
from tests.support.apps import shared_device_app
from tests.support.servers import ApiHouse

CHUNK = b"a" * 65_536


class Endless:
    """A body without an announced length, as long as it is read."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(self._chunks):
            yield CHUNK


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_a_stranger_cannot_fill_the_memory(house: ApiHouse, announced: bool) -> None:
    api = TestClient(house.app)
    device = TestClient(shared_device_app(house.parts))
    for client, path, limit in (
        (api, "/api/v1/releases", API_BODY_BYTES),
        (device, "/device/v1/enroll", DEVICE_BODY_BYTES),
    ):
        content: bytes | Endless = b"a" * (limit + 1) if announced else Endless(limit // len(CHUNK) + 2)
        answer: httpx.Response = client.post(path, content=content, headers={"content-type": "application/json"})
        is_unread = client is api and not announced  # who calls is asked before the first byte
        expected = (401, "access.no_token") if is_unread else (413, "request.too_large")
        assert (answer.status_code, answer.json()["code"]) == expected, path


def test_who_may_publish_cannot_fill_the_memory_either(house: ApiHouse) -> None:
    api = TestClient(house.app, headers={"authorization": f"Bearer {house.token(Role.PUBLISHER)}"})
    endless = Endless(API_BODY_BYTES // len(CHUNK) + 2)
    answer = api.post("/api/v1/releases", content=endless, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "request.too_large")


def test_a_blob_may_be_larger(house: ApiHouse) -> None:
    data = b"b" * (API_BODY_BYTES + 1)
    client = TestClient(house.app, headers={"authorization": f"Bearer {house.token(Role.PUBLISHER)}"})
    assert client.put(f"/api/v1/blobs/{sha256_hex(data)}", content=data).status_code == 201


def test_a_value_that_no_database_holds_is_refused(any_house: ApiHouse) -> None:
    client = TestClient(any_house.app, headers={"authorization": f"Bearer {any_house.token(Role.ADMIN)}"})
    for path in ("/api/v1/devices/a%00b", "/api/v1/devices/a%00b/events", "/api/v1/models/a%00b"):
        assert client.get(path).status_code in (404, 422), path
    made = client.post("/api/v1/tokens", json={"name": "a\0b", "roles": ["viewer"]})
    assert made.status_code in (201, 422)
