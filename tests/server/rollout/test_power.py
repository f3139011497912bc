"""What a stage can find out: the chances agree with playing the shipped rules, and with the figures of docs/explanation/rollouts.md."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_server.rollout.analysis.facts import rule_in
from edgefleet_server.rollout.analysis.model import Rule
from edgefleet_server.rollout.analysis.power import BAD_PCT, FOLLOWED, chance_to_stop, devices_to_stop, stratum_power
from edgefleet_server.rollout.failure_ratio import log_e_abort, threshold
from edgefleet_server.rollout.spec.model import InstallGate
from edgefleet_server.rollout.spec.parser import parse_spec

GATE = InstallGate()
BASE = {"release": "digits@1.1.0", "selector": ""}


def test_the_medians_are_those_of_the_design() -> None:
    assert [devices_to_stop(bad, 10_000, GATE) for bad in BAD_PCT] == [
        pytest.approx(98, abs=3),
        pytest.approx(21, abs=2),
        5,
        2,
    ]


@pytest.mark.parametrize("bad", [10, 50])
@pytest.mark.parametrize("devices", [5, 40])
def test_a_chance_is_what_playing_it_out_gives(bad: int, devices: int) -> None:
    chance = random.Random(bad * devices)
    runs = 4_000
    stopped = sum(_is_stopped(chance, bad / 100, devices) for _ in range(runs))
    assert stopped / runs == pytest.approx(chance_to_stop(bad, devices, 1_000, GATE), abs=0.03)


def _is_stopped(chance: random.Random, q: float, devices: int) -> bool:
    failed = 0
    for n in range(1, devices + 1):
        failed += chance.random() < q
        if log_e_abort(failed, n, GATE.max_failure) >= threshold(GATE.alpha_abort):
            return True
    return False


def test_in_a_small_stratum_two_failures_among_ten_stop_it() -> None:
    assert chance_to_stop(50, 2, 20, GATE) == pytest.approx(0.25)
    assert chance_to_stop(50, 2, 200, GATE) == pytest.approx(0.25)
    assert chance_to_stop(20, 9, 20, GATE) > chance_to_stop(20, 9, 200, GATE)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(BAD_PCT),
    st.integers(0, FOLLOWED + 50),
    st.sampled_from([5, 5_000]),
    st.sampled_from([0.01, 0.03, 0.2]),
)
def test_more_devices_and_worse_releases_are_stopped_sooner(bad: int, devices: int, population: int, p0: float) -> None:
    gate = InstallGate(max_failure=p0, promote_below=max(p0, 0.05))
    chance = chance_to_stop(bad, devices, population, gate)
    assert 0 <= chance <= 1 + 1e-9
    assert chance <= chance_to_stop(bad, devices + 1, population, gate) + 1e-9
    worse = [other for other in BAD_PCT if other > bad]
    assert all(chance <= chance_to_stop(other, devices, population, gate) + 1e-9 for other in worse)


def test_a_release_as_bad_as_is_put_up_with_is_not_said_to_be_stopped() -> None:
    assert devices_to_stop(10, 5_000, InstallGate(max_failure=0.2, promote_below=0.2)) is None


def test_an_approval_stands_in_for_evidence_and_for_nothing_else() -> None:
    asked = {"size": {"percent": 100}, "approval": {"role": "approver"}}
    spec = parse_spec({**BASE, "promote": "evidence", "stages": [{"size": {"count": 5}}, asked]})
    assert rule_in(spec, 0, 500, 5) is Rule.ALL_HEALTHY
    assert rule_in(spec, 0, 500, 73) is Rule.EVIDENCE
    assert rule_in(spec, 1, 500, 500) is Rule.EVIDENCE
    plain = parse_spec({**BASE, "promote": "evidence", "stages": [{"size": {"count": 5}}, {"size": {"percent": 100}}]})
    assert rule_in(plain, 0, 500, 5) is Rule.EVIDENCE


def test_a_stratum_tells_devices_there_and_needed() -> None:
    spec = parse_spec({**BASE, "stages": [{"size": {"count": 80}}, {"size": {"percent": 100}}]})
    power = stratum_power(spec, "rpi", 200, (80, 200))
    assert [(one.devices, one.needed, one.rule) for one in power.stages] == [
        (80, 73, "evidence"),
        (200, 73, "evidence"),
    ]
    assert power.stages[0].stops["50"] > 0.99
