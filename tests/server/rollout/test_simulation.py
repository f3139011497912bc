"""Whole rollouts in virtual time: they end, with a reason, and keep what they promise whatever their devices do."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.model import Assignment, RolloutState, StageState, Strength
from edgefleet_server.rollout.planner.completion import NOT_BACK
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.parser import parse_spec
from tests.server.rollout.corpus import Case, accepted
from tests.server.rollout.planner_gaps import GAPS, NOW, gap, passes, whole
from tests.server.rollout.scenarios import count_gaps_that_pass, run_case, scenario_of
from tests.server.rollout.simulated_devices import Kind, Scenario
from tests.server.rollout.simulation import Ended, World

FINISHED, ROLLED_BACK = RolloutState.FINISHED, RolloutState.ROLLED_BACK
STAGES = [
    {"name": "canary", "size": {"count": 2}, "soak": "10m"},
    {"name": "half", "size": {"percent": 50, "min": 2}, "soak": "10m"},
    {"name": "rest", "size": {"percent": 100}, "soak": "1m"},
]
DEADLINES = {"ack_deadline": "8h"}


def world_of(
    fleet: Mapping[str, int] | int = 8,
    scenario: Scenario | None = None,
    kinds: Mapping[int, Kind] | None = None,
    **fields: Any,
) -> World:
    """Return a world of fine devices, but for those (by place in their rank) that are of another kind."""
    document = {"release": "digits@1.2.0", "selector": "", "stages": STAGES, "device": DEADLINES, **fields}
    devices = {"rpi": fleet} if isinstance(fleet, int) else fleet
    world = World(parse_spec(document), devices, scenario or Scenario(seed=1))
    by_rank = world.by_rank("rpi")
    for place, kind in (kinds or {}).items():
        by_rank[place].kind = kind
        by_rank[place].start(world)
    return world


def release_on(world: World) -> set[DeviceId]:
    return {d.id for d in world.devices.values() if d.active == world.bundles[d.stratum]}


def canary(world: World, place: int = 0) -> Assignment:
    return world.assignments[world.by_rank("rpi")[place].id]


def exposed(world: World) -> set[DeviceId]:
    return {one.device for one in world.assignments.values() if one.exposed_at is not None}


def test_a_good_release_reaches_every_device_stage_by_stage() -> None:
    world = world_of({"rpi": 8, "jet": 3})
    ended = world.run()
    assert ended.state is FINISHED
    assert release_on(world) == set(world.devices)
    assert ended.reason == "every stage passed in every stratum"
    assert {cell.state for cell in ended.cells.values()} == {StageState.PASSED}
    assert {cell.strength for cell in ended.cells.values()} == {Strength.WEAK}
    opened = [ended.cells[stage, "rpi"].opened_at for stage in range(3)]  # type: ignore[index]
    assert opened == sorted(opened, key=str)
    assert ended.took > timedelta(minutes=21), "the soaks were kept"
    assert [sum(a.stage == stage and a.stratum == "rpi" for a in world.assignments.values()) for stage in range(3)] == [
        2,
        2,
        4,
    ]


def test_a_release_that_fails_everywhere_stops_at_the_canary_and_is_taken_back() -> None:
    world = world_of(scenario=Scenario(seed=2, mix={Kind.FAILS_PROBATION: 1.0}))
    ended = world.run()
    assert ended.state is ROLLED_BACK
    assert len(exposed(world)) <= 2
    assert release_on(world) == set()
    assert [ended.cells[stage, "rpi"].state.value for stage in range(3)] == ["failed", "pending", "pending"]  # type: ignore[index]


def test_one_stratum_fails_and_the_other_goes_on() -> None:
    world = world_of({"rpi": 8, "jet": 8})
    for device in world.devices.values():
        device.kind = Kind.FAILS_INSTALL if device.stratum == "jet" else Kind.FINE
    ended = world.run()
    assert ended.state is FINISHED
    assert ended.reason.startswith("finished in 1 of 2 strata; jet: ")
    assert release_on(world) == {d.id for d in world.devices.values() if d.stratum == "rpi"}


def test_a_device_that_dies_after_its_switch_is_lost_and_named_when_it_cannot_be_taken_back() -> None:
    world = world_of(kinds={0: Kind.DIES, 1: Kind.FAILS_PROBATION})
    ended = world.run()
    one = canary(world)
    assert one.state in (AssignmentState.LOST, AssignmentState.VERIFYING)
    assert ended.state is RolloutState.ROLLBACK_INCOMPLETE
    assert one.reason.startswith(NOT_BACK)
    assert one.device in ended.reason


def test_a_device_that_dies_alone_is_lost_with_its_reason() -> None:
    world = world_of(kinds={0: Kind.DIES}, on_inconclusive={"after": "1d", "do": "rollback"})
    world.run()
    assert canary(world).state is AssignmentState.LOST
    assert "switched, then silent for" in canary(world).reason


def test_an_offline_device_is_unreachable_and_takes_the_release_up_when_it_is_back() -> None:
    world = world_of(16, kinds={6: Kind.OFFLINE})
    ended = world.run()
    assert ended.state is FINISHED
    one = canary(world, 6)
    assert one.state is AssignmentState.UNREACHABLE
    assert one.reason == "did not take up its document within 8 h"
    assert release_on(world) == set(world.devices) - {one.device}
    device = world.devices[one.device]
    device.is_online = True
    device.receive(world)
    world.settle(timedelta(hours=3))
    assert world.assignments[one.device].state is AssignmentState.HEALTHY
    assert release_on(world) == set(world.devices)


def test_offline_canaries_hold_the_stage_until_a_person_is_asked() -> None:
    world = world_of(kinds={0: Kind.OFFLINE, 1: Kind.OFFLINE}, scenario=Scenario(seed=1, person=("abort",)))
    ended = world.run()
    assert ended.state is RolloutState.CANCELLED
    assert exposed(world) == set()
    assert ended.verdicts["inconclusive"] == 1


def test_who_joins_below_an_open_cut_takes_part_and_no_cut_changes() -> None:
    world = world_of(20)
    for minutes in (2, 6, 12, 14, 25, 40):
        world.at(timedelta(minutes=minutes), lambda: world.join("rpi"))
    ended = world.run()
    assert ended.state is FINISHED
    assert len(world.devices) == 26
    assert {one.device for one in world.assignments.values() if one.is_joiner}
    assert release_on(world) >= {a.device for a in world.assignments.values() if a.state is AssignmentState.HEALTHY}
    for one in world.assignments.values():
        assert one.stage == world.stage_by_rank(one)


def test_nothing_is_offered_while_paused_and_everything_after() -> None:
    world = world_of(12)
    world.settle(timedelta(seconds=5))
    assert {a.state for a in world.assignments.values()} & {AssignmentState.OFFERED, AssignmentState.ACKED}
    world.pause("a person looks")
    world.settle(timedelta(hours=1))
    assert world.state is RolloutState.PAUSED
    assert release_on(world) == set()
    assert {a.state for a in world.assignments.values()} == {AssignmentState.ELIGIBLE}
    assert not any(document.is_rollout for document in world.documents.values())
    world.resume("go on")
    ended = world.run()
    assert ended.state is FINISHED
    assert {a.attempt for a in world.assignments.values() if a.stage == 0} == {2}


def test_a_promotion_by_a_person_accepts_the_failures_so_far() -> None:
    world = world_of(12, scenario=Scenario(seed=1, person=("promote",)), kinds={0: Kind.FAILS_INSTALL}, on_fail="pause")
    ended = world.run()
    assert ended.state is FINISHED
    assert ended.cells[0, "rpi"].strength is Strength.OVERRIDE  # type: ignore[index]
    assert canary(world).is_accepted


def test_who_waited_when_a_person_let_the_last_stage_pass_is_still_offered_while_it_runs() -> None:
    world = world_of(12, stages=[{"name": "all", "size": {"percent": 100}, "soak": "1h"}])
    world.settle(timedelta(seconds=2))
    world.pause("a person looks")
    world.settle(timedelta(minutes=5))
    assert {a.state for a in world.assignments.values()} == {AssignmentState.ELIGIBLE}
    world.promote("seen enough")
    ended = world.run()
    assert ended.state is FINISHED
    world.settle(timedelta(hours=2))
    assert release_on(world) == set(world.devices)


def test_the_same_seed_gives_the_same_story() -> None:
    case = accepted()[4]
    first, second = (run_case(case, scenario_of(77)) for _ in range(2))
    assert (first.state, first.reason, first.took, first.cells) == (
        second.state,
        second.reason,
        second.took,
        second.cells,
    )


@pytest.mark.parametrize("case", accepted(), ids=lambda case: case.name)
def test_every_spec_of_the_corpus_ends_with_a_reason(case: Case) -> None:
    """A good release and a scenario of its own; the full counts are `./dev soak rollout-simulation`."""
    ended = run_case(small(case), Scenario(seed=5, look=timedelta(minutes=10), person=("promote",) * 5))
    assert ended.reason
    strange: Ended = run_case(small(case), scenario_of(sum(case.name.encode())))
    assert strange.reason


def small(case: Case) -> Case:
    """Return the case with as few devices as its rules allow, so that the test is quick."""
    from dataclasses import replace

    assert case.fleet is not None
    devices = {name: min(count, 90) for name, count in case.fleet.devices.items()}
    return replace(case, fleet=replace(case.fleet, devices=devices))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([{"rpi": 8}, {"rpi": 5, "jet": 3}, {"rpi": 1, "jet": 2, "x86": 12}]))
def test_whatever_devices_do_the_promises_hold(seed: int, fleet: dict[str, int]) -> None:
    """The world checks them after each tick and at the end."""
    assert world_of(fleet, scenario_of(seed)).run().reason


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
