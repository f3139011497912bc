"""A large plan is carried out in portions: nothing is lost or doubled, and what is left is dropped when a device fails."""

from __future__ import annotations

import threading
import time
from collections import Counter
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.rollout.controller.batches import portions
from edgefleet_server.rollout.controller.executor import Executor
from edgefleet_server.rollout.effects import AssignmentCreated, AssignmentTransitioned, Offer, Plan, RampWindowUpdated
from edgefleet_server.rollout.planner.tick import plan_tick
from tests.server.rollout.explored import START
from tests.server.rollout.fleet_sim import World, make_world
from tests.server.rollout.test_batches import snapshot_of

ALL = [{"name": "all", "size": {"percent": 100}, "soak": "1m"}]


@given(st.integers(1, 400), st.integers(1, 120))
def test_portions_are_the_plan_cut_between_devices(devices: int, size: int) -> None:
    plan = plan_tick(snapshot_of(devices), START)
    parts = portions(plan, size)
    assert Counter(map(id, (effect for part in parts for effect in part))) == Counter(map(id, plan.effects))
    assert all(sum(isinstance(effect, Offer) for effect in part) <= size for part in parts)
    for part in parts:
        offered = [effect.device for effect in part if isinstance(effect, Offer)]
        assert offered == [effect.assignment.device for effect in part if isinstance(effect, AssignmentTransitioned)]
        made = {effect.assignment.device for effect in part if isinstance(effect, AssignmentCreated)}
        assert made == set(offered) if part is not parts[0] else made >= set(offered), (
            "who waits for an offer goes first"
        )
    assert [
        effect
        for part in parts
        for effect in part
        if not isinstance(effect, AssignmentCreated | AssignmentTransitioned | Offer)
    ] == [
        effect for effect in parts[0] if not isinstance(effect, AssignmentCreated | AssignmentTransitioned | Offer)
    ], "what is of no device goes first"


def test_a_plan_that_takes_of_what_is_shared_is_not_cut() -> None:
    plan = plan_tick(snapshot_of(50), START)
    paced = Plan((*plan.effects, RampWindowUpdated(None)), plan.next_at)  # type: ignore[arg-type]
    assert portions(paced, 10) == [paced.effects]


def test_portions_are_transactions_of_their_own_and_leave_one_event_a_transition(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portions, "__defaults__", (4,))
    signed: list[int] = []
    any_world.enrol(10)
    any_world.settle("1.0.0")
    any_world.release("1.1.0")
    any_world.house.fleet.desired.subscribe(lambda documents: signed.append(len(documents)))
    rollout = any_world.create(stages=ALL)
    any_world.tick()
    assert (signed[0], sorted(signed)) == (4, [2, 4, 4])
    moves = [one for one in any_world.events(rollout) if one["kind"] == "assignment"]
    assert len(moves) == 10
    any_world.go_until_state(rollout, "finished")


def test_what_is_left_of_a_plan_is_dropped_when_the_rollout_was_steered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portions, "__defaults__", (4,))
    world.enrol(10)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=ALL)
    signed: list[int] = []
    world.house.fleet.desired.subscribe(lambda documents: signed.append(len(documents)))
    ask = world.house.fleet.offers.failed_since
    monkeypatch.setattr(world.house.fleet.offers, "failed_since", lambda model, since: steer(ask(model, since)))

    def steer(answer: list[DeviceId]) -> list[DeviceId]:
        if world.view(rollout).state == "running":
            world.service.pause(rollout, "ann", "enough")
        return answer

    world.tick()
    assert world.view(rollout).state == "paused"
    assert world.states(rollout) == {"eligible": 4}, (
        "the four that were offered it were withdrawn, the others never taken in"
    )
    assert signed == [4, 4], "four offers, and four times back"
    world.service.resume(rollout, "ann", "go on")
    monkeypatch.setattr(world.house.fleet.offers, "failed_since", ask)
    world.go_until_state(rollout, "finished")
    assert world.states(rollout) == {"healthy": 10}
    assert not any(one.is_joiner for one in world.members(rollout).values()), (
        "all of them belonged to the stage from the start"
    )


def test_what_is_left_of_a_plan_waits_for_the_next_look_when_a_device_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portions, "__defaults__", (4,))
    devices = world.enrol(10)
    world.settle("1.0.0")
    world.release("1.1.0")
    signed: list[int] = []
    world.house.fleet.desired.subscribe(lambda documents: signed.append(len(documents)))
    rollout = world.create(stages=ALL)
    ask = world.house.fleet.offers.failed_since

    def fail(model: str, since: datetime) -> list[DeviceId]:
        if len(signed) == 1:
            world.clock.turn(seconds=1)
            one = next(device for device in devices if device.id in world.members(rollout))
            one.regress()
            world.report(one)
        return ask(model, since)

    monkeypatch.setattr(world.house.fleet.offers, "failed_since", fail)
    engine = world.replica("one")
    engine.tick(is_woken=True)
    assert signed == [4]
    assert engine.has_more, "it looks again at once"
    engine.tick(is_woken=True)
    assert signed == [4, 4, 2]
    assert world.states(rollout) == {"offered": 10}


def test_who_runs_the_release_already_and_is_offered_it_later_keeps_it_when_it_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portions, "__defaults__", (4,))
    world = make_world(
        f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a"
    )  # unaudited: who keeps it got no document to go back by
    world.enrol(10)
    world.settle("1.1.0")
    rollout = world.create(stages=[{"name": "all", "size": {"percent": 100}, "soak": "1h"}])
    world.go_until(lambda: world.states(rollout) == {"healthy": 10})
    world.service.abort(rollout, "ann", "no", rollback=True)
    world.go_until_state(rollout, "rolled_back", "rollback_incomplete")
    assert {device.running for device in world.devices.values()} == {"1.1.0"}
    assert {world.wants(device) for device in world.devices.values()} == {"1.1.0"}
    world.house.db.dispose()


def test_a_command_comes_between_two_waves_and_nothing_is_offered_after_it(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person pauses while portions are written: the command waits for a wave, and what was not begun is never written."""
    monkeypatch.setattr(portions, "__defaults__", (2,))
    any_world.enrol(40)
    any_world.settle("1.0.0")
    any_world.release("1.1.0")
    rollout = any_world.create(stages=ALL)
    began, was_paused = threading.Event(), threading.Event()
    seen: list[str] = []
    carry = Executor.carry_part

    def slowly(self: Executor, *args: Any, **more: Any) -> None:
        if threading.current_thread() is not person:
            seen.append("late" if was_paused.is_set() else "before")
            if len(seen) == 3:
                began.set()
            time.sleep(0.05)  # long enough that the person always comes in the middle
        carry(self, *args, **more)

    def pause() -> None:
        began.wait()
        any_world.service.pause(rollout, "ann", "enough")
        was_paused.set()

    person = threading.Thread(target=pause)
    monkeypatch.setattr(Executor, "carry_part", slowly)
    person.start()
    any_world.tick()
    person.join()
    assert any_world.view(rollout).state == "paused"
    assert set(any_world.states(rollout)) == {"eligible"}, "what was offered is withdrawn, the rest was never offered"
    assert 3 <= seen.count("before") < 20
    assert "late" not in seen


def test_an_error_in_one_portion_leaves_the_others_whole_and_the_next_look_brings_the_rest(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portions, "__defaults__", (4,))
    any_world.enrol(20)
    any_world.settle("1.0.0")
    any_world.release("1.1.0")
    rollout = any_world.create(stages=ALL)
    carry, calls = Executor.carry_part, count()

    def fails_once(self: Executor, *args: Any, **more: Any) -> None:
        if next(calls) == 2:
            raise OSError("the disk is full")
        carry(self, *args, **more)

    monkeypatch.setattr(Executor, "carry_part", fails_once)
    any_world.tick()
    assert 0 < any_world.states(rollout).get("offered", 0) < 20
    any_world.clock.turn(seconds=13)  # its lease is over
    any_world.go_until_state(rollout, "finished")
    moves = [one for one in any_world.events(rollout) if one["kind"] == "assignment"]
    assert Counter(one["to"] for one in moves)["offered"] == 20
