"""What one device may do to rollouts that have finished: the real engine and store, devices that are simulated."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_protocol.messages import ErrorClass
from tests.server.fleet.house import PROFILE
from tests.server.rollout.fleet_sim import MODEL, SMALL, SimDevice, World, make_world, stages

STRATA = (PROFILE, SMALL)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "a")
    yield made
    made.house.db.dispose()


def finished(world: World) -> tuple[str, list[SimDevice], list[SimDevice]]:
    """Bring 1.1.0 to four devices of each of two profiles; return the rollout and the devices, 8 of 8 healthy."""
    ours, theirs = world.enrol(4), world.enrol(4, SMALL)
    world.settle("1.0.0", *STRATA)
    world.release("1.1.0", *STRATA)
    return again(world), ours, theirs


def again(world: World) -> str:
    """Bring 1.1.0 to all devices by one more rollout."""
    rollout = world.create(stages=stages("100%"))
    world.go_until_state(rollout, "finished")
    assert world.states(rollout) == {"healthy": 8}
    return rollout


def deploy(world: World, version: str, *devices: SimDevice) -> None:
    """Deploy a release to these devices, or to all, and let them install it."""
    for one in devices or [None]:
        world.fleet.deployer.deploy(
            ReleaseRef.parse(f"{MODEL}@{version}"), device=None if one is None else one.id, selector=""
        )
    for _ in range(12):
        world.step()


def lie(world: World, liar: SimDevice) -> None:
    """Say, 50 minutes after all ended well, that the golden answers were wrong and that it went back."""
    world.clock.turn(minutes=50)
    liar.regress(ErrorClass.GOLDEN, "the golden answers differ")
    for _ in range(8):
        world.report(liar)
        world.tick()
        world.clock.turn(seconds=61)
        world.step([one for one in world.devices.values() if one is not liar])


def test_a_forged_fallback_is_heard_by_the_rollout_that_wrote_the_document_and_moves_no_other_stratum(
    world: World,
) -> None:
    older, ours, theirs = finished(world)
    deploy(world, "1.0.0", ours[0])
    deploy(world, "1.1.0", ours[0])
    lie(world, ours[0])
    assert world.view(older).state == "finished", "a deployment wrote its document, though of the same release"
    assert {world.wants(one) for one in world.devices.values()} == {"1.1.0"}
    deploy(world, "1.0.0")
    newer = again(world)
    world.release("1.2.0", *STRATA)
    deploy(world, "1.2.0", ours[3])
    lie(world, ours[0])
    assert world.view(older).state == "finished", "the newer rollout wrote every document"
    assert set(world.states(older)) == {"healthy"}
    assert [world.wants(one) for one in theirs] == ["1.1.0"] * 4, "nothing failed in their stratum"
    assert {one.running for one in theirs} == {"1.1.0"}
    assert world.wants(ours[3]) == "1.2.0", "an operator deployed it since"
    stays = {one.id for one in (*theirs, ours[3])}
    assert {one.state for device, one in world.members(newer).items() if device in stays} == {"healthy"}
    assert not world.view(newer).is_braked, "whatever its own stratum does, it is over"
