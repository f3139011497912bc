"""The install child and the key of a sealed bundle: none goes into a slot that the device could not open the model with."""

from collections.abc import Callable

import pytest

from edgefleet_agent.core.durable import read_record
from edgefleet_agent.install.records import SlotInfo
from edgefleet_agent.install.verifier_protocol import Fetched, FetchFailed
from edgefleet_agent.paths import StatePaths
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.hpke import new_key, seal, unseal
from edgefleet_protocol.ids import ProfileName
from edgefleet_protocol.sealed_model import KEY_BYTES, about_key
from edgefleet_server.fleet.enrolment.model import DeviceIdentity, DeviceKeys
from tests.agent.child import ChildDriver
from tests.agent.test_install_child import accepted
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.fleet.house import PROFILE, KeyedDevice

PREFIX = "model-key."


class SealedWay:
    """A device that wants one sealed bundle. answer: what it gets for the key of a digest."""

    def __init__(self, driver: ChildDriver) -> None:
        self.driver, self.asked = driver, 0
        self.tell_new_key()
        self.answer: Callable[[Sha256], bytes | None] = self.honest
        driver.meta = self._meta
        ref = driver.house.release("digits@1.0.0", bundles={PROFILE: bundle_bytes(classifier_onnx())}, seal=True)
        driver.house.fleet.deployer.deploy(ref, selector="")
        document = driver.house.fleet.documents.of_device(driver.device)
        assert document is not None
        self.wanted = accepted(driver, bytes(document.envelope)).wanted[0]

    def tell_new_key(self) -> None:
        """Make a key for the device, in place of one that it may have, and tell it to the server by a renewal."""
        self.secret, self.public = new_key()
        file = StatePaths(self.driver.state).model_key
        file.write_bytes(self.secret)
        identity = DeviceIdentity(self.driver.device, ProfileName(PROFILE), "")
        self.driver.house.fleet.enrolment.renew(identity, KeyedDevice().csr(), DeviceKeys(self.public.hex()))

    def honest(self, sha256: Sha256) -> bytes | None:
        """Answer as the gateway does."""
        registry = self.driver.house.registry
        told = bytes.fromhex(self.driver.house.fleet.devices.model_key_of(self.driver.device))
        return registry.fleet_key.for_device(registry.bundle(sha256).sealed_key, sha256, told)

    def _meta(self, name: str) -> bytes | None:
        if not name.startswith(PREFIX):
            return self.driver.honest_meta(name)
        self.asked += 1
        return self.answer(Sha256(name.removeprefix(PREFIX)))

    def installed(self) -> bytes:
        """Install, and return the content key that lies in the slot, opened."""
        answer = self.driver.install(self.wanted)
        assert isinstance(answer, Fetched), answer
        info = read_record(SlotInfo, self.driver.state / "models" / "digits" / "A" / "slot.msgpack")
        assert info == answer.info
        return unseal(self.secret, info.model_key, about_key(self.wanted.sha256))


@pytest.fixture
def way(driver: ChildDriver) -> SealedWay:
    """Return a device and the sealed bundle that it wants."""
    return SealedWay(driver)


def test_a_key_is_asked_for_once_and_again_only_after_the_device_lost_its_own(way: SealedWay) -> None:
    key = way.installed()
    assert way.installed() == key
    assert way.asked == 1
    way.tell_new_key()
    assert way.installed() == key  # no byte of the bundle is fetched again for it
    assert way.asked == 2


@pytest.mark.parametrize("lie", ["no key", "noise", "another bundle's", "another key", "another device's"])
def test_what_a_broker_or_a_confused_server_gives_as_the_key_goes_into_no_slot(way: SealedWay, lie: str) -> None:
    key, about = bytes(KEY_BYTES), about_key(way.wanted.sha256)
    lies = {
        "no key": None,
        "noise": bytes(80),
        "another bundle's": seal(way.public, key, about_key("0" * 64)),
        "another key": seal(way.public, key, about),
        "another device's": seal(new_key()[1], key, about),
    }
    way.answer = lambda _sha256: lies[lie]
    answer = way.driver.install(way.wanted)
    assert isinstance(answer, FetchFailed), answer
    assert (answer.code, answer.error_class) == ("install.model_key", "incompatible")
    assert "sealed" in answer.reason
    way.answer = way.honest
    assert way.installed()
