"""Suspect devices in rollouts: never among the first, and known to the planner."""

from __future__ import annotations

from fastapi.testclient import TestClient

from edgefleet_server.access.model import Role
from edgefleet_server.rollout.preparation.loader import SnapshotLoader
from edgefleet_server.rollout.store import rollouts
from tests.server.fleet.apps import Operators
from tests.server.rollout.fleet_sim import SimDevice, World, spec_of, stages

HOST = "http://server.test/api/v1"
LIED = "it reported a golden failure that the server refuted"


def ready(world: World, count: int) -> list[SimDevice]:
    devices = world.enrol(count)
    world.settle("1.0.0")
    world.release("1.1.0")
    return devices


def client_of(world: World) -> TestClient:
    return Operators(world.house).as_role(Role.OPERATOR)


def test_suspects_come_last_and_the_plan_says_so(any_world: World) -> None:
    world = any_world
    devices = ready(world, 8)
    suspects = {one.id for one in devices[:4]}
    for device in suspects:
        world.fleet.suspicion.mark(device, LIED)
    wanted = spec_of(stages=stages(2, "60%", "100%"))
    plan = client_of(world).post(f"{HOST}/rollouts:plan", json=wanted).json()
    [first, second, last] = [{one["device"] for one in stage["strata"][0]["devices"]} for stage in plan["stages"]]
    assert (len(first), len(second), len(last)) == (2, 1, 5)
    assert not suspects & (first | second)
    assert suspects < last
    assert plan["suspects"] == 4
    [finding] = [one for one in plan["findings"] if one["code"] == "suspects_come_last"]
    assert finding["level"] == "warning"
    assert finding["message"] == "4 devices of generic-x86_64-ort are suspect: only stage s2 has them"
    rollout = world.create(stages=wanted["stages"])
    world.go_until_state(rollout, "finished")
    assert {name for name, one in world.members(rollout).items() if one.stage != "s2"} & suspects == set()
    assert {one.running for one in devices} == {"1.1.0"}


def test_a_single_stage_takes_suspects_too(world: World) -> None:
    device, _ = ready(world, 2)
    world.fleet.suspicion.mark(device.id, LIED)
    rollout = world.create(stages=stages("100%"))
    world.go_until_state(rollout, "finished")
    assert device.running == "1.1.0"


def test_a_fleet_of_suspects_only_has_no_canary_and_is_warned_of(world: World) -> None:
    for device in ready(world, 3):
        world.fleet.suspicion.mark(device.id, LIED)
    plan = client_of(world).post(f"{HOST}/rollouts:plan", json=spec_of(stages=stages(2, "100%"))).json()
    assert [stage["strata"][0]["new"] for stage in plan["stages"]] == [0, 3]
    [finding] = [one for one in plan["findings"] if one["code"] == "suspects_come_last"]
    assert "all 3 devices" in finding["message"]


def test_the_planner_knows_the_suspects_of_its_rollout(world: World) -> None:
    devices = ready(world, 3)
    rollout = world.create(stages=stages(2, "100%"))
    world.go()
    for one in devices[:2]:
        world.fleet.suspicion.mark(one.id, LIED)
    world.fleet.suspicion.mark(world.enrol(1, "raspberry-pi-4-ort")[0].id, LIED)
    world.fleet.suspicion.clear(devices[1].id, "ann")
    loader: SnapshotLoader = world.service.loader
    with world.house.db.session() as session:
        row = rollouts.rollout(session, rollout, lock=True)
        snapshot = loader.snapshot(session, row)
        [again] = loader.again(session, [snapshot])
    assert devices[0].id in snapshot.suspects
    assert devices[1].id not in snapshot.suspects
    assert again.suspects == snapshot.suspects
    assert {one.device for one in snapshot.members if one.is_suspect} == snapshot.suspects
