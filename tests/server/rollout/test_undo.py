"""`undo`: every device of a model back to what it ran before, at the cost that was shown."""

import pytest

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId, ProfileName, ReleaseRef, RolloutId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.access.model import Role
from edgefleet_server.rollout.commands.undo import NOTHING_OLDER, DeviceVersion, Known, UndoView, release_of
from edgefleet_server.rollout.commands.undo import undo as plan_undo
from edgefleet_server.rollout.errors import NothingToUndoError
from edgefleet_server.rollout.model import Assignment, RolloutState
from edgefleet_sim.world import bundle_of
from tests.server.fleet.house import PROFILE
from tests.server.rollout.fleet_sim import MODEL, SMALL, SimDevice, World, spec_of, stages
from tests.server.rollout.test_routes import HOST, client_of


def finished(world: World, count: int = 5) -> str:
    """Bring 1.0.0 to a fleet by hand, then 1.1.0 by a rollout that finishes."""
    world.enrol(count)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create()
    world.go_until_state(rollout, "finished")
    return rollout


def undo(world: World, name: str = MODEL, *, dry_run: bool = False) -> UndoView:
    return world.service.undo(name, "ann", "it is slow", dry_run=dry_run)


@pytest.mark.parametrize(("set_by", "steers"), [("r-1", "r-1"), ("", None), ("r-2", None)])
def test_a_rollout_takes_back_only_what_it_wrote_itself(set_by: str, steers: str | None) -> None:
    """What a deployment or another rollout set since is taken back by a new rollout, to the same version."""
    stratum, device = ProfileName("rpi"), DeviceId("d-1")
    new, old = bundle_of("new", stratum), bundle_of("old", stratum)
    one = Assignment(device, 0, stratum, AssignmentState.HEALTHY, attempt=1, gen=3, previous=old)
    known = Known(RolloutId("r-1"), RolloutState.FINISHED, release_of(new), {device: one})
    standing = DeviceVersion(device, stratum, new, 9, frozenset({new.sha256, old.sha256}), new.sha256, old, set_by)
    (target,) = plan_undo([standing], [known]).targets
    assert (target.rollout, target.back) == (steers, old)


def back_at(world: World, made: UndoView, *states: str) -> None:
    for rollout in made.rollouts:
        world.go_until_state(rollout, *(states or ("rolled_back",)))


def running(world: World) -> dict[str, int]:
    found: dict[str, int] = {}
    for device in world.devices.values():
        found[device.running] = found.get(device.running, 0) + 1
    return found


def test_a_finished_rollout_is_taken_back_from_the_kept_slot(any_world: World) -> None:
    world = any_world
    rollout = finished(world)
    downloads = {one.id: one.downloads for one in world.devices.values()}
    shown = undo(world, dry_run=True)
    assert (shown.devices, shown.bytes, shown.downloads, shown.dry_run, shown.rollouts) == (5, 0, 0, True, ())
    assert [(one.runs, one.back_to, one.profile, one.devices) for one in shown.moves] == [
        (f"{MODEL}@1.1.0", f"{MODEL}@1.0.0", PROFILE, 5)
    ]
    assert world.view(rollout).state == "finished", "a dry run changes nothing"
    made = undo(world)
    assert made.rollouts == (rollout,)
    assert world.view(rollout).state == "rolling_back"
    assert world.view(rollout).reason == "undone by ann: it is slow"
    back_at(world, made)
    assert running(world) == {"1.0.0": 5}
    assert {one.id: one.downloads for one in world.devices.values()} == downloads, "nothing was downloaded"
    told = [(e["from"], e["to"], e["actor"]) for e in world.events(rollout) if e["kind"] == "rollout"][-3:]
    assert told == [
        ("finished", "regressed", "ann"),
        ("regressed", "rolling_back", "ann"),
        ("rolling_back", "rolled_back", "engine"),
    ]


def test_devices_go_back_newest_exposed_first(world: World) -> None:
    rollout = finished(world, 9)
    exposed = {d: one.exposed_at for d, one in world.members(rollout).items()}
    shown = undo(world, dry_run=True)
    order = [exposed[one.device] for one in shown.devices_shown]  # type: ignore[index]
    assert order == sorted(order, reverse=True)  # type: ignore[type-var]
    assert len(set(order)) > 1, "the stages were opened one after the other"
    gens = {one.id: one.gens[-1] for one in world.devices.values()}
    back_at(world, undo(world))
    assert all(one.gens[-1] > gens[one.id] for one in world.devices.values())


def test_what_was_deployed_by_hand_goes_back_in_a_rollout_of_its_own(any_world: World) -> None:
    world = any_world
    world.enrol(4)
    world.settle("1.0.0")
    world.settle("1.1.0")
    made = undo(world)
    assert (made.devices, made.bytes) == (4, 0)
    (rollout,) = made.rollouts
    view = world.view(rollout)
    assert (view.release, view.state, view.created_by) == (f"{MODEL}@1.1.0", "rolling_back", "ann")
    back_at(world, made)
    assert running(world) == {"1.0.0": 4}


def test_an_open_rollout_is_what_is_undone_and_the_rest_of_the_fleet_is_left(world: World) -> None:
    world.enrol(8)
    world.settle("1.0.0")
    world.settle("1.1.0")
    world.release("1.2.0")
    rollout = world.create(f"{MODEL}@1.2.0", stages=stages(2, "100%", soak="1h"))
    world.go_until(lambda: running(world).get("1.2.0") == 2)
    made = undo(world)
    assert (made.devices, made.rollouts) == (2, (rollout,))
    shown = world.view(rollout)
    assert shown.stopped_by == shown.stages[0].stopped_by == "ann", "it did not fail"
    assert [one.text for one in shown.waits] == ["2 devices are about to be sent back"], "nothing soaks any more"
    back_at(world, made)
    assert running(world) == {"1.1.0": 8}


def test_a_second_undo_goes_one_release_further_back_and_never_forward_again(world: World) -> None:
    rollouts = [finished(world)]
    world.release("1.2.0")
    rollouts.append(world.create(f"{MODEL}@1.2.0"))
    world.go_until_state(rollouts[-1], "finished")
    back_at(world, undo(world))
    assert running(world) == {"1.1.0": 5}
    shown = undo(world, dry_run=True)
    assert [(one.runs, one.back_to) for one in shown.moves] == [(f"{MODEL}@1.1.0", f"{MODEL}@1.0.0")]
    assert shown.downloads == 5, "the other slot holds 1.2.0 now"
    assert shown.bytes == 5 * len(f"1.0.0 for {PROFILE}".encode())
    back_at(world, undo(world))
    assert running(world) == {"1.0.0": 5}
    with pytest.raises(NothingToUndoError, match=NOTHING_OLDER):
        undo(world)


def test_a_device_that_only_ever_had_one_release_is_named_and_stays(world: World) -> None:
    world.enrol(3, site="a")
    world.settle("1.0.0")
    (fresh,) = world.enrol(1, site="b")
    world.release("1.1.0")
    world.go_until_state(world.create(selector="site=a"), "finished")
    world.fleet.deployer.deploy(ReleaseRef.parse(f"{MODEL}@1.1.0"), device=fresh.id)
    world.go(12)
    made = undo(world)
    assert [(one.device, one.reason) for one in made.left] == [(fresh.id, NOTHING_OLDER)]
    back_at(world, made)
    assert running(world) == {"1.0.0": 3, "1.1.0": 1}


def test_one_release_can_be_named(world: World) -> None:
    finished(world, 3)
    with pytest.raises(NothingToUndoError):
        undo(world, f"{MODEL}@1.0.0")
    assert undo(world, f"{MODEL}@1.1.0", dry_run=True).devices == 3


def test_profiles_go_back_each_to_their_own_bundle(world: World) -> None:
    world.enrol(3)
    world.enrol(2, SMALL)
    world.settle("1.0.0", PROFILE, SMALL)
    world.release("1.1.0", PROFILE, SMALL)
    world.go_until_state(world.create(), "finished")
    made = undo(world)
    assert [(one.profile, one.devices) for one in made.moves] == [(PROFILE, 3), (SMALL, 2)]
    back_at(world, made)
    assert running(world) == {"1.0.0": 5}


def test_who_was_away_is_taken_back_when_it_returns(world: World) -> None:
    rollout = finished(world, 3)
    away = next(iter(world.devices.values()))
    away.is_away = True
    world.presence(away, on=False)
    made = undo(world)
    world.go(20)
    assert world.view(rollout).state == "rolling_back", "it waits for who is away"
    away.is_away = False
    world.presence(away, on=True)
    back_at(world, made)
    assert running(world) == {"1.0.0": 3}


def test_nothing_to_undo_says_so(world: World) -> None:
    for name in (MODEL, f"{MODEL}@1.0.0"):
        with pytest.raises(NothingToUndoError, match="no device should run"):
            undo(world, name)
    with pytest.raises(EdgefleetError):
        undo(world, "No Model!")


def test_while_an_open_rollout_switched_nobody_it_says_that_and_not_that_nothing_runs(world: World) -> None:
    finished(world)
    world.release("1.2.0")
    world.create(f"{MODEL}@1.2.0")
    with pytest.raises(
        NothingToUndoError, match=r"digits@1\.2\.0 is being rolled out, and no device was switched"
    ) as refused:
        undo(world)
    assert "edgectl rollout abort" in refused.value.next_step
    assert undo(world, f"{MODEL}@1.1.0", dry_run=True).devices


def test_the_route_asks_for_an_operator_and_tells_what_it_would_do(world: World) -> None:
    finished(world, 2)
    body = {"name": MODEL, "reason": "slow", "dry_run": True}
    assert client_of(world, Role.VIEWER).post(f"{HOST}/rollouts:undo", json=body).status_code == 403
    answer = client_of(world).post(f"{HOST}/rollouts:undo", json=body).json()
    assert (answer["devices"], answer["bytes"], answer["rollouts"]) == (2, 0, [])
    assert {one["source"] for one in answer["devices_shown"]} == {"kept slot"}
    done = client_of(world).post(f"{HOST}/rollouts:undo", json={**body, "dry_run": False}).json()
    assert world.view(done["rollouts"][0]).state == "rolling_back"
    assert client_of(world).post(f"{HOST}/rollouts:undo", json={"name": "nothing"}).status_code == 409


def test_a_plan_says_what_it_costs_and_a_kept_slot_costs_nothing(world: World) -> None:
    devices: list[SimDevice] = world.enrol(4)
    world.settle("1.0.0")
    world.settle("1.1.0")
    world.release("1.2.0")
    size = len(f"1.2.0 for {PROFILE}".encode())
    cost = world.service.plan({"release": f"{MODEL}@1.2.0", "selector": "", "stages": stages("100%")}).cost
    assert (cost.downloads, cost.kept, cost.bytes) == (4, 0, 4 * size)
    back = world.service.plan({"release": f"{MODEL}@1.0.0", "selector": "", "stages": stages("100%")}).cost
    assert (back.downloads, back.kept, back.bytes) == (0, len(devices), 0)


def test_an_older_release_than_what_runs_is_warned_of_and_an_undo_is_not(any_world: World) -> None:
    world = any_world
    world.enrol(2, site="berlin")
    world.settle("1.0.0")
    world.enrol(3)
    world.settle("1.1.0")
    older = ReleaseRef.parse(f"{MODEL}@1.0.0")
    said = f"5 of 5 devices run {MODEL}@1.1.0, which is newer than {older}"
    assert world.fleet.deployer.deploy(older, selector="", dry_run=True).warning == said
    here = world.fleet.deployer.deploy(older, selector="site=berlin", dry_run=True).warning
    assert here == said.replace("5 of 5", "2 of 2")
    one = world.fleet.deployer.deploy(older, device=next(iter(world.devices)), dry_run=True).warning
    assert one == said.replace("5 of 5", "1 of 1")
    assert not world.fleet.deployer.deploy(ReleaseRef.parse(f"{MODEL}@1.1.0"), selector="", dry_run=True).warning
    (finding,) = [one for one in world.service.plan(spec_of(str(older))).findings if one.code == "older_release"]
    assert (finding.level, finding.message) == ("warning", said)
    assert undo(world, dry_run=True).devices == 2
