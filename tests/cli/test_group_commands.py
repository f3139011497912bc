"""`edgectl group` and `device label` against a server that answers as the API does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub, page, problem

_GROUP = {
    "name": "canaries",
    "selector": "site=berlin,ring=1",
    "devices": 3,
    "created_at": "2026-01-03T12:00:00+00:00",
    "created_by": "ana",
}


def _device(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "profile": "generic-x86_64-ort",
        "status": "online",
        "models": [],
        "labels": {"site": "berlin"},
        "desired": {"gen": 1, "models": []},
        "refused": None,
        "last_seen": None,
        "reported_gen": 1,
    }


def test_a_group_is_made_shown_listed_and_deleted(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("POST /groups", (201, _GROUP))
    fleet.says("GET /groups", page([_GROUP]))
    fleet.says("GET /groups/canaries", _GROUP)
    fleet.says("DELETE /groups/canaries", (204, {}))
    made = edgectl("group", "create", "canaries", "-l", "site=berlin,ring=1", "-o", "json")
    assert (made.code, made.json) == (0, _GROUP)
    assert fleet.bodies("POST /groups") == [{"name": "canaries", "selector": "site=berlin,ring=1"}]
    assert edgectl("group", "list", "-o", "json").json == page([_GROUP])
    assert edgectl("group", "list", "-o", "name").out == "canaries\n"
    assert "site=berlin,ring=1" in edgectl("group", "list").out
    assert "ana" in edgectl("group", "show", "canaries").out
    assert edgectl("group", "delete", "canaries").code == 3
    assert "DELETE /groups/canaries" not in [asked.what for asked in fleet.asked]
    assert edgectl("group", "delete", "canaries", "--yes").code == 0
    assert "DELETE /groups/canaries" in [asked.what for asked in fleet.asked]


@pytest.mark.parametrize("form", ["table", "wide", "json", "yaml", "name", "csv"])
def test_members_are_shown_as_devices(edgectl: Edgectl, fleet: Stub, form: str) -> None:
    fleet.says("GET /groups/canaries/members", page([_device("d-1"), _device("d-2")]))
    ran = edgectl("group", "members", "canaries", "-o", form)
    assert ran.code == 0, ran.err
    assert "d-2" in ran.out


def test_a_group_is_changed(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("PATCH /groups/canaries", {**_GROUP, "selector": "ring=2"})
    assert edgectl("group", "change", "canaries", "-l", "ring=2", "-o", "json").json["selector"] == "ring=2"
    assert fleet.bodies("PATCH /groups/canaries") == [{"selector": "ring=2"}]


def test_a_group_needs_a_selector(edgectl: Edgectl, fleet: Stub) -> None:
    assert edgectl("group", "create", "canaries").code == 2
    assert fleet.asked == []


@pytest.mark.parametrize(("status", "code"), [(404, 5), (409, 6), (422, 2)])
def test_refusals_have_their_exit_code(edgectl: Edgectl, fleet: Stub, status: int, code: int) -> None:
    fleet.says("POST /groups", problem(status, "group.bad", "no"))
    fleet.says("GET /groups/x/members", problem(status, "group.bad", "no"))
    assert edgectl("group", "create", "x", "-l", "a=b").code == code
    assert edgectl("group", "members", "x").code == code


def test_labels_are_set_and_removed(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("PATCH /devices/d-1", _device("d-1"))
    ran = edgectl("device", "label", "d-1", "site=berlin", "old-")
    assert ran.code == 0, ran.err
    assert fleet.bodies("PATCH /devices/d-1") == [{"labels": {"site": "berlin", "old": None}}]
    assert "d-1: site=berlin" in ran.err
