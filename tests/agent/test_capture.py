"""A real agent captures only with consent, and logs its answers. The whole way to an operator: `tests/journeys/test_captures.py`."""

import json
import os
import signal
from pathlib import Path

import msgspec
import numpy as np

from edgefleet_agent.captures.prediction_log import read_predictions
from edgefleet_agent.cli.rollback import ask_agent
from edgefleet_protocol.hpke import new_key
from tests.agent.field import Agent, deploy, eventually
from tests.agent.worker.models import CLASSES, bundle_bytes, classifier_onnx
from tests.server.gateway.conftest import Site

POLICY = json.dumps({"fields": {"x": [{"do": "bin", "width": 0.5}]}, "low_confidence": 0}).encode()
SENT = (1.2, 0.3, 0.9, 0.0)


def consents(agent: Agent, **more: str) -> None:
    """Let the device capture every answer, in short windows."""
    agent.environment = {
        **agent.environment,
        "EDGEFLEET_AGENT_CAPTURE_CONSENT": "true",
        "EDGEFLEET_AGENT_CAPTURE_RANDOM_RATIO": "1",
        "EDGEFLEET_AGENT_CAPTURE_WINDOW_S": "0.2",
        **more,
    }


def test_answers_are_logged_and_without_consent_no_input_is_kept(site: Site, agent: Agent) -> None:
    site.house.fleet.sampling.set(new_key()[1].hex(), "test")
    consents(agent)
    agent.start()
    labels = "\n".join(f"class {i}" for i in range(CLASSES)).encode()
    deploy(site, "1.0.0", bundle_bytes(classifier_onnx(), extra={"labels.txt": labels, "privacy.json": POLICY}))
    agent.wait("committed", "1.0.0")
    assert agent.comes_to_answer("1.0.0")
    for _ in range(5):
        agent.infer(x=SENT)
    socket = str(agent.status()["control_socket"])
    assert ask_agent(socket, {"do": "flush"}) == {"flushed": True, "whole": True}
    told = list(read_predictions(agent.state / "predictions"))[-5:]
    assert len({one.trace_id for one in told}) == 5, "the agent answers when the answers of a moment ago are written"
    check_busy(agent)
    assert eventually(lambda: records(agent) > 0)
    assert agent.stop() == 0
    check_log(agent)
    consents(agent, EDGEFLEET_AGENT_CAPTURE_KEY=new_key()[1].hex())
    agent.start()
    agent.wait("committed", "1.0.0")
    assert agent.status()["capture"]["on"] is False, "the device pins another key than the server names"
    assert agent.stop() == 0
    consents(agent, EDGEFLEET_AGENT_CAPTURE_CONSENT="false")
    agent.start()
    agent.wait("committed", "1.0.0")
    assert agent.comes_to_answer("1.0.0")
    assert agent.status()["capture"] == {**agent.status()["capture"], "on": False, "records": 0}
    assert records(agent) == 0


def check_busy(agent: Agent) -> None:
    """A worker that tells nothing is not waited for, and the reader learns of it."""
    worker = agent.status()["workers"]["digits"]
    os.kill(worker, signal.SIGSTOP)
    try:
        ran = agent.command("predictions", "-n", "1")
    finally:
        os.kill(worker, signal.SIGCONT)
    assert "its newest answers may be missing" in ran.stderr
    assert "digits@1.0.0" in ran.stdout


def check_log(agent: Agent) -> None:
    """The prediction log names each of the last answers and holds no input."""
    told = json.loads(agent.command("predictions", "digits", "-n", "5", "-o", "json").stdout)["predictions"]
    assert len(told) == 5
    assert {(p["model"], p["version"], p["lane"]) for p in told} == {("digits", "1.0.0", "active")}
    assert len({p["trace_id"] for p in told}) == 5
    assert all(p["latency_ms"] > 0 and p["top"] >= 0 for p in told)
    one = json.loads(agent.command("predictions", "--trace", told[2]["trace_id"], "-o", "json").stdout)["predictions"]
    assert one == [told[2]]
    assert told[0]["trace_id"] in agent.command("predictions").stdout
    assert not contains(agent.state / "predictions", np.array(SENT, np.float32).tobytes())


def records(agent: Agent) -> int:
    """Return how many captured records lie on the device."""
    return len(list((agent.state / "capture").glob("*.cap")))


def contains(folder: Path, needle: bytes) -> bool:
    """Say whether a file of the folder holds these bytes."""
    return any(needle in path.read_bytes() for path in folder.iterdir())


def test_a_message_of_a_record_is_small_enough_for_every_broker() -> None:
    from edgefleet_agent.worker.observe.capture import MAX_RECORD_BYTES
    from edgefleet_protocol.messages import Sample, encode

    sample = Sample(
        device="d" * 63,
        boot_id="b" * 16,
        seq=2**31,
        ts=2**41,
        task="c-" + "0" * 16,
        sealed=bytes(MAX_RECORD_BYTES + 48),
    )
    assert len(encode(sample)) < 128 * 1024
    assert len(msgspec.msgpack.encode(bytes(MAX_RECORD_BYTES + 48))) + 1_024 < 128 * 1024
