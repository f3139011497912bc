"""An agent whose end must be noticed soon connects anew, once; a watch of some minutes is not worth a connection."""

import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.connection.mqtt import LinkOptions, MqttLink
from edgefleet_agent.identity.place_follower import Way
from edgefleet_agent.identity.store import load_identity
from edgefleet_protocol.desired import TelemetryRequest
from edgefleet_protocol.ids import DeviceId, ModelName
from edgefleet_server.fleet.desired.model import ModelChange
from tests.agent.field import Agent, eventually, publish, started_agent, write_identity
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.gateway.conftest import Site

pytestmark = pytest.mark.slow


def connections(agent: Agent) -> int:
    """Return how often the agent has connected so far."""
    return agent.log.read_text().count(" connected")


def test_a_device_that_a_rollout_looks_at_connects_anew_to_be_missed_soon() -> None:
    with started_agent(EDGEFLEET_AGENT_KEEPALIVE_S="1200") as agent:
        assert eventually(lambda: agent.status().get("connected"))
        fleet = agent.site.house.fleet
        device = DeviceId(agent.id)
        fleet.desired.watch(device)
        assert eventually(lambda: agent.status().get("gen") == fleet.desired.ensure(device).gen)
        assert connections(agent) == 1, "for five minutes nobody connects anew"
        later = agent.site.house.clock.now() + timedelta(days=1)
        wish = TelemetryRequest(profile="live", until=later)
        ref = publish(agent.site, "1.0.0", bundle_bytes(classifier_onnx()))
        fleet.desired.set_models([ModelChange(device, ModelName("digits"), ref, wish)])
        assert eventually(lambda: connections(agent) == 2), agent.log.read_text()[-3_000:]
        agent.wait("committed", "1.0.0")
        assert agent.status()["connected"]
        assert "reconnecting" in agent.log.read_text()
        assert connections(agent) == 2


def sends_at_once(connection: Any) -> bool:
    """Return whether a second packet leaves before the first is acknowledged."""
    return bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


def test_the_answer_to_a_ping_breaks_a_silence(site: Site, tmp_path: Path) -> None:
    write_identity(site, site.house.device(), tmp_path / "device")
    folder = tmp_path / "device" / "identity"
    identity = load_identity(folder)
    options = LinkOptions(keepalive_s=4, connect_timeout_s=10.0, reconnect_max_s=1.0)
    link = MqttLink(identity, lambda: [Way(identity, folder)], "boot", options, lambda: None, lambda: 0)
    link.start()
    try:
        assert eventually(lambda: link.is_connected)
        assert link._client is not None
        assert sends_at_once(link._client.socket())
        time.sleep(10)  # with a shorter keepalive a ping that is a moment late would cost the connection
        told = link._silence.limits(time.monotonic())
        assert link.is_connected
        assert told["lasted_s"] > 9
        assert told["quiet_s"] < 6, "pings are answered each four or five seconds"
        assert told["survived_s"] > 0.5
    finally:
        link.stop(b"")
