"""`edgectl undo` against a server that answers as the API does: it shows, asks, and only then acts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import Stub, problem, rollout

_WHAT = "POST /rollouts:undo"


def answer(**changes: Any) -> dict[str, Any]:
    """Return what the server says about an undo."""
    kept = {
        "runs": "digits@1.1.0",
        "back_to": "digits@1.0.0",
        "profile": "rpi",
        "devices": 3,
        "downloads": 0,
        "bytes": 0,
    }
    loaded = {**kept, "profile": "jet", "devices": 1, "downloads": 1, "bytes": 2_000_000}
    return {
        "model": "digits",
        "dry_run": True,
        "devices": 4,
        "downloads": 1,
        "bytes": 2_000_000,
        "moves": [kept, loaded],
        "devices_shown": [],
        "left": [
            {
                "device": "d-9",
                "display_name": "Roof 3",
                "profile": "rpi",
                "runs": "digits@1.1.0",
                "reason": "nothing older is known of it",
            }
        ],
        "rollouts": [],
    } | changes


@pytest.fixture
def served(fleet: Stub) -> Stub:
    """A server on which an undo takes four devices back."""
    fleet.says(_WHAT, answer(rollouts=["r-7f3a9c"]))
    fleet.says("GET /rollouts/r-7f3a9c", rollout(state="rolled_back"))
    return fleet


def test_a_dry_run_shows_and_asks_nothing_of_the_fleet(edgectl: Edgectl, served: Stub) -> None:
    ran = edgectl("undo", "digits", "--dry-run")
    assert ran.code == 0, ran.err
    assert [body["dry_run"] for body in served.bodies(_WHAT)] == [True]
    for word in ("digits@1.1.0", "digits@1.0.0", "rpi", "0, kept slot", "jet", "1.9 MiB"):
        assert word in ran.out
    assert "unchanged: Roof 3 (d-9), on digits@1.1.0: nothing older is known of it" in ran.err
    assert max(len(line) for line in ran.out.splitlines()) <= 80


def test_without_a_yes_nothing_is_changed(edgectl: Edgectl, served: Stub) -> None:
    ran = edgectl("undo", "digits", "--no-input")
    assert ran.code == 3
    assert [body["dry_run"] for body in served.bodies(_WHAT)] == [True]
    assert "3 devices of rpi: digits@1.1.0 -> digits@1.0.0, 0 bytes, from the kept slot" in ran.err


def test_with_yes_it_shows_then_acts_and_says_how_to_watch(edgectl: Edgectl, served: Stub) -> None:
    ran = edgectl("undo", "digits", "--yes", "--reason", "slow")
    assert ran.code == 0, ran.err
    assert [(body["dry_run"], body["reason"]) for body in served.bodies(_WHAT)] == [(True, "slow"), (False, "slow")]
    assert "1 device of jet: digits@1.1.0 -> digits@1.0.0, 1.9 MiB to download" in ran.err
    assert "rolling back 4 devices in r-7f3a9c" in ran.err
    assert "edgectl rollout watch r-7f3a9c" in ran.err


@pytest.mark.parametrize(("state", "code"), [("rolled_back", 0), ("rollback_incomplete", 7)])
def test_wait_ends_with_how_it_went(edgectl: Edgectl, served: Stub, state: str, code: int) -> None:
    served.says("GET /rollouts/r-7f3a9c", rollout(state=state))
    assert edgectl("undo", "digits", "--yes", "--wait").code == code


def test_what_a_program_reads_of_a_wait_is_one_object(edgectl: Edgectl, served: Stub) -> None:
    served.says("GET /rollouts/r-7f3a9c", rollout(state="rolling_back"), rollout(state="rolled_back", reason="undone"))
    ran = edgectl("undo", "digits", "--yes", "--wait", "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.json["ended"] == [{"id": "r-7f3a9c", "state": "rolled_back", "reason": "undone"}]
    assert ran.json["moves"]
    assert "r-7f3a9c rolling_back" in ran.err


def test_json_is_the_answer_and_nothing_to_undo_exits_6(edgectl: Edgectl, served: Stub) -> None:
    assert edgectl("undo", "digits", "--dry-run", "-o", "json").json == answer(rollouts=["r-7f3a9c"])
    served.says(_WHAT, problem(409, "rollout.nothing_to_undo", "no device is told to run it"))
    assert edgectl("undo", "digits", "--yes").code == 6
