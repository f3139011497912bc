"""`edgectl device ask`: counted first, asked after a yes, and who could not be asked is named."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub, page

PATH = "POST /devices:task"
SKIPPED = {"device": "d-9", "reason": "d-9 has 8 open tasks", "next": "wait"}


def answer(*, dry_run: bool) -> tuple[int, dict[str, object]]:
    """Return what the API says."""
    asked = 3 if dry_run else 2
    skipped = [] if dry_run else [SKIPPED]
    return 201, {"kind": "restart", "matched": 3, "asked": asked, "dry_run": dry_run, "tasks": {}, "skipped": skipped}


def test_a_dry_run_asks_nobody(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(PATH, answer(dry_run=True))
    ran = edgectl("device", "ask", "restart", "-l", "site=hall", "--dry-run", "-o", "json")
    assert (ran.code, ran.json["matched"]) == (0, 3)
    assert fleet.bodies(PATH) == [{"kind": "restart", "selector": "site=hall", "dry_run": True, "what": "agent"}]


def test_many_are_asked_after_a_yes_and_who_was_not_is_named(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(PATH, answer(dry_run=True), answer(dry_run=False))
    ran = edgectl("device", "ask", "restart", "-l", "site=hall", "--yes")
    assert ran.code == 0
    assert "d-9 has 8 open tasks" in ran.out + ran.err
    assert [body["dry_run"] for body in fleet.bodies(PATH)] == [True, False]


def test_without_a_yes_nothing_is_asked(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(PATH, answer(dry_run=True))
    ran = edgectl("device", "ask", "logs", "-l", "")
    assert ran.code != 0
    assert [body["dry_run"] for body in fleet.bodies(PATH)] == [True]


@pytest.mark.parametrize(
    "command",
    [
        ("device", "list", "-l", "site=nowhere"),
        ("device", "ask", "restart", "-l", "site=nowhere", "--yes"),
        ("device", "label", "-l", "site=nowhere", "ring=1", "--yes"),
        ("deploy", "digits@1.1.0", "--to", "site=nowhere"),
        ("deploy", "digits@1.1.0", "--to", "site=nowhere", "--shadow"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_selector_that_matches_nothing_is_named_and_an_empty_fleet_says_how_to_enrol(
    edgectl: Edgectl, fleet: Stub, command: tuple[str, ...]
) -> None:
    nobody = {"matched": 0, "asked": 0, "changed": 0, "set": [], "skipped": [], "dry_run": True}
    fleet.says("GET /devices", page([]))
    fleet.says(PATH, (201, nobody))
    fleet.says("POST /devices:label", nobody)
    fleet.says("POST /releases/digits%401.1.0:deploy", nobody)
    fleet.says("POST /releases/digits@1.1.0:deploy", nobody)
    fleet.says("GET /fleet/summary", {"devices": 8})
    assert edgectl(*command).err.splitlines()[-1] == "no device matches 'site=nowhere' (8 in all)"
    fleet.says("GET /fleet/summary", {"devices": 0})
    assert edgectl(*command).err.splitlines()[-1] == "no devices; enrol one with `edgectl device enroll`"
