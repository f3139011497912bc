"""Who had nothing to do is only glanced at: neither leased nor written, and looked at whole as soon as there is something."""

from __future__ import annotations

from datetime import timedelta

import pytest

from edgefleet_server.rollout.preparation import loader
from tests.server.rollout.fleet_sim import World
from tests.server.rollout.test_engine import row_of
from tests.support.statements import heard

ALL = [{"name": "all", "size": {"percent": 100}, "soak": "1h"}]


def resting(world: World) -> str:
    """Start a rollout whose devices do not answer, and look at it until there is nothing to do."""
    world.enrol(3)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=ALL)
    for _ in range(3):
        look(world)
    return rollout


def look(world: World) -> int:
    """Let the engine look once, after the time that it waits."""
    world.clock.turn(seconds=2)
    return world.engine.tick()


def test_who_has_nothing_to_do_is_not_written(any_world: World) -> None:
    world = any_world
    rollout = resting(world)
    before, events = row_of(world, rollout), world.events(rollout)
    assert look(world) == 1
    after = row_of(world, rollout)
    assert (after.fence, after.lease_until, after.state) == (before.fence, None, before.state)
    assert before.next_eval_at is not None
    assert after.next_eval_at == before.next_eval_at + timedelta(seconds=2)
    assert world.events(rollout) == events


def test_a_word_of_a_device_is_heard_as_in_a_whole_look(any_world: World) -> None:
    world = any_world
    rollout = resting(world)
    look(world)
    fence = row_of(world, rollout).fence
    world.step()
    world.engine.tick(is_woken=True)
    assert row_of(world, rollout).fence == fence + 1
    assert set(world.states(rollout)) != {"offered"}


def test_a_joiner_is_seen(any_world: World) -> None:
    world = any_world
    rollout = resting(world)
    look(world)
    (joiner,) = world.enrol(1)
    look(world)
    assert joiner.id in world.members(rollout)


def test_what_a_person_wrote_is_not_taken_for_what_was_seen_before(any_world: World) -> None:
    world = any_world
    rollout = resting(world)
    world.service.pause(rollout, "ann", "wait")
    fence = row_of(world, rollout).fence
    look(world)
    assert row_of(world, rollout).fence == fence + 1
    assert world.view(rollout).state == "paused"


def test_what_another_replica_wrote_is_not_taken_for_what_was_seen_before(any_world: World) -> None:
    world = any_world
    rollout = resting(world)
    other = world.replica("other")
    world.step()
    world.clock.turn(seconds=2)
    other.tick(is_woken=True)
    states = world.states(rollout)
    fence = row_of(world, rollout).fence
    look(world)
    assert row_of(world, rollout).fence == fence + 1
    assert world.states(rollout) == states


def test_lateness_is_told_of_a_glance_too(any_world: World) -> None:
    world = any_world
    resting(world)
    told: list[tuple[float, bool]] = []
    world.engine.on_lag(lambda *one: told.append(one))
    world.clock.turn(seconds=5)
    world.engine.tick()
    assert told == [(3.0, False)]


def test_who_cannot_be_glanced_at_is_looked_at_alone(any_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = any_world
    rollout = resting(world)
    with monkeypatch.context() as patch:
        patch.setattr("edgefleet_server.rollout.controller.controller.plan_tick", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            look(world)
    fence = row_of(world, rollout).fence
    assert look(world) == 1
    assert row_of(world, rollout).fence == fence + 1


def test_a_large_one_is_never_glanced_at(any_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "SMALL", 2)
    world = any_world
    rollout = resting(world)
    fence = row_of(world, rollout).fence
    look(world)
    assert row_of(world, rollout).fence == fence + 1


def test_eight_idle_rollouts_cost_few_statements(any_world: World) -> None:
    world = any_world
    sites = [f"s{number}" for number in range(8)]
    for site in sites:
        world.enrol(2, site=site)
    world.settle("1.0.0")
    world.release("1.1.0")
    for site in sites:
        world.create(selector=f"site={site}", stages=ALL)
    for _ in range(3):
        look(world)
    with heard(world.house.db) as said:
        assert look(world) == 8
    assert len(said) <= 8 + 16, "one for each, to match its selector; the rest for all of them"
