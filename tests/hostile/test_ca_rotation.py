"""A thief has the key of the device CA. He issues himself certificates of any device; after a rotation nobody takes them."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import State
from edgefleet_server.clock import SystemClock
from edgefleet_server.fleet.enrolment.model import DeviceIdentity
from edgefleet_server.gateway.broker.model import BrokerKind, find_mosquitto
from edgefleet_server.signing.authority import CA_CERT_FILE, CA_KEY_FILE, DeviceAuthority, new_p256_key, private_pem
from tests.broker.client import Client, eventually
from tests.broker.pki import Identity
from tests.hostile.revocation import identity_of, is_let_in
from tests.server.fleet.house import KeyedDevice
from tests.server.gateway.conftest import KINDS, Site


@pytest.fixture(params=KINDS)
def site(request: Any, tmp_path: Path) -> Iterator[Site]:
    """One site on each kind of broker, whose settings name its ports."""
    if request.param is BrokerKind.MOSQUITTO and find_mosquitto() is None:
        pytest.skip("no mosquitto on this machine")
    made = Site(tmp_path, request.param, broker_port=8883)
    yield made
    made.close()


def steal(site: Site, folder: Path) -> DeviceAuthority:
    """Return the device CA as a thief has it: a copy of its files."""
    folder.mkdir()
    for name in (CA_KEY_FILE, CA_CERT_FILE):
        (folder / name).write_bytes((site.house.folder / "keys" / name).read_bytes())
    return DeviceAuthority(folder)


def mint(stolen: DeviceAuthority, name: str, folder: Path) -> Identity:
    """Return a certificate that the thief issued."""
    key = new_p256_key()
    issued = stolen.issue_client(key.public_key(), name, SystemClock().now(), timedelta(days=90))
    identity = Identity(name, folder / f"thief-{name}.crt", folder / f"thief-{name}.key")
    identity.cert_file.write_bytes(issued.pem)
    identity.key_file.write_bytes(private_pem(key))
    return identity


def follow(site: Site, device: KeyedDevice) -> str:
    """Let a device hear of the newest announcement and renew; return its certificate (PEM)."""
    house = site.house
    announced = house.signing.places.announced()
    assert announced is not None
    facts = {"place": [announced.number, announced.number]}
    house.fleet.receiver.take_state(
        DeviceId(device.id),
        State(device=device.id, gen=0, boot_id="b", seq=announced.number, ts=0, facts=facts, models=[]),
    )
    caller = DeviceIdentity(device.id, ProfileName(device.enrolment.profile), device.enrolment.cert)
    return house.fleet.enrolment.renew(caller, device.csr()).cert


def test_certificates_of_a_stolen_ca_are_worth_nothing_after_its_rotation(site: Site, tmp_path: Path) -> None:
    house, rotations = site.house, site.house.fleet.ca_rotations
    house.fleet.addresses.announce_broker(site.endpoint.host, site.endpoint.port, site.endpoint.mqtt)
    device = house.device()
    stolen = steal(site, tmp_path / "thief")
    minted = mint(stolen, device.id, tmp_path)
    assert is_let_in(site.endpoint, minted), "the control: before the rotation the broker cannot tell"
    rotations.start(spread_s=0, reason="stolen", by="anna")
    assert rotations.step()
    assert eventually(lambda: len(list((site.folder / "broker").glob("trusted-cas.pem"))), "the broker's new CAs")
    cert = follow(site, device)
    renewed = identity_of(device, tmp_path, cert, 1)
    assert eventually(lambda: is_let_in(site.endpoint, renewed), "the new certificate is taken")
    assert is_let_in(site.endpoint, minted), "until it is finished: both are trusted"
    thief = Client(site.endpoint, minted).connect()
    rotations.finish(leave_behind=0, reason="")
    while rotations.step():
        pass
    assert eventually(thief.is_closed.is_set, "his session has ended")
    assert eventually(lambda: not is_let_in(site.endpoint, minted), "what he made is refused")
    assert not is_let_in(site.endpoint, mint(stolen, "srv-main", tmp_path)), "nor does he pose as the server"
    assert eventually(lambda: is_let_in(site.endpoint, renewed), "the device comes back")
    assert eventually(lambda: site.gateway.is_connected, "so does the server itself")
