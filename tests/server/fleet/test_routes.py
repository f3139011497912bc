"""Operator routes of fleet and telemetry."""

from collections import defaultdict
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from edgefleet_protocol.messages import Telemetry, Window
from edgefleet_server.access.model import Role
from edgefleet_server.access.rules import role_of
from edgefleet_server.composition.api_app import fleet_routers, telemetry_routers
from edgefleet_server.events.model import NewEvent
from tests.server.fleet.apps import Operators
from tests.server.fleet.house import FACTS, PROFILE, House, KeyedDevice


@pytest.fixture
def operators(house: House) -> Operators:
    """Clients of the operator routes."""
    return Operators(house)


@pytest.fixture
def client(operators: Operators) -> TestClient:
    """An operator's client."""
    return operators.as_role(Role.OPERATOR)


def enrolled(client: TestClient, house: House, **body: Any) -> KeyedDevice:
    """Enrol a device with a token from the API."""
    answer = client.post("enrollments", json=body)
    assert answer.status_code == 201, answer.text
    device = KeyedDevice()
    device.enrolment = house.fleet.enrolment.enroll(answer.json()["tokens"][0]["token"], device.csr(), FACTS)
    return device


def test_from_claim_to_deployment(client: TestClient, house: House) -> None:
    device = enrolled(client, house, labels={"env": "prod"}, count=2)
    house.release("digits@1.0.0", bundles={PROFILE: b"bundle"})
    dry = client.post("releases/digits@1.0.0:deploy", json={"selector": "env=prod", "dry_run": True})
    assert dry.json()["set"] == [
        {
            "device": device.id,
            "profile": PROFILE,
            "gen": 0,
            "target": f"digits/1.0.0/{PROFILE}.bundle",
            "display_name": "",
        }
    ]
    done = client.post("releases/digits@1.0.0:deploy", json={"selector": "env=prod"})
    assert (done.status_code, done.json()["set"][0]["gen"], done.json()["matched"]) == (200, 2, 1)
    shown = client.get(f"devices/{device.id}").json()
    assert shown["desired"]["models"][0]["release"] == "digits@1.0.0"
    assert (shown["status"], shown["telemetry"], shown["models"]) == ("unknown", None, [])
    users = client.get("releases/digits@1.0.0/devices").json()
    assert (users["total"], users["items"][0]["wanted"]) == (1, True)
    kinds = [event["kind"] for event in client.get(f"devices/{device.id}/events").json()["items"]]
    assert kinds == ["desired", "enrolled"]
    assert client.get("events").json()["total"] == 2
    assert client.get("fleet/summary").json()["status"]["unknown"] == 1
    claims = client.get("enrollments").json()
    assert claims["total"] == 2
    assert [device.id] in [claim["devices"] for claim in claims["items"]]
    assert "secret" not in str(claims)


def test_lists_come_in_pages(client: TestClient, house: House) -> None:
    ids = sorted(house.device().id for _ in range(3))
    first = client.get("devices", params={"limit": 2}).json()
    rest = client.get("devices", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [one["id"] for one in first["items"] + rest["items"]] == ids
    assert (first["total"], rest["next_cursor"]) == (3, None)
    events = client.get("events", params={"limit": 2}).json()
    more = client.get("events", params={"limit": 2, "cursor": events["next_cursor"]}).json()
    assert [e["id"] for e in events["items"] + more["items"]] == [3, 2, 1]


@pytest.mark.parametrize("path", ["events", "devices/{}/events"])
def test_a_time_without_a_zone_is_refused_with_its_place(client: TestClient, house: House, path: str) -> None:
    device = enrolled(client, house)
    answer = client.get(path.format(device.id), params={"since": "2026-11-25T12:00:00"})
    assert (answer.status_code, "query.since" in answer.json()["detail"]) == (422, True)
    assert client.get(path.format(device.id), params={"since": "2026-11-25T12:00:00Z"}).status_code == 200


def test_events_can_be_filtered_and_followed(client: TestClient, house: House) -> None:
    device = house.device().id
    house.fleet.feed.add([NewEvent("stage", rollout="r-1"), NewEvent("assignment", device, "digits", "r-1")])
    house.fleet.feed.add([NewEvent("assignment", "d-b", "digits", "r-2", {"to": "acked"})])

    def kinds(**params: Any) -> list[str]:
        answer = client.get("events", params=params)
        assert answer.status_code == 200, answer.text
        return [one["kind"] for one in answer.json()["items"]]

    assert kinds(rollout="r-1") == ["assignment", "stage"]
    assert kinds(kind="stage, enrolled,") == ["stage", "enrolled"]
    assert kinds(device=device) == ["assignment", "enrolled"]
    assert kinds(after_id=0) == ["enrolled", "stage", "assignment", "assignment"]
    page = client.get("events", params={"after_id": 1, "limit": 2, "kind": "stage,assignment"}).json()
    assert ([one["id"] for one in page["items"]], page["next_cursor"], page["total"]) == ([2, 3], None, 3)
    assert page["items"][1]["rollout"] == "r-1"
    assert kinds(after_id=3, rollout="r-2") == ["assignment"]
    assert kinds(after_id=4) == []
    assert client.get("events", params={"after_id": -1}).json()["code"] == "request.invalid"


def test_telemetry_of_a_device(client: TestClient, house: House) -> None:
    device = house.device()
    windows = [
        Window(t0=1_764_000_000 + i, length_s=60, model="digits", lane="active", sha256="a" * 64, version="1.0.0", n=i)
        for i in range(3)
    ]
    house.telemetry.ingest([Telemetry(device=device.id, boot_id="b", seq=1, ts=1, windows=windows)])
    first = client.get(f"devices/{device.id}/telemetry", params={"limit": 2}).json()
    rest = client.get(f"devices/{device.id}/telemetry", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [one["n"] for one in first["items"] + rest["items"]] == [2, 1, 0]
    assert client.get(f"devices/{device.id}").json()["telemetry"]["windows"][0]["model"] == "digits"


def test_labels_profile_and_revocation(client: TestClient, house: House) -> None:
    device = house.device(labels={"env": "dev"})
    changed = client.patch(f"devices/{device.id}", json={"labels": {"env": None, "site": "north"}})
    assert changed.json()["labels"] == {"site": "north"}
    assert client.patch(f"devices/{device.id}", json={"profile": "generic-aarch64-ort"}).status_code == 200
    assert client.delete(f"devices/{device.id}").status_code == 204
    assert client.get(f"devices/{device.id}").json()["status"] == "revoked"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "devices/d-none", None, 404, "fleet.device_unknown"),
        ("GET", "devices/d-none/events", None, 404, "fleet.device_unknown"),
        ("GET", "devices/d-none/telemetry", None, 404, "fleet.device_unknown"),
        ("DELETE", "devices/d-none", None, 404, "fleet.device_unknown"),
        ("GET", "devices?selector=a%20b", None, 422, "fleet.bad_selector"),
        ("GET", "events?cursor=eA", None, 422, "request.bad_cursor"),
        ("GET", "events?cursor=wrI", None, 422, "request.bad_cursor"),  # a digit that is no number
        ("POST", "enrollments", {"labels": {"status": "x"}}, 422, "fleet.bad_label"),
        ("POST", "enrollments", {"count": 0}, 422, "request.invalid"),
        ("POST", "enrollments", {"surprise": 1}, 422, "request.invalid"),
        ("POST", "enrollments", {"profile": "none"}, 404, "profile.unknown"),
        ("POST", "enrollments", {"name_prefix": "srv"}, 422, "id.bad"),
        ("POST", "releases/digits@9:deploy", {"selector": ""}, 404, "release.unknown"),
        ("POST", "releases/digits:deploy", {"selector": ""}, 422, "id.bad"),
        ("GET", "releases/digits@9/devices", None, 404, "release.unknown"),
    ],
)
def test_refusals_say_what_and_what_next(
    client: TestClient, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["next"]


def test_every_route_wants_exactly_the_role_of_the_policy(operators: Operators, house: House) -> None:
    device = house.device()
    seen = 0
    routers = (*fleet_routers(operators.parts), *telemetry_routers(operators.parts))
    routes = [route for router in routers for route in router.routes]
    for route in routes:
        assert isinstance(route, APIRoute)
        for method in route.methods or ():
            needed = role_of(method, route.path)
            assert needed is not None
            # with its slash: `devices:task` alone would be an address of a scheme `devices`
            path = route.path.format_map(defaultdict(lambda: "x-1", device_id=device.id, ref="digits@1"))
            for role in (None, *Role):
                # Only the beginning of the answer: a stream of events has no end.
                with operators.as_role(role).stream(method, path, json={}) as answer:
                    status = answer.status_code
                if role is None:
                    assert status == 401, route.path
                elif role in {needed, Role.ADMIN} or (needed is Role.VIEWER):
                    assert status not in {401, 403}, (route.path, role)
                else:
                    assert status == 403, (route.path, role)
            seen += 1
    assert seen == 96
