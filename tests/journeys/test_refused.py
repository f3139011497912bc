"""What a device must not take, each refused with a code of its own that `edgectl` shows; what serves goes on serving."""

import datetime as dt
import io
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # documented, but not in __all__

from edgefleet_protocol.bundle import open_bundle, pack_members
from edgefleet_protocol.desired import Desired, encode_desired
from edgefleet_protocol.envelope import parse_envelope
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.clock import SystemClock
from edgefleet_server.fleet.desired import store as desired_store
from edgefleet_server.signing.service import SigningService
from tests.agent.field import eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.journeys.road import ASK_AGAIN_S, PATIENCE_S, Road, Traveller, blob_path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def device(road: Road) -> Traveller:
    """One device for all refusals; each test has a model of its own."""
    return Traveller(road, "device")


def bundle(name: str, version: str = "1.0.0", scale: float = 1.0) -> bytes:
    """Return a good bundle."""
    return bundle_bytes(classifier_onnx(scale), name=name, version=version)


def send_desired(road: Road, device: DeviceId, envelope: bytes) -> None:
    """Have the running server send this document as the device's newest."""
    house = road.house
    with house.db.session() as session:
        row = desired_store.desired_row(session, device, lock=True)
        assert row is not None
        row.gen += 1
        row.envelope = envelope
        row.changed_at = house.clock.now()


def document_of(road: Road, name: str) -> Desired:
    """Return what a device should run, as signed last."""
    signed = road.house.fleet.documents.of_device(DeviceId(name))
    assert signed is not None
    return msgspec.json.decode(parse_envelope(signed.envelope).payload, type=Desired)


def test_documents_that_are_old_foreign_or_expired(road: Road, device: Traveller) -> None:
    road.release("papers@1.0.0", bundle("papers"))
    device.told("papers", release="papers@1.0.0", phase="committed")
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    good = document_of(road, device.name)
    for changes, code in (
        ({"gen": good.gen - 1}, "verify.old_generation"),
        ({"gen": good.gen + 1, "device": DeviceId("somebody-else")}, "verify.wrong_device"),
        ({"gen": good.gen + 2, "expires": now - dt.timedelta(minutes=1)}, "verify.expired"),
    ):
        bad = msgspec.structs.replace(good, **changes)
        send_desired(road, DeviceId(device.name), road.house.signing.sign_desired(encode_desired(bad)))

        def is_told(code: str = code) -> bool:
            return (device.shown()["refused"] or {}).get("code") == code

        assert eventually(is_told, PATIENCE_S, ASK_AGAIN_S), (code, device.shown()["refused"])
        refusal = device.shown()["refused"]
        assert refusal["gen"] == bad.gen
        assert refusal["reason"]
        events = [event for event in device.events_told() if event["kind"] == "refused"]
        assert events[0]["detail"]["code"] == code
    assert device.served("papers") == "1.0.0"
    road.release("papers@1.1.0", bundle("papers", "1.1.0"))
    device.told("papers", release="papers@1.1.0", phase="committed")
    assert device.shown()["refused"] is None


def test_a_member_that_the_manifest_does_not_name(road: Road, device: Traveller) -> None:
    road.release("stowaway@1.0.0", bundle("stowaway"))
    device.told("stowaway", release="stowaway@1.0.0", phase="committed")
    honest = open_bundle(io.BytesIO(bundle("stowaway", "1.1.0")))
    members = [(name, honest.read(name)) for name in honest.names()]
    road.release("stowaway@1.1.0", pack_members([*members, ("zz-extra.bin", b"not listed")]))
    told = device.told("stowaway", phase="failed", error_code="bundle.extra_member")
    assert (told["release"], told["error_class"]) == ("stowaway@1.0.0", "signature")
    assert "zz-extra.bin" in told["reason"]
    assert device.served("stowaway") == "1.0.0"


def test_a_bundle_signed_by_another_key(road: Road, device: Traveller) -> None:
    road.release("forged@1.0.0", bundle("forged"))
    device.told("forged", release="forged@1.0.0", phase="committed")
    house = road.house
    honest = house.signing
    house.signing = SigningService(house.db, house.settings.keys_dir, SystemClock())
    (keyid,) = honest.role("m.forged").keys
    ring: Any = house.signing._ring
    ring._signers[keyid] = CryptoSigner.generate_ed25519()
    try:
        road.release("forged@1.1.0", bundle("forged", "1.1.0"))
    finally:
        house.signing = honest

    def forgery() -> dict[str, object]:
        found = [event for event in device.events_told() if (event["model"], event["kind"]) == ("forged", "refused")]
        return found[0]["detail"] if found else {}

    assert eventually(lambda: forgery().get("code") == "tuf.unsigned", PATIENCE_S, ASK_AGAIN_S), device.events_told()
    told = device.told("forged", release="forged@1.0.0", error_code="tuf.unsigned")
    assert told["error_class"] == "signature"
    assert device.served("forged") == "1.0.0"
    road.release("forged@1.2.0", bundle("forged", "1.2.0"))  # the right key signs the role anew
    device.told("forged", release="forged@1.2.0", phase="committed")


def test_a_flipped_bit_on_the_servers_disk_and_its_repair(road: Road, device: Traveller) -> None:
    road.release("bits@1.0.0", bundle("bits"))
    device.told("bits", release="bits@1.0.0", phase="committed")
    data = bundle("bits", "1.1.0", 2.0)
    ref = road.house.release("bits@1.1.0", bundles={"generic-x86_64-ort": data})
    blob = blob_path(road.data, data)
    assert blob.read_bytes() == data
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(damaged)
    road.house.fleet.deployer.deploy(ref, selector="")
    told = device.told("bits", phase="failed", error_code="install.leaf_digest")
    assert (told["release"], told["error_class"]) == ("bits@1.0.0", "signature")
    assert told["reason"]
    assert device.served("bits") == "1.0.0"
    blob.write_bytes(data)
    road.house.fleet.desired.resign(DeviceId(device.name))
    device.told("bits", release="bits@1.1.0", phase="committed")
    assert device.served("bits") == "1.1.0"
