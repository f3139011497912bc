"""A release is withdrawn while it is rolled out, waits, or is what devices would go back to; one that was deployed is not deleted."""

import json
from typing import Any

import pytest

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.conversion.service import ConversionService
from edgefleet_server.registry.errors import ReleaseInUseError, ReleaseWithdrawnError
from edgefleet_server.rollout.commands.retry import Choice
from edgefleet_server.rollout.errors import NothingToUndoError
from edgefleet_server.rollout.retirement import ReleaseRetirement
from edgefleet_server.signing import store as signing_store
from tests.server.rollout.fleet_sim import MODEL, World, stages

WHY = "it was trained on the wrong labels"
OLD, NEW = (ReleaseRef.parse(f"{MODEL}@{version}") for version in ("1.0.0", "1.1.0"))


def retirement(world: World) -> ReleaseRetirement:
    """Return what takes releases away."""
    house = world.house
    conversion = ConversionService(house.db, house.clock)
    return ReleaseRetirement(house.db, house.registry, house.signing, conversion, world.service, house.fleet)


def canary(world: World) -> str:
    """Let 2 of 4 devices that run 1.0.0 run 1.1.0, in a rollout whose first stage soaks."""
    world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=stages(2, "100%", soak="1h"))
    world.go_until(lambda: running(world).count("1.1.0") == 2)
    return rollout


def running(world: World) -> list[str]:
    """Return the versions that devices run, sorted."""
    return sorted(one.running for one in world.devices.values())


def test_an_open_rollout_ends_and_devices_keep_what_they_run(any_world: World) -> None:
    world = any_world
    rollout = canary(world)
    queued = world.create(supersede="queue")
    retirement(world).withdraw(NEW, "ann", WHY)
    for one in (rollout, queued):
        view = world.view(one)
        assert (view.state, view.reason) == ("cancelled", f"{NEW} was withdrawn by ann: {WHY}")
    world.go(5, seconds=3600)
    assert running(world) == ["1.0.0", "1.0.0", "1.1.0", "1.1.0"]
    assert {world.wants(one) for one in world.devices.values()} == {"1.0.0", "1.1.0"}
    (event,) = [one for one in world.fleet.feed.page(limit=500)[0] if one.kind == "release"]
    assert set(event.detail["rollouts"]) == {rollout, queued}
    for refused in (
        world.create,
        lambda: world.create(f"{MODEL}@1.0.0", rollback_to=str(NEW)),
        lambda: world.fleet.deployer.deploy(NEW, selector=""),
        lambda: world.service.retry(rollout, "ann", "again", Choice()),
    ):
        with pytest.raises(ReleaseWithdrawnError, match=WHY):
            refused()
    world.service.undo(str(NEW), "ann", "it is wrong", dry_run=False)
    world.go_until(lambda: running(world) == ["1.0.0"] * 4)


def test_a_device_that_installs_or_is_away_keeps_the_old(world: World) -> None:
    devices = world.enrol(2)
    world.settle("1.0.0")
    world.release("1.1.0")
    world.presence(devices[1], on=False)
    rollout = world.create(stages=stages("100%", soak="1h"))
    world.tick()
    world.step([devices[0]])
    retirement(world).withdraw(NEW, "ann", WHY)
    world.presence(devices[1], on=True)
    world.go(10)
    assert world.view(rollout).state == "cancelled"
    assert running(world) == ["1.0.0", "1.0.0"]


def test_no_device_goes_back_to_what_was_withdrawn(any_world: World) -> None:
    world = any_world
    rollout = canary(world)
    retirement(world).withdraw(OLD, "ann", WHY)
    assert world.view(rollout).state == "running", "it leads away from what was withdrawn"
    with pytest.raises(NothingToUndoError, match="to which it would go back, was withdrawn"):
        world.service.undo(MODEL, "ann", "", dry_run=True)
    world.service.abort(rollout, "ann", "bad", rollback=True)
    world.go_until_state(rollout, "rollback_incomplete")
    assert running(world) == ["1.0.0", "1.0.0", "1.1.0", "1.1.0"]
    kept = {one.reason for one in world.members(rollout).values() if one.exposed_at is not None}
    assert kept == {f"not confirmed to be back: {OLD}, to which it would go back, was withdrawn"}


def test_what_was_deployed_is_not_deleted(any_world: World) -> None:
    world = any_world
    world.enrol(1)
    world.release("1.0.0")
    world.release("1.1.0")
    world.house.jobs.jobs.clear()
    for ref in (OLD, NEW):
        world.house.registry.refresh_state(ref)
    world.fleet.deployer.deploy(OLD, selector="")
    world.create(rollback_to=str(OLD))
    with pytest.raises(ReleaseInUseError, match=r"1 rollout named it, .*; it was deployed to devices"):
        retirement(world).delete(OLD, "ann", "")
    with pytest.raises(ReleaseInUseError, match="1 rollout named it"):
        retirement(world).delete(NEW, "ann", "")
    assert world.house.registry.release(OLD).bundles


def role_custom(world: World) -> dict[str, Any]:
    """Return what the model's role says besides its targets."""
    with world.house.db.read() as session:
        found = signing_store.latest(session, f"m.{MODEL}")
    assert found is not None
    signed = json.loads(found[1])["signed"]
    return {**signed.get("custom", {}), "targets": sorted({path.split("/")[1] for path in signed["targets"]})}


def test_a_withdrawal_is_signed_for_the_model_and_shuts_out_nothing_else(any_world: World) -> None:
    world = any_world
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        world.release(version)
    (only,) = retirement(world).withdraw(NEW, "ann", WHY)
    assert only.ref == NEW
    assert role_custom(world) == {"withdrawn": ["1.1.0"], "targets": ["1.0.0", "1.2.0"]}
    assert [one.ref for one in retirement(world).withdraw(NEW, "bob", "again")] == [NEW]
    kept = world.house.registry.release(NEW).withdrawn
    assert kept is not None
    assert kept.by == "ann"


def test_everything_older_goes_with_it_and_what_is_newer_stays(any_world: World) -> None:
    world = any_world
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        world.release(version)
    both = retirement(world).withdraw(NEW, "ann", WHY, older=True)
    assert [one.ref for one in both] == [NEW, OLD]
    assert both[1].withdrawn is not None
    assert both[1].withdrawn.reason == f"older than {NEW}, which was withdrawn: {WHY}"
    said = role_custom(world)
    assert (said["withdrawn"], said["targets"]) == (["1.0.0", "1.1.0"], ["1.2.0"])
    numbers = world.house.signing.release_numbers(MODEL, {})
    assert 0 < said["sec_floor"] <= numbers["1.2.0"]
    assert [one.kind for one in world.fleet.feed.page(limit=500)[0]].count("release") == 2
    world.release("1.3.0")
    assert world.house.signing.release_numbers(MODEL, {})["1.3.0"] >= said["sec_floor"]


def test_what_was_withdrawn_before_is_signed_later(world: World) -> None:
    world.release("1.0.0")
    world.release("1.1.0")
    world.house.registry.withdrawals.withdraw(NEW, "ann", WHY)  # as by a server of before
    assert retirement(world).sign_earlier() == 1
    assert role_custom(world)["withdrawn"] == ["1.1.0"]
    assert retirement(world).sign_earlier() == 0
