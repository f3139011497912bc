"""A real agent follows a rotation of the device CA, and comes back from one that it never heard of."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.core.durable import write_record
from edgefleet_agent.enrolment.renew import device_token, renew
from edgefleet_agent.enrolment.server_api import cert_life_s
from edgefleet_agent.errors import PinMismatchError
from edgefleet_agent.identity.place_follower import load_announced
from edgefleet_agent.identity.store import CA_FILE, CERT_FILE, RECORD_FILE, load_identity
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.fleet.ca_rotation import service
from edgefleet_server.fleet.errors import BadDeviceTokenError
from edgefleet_server.gateway.broker.model import BrokerKind, find_mosquitto
from tests.agent.field import Agent, eventually, write_identity
from tests.agent.listener import Listener
from tests.server.gateway.conftest import Site

QUICK_LOOK = {"EDGEFLEET_AGENT_RENEW_LOOK_S": "0.2"}


class Place:
    """A site with its device listener, and an agent that is not started."""

    def __init__(self, folder: Path) -> None:
        kind = BrokerKind.MOSQUITTO if find_mosquitto() is not None else BrokerKind.EMBEDDED
        self.site = Site(folder, kind, broker_port=8883)
        self.house = self.site.house
        addresses, endpoint = self.house.fleet.addresses, self.site.endpoint
        addresses.announce_broker(endpoint.host, endpoint.port, endpoint.mqtt)
        self.listener = Listener(self.house)
        addresses._host, addresses._port = "127.0.0.1", self.listener.port
        keyed, self.state = self.house.device(), folder / "device"
        write_identity(self.site, keyed, self.state, self.listener.url)
        folder = self.state / "identity"
        begun, until = cert_life_s((folder / CERT_FILE).read_bytes())
        known = msgspec.structs.replace(load_identity(folder), cert_from_s=begun, cert_until_s=until)
        write_record(folder / RECORD_FILE, known)
        self.agent = Agent(self.site, self.state, keyed, **QUICK_LOOK)

    def rotate(self) -> None:
        """Start."""
        self.house.fleet.ca_rotations.start(spread_s=0, reason="", by="anna")
        self.house.fleet.ca_rotations.step()

    def finish(self) -> None:
        """End it, as engine, broker's keeper and listener do."""
        self.house.fleet.ca_rotations.finish(leave_behind=0, reason="")
        self.house.fleet.ca_rotations.step()
        new = self.house.signing.ca_pem()
        assert eventually(lambda: self.house.signing.server_cert_file.read_bytes().endswith(new))
        context = self.listener._server.config.ssl
        assert context is not None
        context.load_cert_chain(self.house.signing.server_cert_file, self.house.signing.server_key_file)
        while self.house.fleet.ca_rotations.step():
            pass

    def holds_new(self) -> bool:
        """Whether the agent's own certificate is of the CA of today."""
        cert = x509.load_pem_x509_certificate((self.state / "identity" / "cert.pem").read_bytes())
        return cert.issuer == x509.load_pem_x509_certificate(self.house.signing.ca_pem()).subject

    def close(self) -> None:
        """Stop all."""
        self.agent.stop()
        self.listener.close()
        self.site.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """One site."""
    made = Place(tmp_path)
    yield made
    made.close()


def test_a_running_agent_follows(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, rotations = place.agent, place.house.fleet.ca_rotations
    monkeypatch.setattr(service, "END_SPREAD_S", 0)
    agent.start()
    assert eventually(lambda: agent.status().get("connected"))
    place.rotate()
    assert eventually(lambda: rotations.rotations()[0].followers.online_followed == 1), agent.log.read_text()
    place.finish()
    assert place.holds_new()
    folder = place.state / "identity"
    assert eventually(lambda: (folder / CA_FILE).read_bytes() == place.house.signing.ca_pem()), agent.log.read_text()
    assert eventually(lambda: agent.status().get("connected")), agent.log.read_text()


def test_an_agent_that_never_heard_of_it_comes_back(place: Place) -> None:
    place.rotate()
    place.finish()
    with pytest.raises(PinMismatchError):
        renew(place.state, SystemClock())
    place.agent.start()
    assert eventually(place.holds_new), place.agent.log.read_text()
    assert eventually(lambda: place.agent.status().get("connected")), place.agent.log.read_text()
    assert eventually(lambda: place.house.fleet.ca_rotations.rotations()[0].followers.followed == 1)


def test_what_is_shown_to_an_unknown_server_is_good_for_metadata_only(place: Place) -> None:
    """Who answers in the server's place may keep the token and show it to the server."""
    key = place.agent.device.key
    identity, authenticator = load_identity(place.state / "identity"), place.house.fleet.authenticator
    token = device_token(identity, key, SystemClock(), "/tuf")
    for asked in ({}, {"renews": True}):
        with pytest.raises(BadDeviceTokenError, match="refused"):
            authenticator.authenticate(token, **asked)
    assert authenticator.authenticate(token, reads=True).id == identity.device
    with pytest.raises(BadDeviceTokenError, match="before"):
        authenticator.authenticate(token, reads=True)


def test_a_server_that_is_none_is_not_believed(place: Place, tmp_path: Path) -> None:
    """It shows metadata of its own: signed by its own root, which the device did not pin."""
    other = Place(tmp_path / "other")
    try:
        other.rotate()
        identity = load_identity(place.state / "identity")
        write_record(place.state / "identity" / RECORD_FILE, msgspec.structs.replace(identity, url=other.listener.url))
        with pytest.raises(EdgefleetError):
            renew(place.state, SystemClock(), hears=True)
        assert load_announced(place.state / "identity") is None
    finally:
        other.agent.stop()
        other.listener.close()
        other.site.close()
