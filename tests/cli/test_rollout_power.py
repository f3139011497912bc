"""`edgectl rollout simulate`: the exact chances of the rules, drawn."""

from __future__ import annotations

import pytest

from edgefleet_cli.rollout.simulation.power_curve import percent
from edgefleet_sim.__main__ import PowerRequest, power
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import SPEC, Stub, plan


def fleet_plan(devices: int) -> object:
    """Return a plan of two stages on one profile."""
    cell = {"stratum": "rpi", "rule": "evidence", "why": "", "new": 5, "cumulative": 5, "devices": []}
    stages = [
        {"idx": 0, "name": "canary", "size_text": "5", "soak_s": 30, "strata": [cell]},
        {"idx": 1, "name": "all", "size_text": "100 %", "soak_s": 0, "strata": [{**cell, "cumulative": devices}]},
    ]
    return plan(stages=stages, spec=SPEC, strata=[])


def test_the_curve_is_of_the_rules_and_rises() -> None:
    found = power(PowerRequest(SPEC, {"rpi": 200, "few": 4}, 20))
    curve, median = found["curves"]["rpi"], found["medians"]["rpi"]
    assert len(curve) == 201
    assert len(found["curves"]["few"]) == 5
    assert curve == sorted(curve)
    assert curve[0] == 0
    assert curve[median - 1] < 0.5 <= curve[median]


def test_a_chart_with_the_median_and_the_chance_of_each_stage(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /rollouts/r-1/plan", fleet_plan(124))
    ran = edgectl("rollout", "simulate", "r-1", "--bad", "50")
    assert ran.code == 0, ran.err
    assert "rpi: a release that fails on 50 % of devices is stopped after 5 devices (median)." in ran.out.replace(
        " \n", " "
    )
    assert "▼" in ran.out
    assert "124 devices" in ran.out
    assert ran.out.splitlines()[-1].split() == ["all", "rpi", "124", ">99", "%"]
    assert [one for one in ran.out.splitlines() if len(one) > 80] == []
    rows = edgectl("rollout", "simulate", "r-1", "--bad", "50", "-o", "json").json
    assert rows["medians"] == {"rpi": 5}


def test_what_is_not_stopped_is_said_to_be_so(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /rollouts/r-1/plan", fleet_plan(10))
    ran = edgectl("rollout", "simulate", "r-1")
    assert "rpi: 10 devices stop a release that fails on 5 % of them with a chance of" in ran.out.replace("\n", " ")
    assert edgectl("rollout", "simulate").code == 2
    fleet.says("GET /rollouts/r-1/plan", plan(stages=[], spec=SPEC))
    assert edgectl("rollout", "simulate", "r-1").told()[0] == "the rollout has no devices"


@pytest.mark.parametrize(
    ("share", "said"), [(0, "0 %"), (0.001, "<1 %"), (0.5, "50 %"), (0.999, ">99 %"), (1, ">99 %")]
)
def test_a_chance_is_never_called_certain(share: float, said: str) -> None:
    assert percent(share) == said
