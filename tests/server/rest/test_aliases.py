"""Aliases: names of releases that move, taken wherever a release is named; and the search box."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefleet_server.access.model import Role
from tests.server.dashboard.fleet import ORT, STAGES, Fleet
from tests.support.servers import ApiHouse, release_body

PROD = "/api/v1/models/digits/aliases/prod"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Two releases and a device."""
    made = Fleet(tmp_path / "server")
    for ref in ("digits@1.0.0", "digits@1.1.0"):
        made.release(ref, ORT)
    yield made
    made.close()


@pytest.fixture
def admin(fleet: Fleet) -> Any:
    """An admin's client."""
    return fleet.house.client(Role.ADMIN)


def test_an_alias_is_set_moved_and_removed(fleet: Fleet, admin: Any) -> None:
    made = admin.put(PROD, json={"version": "1.0.0"})
    assert (made.status_code, made.json()["ref"], made.json()["set_by"]) == (201, "digits@1.0.0", "test")
    assert admin.put(PROD, json={"version": "1.0.0"}).status_code == 200
    seen = admin.get(PROD).headers["etag"]
    moved = admin.put(PROD, json={"version": "1.1.0"}, headers={"if-match": seen})
    assert (moved.status_code, moved.json()["version"]) == (200, "1.1.0")
    assert admin.put(PROD, json={"version": "1.0.0"}, headers={"if-match": seen}).status_code == 412
    assert admin.get("/api/v1/models/digits").json()["aliases"] == {"prod": "1.1.0"}
    assert admin.get("/api/v1/releases/digits@1.1.0").json()["aliases"] == ["prod"]
    assert admin.get("/api/v1/models/digits/aliases").json()["items"][0]["alias"] == "prod"
    assert admin.delete(PROD, params={"dry_run": True}).status_code == 204
    assert admin.delete(PROD).status_code == 204
    gone = admin.delete(PROD)
    assert (gone.status_code, gone.json()["code"]) == (404, "alias.unknown")
    audited = [(row["action"], row["object"]) for row in admin.get("/api/v1/audit").json()["items"]]
    assert ("set_alias", PROD) in audited
    assert ("remove_alias", PROD) in audited
    assert fleet.house.client(Role.OPERATOR).put(PROD, json={"version": "1.0.0"}).status_code == 403


def test_an_alias_is_taken_wherever_a_release_is_named(fleet: Fleet, admin: Any) -> None:
    device = fleet.device("cam")
    admin.put(PROD, json={"version": "1.0.0"})
    ref = "/api/v1/releases/digits@prod"
    assert admin.get(ref).json()["ref"] == "digits@1.0.0"
    done = admin.post(f"{ref}:deploy", json={"selector": ""}).json()
    assert (done["release"], done["set"][0]["device"]) == ("digits@1.0.0", device.id)
    assert admin.get(f"{ref}/devices").json()["items"][0]["device"] == device.id
    assert admin.get(f"{ref}/performance").json()["total"] == 1
    assert admin.post("/api/v1/rollouts:undo", json={"name": "digits@prod", "dry_run": True}).status_code == 409
    assert admin.post(f"{ref}:cancel").json()["ref"] == "digits@1.0.0"
    assert "digits@1.0.0" in admin.get(f"{ref}/report").json()["detail"]


def test_a_rollout_keeps_what_its_alias_meant(fleet: Fleet, admin: Any) -> None:
    for n in range(4):
        fleet.device(f"cam{n}")
    admin.put(PROD, json={"version": "1.1.0"})
    admin.put("/api/v1/models/digits/aliases/safe", json={"version": "1.0.0"})
    spec = {"release": "digits@prod", "selector": "", "stages": STAGES, "rollback_to": "digits@safe"}
    assert admin.post("/api/v1/rollouts:plan", json=spec).json()["release"] == "digits@1.1.0"
    dry = admin.post("/api/v1/rollouts", params={"dry_run": True}, json=spec)
    assert (dry.status_code, dry.json()["release"]) == (201, "digits@1.1.0")
    assert admin.get("/api/v1/rollouts").json()["total"] == 0
    made = admin.post("/api/v1/rollouts", json=spec)
    assert (made.status_code, made.json()["release"]) == (201, "digits@1.1.0")
    path = made.headers["location"]
    admin.put(PROD, json={"version": "1.0.0"})
    assert admin.get(path).json()["release"] == "digits@1.1.0"
    told = admin.post(f"{path}:pause", params={"dry_run": True}, json={})
    assert told.json()["state"] == "paused"
    assert admin.get(path).json()["state"] == "running"
    same = admin.post("/api/v1/rollouts:plan", json=spec)
    assert (same.status_code, same.json()["errors"][0]["path"]) == (422, "spec.rollback_to")


def test_a_name_means_one_thing(house: ApiHouse) -> None:
    client = house.client(Role.ADMIN)
    blob = house.put(b"model")
    assert blob
    assert client.post("/api/v1/releases", json=release_body(b"model", version="main")).status_code == 201
    aliases = "/api/v1/models/digits/aliases"
    taken = client.put(f"{aliases}/main", json={"version": "main"})
    assert (taken.status_code, taken.json()["code"]) == (409, "alias.version_conflict")
    assert client.put(f"{aliases}/prod", json={"version": "main"}).status_code == 201
    again = client.post("/api/v1/releases", json=release_body(b"model", version="prod"))
    assert (again.status_code, again.json()["code"]) == (409, "release.alias_conflict")
    assert client.get("/api/v1/releases").json()["total"] == 1
    for alias, version, code in (
        ("1up", "main", "alias.bad"), ("Prod", "main", "alias.bad"), ("prod", "none", "release.unknown"),
    ):  # fmt: skip
        assert client.put(f"{aliases}/{alias}", json={"version": version}).json()["code"] == code
    assert client.put("/api/v1/models/none/aliases/a", json={"version": "1"}).json()["code"] == "model.unknown"


# ---- search


def test_the_search_finds_each_kind_by_a_part_of_its_name(fleet: Fleet, admin: Any) -> None:
    cam = fleet.device("cam-hall", labels={"site": "Digits-Lab"})
    fleet.device("oven")
    admin.post("/api/v1/groups", json={"name": "digits-fleet", "selector": "site=hall"})
    made = admin.post("/api/v1/rollouts", json={"release": "digits@1.1.0", "selector": "", "stages": STAGES}).json()
    found = admin.get("/api/v1/search", params={"q": "DIGITS"}).json()
    assert [(one["kind"], one["id"]) for one in found["items"]] == [
        ("device", cam.id), ("group", "digits-fleet"), ("model", "digits"), ("release", "digits@1.1.0"),
        ("release", "digits@1.0.0"), ("rollout", made["id"]),
    ]  # fmt: skip
    assert (found["total"], found["next_cursor"]) == (6, None)
    for one in found["items"]:
        assert admin.get(one["url"]).is_success, one
    assert [one["id"] for one in admin.get("/api/v1/search", params={"q": "hall"}).json()["items"]] == [cam.id]
    assert admin.get("/api/v1/search", params={"q": "100%_"}).json()["items"] == []
    assert admin.get("/api/v1/search", params={"q": ""}).status_code == 422


def test_the_search_gives_the_best_first_and_few_of_each(fleet: Fleet, admin: Any) -> None:
    for n in range(12):
        fleet.device(f"a-cam{n:02}")
    first = fleet.device("cam")
    found = admin.get("/api/v1/search", params={"q": "cam"}).json()["items"]
    assert (len(found), found[0]["id"]) == (10, first.id)
    assert len(admin.get("/api/v1/search", params={"q": "cam", "limit": 3}).json()["items"]) == 3
