"""What changes while a rollout is under way: the fleet, documents that people write, other rollouts, the server itself."""

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import Session

from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.rollout.model import Snapshot
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.store import rollouts
from edgefleet_server.rollout.store.tables import Rollout
from tests.server.fleet.house import PROFILE
from tests.server.rollout.fleet_sim import MODEL, SMALL, Habit, World, stages

# ---- who belongs to it


def test_stages_are_shares_of_all_devices_though_upgraded_ones_no_longer_match(world: World) -> None:
    world.enrol(8)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(selector=f"model.{MODEL}=1.0.0", stages=stages(4, "50%", "100%", soak="10s"))
    world.go_until(lambda: world.view(rollout).stages[1].state == "passed")
    assert len(world.exposed(rollout)) == 4, "half of eight, not four and half of the rest"
    assert world.view(rollout).stages[1].strata[0].population == 8
    world.go_until_state(rollout, "finished")
    assert {one.running for one in world.devices.values()} == {"1.1.0"}


def test_a_selector_that_nobody_matches_any_more_ends_with_a_verdict(world: World) -> None:
    world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(selector=f"model.{MODEL}=1.0.0", stages=stages(4, "100%", soak="1s"))
    assert world.go_until_state(rollout, "finished", rounds=60).code == "finished"
    assert "facts_inconsistent" not in {one.code for one in world.decisions(rollout)}


def test_a_bundle_that_comes_later_does_not_stop_the_rollout(world: World) -> None:
    world.enrol(4)
    world.enrol(3, SMALL)
    world.settle("1.0.0", PROFILE, SMALL)
    ref = world.release("1.1.0")
    rollout = world.create(stages=stages(2, "100%", soak="10s"))
    world.go(4)
    world.house.bundle(ref.model, ref.version, SMALL, b"1.1.0, late")  # type: ignore[arg-type]
    world.go_until_state(rollout, "finished", rounds=100)
    assert world.states(rollout) == {"healthy": 4, "incompatible": 3}


def test_a_device_that_waits_for_its_offer_may_get_another_profile(world: World) -> None:
    devices = world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0", PROFILE, SMALL)
    rollout = world.create(stages=stages("100%", soak="10s"))
    world.go(1)
    world.service.pause(rollout, "ann", "wait")
    world.fleet.edits.update(devices[0].id, {}, SMALL)
    world.service.resume(rollout, "ann", "go on")
    world.go_until_state(rollout, "finished", rounds=100)
    assert world.member(rollout, devices[0]).reason == f"its profile is {SMALL} now"
    assert world.states(rollout) == {"healthy": 3, "cancelled": 1}


def test_the_plan_of_a_rollout_keeps_the_cuts_that_are_fixed(world: World) -> None:
    world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=stages("50%", "100%", soak="1h"))
    world.go(12)
    world.enrol(12)
    world.go(3)
    with world.house.db.read() as session:
        salt, cut = rollouts.rollout(session, rollout).salt, rollouts.cells(session, rollout)[0].cut
    plan = world.service.plan_of(rollout)
    planned = {one.device: stage.name for stage in plan.stages for cell in stage.strata for one in cell.devices}
    assert planned == {str(device): "s0" if rank(salt, device) < cut else "s1" for device in world.devices}
    assert {str(device): one.stage for device, one in world.members(rollout).items()}.items() <= planned.items()


# ---- what they go back to


def test_a_rollback_goes_to_what_a_person_deployed_during_a_pause(world: World) -> None:
    devices = world.enrol(2)
    world.settle("1.0.0")
    world.release("1.1.0")
    fix = world.release("1.0.5")
    rollout = world.create(stages=stages("100%", soak="1h"))
    world.go(1)
    world.service.pause(rollout, "ann", "a hotfix comes first")
    world.go(2)
    world.fleet.deployer.deploy(fix, selector="")
    world.go_until(lambda: {one.running for one in devices} == {"1.0.5"})
    world.service.resume(rollout, "ann", "")
    world.go_until(lambda: {one.running for one in devices} == {"1.1.0"})
    world.service.abort(rollout, "ann", "bad after all", rollback=True)
    world.go_until_state(rollout, "rolled_back")
    assert {one.running for one in devices} == {"1.0.5"}


def test_what_a_person_deploys_between_look_and_write_is_not_overwritten(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = any_world
    device, other = world.enrol(2)
    world.settle("1.0.0")
    world.release("1.1.0")
    newer = world.release("2.0.0")
    rollout = world.create(stages=stages("100%", soak="1h"))
    world.go_until(lambda: world.states(rollout) == {"healthy": 2})
    look = world.service.loader.snapshot

    def look_too_early(session: Session, row: Rollout) -> Snapshot:
        found = look(session, row)
        world.fleet.deployer.deploy(newer, device=device.id)
        return found

    world.service.abort(rollout, "ann", "no more", rollback=True)
    monkeypatch.setattr(world.service.loader, "snapshot", look_too_early)
    world.tick()
    monkeypatch.undo()
    assert (world.wants(device), world.wants(other)) == ("2.0.0", "1.0.0")
    world.go_until_state(rollout, "rolled_back")
    world.go_until(lambda: (device.running, other.running) == ("2.0.0", "1.0.0"))


def test_a_failed_stratum_does_not_brake_the_way_back_of_another_rollout(any_world: World) -> None:
    """What fails at one site is what another site ran well and has to go back to."""
    world = any_world
    failing, well = world.enrol(5, site="a"), world.enrol(2, site="b")  # whoever is drawn of the five, two of them fail
    world.settle("1.0.0")
    world.fleet.deployer.deploy(world.release("1.1.0"), selector="site=b")
    world.go_until(lambda: {one.running for one in well} == {"1.1.0"})
    world.release("1.2.0")
    failing[0].habits["1.1.0"] = Habit(silent_at=Phase.PROBATION)  # never confirms: the first rollout stays open
    for one in failing[1:]:
        one.habits["1.1.0"] = Habit(fails_at=Phase.COMMITTED)
    first = world.create(selector="site=a", stages=stages("100%", soak="1h"))
    world.go_until_state(first, "rolling_back")
    assert len(world.fleet.hold.names()[1]) == 1
    second = world.create("digits@1.2.0", selector="site=b", stages=stages("100%", soak="1h"))
    world.go_until(lambda: {one.running for one in well} == {"1.2.0"})
    world.service.abort(second, "ann", "bad", rollback=True)
    world.go_until_state(second, "rolled_back", rounds=30)
    assert {one.running for one in well} == {"1.1.0"}
    assert world.view(first).state == "rolling_back"


# ---- how it ends


@pytest.mark.parametrize("looks", [0, 2])
def test_a_rollout_that_was_taken_back_without_an_open_stage_says_why(world: World, looks: int) -> None:
    world.enrol(2)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=stages("100%", soak="1h"))
    world.go(looks)
    if looks:
        world.service.promote(rollout, "ann", "it is urgent", None)
    world.service.abort(rollout, "ann", "wrong file", rollback=True)
    view = world.go_until_state(rollout, "rolled_back")
    assert (view.code, view.reason) == ("aborted", "aborted by ann: wrong file")


def test_a_revoked_device_of_a_rollout_that_goes_back_is_called_so(world: World) -> None:
    device = world.enrol(4)[0]
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=stages("100%", soak="1h"))
    world.go_until(lambda: world.states(rollout) == {"healthy": 4})
    world.fleet.revocation.revoke(device.id)
    del world.devices[device.id]
    world.service.abort(rollout, "ann", "bad", rollback=True)
    world.go_until_state(rollout, "rolled_back")
    assert world.member(rollout, device).reason == "the device was taken out of the fleet"


def test_an_abort_does_not_claim_that_a_device_on_its_way_back_keeps_the_release(world: World) -> None:
    devices = world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0")
    devices[0].habits["1.1.0"] = Habit(silent_at=Phase.PROBATION)
    rollout = world.create(stages=stages("100%", soak="1h"))
    world.go_until(lambda: world.states(rollout) == {"healthy": 3, "verifying": 1})
    for one in devices[1:]:
        one.regress(ErrorClass.CRASH)
    world.go_until_state(rollout, "rolling_back")
    world.service.abort(rollout, "ann", "that is enough", rollback=False)
    assert world.member(rollout, devices[0]).reason == "aborted while it was being taken back"
    assert world.wants(devices[0]) == "1.0.0"


# ---- the server was away


def restart(world: World, **after: Any) -> None:
    """Let the server be away for a while and start again: nobody has called yet when its engine looks for the first time."""
    world.clock.turn(**after)
    world.fleet.receiver.forget_presence()
    world.engine = world.replica("main")
    world.tick()


def test_an_hour_without_a_server_fails_no_device(world: World) -> None:
    devices = world.enrol(6)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=stages("100%", soak="1m"))
    world.go_until(lambda: world.states(rollout) == {"verifying": 6})
    restart(world, hours=1)
    assert world.states(rollout) == {"verifying": 6}
    for one in devices:
        world.presence(one, on=True)
    assert world.go_until_state(rollout, "finished").counts.healthy == 6


def test_an_hour_without_a_server_is_no_time_without_a_verdict(world: World) -> None:
    devices = world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0")
    after = {"after": "30m", "do": "rollback"}
    rollout = world.create(stages=stages("100%", soak="1m"), on_inconclusive=after)
    world.go_until(lambda: world.states(rollout) == {"verifying": 4})
    restart(world, hours=1)
    assert world.view(rollout).state == "running"
    for one in devices[:2]:  # one alone would pause it: one device takes nothing back from others
        one.is_away = True
        world.presence(one, on=True)
    world.go_until_state(rollout, "rolling_back", seconds=20)
    assert "no verdict within 30 min" in world.view(rollout).reason, "the time that goes by afterwards counts as ever"


def test_who_does_not_come_back_after_an_outage_is_lost_a_little_later(world: World) -> None:
    devices = world.enrol(6)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=stages("100%", soak="1m"), on_fail="pause")
    world.go_until(lambda: world.states(rollout) == {"verifying": 6})
    devices[0].is_away = True
    restart(world, hours=1)
    for one in devices[1:]:
        world.presence(one, on=True)
    began = world.clock.now()
    world.go_until(lambda: world.member(rollout, devices[0]).state == "lost", seconds=5)
    assert timedelta(minutes=5) < world.clock.now() - began < timedelta(minutes=7)
