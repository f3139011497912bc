"""Captured inputs from a real agent over a real broker to an operator's files, and nobody else can read them."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgefleet_cli.main import run
from edgefleet_protocol.sealed import SealedError, new_key
from edgefleet_server.access.model import Role
from edgefleet_server.app import create_app
from edgefleet_server.clock import SystemClock
from edgefleet_server.paging import PageRequest
from tests.agent.field import Agent, deploy, eventually
from tests.agent.worker.models import CLASSES, bundle_bytes, classifier_onnx
from tests.server.dashboard.serving import served
from tests.server.fleet.apps import parts_of
from tests.server.gateway.conftest import Site

POLICY = json.dumps({"fields": {"x": [{"do": "bin", "width": 0.5}]}, "low_confidence": 0}).encode()
SENT = (1.2, 0.3, 0.9, 0.0)
BINNED = [[1.0, 0.0, 0.5, 0.0]]


def consents(agent: Agent, **more: str) -> None:
    """Let the device capture every answer, in short windows."""
    agent.environment = {
        **agent.environment,
        "EDGEFLEET_AGENT_CAPTURE_CONSENT": "true",
        "EDGEFLEET_AGENT_CAPTURE_RANDOM_RATIO": "1",
        "EDGEFLEET_AGENT_CAPTURE_WINDOW_S": "0.2",
        **more,
    }


def test_what_a_device_captures_reaches_the_holder_of_the_key_and_nobody_else(
    site: Site, agent: Agent, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(site.house)
    with served(create_app(parts)) as url:

        def edgectl(role: Role, *arguments: str) -> tuple[int, Any]:
            token = parts.access.create_token("ann", [role], by="test").token
            monkeypatch.setenv("EDGECTL_TOKEN", token)
            capsys.readouterr()
            code = run([*arguments, "--server", url, "-o", "json"])
            out = capsys.readouterr().out
            return code, json.loads(out) if out else None

        monkeypatch.setenv("EDGECTL_CONFIG", str(tmp_path / "edgectl.json"))
        key = tmp_path / "keys" / "capture.key"
        assert edgectl(Role.OPERATOR, "capture-key", "new", "--out", str(tmp_path / "other.key"))[0] == 4
        assert edgectl(Role.ADMIN, "capture-key", "new", "--out", str(key))[0] == 0
        assert key.stat().st_mode & 0o777 == 0o600

        consents(agent)
        agent.start()
        deploy(site, "1.0.0", bundle_bytes(classifier_onnx(), extra={"privacy.json": POLICY}))
        site.house.fleet.resign_due(SystemClock().now())
        agent.wait("committed", "1.0.0")
        assert eventually(lambda: agent.status().get("capture", {}).get("on"))
        before = agent.status()["capture"]["records"]
        assert agent.comes_to_answer("1.0.0")
        answer = agent.infer(x=SENT)
        assert eventually(lambda: records(agent) > before), agent.log.read_text()[-2_000:]
        assert not contains(agent.state / "capture", np.array(SENT, np.float32).tobytes())

        folder = tmp_path / "captured"
        assert edgectl(Role.VIEWER, "device", "capture", agent.id)[0] == 4
        code, listed = edgectl(
            Role.OPERATOR, "device", "capture", agent.id, "--reason", "random", "--out", str(folder), "--key", str(key)
        )
        assert code == 0
        opened = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
        assert len(opened) == listed["total"] > 0
        assert {(o["model"], o["device"], o["reason"]) for o in opened} == {("digits", agent.id, "random")}
        values = [np.load(folder / f"{o['id']}.npz")["in.x"].tolist() for o in opened]
        assert BINNED in values
        assert answer["model_version"] == "1.0.0"
        assert all("out.y" in zipfile.ZipFile(folder / f"{o['id']}.npz").namelist()[-1] for o in opened)

        assert eventually(lambda: not any((agent.state / "capture").glob("*.random.*"))), (
            "what was fetched is still there"
        )
        actions = [entry.action for entry in parts.access.audit(PageRequest(limit=100)).items]
        assert actions.count("get_capture") == len(opened)
        assert "fetch_captures" in actions
        assert "set_capture_key" in actions
        device = site.house.fleet.reader.device(agent.id)
        sealed = parts.captures.record(device.id, opened[0]["id"])
        from edgefleet_cli.capturing import open_record

        with pytest.raises(SealedError):
            open_record(sealed.sealed, opened[0], new_key()[0])
        for stored in (sealed.sealed, zlib.compress(b"")):
            assert b"digits" not in stored


def test_without_consent_nothing_is_captured_and_what_was_is_removed(site: Site, agent: Agent) -> None:
    site.house.fleet.sampling.set(new_key()[1].hex(), "test")
    consents(agent)
    agent.start()
    deploy(site, "1.0.0", bundle_bytes(classifier_onnx(), extra={"privacy.json": POLICY}))
    agent.wait("committed", "1.0.0")
    assert agent.comes_to_answer("1.0.0")
    assert eventually(lambda: records(agent) > 0)
    assert agent.stop() == 0
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


def test_the_prediction_log_names_each_answer_and_holds_no_input(agent: Agent, site: Site) -> None:
    agent.start()
    labels = "\n".join(f"class {i}" for i in range(CLASSES)).encode()
    deploy(site, "1.0.0", bundle_bytes(classifier_onnx(), extra={"labels.txt": labels}))
    agent.wait("committed", "1.0.0")
    assert agent.comes_to_answer("1.0.0")
    for _ in range(5):
        agent.infer(x=(1.25, 0.5, 0.125, 0.0))
    assert agent.stop() == 0
    told = json.loads(agent.command("predictions", "digits", "-n", "5", "-o", "json").stdout)["predictions"]
    assert len(told) == 5
    assert {(p["model"], p["version"], p["lane"]) for p in told} == {("digits", "1.0.0", "active")}
    assert len({p["trace_id"] for p in told}) == 5
    assert all(p["latency_ms"] > 0 and p["top"] >= 0 for p in told)
    one = json.loads(agent.command("predictions", "--trace", told[2]["trace_id"], "-o", "json").stdout)["predictions"]
    assert one == [told[2]]
    assert told[0]["trace_id"] in agent.command("predictions").stdout
    assert not contains(agent.state / "predictions", np.array([1.25, 0.5, 0.125, 0.0], np.float32).tobytes())


def records(agent: Agent) -> int:
    """Return how many captured records lie on the device."""
    return len(list((agent.state / "capture").glob("*.cap")))


def contains(folder: Path, needle: bytes) -> bool:
    """Say whether a file of the folder holds these bytes."""
    return any(needle in path.read_bytes() for path in folder.iterdir())


def test_a_message_of_a_record_is_small_enough_for_every_broker() -> None:
    from edgefleet_agent.worker.capture import MAX_RECORD_BYTES
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
