"""The table of steps is total, each step says what it did or what held it, and what people see is what the planner asks."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.rollout.admission import DOWNLOADS, RATE
from edgefleet_server.rollout.analysis.doubt import DOUBT
from edgefleet_server.rollout.effects import Blocked, Offer, Plan, StepReport
from edgefleet_server.rollout.model import Member, RolloutState, Snapshot, StageRun, StageState
from edgefleet_server.rollout.planner import blockers, offers
from edgefleet_server.rollout.planner.builder import PlanBuilder
from edgefleet_server.rollout.planner.tick import STEPS, explain, plan_tick
from tests.server.rollout import test_doubting as doubting
from tests.server.rollout.explored import START
from tests.server.rollout.test_admitting import NOW, PROFILE, Store, snapshot_of

DEVICES = 12


def waiting(**spec: Any) -> Snapshot:
    """Return a rollout of one open stage in which all devices wait for their offers."""
    snapshot = snapshot_of(0, DEVICES, Store(), **spec)
    members = tuple(Member(a.device, PROFILE) for a in snapshot.assignments)
    run = StageRun(0, PROFILE, StageState.EXPOSING, 2**64, DEVICES, "d", opened_at=NOW)
    return replace(snapshot, members=members, cells=(run,))


def offered(plan: Plan) -> set[DeviceId]:
    return {effect.device for effect in plan.effects if isinstance(effect, Offer)}


def report_of(plan: Plan, step: str) -> StepReport:
    return next(one for one in plan.report if one.step == step)


def test_every_state_has_its_steps() -> None:
    assert set(STEPS) == set(RolloutState)


def test_a_step_says_what_it_did() -> None:
    plan = plan_tick(waiting(), NOW)
    assert len(offered(plan)) == DEVICES
    assert report_of(plan, "offers.make") == StepReport("offers.make", f"{DEVICES} devices offered")


@pytest.mark.parametrize("state", list(RolloutState))
def test_what_a_report_names_is_a_step_of_the_state(state: RolloutState) -> None:
    plan = plan_tick(replace(waiting(), state=state, missed=timedelta(minutes=5)), NOW)
    names = {f"{step.__module__.rpartition('.')[2]}.{step.__name__}" for step in STEPS[state]}
    assert {one.step for one in plan.report} <= names


def test_a_step_says_what_held_how_many_devices() -> None:
    plan = plan_tick(waiting(limits={"concurrent_downloads": 3}), NOW)
    assert len(offered(plan)) == 3
    (held,) = report_of(plan, "offers.make").blocked
    assert (held.wait.code, held.stratum, held.stage, held.count) == (DOWNLOADS, PROFILE, 0, DEVICES - 3)


def test_an_early_failure_holds_all_of_its_stratum() -> None:
    plan = plan_tick(doubting.snapshot_of(failed=2, healthy=0, under_way=48), START)
    (held,) = report_of(plan, "offers.make").blocked
    assert (held.wait.code, held.count) == (DOUBT, 100)


def test_a_queued_rollout_says_what_is_before_it() -> None:
    plan = plan_tick(
        replace(waiting(), state=RolloutState.VALIDATING, behind=("r-1", "r-2"), reason="waits for r-1, r-2"), NOW
    )
    assert plan.effects == ()
    (held,) = report_of(plan, "blockers.report").blocked
    assert isinstance(held, Blocked)
    assert (held.wait.code, held.wait.reason) == (blockers.QUEUE, "waits for r-1, r-2")


@settings(deadline=None)
@given(st.none() | st.integers(1, 15), st.none() | st.integers(1, 15), st.none() | st.integers(1, 15))
def test_devices_whose_turn_is_shown_are_those_that_are_offered_the_release(
    downloads: int | None, per_site: int | None, start: int | None
) -> None:
    limits = {name: n for name, n in (("concurrent_downloads", downloads), ("per_site", per_site)) if n is not None}
    stage = {"name": "all", "size": {"percent": 100}, **({} if start is None else {"rate": {"start": f"{start}/min"}})}
    snapshot = waiting(stages=[stage], **({"limits": limits} if limits else {}))
    waits = explain(snapshot, NOW, [(a, 1) for a in snapshot.assignments]).waits
    assert set(waits) == {a.device for a in snapshot.assignments}
    assert {device for device, wait in waits.items() if wait.code == blockers.TURN} == offered(plan_tick(snapshot, NOW))


def test_an_explanation_changes_nothing() -> None:
    snapshot = waiting(stages=[{"name": "all", "size": {"percent": 100}, "rate": {"start": "4/min"}}])
    plan = PlanBuilder(snapshot, NOW)
    waits = offers.explain(plan, [(a, 1) for a in snapshot.assignments])
    assert {wait.code for wait in waits.values()} == {blockers.TURN, RATE}
    assert tuple(plan.assignments.values()) == snapshot.assignments
