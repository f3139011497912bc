"""A real agent process against real services and a real broker: from a signed wish to a served answer."""

import os
import signal
import socket
import time

from edgefleet_protocol.desired import Ref
from tests.agent.field import Agent, deploy, eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.server.gateway.conftest import Site


def test_a_bundle_is_pulled_verified_tried_and_served(site: Site, agent: Agent) -> None:
    agent.environment = {**agent.environment, "EDGEFLEET_AGENT_PROBATION_S": "600"}
    agent.start()
    deploy(site, "1.0.0", bundle_bytes(classifier_onnx()))
    agent.wait("probation", "1.0.0")
    agent.stop()
    agent.environment = {**agent.environment, "EDGEFLEET_AGENT_PROBATION_S": "1"}
    agent.start()
    model = agent.wait("committed", "1.0.0")
    assert model["slot"] == "A"
    answer = agent.infer()
    assert answer["model_version"] == "1.0.0"
    assert eventually(lambda: agent.reported() is not None and agent.reported().phase == "committed")

    deploy(site, "1.1.0", bundle_bytes(classifier_onnx(2.0), version="1.1.0"))
    model = agent.wait("committed", "1.1.0")
    assert model["slot"] == "B"
    assert agent.comes_to_answer("1.1.0")
    assert agent.stop() == 0


def test_a_bundle_that_fails_its_golden_vectors_never_serves(site: Site, agent: Agent, first: Ref) -> None:
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))
    deploy(site, "1.1.0", bundle_bytes(classifier_onnx(2.0), version="1.1.0", golden_shift=0.5))
    model = agent.wait("failed", "1.0.0")
    assert model["error_class"] == "golden"
    assert agent.infer()["model_version"] == "1.0.0"
    assert eventually(lambda: agent.reported().phase == "failed")
    assert eventually(lambda: "golden_mismatch" in {event.kind for event in agent.events()})


def test_a_crash_loop_on_probation_goes_back_to_the_previous_slot(site: Site, agent: Agent, first: Ref) -> None:
    agent.environment = {**agent.environment, "EDGEFLEET_AGENT_PROBATION_S": "600"}
    agent.start()
    deploy(site, "1.1.0", bundle_bytes(classifier_onnx(2.0), version="1.1.0"))
    agent.wait("probation", "1.1.0")
    agentd = agent.status()["pid"]
    killed: set[int] = set()
    while agent.model().get("active_target", "").startswith("digits/1.1.0"):
        pid = agent.status().get("workers", {}).get("digits")
        if pid and pid not in killed and agent.model().get("serving"):
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    model = agent.wait("rolled_back", "1.0.0")
    assert (model["error_class"], model["error_code"]) == ("crash", "trial.crash_loop")
    assert len(killed) == 3
    assert eventually(lambda: agent.model().get("serving"))
    assert agent.infer()["model_version"] == "1.0.0"
    assert agent.status()["pid"] == agentd
    assert eventually(lambda: agent.reported().phase == "rolled_back")


def test_what_serves_goes_on_without_a_network_and_over_a_restart(site: Site, agent: Agent, first: Ref) -> None:
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))
    agent.kill()
    site.broker.stop()
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))
    assert agent.infer()["model_version"] == "1.0.0"
    assert not agent.status()["connected"]


def test_a_killed_agent_takes_its_fixed_port_again(site: Site, agent: Agent, first: Ref) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    agent.environment = {**agent.environment, "EDGEFLEET_AGENT_INFER_PORT": str(port)}
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))
    agent.kill()
    agent.start()
    assert eventually(lambda: agent.model().get("serving"))
    assert agent.status()["infer_url"] == f"http://127.0.0.1:{port}"
    assert agent.infer()["model_version"] == "1.0.0"


def test_a_damaged_slot_is_found_at_the_start_and_fetched_again(site: Site, agent: Agent, first: Ref) -> None:
    bundle = agent.state / "models" / "digits" / "A" / "bundle"
    data = bytearray(bundle.read_bytes())
    data[len(data) // 2] ^= 1
    bundle.chmod(0o644)
    bundle.write_bytes(bytes(data))
    agent.start()
    agent.wait("committed", "1.0.0")
    assert agent.infer()["model_version"] == "1.0.0"
