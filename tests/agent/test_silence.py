"""An agent whose end must be noticed soon connects anew, once; a watch of some minutes is not worth a connection."""

from datetime import timedelta

import pytest

from edgefleet_protocol.desired import TelemetryWish
from edgefleet_protocol.ids import DeviceId, ModelName
from edgefleet_server.fleet.model import ModelChange
from tests.agent.field import Agent, eventually, publish, started_agent
from tests.agent.worker.models import bundle_bytes, classifier_onnx

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
        wish = TelemetryWish(profile="live", until=later)
        ref = publish(agent.site, "1.0.0", bundle_bytes(classifier_onnx()))
        fleet.set_models([ModelChange(device, ModelName("digits"), ref, wish)])
        assert eventually(lambda: connections(agent) == 2), agent.log.read_text()[-3_000:]
        agent.wait("committed", "1.0.0")
        assert agent.status()["connected"]
        assert "connecting anew" in agent.log.read_text()
        assert connections(agent) == 2
