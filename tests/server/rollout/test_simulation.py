"""Whole rollouts in virtual time: they end, with a reason, and keep what they promise whatever their devices do."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState, ErrorClass, Phase
from edgefleet_server.rollout.model import RolloutState, StageState, Strength
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.planner.completion import NOT_BACK
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_sim.scenario import Scenario
from edgefleet_sim.world import START, World
from tests.server.rollout.corpus import Case, accepted
from tests.server.rollout.fleet_sim_audit import stage_of
from tests.server.rollout.planner_gaps import GAPS, NOW, gap, passes, whole
from tests.server.rollout.scenarios import (
    assigned,
    behave,
    by_rank,
    count_gaps_that_pass,
    ended,
    plain,
    scenario_of,
    serving,
    stages_of,
    verdicts,
    world_of_case,
)

STAGES = [
    {"name": "canary", "size": {"count": 2}, "soak": "10m"},
    {"name": "half", "size": {"percent": 50, "min": 2}, "soak": "10m"},
    {"name": "rest", "size": {"percent": 100}, "soak": "1m"},
]
CRASHES = {"fails": ErrorClass.CRASH}
NEVER_THERE = {"away_s": ((0.0, math.inf),)}


def world_of(
    fleet: Mapping[str, int] | int = 8,
    natures: Mapping[int, dict[str, Any]] | None = None,
    scenario: Scenario | None = None,
    **fields: Any,
) -> World:
    """Return a world of fine devices, but for those (by place in their rank) that have another nature."""
    spec = {"stages": STAGES, "device": {"ack_deadline": "8h"}, "on_inconclusive": {"after": "2d"}, **fields}
    devices = {"rpi": fleet} if isinstance(fleet, int) else dict(fleet)
    world = World(replaced(scenario or plain(1), devices=devices, spec=spec))
    ranked = by_rank(world)
    for place, nature in (natures or {}).items():
        behave(world, ranked[place], **nature)
    return world


def replaced(scenario: Scenario, **fields: Any) -> Scenario:
    return msgspec.structs.replace(scenario, **fields)


def exposed(world: World) -> set[DeviceId]:
    return {one.device for one in world.rows.assignments.values() if one.exposed_at is not None}


def test_a_good_release_reaches_every_device_stage_by_stage() -> None:
    world = world_of({"rpi": 8, "jet": 3})
    result = ended(world)
    assert result.state == "finished"
    assert serving(world) == set(world.devices)
    assert result.reason == "every stage passed in every stratum"
    cells = world.rows.cells
    assert {cell.state for cell in cells.values()} == {StageState.PASSED}
    assert {cell.strength for cell in cells.values()} == {Strength.WEAK}
    opened = [cells[stage, ProfileName("rpi")].opened_at for stage in range(3)]
    assert opened == sorted(opened, key=str)
    took = next(event.at for event in world.rows.events if event.after == "finished") - START
    assert took > timedelta(minutes=21), "the soaks were kept"
    ones = [one for one in world.rows.assignments.values() if one.stratum == "rpi"]
    assert [sum(one.stage == stage for one in ones) for stage in range(3)] == [2, 2, 4]


def test_a_release_that_fails_everywhere_stops_at_the_canary_and_is_taken_back() -> None:
    world = world_of(scenario=plain(2, bad=1.0, classes=("crash",)))
    assert ended(world).state == "rolled_back"
    assert len(exposed(world)) <= 2
    assert serving(world) == set()
    assert stages_of(world) == ["failed", "pending", "pending"]


def test_one_stratum_fails_and_the_other_goes_on() -> None:
    world = world_of({"rpi": 8, "jet": 8})
    for device in by_rank(world, "jet"):
        behave(world, device, fails=ErrorClass.GOLDEN)
    result = ended(world)
    assert result.state == "finished"
    assert result.reason.startswith("finished in 1 of 2 strata; jet: ")
    assert serving(world) == {device.id for device in by_rank(world)}


def die_after_switch(world: World, place: int) -> None:
    """Let a device die as soon as the server has heard of its switch."""
    device = by_rank(world)[place]
    while (known := world.rows.reports.get(device.id)) is None or known.phase is not Phase.PROBATION:
        world.settle(timedelta(seconds=1))
    device.is_dead, device.is_up = True, False
    world.gone(device.id)


def test_a_device_that_dies_after_its_switch_is_lost_and_named_when_it_cannot_be_taken_back() -> None:
    world = world_of(natures={1: CRASHES})
    die_after_switch(world, 0)
    result = ended(world)
    one = assigned(world, 0)
    assert one.state in (AssignmentState.LOST, AssignmentState.VERIFYING)
    assert result.state == "rollback_incomplete"
    assert one.reason.startswith(NOT_BACK)
    assert one.device in result.reason


def test_a_device_that_dies_alone_is_lost_with_its_reason() -> None:
    world = world_of(on_inconclusive={"after": "1d", "do": "rollback"})
    die_after_switch(world, 0)
    ended(world)
    assert assigned(world, 0).state is AssignmentState.LOST
    assert "switched, then silent for" in assigned(world, 0).reason


def test_an_offline_device_is_unreachable_and_takes_the_release_up_when_it_is_back() -> None:
    world = world_of(16, {6: {"away_s": ((0.0, 400_000.0),)}})
    while world.rows.state is RolloutState.RUNNING:
        world.settle(timedelta(hours=1))
    assert world.rows.state is RolloutState.FINISHED
    one = assigned(world, 6)
    assert one.state is AssignmentState.UNREACHABLE
    assert one.reason == "did not take up its document within 8 h"
    assert serving(world) == set(world.devices) - {one.device}
    assert ended(world).state == "finished", "and the device is back"
    assert assigned(world, 6).state is AssignmentState.HEALTHY
    assert serving(world) == set(world.devices)


def test_offline_canaries_hold_the_stage_until_a_person_is_asked() -> None:
    world = world_of(natures={0: NEVER_THERE, 1: NEVER_THERE}, scenario=plain(1, person=("abort",)))
    assert ended(world).state == "cancelled"
    assert exposed(world) == set()
    assert verdicts(world)["inconclusive"] == 1


def test_who_joins_below_an_open_cut_takes_part_and_no_cut_changes() -> None:
    world = world_of(20)
    for minutes in (2, 42, 44, 46, 95, 110):
        world.at(60.0 * minutes, lambda: world._join("rpi"))
    assert ended(world).state == "finished"
    assert len(world.devices) == 26
    ones = world.rows.assignments.values()
    assert {one.device for one in ones if one.is_joiner}
    assert serving(world) >= {one.device for one in ones if one.state is AssignmentState.HEALTHY}
    cuts = [world.rows.cells[stage, ProfileName("rpi")].cut for stage in range(3)]
    for one in ones:
        assert one.stage == stage_of(rank(world.rows.salt, one.device), cuts)


def test_nothing_is_offered_while_paused_and_everything_after() -> None:
    world = world_of(12, scenario=plain(1, commands=((5.0, "pause"), (3605.0, "resume"))))
    world.settle(timedelta(seconds=0.3))
    states = {one.state for one in world.rows.assignments.values()}
    assert states & {AssignmentState.OFFERED, AssignmentState.ACKED}
    world.settle(timedelta(hours=1))
    assert world.rows.state is RolloutState.PAUSED
    assert serving(world) == set()
    assert {one.state for one in world.rows.assignments.values()} == {AssignmentState.ELIGIBLE}
    assert not any(document.rollout for document in world.rows.documents.values())
    assert ended(world).state == "finished"
    assert {one.attempt for one in world.rows.assignments.values() if one.stage == 0} == {2}


def test_a_promotion_by_a_person_accepts_the_failures_so_far() -> None:
    nature = {0: {"fails": ErrorClass.GOLDEN}}
    world = world_of(12, nature, scenario=plain(1, person=("promote",)), on_fail="pause")
    assert ended(world).state == "finished"
    assert world.rows.cells[0, ProfileName("rpi")].strength is Strength.OVERRIDE
    assert assigned(world, 0).is_accepted


def test_who_waited_when_a_person_let_the_last_stage_pass_is_still_offered_while_it_runs() -> None:
    deeds = ((2.0, "pause"), (302.0, "promote"))
    world = world_of(12, scenario=plain(1, commands=deeds), stages=[{**STAGES[2], "name": "all", "soak": "1h"}])
    world.settle(timedelta(minutes=5))
    assert {one.state for one in world.rows.assignments.values()} == {AssignmentState.ELIGIBLE}
    assert ended(world).state == "finished"
    assert serving(world) == set(world.devices)


def test_the_same_seed_gives_the_same_story() -> None:
    first, second = (world_of_case(accepted()[4], scenario_of, seed=77) for _ in range(2))
    assert first.run() == second.run()
    assert first.rows.cells == second.rows.cells


@pytest.mark.parametrize("case", accepted(), ids=lambda case: case.name)
def test_every_spec_of_the_corpus_ends_with_a_reason(case: Case) -> None:
    """A good release and a scenario of its own; the full counts are `./dev soak rollout-simulation`."""
    ended(world_of_case(small(case), seed=5, look_s=600.0, person=("promote",) * 5))
    ended(world_of_case(small(case), scenario_of, seed=sum(case.name.encode())))


def small(case: Case) -> Case:
    """Return the case with as few devices as its rules allow, so that the test is quick."""
    assert case.fleet is not None
    # nothing is measured here, so no number of devices passes a gate of quality
    most = 90 if parse_spec(case.document).gates.quality is None else 30
    devices = {name: min(count, most) for name, count in case.fleet.devices.items()}
    return replace(case, fleet=replace(case.fleet, devices=devices))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([{"rpi": 8}, {"rpi": 5, "jet": 3}, {"rpi": 1, "jet": 2, "x86": 12}]))
def test_whatever_devices_do_the_promises_hold(seed: int, fleet: dict[str, int]) -> None:
    """The world checks them after each tick and at the end."""
    ended(world_of(fleet, scenario=scenario_of(seed)))


def test_a_whole_snapshot_passes_so_the_gaps_are_what_holds_it() -> None:
    chance = random.Random(3)
    assert all(passes(plan_tick(whole(chance), NOW)) for _ in range(100))


@pytest.mark.parametrize("name", sorted(GAPS))
def test_each_kind_of_gap_holds(name: str) -> None:
    chance = random.Random(name)
    assert not any(passes(plan_tick(GAPS[name](chance, whole(chance)), NOW)) for _ in range(60))


def test_random_gaps_never_promote() -> None:
    assert count_gaps_that_pass(1_000, random.Random(20)) == {}
    assert gap(random.Random(1))[1] == gap(random.Random(1))[1]
