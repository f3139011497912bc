"""Two thresholds for the evidence: failures that liars may have invented stop a stratum for a person, more than that take it back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis import decide as analysis_decide
from edgefleet_server.rollout.analysis import replay
from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.metrics import QUALITY_BREACH
from edgefleet_server.rollout.analysis.model import Facts, Pause, RollBack, Rule
from edgefleet_server.rollout.analysis.power import devices_to_take_back, stratum_power
from edgefleet_server.rollout.analysis.stage_gates import STOP_QUALITY
from edgefleet_server.rollout.commands import steer
from edgefleet_server.rollout.effects import Offer, Plan, Revert, RolloutTransitioned, StageRunTransitioned
from edgefleet_server.rollout.failure_ratio import clean_needed, with_false_alarms, with_hidden_failures
from edgefleet_server.rollout.lint.findings import LIARS_MAY_HOLD, lint
from edgefleet_server.rollout.model import Assignment, Member, RolloutState, Snapshot, StageRun, StageState
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.model import InstallGate
from edgefleet_server.rollout.spec.parser import dump_spec, parse_spec, stored_spec
from edgefleet_sim.world import bundle_of
from tests.conftest import ROOT
from tests.server.rollout.explored import START
from tests.server.rollout.test_rules import large

RPI, X86 = ProfileName("rpi"), ProfileName("x86")
S = AssignmentState
BASE: dict[str, Any] = {
    "release": "digits@1.2.0",
    "selector": "",
    "stages": [{"name": "all", "size": {"percent": 100}}],
}


# ---- the verdict


def test_the_three_tests_each_have_a_ratio_of_their_own() -> None:
    figures = decide(large(healthy=40, failures={"internal": 10}, liars=0.05)).figures
    assert figures["max_failure"] == 0.03
    assert figures["take_back_above"] == pytest.approx(0.0785)
    assert figures["promote_below_reported"] == pytest.approx(0.0475)
    assert figures["e_abort"] > figures["e_take_back"]  # type: ignore[operator]


def test_without_liars_one_threshold_stops_and_takes_back() -> None:
    facts = large(healthy=30, failures={"internal": 8}, installing=12)
    assert isinstance(decide(facts), RollBack)
    assert "liars" not in decide(facts).figures, "as rules 1 stored it"
    assert isinstance(decide(msgspec.structs.replace(facts, liars=0.01)), Pause)


@given(st.integers(0, 60), st.integers(0, 300), st.sampled_from([0.01, 0.05, 0.1]))
def test_what_takes_back_with_liars_stops_without_them(failed: int, others: int, liars: float) -> None:
    facts = large(healthy=others, failures={"internal": failed} if failed else {}, liars=liars)
    before = msgspec.structs.replace(facts, liars=0.0)
    verdict, plain = decide(facts), decide(before)
    assert isinstance(verdict, RollBack | Pause) == isinstance(plain, RollBack), "what stops does not depend on liars"
    if isinstance(verdict, RollBack):
        assert isinstance(plain, RollBack)


def test_hidden_failures_raise_what_a_promotion_needs() -> None:
    assert [clean_needed(with_hidden_failures(0.05, liars), 0.05) for liars in (0, 0.01, 0.05, 0.1)] == [73, 73, 77, 81]
    assert decide(large(healthy=76, liars=0.05)).code == analysis_decide.MORE_EVIDENCE
    assert decide(large(healthy=77, liars=0.05)).code == analysis_decide.EVIDENCE
    assert decide(large(healthy=77, liars=0.05)).reason.endswith("also if 5 % of the devices hide a failure")


def test_invented_failures_and_a_metric_together_stop_and_take_nothing_back() -> None:
    stored = json.loads((ROOT / "golden" / "decisions" / "roll-back-quality-breach.json").read_text())["evidence"]
    worse = msgspec.convert(stored, Facts).quality
    assert worse is not None
    (metric,) = worse.metrics
    ((place, devices),) = metric.bins
    slow = msgspec.structs.replace(metric, bins=[(place, devices - 4)], missing=4, clipped=devices - 4)
    quality = msgspec.structs.replace(worse, metrics=[slow], measured=devices - 4, own_measured=devices - 4)
    facts = large(healthy=52, failures={"internal": 8}, quality=quality, liars=0.05)
    verdict = decide(facts)
    assert isinstance(verdict, Pause)
    assert verdict.code == STOP_QUALITY
    assert verdict.figures["e_abort"] < verdict.figures["abort_at"], "neither suffices alone"  # type: ignore[operator]
    assert verdict.figures["quality_e_fail"] < 100 / 0.15  # type: ignore[operator]
    assert decide(msgspec.structs.replace(facts, liars=0.0)).code == QUALITY_BREACH


# ---- what is stored


def test_a_rollout_that_began_without_liars_goes_on_without_them() -> None:
    written = dump_spec(parse_spec(BASE))
    assert written["gates"]["install"]["liars"] == 0.01
    assert stored_spec(written).gates.install.liars == 0.01
    del written["gates"]["install"]["liars"]
    assert stored_spec(written).gates.install.liars == 0
    assert parse_spec(written).gates.install.liars == 0.01, "a file that leaves it out asks for the default"


def test_evidence_of_rules_1_is_decided_by_rules_1() -> None:
    stored = replay.stored(large(healthy=30, failures={"internal": 8}, installing=12))
    del stored["liars"]
    assert isinstance(replay.recompute(stored), RollBack)


# ---- what a plan says


def test_a_plan_says_what_stops_what_takes_back_and_what_passes() -> None:
    gate = {"install": {"liars": 0.05}}
    power = stratum_power(parse_spec({**BASE, "gates": gate}), "x86", 500, (500,))
    assert (power.failures_to_stop, power.failures_to_take_back, power.stages[0].needed) == (2, 3, 77)
    assert power.to_take_back["10"] is None
    assert [power.to_take_back[bad] for bad in ("20", "50", "100")] == [65, 7, 3], "without a liar among them"
    assert devices_to_take_back(20, 500, InstallGate(liars=0)) == power.to_stop["20"]


def test_the_lint_warns_where_liars_alone_hold_a_good_release() -> None:
    def codes(liars: float) -> list[str]:
        spec = parse_spec({**BASE, "gates": {"install": {"liars": liars}}})
        return [one.code for one in lint(spec, {X86: 500}, 0, {X86: bundle_of("new", "x86")})]

    assert LIARS_MAY_HOLD in codes(0.05)
    assert LIARS_MAY_HOLD not in codes(0.01)


# ---- the planner


def snapshot_of(strata: dict[ProfileName, Sequence[AssignmentState]], liars: float = 0.05) -> Snapshot:
    """Return a running rollout of one stage, with a device in each state."""
    spec = parse_spec({**BASE, "gates": {"install": {"liars": liars}}})
    at = START - timedelta(minutes=5)
    ones, cells = [], []
    for stratum, states in strata.items():
        for number, state in enumerate(states):
            one = Assignment(
                DeviceId(f"d-{stratum}-{number:04}"), 0, stratum, state, attempt=1, gen=1, entered_at=at, offered_at=at,
                due_at=at, exposed_at=at, switched_at=at, deadline=START + timedelta(hours=1),
                error_class="internal" if state is S.FAILED else "",
            )  # fmt: skip
            waits = {"gen": 0, "attempt": 0, "exposed_at": None, "switched_at": None}
            ones.append(one.but(**waits) if state is S.ELIGIBLE else one)
        cells.append(StageRun(0, stratum, StageState.EXPOSING, 2**64, len(states), "d", opened_at=at))
    members = tuple(Member(one.device, one.stratum) for one in ones)
    bundles = {stratum: bundle_of("new", stratum) for stratum in strata}
    return Snapshot(RolloutId("r"), RolloutState.RUNNING, spec, "salt", bundles, members, tuple(cells), tuple(ones))


def states(failed: int, healthy: int, on_trial: int = 0, waiting: int = 0) -> list[AssignmentState]:
    return [S.FAILED] * failed + [S.HEALTHY] * healthy + [S.VERIFYING] * on_trial + [S.ELIGIBLE] * waiting


def after(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """Return the snapshot with the stage runs and the state as a plan leaves them; its devices stay as they were."""
    cells = {(run.stratum, run.stage): run for run in snapshot.cells}
    for effect in plan.effects:
        if isinstance(effect, StageRunTransitioned):
            cells[effect.cell.stratum, effect.cell.stage] = effect.cell
        elif isinstance(effect, RolloutTransitioned):
            snapshot = replace(snapshot, state=effect.after, code=effect.code, reason=effect.reason)
    return replace(snapshot, cells=tuple(cells.values()))


def with_failures(snapshot: Snapshot, stratum: ProfileName, more: int) -> Snapshot:
    """Return the snapshot after so many healthy devices of a stratum have failed."""
    ones, left = [], more
    for one in snapshot.assignments:
        if left and one.stratum == stratum and one.state is S.VERIFYING:
            one, left = one.but(state=S.FAILED, error_class="internal"), left - 1  # noqa: PLW2901
        ones.append(one)
    assert not left
    return replace(snapshot, assignments=tuple(ones))


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_stop_holds_its_stratum_and_more_failures_take_it_back_without_a_person(is_alone: bool) -> None:
    others = {} if is_alone else {X86: states(failed=0, healthy=600, waiting=200)}
    snapshot = snapshot_of({RPI: states(failed=12, healthy=70, on_trial=20, waiting=100), **others})
    plan = plan_tick(snapshot, START)
    stopped = after(snapshot, plan)
    runs = {run.stratum: run for run in stopped.cells}
    assert (runs[RPI].state, runs[RPI].code) == (StageState.HELD, analysis_decide.STOP_EVIDENCE)
    assert stopped.state is (RolloutState.PAUSED if is_alone else RolloutState.RUNNING)
    offered = {effect.device for effect in plan.effects if isinstance(effect, Offer)}
    assert not [one for one in offered if "rpi" in one], "its offers rest"
    assert bool(offered) is not is_alone, "those of the other stratum go on"
    assert not [effect for effect in plan.effects if isinstance(effect, Revert)], "nothing is taken back"
    assert plan_tick(stopped, START).effects == () if is_alone else True

    worse = with_failures(stopped, RPI, 15)
    plan = plan_tick(worse, START)
    taken = after(worse, plan)
    runs = {run.stratum: run for run in taken.cells}
    assert (runs[RPI].state, runs[RPI].code) == (StageState.FAILED, analysis_decide.ABORT_EVIDENCE)
    assert [effect for effect in plan.effects if isinstance(effect, Revert) and effect.is_rollback]
    assert taken.state is RolloutState.RUNNING, "it ends by itself, or goes on with the other stratum"
    if not is_alone:
        assert runs[X86].state in {StageState.EXPOSING, StageState.SOAKING, StageState.JUDGING}


def test_a_person_s_pause_outlasts_what_is_taken_back() -> None:
    snapshot = snapshot_of(
        {RPI: states(failed=12, healthy=70, on_trial=20), X86: states(failed=0, healthy=600, waiting=9)}
    )
    stopped = after(snapshot, plan_tick(snapshot, START))
    paused = after(stopped, steer.plan_pause(stopped, START, "by hand"))
    taken = after(paused, plan_tick(with_failures(paused, RPI, 15), START))
    assert taken.state is RolloutState.PAUSED
    assert {run.stratum: run.state for run in taken.cells}[RPI] is StageState.FAILED


def test_a_pooled_stop_pauses_all_strata() -> None:
    each = states(failed=8, healthy=69)
    snapshot = snapshot_of({RPI: each, X86: each}, liars=0.05)
    plan = plan_tick(snapshot, START)
    stopped = after(snapshot, plan)
    assert (stopped.state, stopped.code) == (RolloutState.PAUSED, analysis_decide.STOP_POOLED)
    resumed = after(stopped, steer.plan_resume(stopped, START, "go on"))
    assert resumed.state is RolloutState.RUNNING
    assert {run.state for run in resumed.cells} == {StageState.EXPOSING}


def test_a_pooled_take_back_also_fails_what_a_stop_holds() -> None:
    facts = large(
        healthy=98, failures={"slow": 2}, pooled_exposed=260, pooled_failed=60, liars=0.05, rule=Rule.EVIDENCE
    )
    verdict = decide(facts)
    assert isinstance(verdict, RollBack)
    assert verdict.pooled
    assert with_false_alarms(0.03, 0.05) == pytest.approx(0.0785)
