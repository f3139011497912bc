"""A real agent follows its server to another port, and stays where it is served while the announced place does not serve it."""

import socket
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.identity.store import load_identity
from edgefleet_protocol.server_places import ServerPlace
from edgefleet_server.fleet import store
from edgefleet_server.gateway.broker.model import BrokerKind, find_mosquitto
from tests.agent.field import Agent, eventually, write_identity
from tests.server.gateway.conftest import KINDS, Site

URL = "https://127.0.0.1:8443"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_follows_to_a_place_that_serves_it_and_to_no_other(kind: BrokerKind, tmp_path: Path) -> None:
    if kind is BrokerKind.MOSQUITTO and find_mosquitto() is None:
        pytest.skip("no mosquitto on this machine")
    second, dead = free_port(), free_port()
    site = Site(tmp_path, kind, also_ports=(second,))
    device = site.house.device()
    write_identity(site, device, tmp_path / "device", URL)
    agent = Agent(site, tmp_path / "device", device)
    mqtt: Any = site.endpoint.mqtt
    here, there, nowhere = (ServerPlace(URL, "127.0.0.1", port, mqtt) for port in (site.endpoint.port, second, dead))

    def announce(*places: ServerPlace) -> int:
        number, _ = site.house.signing.places.announce(places, [site.house.signing.ca_pem()], spread_s=0)
        site.house.fleet.hold.sign_again()
        return number

    def followed() -> tuple[int, int]:
        with site.house.db.read() as session:
            row = store.device(session, device.id)
            assert row is not None
            return row.place_told, row.place_used

    try:
        agent.start()
        assert eventually(lambda: agent.status().get("connected")), agent.log.read_text()
        lost = announce(nowhere, here)
        assert eventually(lambda: "reason" in agent.log.read_text() and followed() == (lost, 0)), agent.log.read_text()
        assert eventually(lambda: "refused" in agent.log.read_text().lower()), "it tried the announced place"
        assert eventually(lambda: agent.status().get("connected"))
        assert load_identity(agent.state / "identity").broker_port == site.endpoint.port
        number = announce(there, here)
        assert eventually(lambda: followed() == (number, number)), (followed(), agent.log.read_text())
        known = load_identity(agent.state / "identity")
        assert (known.broker_port, known.place) == (second, number)
        back = announce(here, there)
        assert eventually(lambda: followed() == (back, back)), (followed(), agent.log.read_text())
        assert load_identity(agent.state / "identity").broker_port == site.endpoint.port
    finally:
        agent.stop()
        site.close()
