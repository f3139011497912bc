"""The rules of lists, over all of them: orders, cursors that belong to one query, items cut to some fields."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edgefleet_server.access.model import Role
from edgefleet_server.composition.openapi import operations
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import BadCursorError, PageRequest, cut_page, decode_cursor, encode_cursor, rest_of
from edgefleet_server.rollout.store import rollouts
from edgefleet_server.rollout.store.tables import Rollout
from tests.server.dashboard.fleet import Fleet, staged
from tests.server.fleet.house import FACTS, KeyedDevice
from tests.support.servers import ApiHouse

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "openapi.json"
"""The API as it is: test_openapi_file.py compares. Making it takes 2 s, in every process that collects these tests."""


def lists() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield address and parameters by name of every list of the API."""
    made = json.loads(DOCUMENT.read_text("utf-8"))
    for method, path, operation in operations(made):
        answer = operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
        schema = made["components"]["schemas"].get(answer.get("$ref", "").rpartition("/")[2], {})
        if method == "get" and {"items", "next_cursor"} <= set(schema.get("properties", {})):
            yield path, {one["name"]: one for one in operation.get("parameters", ())}


LISTS = dict(lists())
PAGED = sorted(path for path, parameters in LISTS.items() if "cursor" in parameters)


def orders_of(path: str) -> list[str]:
    """Return the orders that a list names, the usual one first."""
    schema = LISTS[path]["sort"]["schema"]
    assert schema["default"] == schema["enum"][0]
    return list(schema["enum"])


def test_every_list_takes_fields_and_every_list_in_pages_an_order() -> None:
    assert len(LISTS) >= 25
    assert [path for path, parameters in LISTS.items() if "fields" not in parameters] == []
    assert [path for path in PAGED if not orders_of(path)] == []
    assert orders_of("/api/v1/devices") == [
        "id", "-id", "health", "-health", "profile", "-profile", "status", "-status", "last_seen", "-last_seen",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, str]]]:
    """An admin's client of a fleet with some of everything, and real names for addresses."""
    fleet = Fleet(tmp_path_factory.mktemp("stage"), rate_limit_per_min=0, webhook_networks=("127.0.0.0/8",))
    good, _ = staged(fleet)
    admin = fleet.house.client(Role.ADMIN)
    for name in ("hall", "yard", "lab"):
        assert admin.post("/api/v1/groups", json={"name": name, "selector": f"site={name}"}).is_success
    for _ in range(3):
        hook = admin.post("/api/v1/webhooks", json={"url": "http://127.0.0.1:9/x"}).json()["webhook"]["id"]
        assert admin.post(f"/api/v1/webhooks/{hook}:ping").is_success
        assert admin.post("/api/v1/enrollments", json={}).is_success
    for _ in range(3):
        contact = admin.post("/api/v1/contact-points", json={"name": "ops", "url": "ntfy://edgefleet"}).json()["id"]
        assert admin.post(f"/api/v1/contact-points/{contact}:test", json={}).is_success
    assert admin.put("/api/v1/prediction-logs/digits", json={}).is_success
    trigger = {"name": "again", "model": "digits", "on": "hand", "approval": False}
    assert admin.post("/api/v1/triggers", json=trigger).is_success
    for _ in range(3):
        run = admin.post("/api/v1/triggers/again:start", json={}).json()["id"]
        assert admin.post(f"/api/v1/retrainings/{run}:cancel", json={}).is_success
        fleet.house.clock.turn(seconds=1)
    written = {
        "model": "digits",
        "digest": "a" * 64,
        "format": "npz",
        "place": "ann:/fog",
        "records": [{"device": "d-1", "record": "ab"}],
    }
    data_set = admin.post("/api/v1/data-sets", json=written).json()["id"]
    fleet.parts.alarm.engine.tick()  # failed updates are alerts
    names = {
        "contact_id": contact,
        "device_id": next(iter(fleet.by_id)),
        "model": "digits",
        "ref": "digits@1.0.0",
        "retraining_id": run,
        "data_set_id": data_set,
        "rollout_id": good,
        "webhook_id": hook,
    }
    yield admin, names
    fleet.close()


def walk(client: Any, path: str, limit: int = 2, **params: Any) -> tuple[list[Any], int]:
    """Return the items of a list read in pages, and the number of pages."""
    items: list[Any] = []
    pages = 0
    cursor = None
    while pages == 0 or cursor:
        answer = client.get(path, params={"limit": limit, **({"cursor": cursor} if cursor else {}), **params})
        assert answer.status_code == 200, answer.text
        items += answer.json()["items"]
        cursor = answer.json()["next_cursor"]
        pages += 1
    return items, pages


def test_devices_are_counted_once_in_a_walk(house: ApiHouse) -> None:
    fleet, client = house.parts.fleet, house.client(Role.VIEWER)

    def enrol(count: int) -> None:
        for claim in fleet.enrolment.create_claims(count=count, created_by="test"):
            fleet.enrolment.enroll(claim.token, KeyedDevice().csr(), FACTS)

    enrol(5)
    first = client.get("/api/v1/devices", params={"limit": 2}).json()
    enrol(1)
    second = client.get("/api/v1/devices", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    again = client.get("/api/v1/devices", params={"limit": 2}).json()
    assert (first["total"], second["total"], again["total"]) == (5, 5, 6)
    mark, total, place = decode_cursor(first["next_cursor"]).split(":", 2)
    assert total == "5"
    for key, expected in ((f"{mark}:{place}", 6), (f"{mark}:{'9' * 30}:{place}", None), (f"{mark}:x:{place}", None)):
        answer = client.get("/api/v1/devices", params={"limit": 2, "cursor": encode_cursor(key)})
        assert (answer.json().get("total"), answer.status_code) == (expected, 200 if expected else 422), key


@pytest.mark.parametrize("path", PAGED)
def test_each_order_is_walked_whole_and_the_other_way_round(stage: Any, path: str) -> None:
    client, names = stage
    address = path.format(**{"name": "hall", **names})
    volatile = {"last_used_at": None} if path.endswith("/tokens") else {}
    seen: dict[str, list[Any]] = {}
    for order in orders_of(path):
        whole = client.get(address, params={"limit": 500, "sort": order}).json()
        limit = max(1, whole["total"] // 5)
        items, pages = walk(client, address, limit, sort=order)
        assert [{**one, **volatile} for one in items] == [{**one, **volatile} for one in whole["items"]]
        assert (whole["total"], pages) == (len(items), max(1, -(-len(items) // limit)))
        seen[order] = [{**one, **volatile} for one in items]
    for order, items in seen.items():
        assert seen.get(f"-{order}", items[::-1]) == items[::-1]


def test_devices_come_by_what_they_are_sorted_by(stage: Any) -> None:
    client, _ = stage
    for order, key in (
        ("last_seen", lambda one: (one["last_seen"] is not None, one["last_seen"] or "", one["id"])),
        ("profile", lambda one: (one["profile"], one["id"])),
        ("status", lambda one: (["online", "offline", "unknown", "revoked"].index(one["status"]), one["id"])),
        ("id", lambda one: one["id"]),
    ):
        items, _ = walk(client, "/api/v1/devices", sort=order, selector="site in (hall,yard)")
        assert len(items) == 10
        assert items == sorted(items, key=key)
    assert len({one["status"] for one in walk(client, "/api/v1/devices", sort="status")[0]}) > 1


def test_an_order_that_a_list_has_not_is_refused_with_those_that_it_has(stage: Any) -> None:
    client, names = stage
    for path in PAGED:
        answer = client.get(path.format(**{"name": "hall", **names}), params={"sort": "-nothing"})
        assert (answer.status_code, answer.json()["code"]) == (422, "request.bad_sort")
        assert ", ".join(orders_of(path)) in answer.json()["next"]


def test_a_cursor_belongs_to_one_query(stage: Any) -> None:
    client, _ = stage
    first = client.get("/api/v1/devices", params={"limit": 2, "selector": "site in (hall,yard)", "sort": "-last_seen"})
    cursor = first.json()["next_cursor"]
    same = {"selector": "site in (hall,yard)", "sort": "-last_seen", "cursor": cursor}
    for more in ({}, {"limit": 7}, {"fields": "id"}):
        assert client.get("/api/v1/devices", params={**same, **more}).status_code == 200
    for path, change in (
        ("devices", {"sort": "last_seen"}),
        ("devices", {"sort": "id"}),
        ("devices", {"selector": ""}),
        ("devices", {"selector": "site=hall"}),
        ("groups/hall/members", {}),
        ("events", {"sort": "-id"}),
    ):
        answer = client.get(f"/api/v1/{path}", params={**same, **change})
        assert (answer.status_code, answer.json()["code"]) == (422, "request.bad_cursor"), (path, change)
        assert "without `cursor`" in answer.json()["next"]
    empty = client.get("/api/v1/devices", params={"limit": 2, "cursor": ""}).json()  # as the start
    assert empty == client.get("/api/v1/devices", params={"limit": 2}).json()
    plain = empty["next_cursor"]
    spelt = {"cursor": plain, "sort": "id", "selector": ""}  # what it means is the same
    assert client.get("/api/v1/devices", params=spelt).status_code == 200


@pytest.mark.parametrize("text", ["", "x", "[0]", '["a","b","c"]', '[1,2,"x"]', "[9,8]", "null"])
def test_a_cursor_with_a_broken_place_is_refused(stage: Any, text: str) -> None:
    client, _ = stage
    good = client.get("/api/v1/devices", params={"limit": 1, "sort": "last_seen"}).json()["next_cursor"]
    mark = decode_cursor(good).partition(":")[0]
    answer = client.get("/api/v1/devices", params={"cursor": encode_cursor(f"{mark}:{text}"), "sort": "last_seen"})
    assert (answer.status_code, answer.json()["code"]) == (422, "request.bad_cursor")


def test_items_are_cut_to_the_fields_asked_for(stage: Any) -> None:
    client, names = stage
    for path in LISTS:
        address = path.format(**{"name": "digits" if "models" in path else "hall", **names})
        query = {"q": "digits"} if path.endswith("/search") else {}
        whole = client.get(address, params=query).json()
        assert "items" in whole, (address, whole)
        if not whole["items"]:
            continue
        wanted = sorted(whole["items"][0])[:2]
        answer = client.get(address, params={**query, "fields": f" {wanted[1]},,{wanted[0]} "})
        assert answer.status_code == 200, answer.text
        cut = answer.json()
        assert [set(one) for one in cut["items"]] == [set(wanted)] * len(cut["items"]), path
        assert answer.headers["content-length"] == str(len(answer.content)) or "content-encoding" in answer.headers
        assert (cut["next_cursor"], cut["total"]) == (whole["next_cursor"], whole["total"]), path
        refused = client.get(address, params={**query, "fields": f"{wanted[0]},nothing"})
        assert (refused.status_code, refused.json()["code"]) == (422, "request.bad_fields"), path
        assert all(name in refused.json()["next"] for name in wanted), path


def test_fields_keep_the_values(stage: Any) -> None:
    client, _ = stage
    whole = client.get("/api/v1/devices").json()["items"]
    cut = client.get("/api/v1/devices", params={"fields": "labels,id"}).json()["items"]
    assert cut == [{"labels": one["labels"], "id": one["id"]} for one in whole]
    assert [list(one) for one in cut] == [["labels", "id"]] * len(whole)
    assert client.get("/api/v1/devices", params={"fields": ""}).json()["items"] == whole
    head = client.head("/api/v1/devices", params={"fields": "id"})
    assert int(head.headers["content-length"]) < len(json.dumps(whole))


def test_fields_of_an_empty_list_are_checked_all_the_same(tmp_path: Path) -> None:
    house = ApiHouse(tmp_path / "server")
    client = house.client(Role.VIEWER)
    assert client.get("/api/v1/devices", params={"fields": "id"}).json() == {
        "items": [], "next_cursor": None, "total": 0,
    }  # fmt: skip
    assert client.get("/api/v1/devices", params={"fields": "nothing"}).status_code == 422
    assert client.get("/api/v1/devices", params={"fields": "id", "sort": "x"}).json()["code"] == "request.bad_sort"
    house.close()


def test_devices_are_sorted_on_each_database(any_house: ApiHouse) -> None:
    from edgefleet_protocol.ids import DeviceId
    from edgefleet_protocol.messages import Presence

    client = any_house.client(Role.VIEWER)
    ids = []
    for number in range(5):
        device = KeyedDevice()
        token = any_house.parts.fleet.enrolment.create_claims()[0].token
        ids.append(str(any_house.parts.fleet.enrolment.enroll(token, device.csr(), FACTS).device_id))
        if number % 2 == 0:
            any_house.clock.turn(seconds=1)
            presence = Presence(on=True, conn_id="c", boot_id="b", ts=0)
            any_house.parts.fleet.receiver.take_presence(DeviceId(ids[-1]), presence)
    up, pages = walk(client, "/api/v1/devices", sort="last_seen")
    assert ([one["id"] for one in up[2:]], pages) == (ids[::2], 3)
    assert [one["id"] for one in up[:2]] == sorted(ids[1::2])
    assert walk(client, "/api/v1/devices", sort="-last_seen")[0] == up[::-1]
    assert walk(client, "/api/v1/events", sort="id")[0] == walk(client, "/api/v1/events")[0][::-1]


def test_rollouts_of_one_moment_are_walked_on_each_database(db: Database) -> None:
    moments = [datetime(2026, 1, 1, 12, 0, second, tzinfo=UTC) for second in (0, 1, 1, 1, 2)]
    with db.session() as session:
        for number, at in enumerate(moments):
            session.add(
                Rollout(
                    id=f"r-{number}", model="m", version="1", selector="", spec={}, salt="", state="finished",
                    created_at=at, created_by="ann",
                )
            )  # fmt: skip
    for is_oldest_first, wanted in ((True, "01234"), (False, "43210")):
        found: list[str] = []
        behind = None
        with db.read() as session:
            while True:
                rows = rollouts.page(
                    session, states=(), model="m", behind=behind, limit=1, is_oldest_first=is_oldest_first
                )
                if not rows:
                    break
                found.append(rows[0].id.removeprefix("r-"))
                behind = (rows[0].created_at, rows[0].id)
        assert "".join(found) == wanted


def test_a_page_knows_its_query_and_a_plain_one_none() -> None:
    page = cut_page(["a", "b"], PageRequest(1, mark="m:"), 2, lambda one: one)
    assert decode_cursor(page.next_cursor or "") == "m:a"
    assert page.of([1]).next_cursor == page.next_cursor
    assert rest_of(["a", "b", "c"], PageRequest(after="b", is_turned=True), lambda one: one) == ["a"]
    with pytest.raises(BadCursorError):
        PageRequest(after="x").after_number()
