"""A stage that a person leaves out before it opens: with a reason, never the last one, and never past an approval that is not theirs."""

from __future__ import annotations

from typing import Any

import pytest

from edgefleet_server.access.model import Principal, Role
from edgefleet_server.rollout.errors import IllegalStateError, NotApproverError, ReasonNeededError
from tests.server.rollout.fleet_sim import World, stages

ANN = Principal("t-1", "ann", frozenset({Role.OPERATOR}))
BOSS = Principal("t-2", "boss", frozenset({Role.ADMIN}), "p-2")


def started(world: World, **last: Any) -> str:
    """Start a rollout of two, half, and all ten devices, with time to soak in each stage."""
    world.enrol(10)
    world.settle("1.0.0")
    world.release("1.1.0")
    wanted = stages(2, "50%", "100%", soak="1h")
    wanted[1] |= last
    rollout = world.create(stages=wanted)
    world.go_until(lambda: world.states(rollout).get("healthy") == 2)
    return rollout


def test_a_stage_that_is_left_out_leaves_its_devices_to_the_next_one(any_world: World) -> None:
    world = any_world
    rollout = started(world)
    names = [one.name for one in world.view(rollout).stages]
    world.service.skip(rollout, ANN, "the canary was on ten boards in the lab", names[1], None)
    left_out = world.view(rollout).stages[1]
    assert (left_out.state, left_out.strata[0].code) == ("skipped", "skipped")
    assert left_out.strata[0].reason == "left out by ann: the canary was on ten boards in the lab"
    world.go_until_state(rollout, "finished", seconds=60)
    assert {one.stage for one in world.service.reader.devices(rollout)} == {names[0], names[2]}
    assert [one.running for one in world.devices.values()] == ["1.1.0"] * 10


def test_only_what_has_not_opened_and_is_not_the_last_can_be_left_out(world: World) -> None:
    rollout = started(world)
    first, _, last = (one.name for one in world.view(rollout).stages)
    for stage, says in ((first, "has opened"), (last, "the last stage"), ("nowhere", "its stages are")):
        with pytest.raises(IllegalStateError, match=says):
            world.service.skip(rollout, ANN, "no time", stage, None)
    with pytest.raises(ReasonNeededError):
        world.service.skip(rollout, ANN, " ", first, None)
    world.service.abort(rollout, "ann", "enough", rollback=False)
    with pytest.raises(IllegalStateError, match="cancelled"):
        world.service.skip(rollout, ANN, "no time", first, None)


def test_a_stage_with_an_approval_is_left_out_by_who_could_give_it(world: World) -> None:
    rollout = started(world, approval={"role": "admin", "timeout": "1d"})
    asked = world.view(rollout).stages[1].name
    world.go_until_state(rollout, "awaiting_approval", seconds=60)
    with pytest.raises(NotApproverError):
        world.service.skip(rollout, ANN, "no time", asked, None)
    world.service.skip(rollout, BOSS, "we saw it in the lab", asked, None)
    assert world.view(rollout).state == "running"
    world.go_until_state(rollout, "finished", seconds=60)
