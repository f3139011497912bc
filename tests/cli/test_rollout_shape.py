"""`edgectl rollout approve|deny|strategy`, `create --strategy`, and the power that `lint` prints."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from edgefleet_cli.core.api.rollout import Plan
from edgefleet_cli.core.transport.reply import struct_of
from edgefleet_cli.rollout.simulation.power_table import power_rows
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import SPEC, Stub, page, plan, problem, rollout

_ID = "r-7f3a9c"
_AT = f"/rollouts/{_ID}"
_DOCUMENT = {
    "apiVersion": "edgefleet/v1",
    "kind": "Rollout",
    "spec": {"release": "model@version", "stages": [{"name": "green"}]},
}
_STRATEGY = {"name": "blue-green", "about": "all at a word", "spec": _DOCUMENT}
_POWER = {
    "stratum": "rpi",
    "devices": 40,
    "to_stop": {"10": 98, "20": 21, "50": 5, "100": None},
    "to_take_back": {"10": None, "20": 25, "50": 6, "100": 3},
    "failures_to_stop": 2,
    "failures_to_take_back": 3,
    "liars": 0.01,
    "stages": [
        {
            "stage": "canary",
            "devices": 2,
            "rule": "all_healthy",
            "needed": 2,
            "stops": {"10": 0.01, "20": 0.04, "50": 0.25, "100": 1.0},
        },
        {
            "stage": "rest",
            "devices": 40,
            "rule": "evidence",
            "needed": None,
            "stops": {"10": 0.0, "20": 0.001, "50": 0.999, "100": 1.0},
        },
    ],
}


@pytest.mark.parametrize(
    ("verb", "flags"), [("approve", ("--reason", "fine")), ("deny", ("--reason", "no", "--stratum", "rpi"))]
)
def test_an_answer_goes_to_the_server_with_its_reason(
    edgectl: Edgectl, fleet: Stub, verb: str, flags: tuple[str, ...]
) -> None:
    fleet.says(f"POST {_AT}:{verb}", rollout())
    ran = edgectl("rollout", verb, _ID, *flags)
    assert ran.code == 0, ran.err
    assert fleet.bodies(f"POST {_AT}:{verb}") == [
        {"reason": flags[1], "stratum": "rpi" if "--stratum" in flags else None}
    ]


def test_a_denial_needs_a_reason(edgectl: Edgectl, fleet: Stub) -> None:
    assert edgectl("rollout", "deny", _ID).code == 2
    assert fleet.asked == []


def test_who_may_not_approve_is_told_whom_to_ask(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(
        f"POST {_AT}:approve", problem(403, "rollout.not_approver", "the stage rest opens at an approver's word")
    )
    ran = edgectl("rollout", "approve", _ID)
    assert ran.code != 0
    assert "approver" in ran.err


def test_a_rollout_that_waits_says_what_can_be_done(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says(f"GET {_AT}", rollout(state="awaiting_approval"))
    fleet.says(f"GET {_AT}/devices", page([]))
    ran = edgectl("rollout", "show", _ID)
    assert f"edgectl rollout approve {_ID}" in ran.err


def test_a_strategy_is_printed_as_a_file_to_start_from(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /rollout-strategies/blue-green", _STRATEGY)
    for form in ((), ("-o", "yaml")):
        assert yaml.safe_load(edgectl("rollout", "strategy", "blue-green", *form).out) == _DOCUMENT
    assert json.loads(edgectl("rollout", "strategy", "blue-green", "-o", "json").out) == _DOCUMENT
    fleet.says("GET /rollout-strategies", page([_STRATEGY]))
    ran = edgectl("rollout", "strategy")
    assert ran.code == 0
    for word in ("blue-green", "green", "all at a word"):
        assert word in ran.out


def test_a_rollout_is_made_by_a_strategys_name(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("POST /rollouts", (201, rollout()))
    fleet.says(f"GET {_AT}/plan", plan())
    ran = edgectl("rollout", "create", "digits@1.1.0", "--to", "", "--strategy", "blue-green")
    assert ran.code == 0, ran.err
    assert fleet.bodies("POST /rollouts")[0]["spec"] == {
        "release": "digits@1.1.0",
        "selector": "",
        "strategy": "blue-green",
    }
    refused = edgectl("rollout", "create", "digits@1.1.0", "--to", "", "--strategy", "ab", "--stages", "1,100%")
    assert refused.code == 2
    assert "rollout strategy ab" in refused.err


def test_a_lint_prints_what_each_stage_can_find_out(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("POST /rollouts:plan", plan(power=[_POWER]))
    ran = edgectl("rollout", "lint", "-f", "-", stdin=json.dumps(SPEC))
    assert ran.code == 0, ran.err
    for word in (
        "to stop it",
        "after 98",
        "not by 500",
        "to go back",
        "after 25",
        "canary",
        "25 %",
        "<1 %",
        ">99 %",
    ):
        assert word in ran.out
    assert "rpi: 2 failures of the first 2 devices stop it, 3 of 3 take it back (liars 1 %)" in ran.out
    assert max(len(line) for line in ran.out.splitlines()) <= 80


def test_without_power_there_is_no_table() -> None:
    known: dict[str, Any] = plan()
    assert power_rows(struct_of({**known, "power": []}, Plan)) == power_rows(struct_of({}, Plan)) == []
