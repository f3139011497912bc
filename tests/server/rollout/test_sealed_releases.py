"""A rollout of a sealed release reaches the devices that can open it, and says of the others why it does not."""

from edgefleet_protocol.hpke import new_key
from edgefleet_protocol.ids import ProfileName
from edgefleet_server.fleet.enrolment.model import DeviceIdentity, DeviceKeys
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.fleet.house import PROFILE, KeyedDevice
from tests.server.rollout.fleet_sim import MODEL, World


def test_a_rollout_leaves_out_devices_without_a_key(world: World) -> None:
    with_key = {one.id for one in world.enrol(3)}
    for one in with_key:
        world.house.fleet.enrolment.renew(
            DeviceIdentity(one, ProfileName(PROFILE), ""), KeyedDevice().csr(), DeviceKeys(new_key()[1].hex())
        )
    without = {one.id for one in world.enrol(2)}
    world.house.release(f"{MODEL}@1.1.0", bundles={PROFILE: bundle_bytes(classifier_onnx())}, seal=True)
    rollout = world.create()
    plan = world.service.plan_of(rollout)
    assert {one.device for one in plan.excluded} == without
    assert all("sealed" in one.reason and "edge-agent renew" in one.next for one in plan.excluded)
    world.go(30)
    assert {one.id for one in world.devices.values() if world.wants(one)} == with_key
