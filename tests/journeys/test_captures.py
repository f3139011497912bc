"""What a device captures reaches the holder of the key and nobody else: one server, one broker, one agent, `edgectl`."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from edgefleet_agent.client import Model
from edgefleet_cli.device.captures.capture_files import open_record
from edgefleet_protocol.hpke import SealedError, new_key
from tests.agent.field import eventually
from tests.agent.worker.models import classifier_onnx
from tests.journeys.road import PATIENCE_S, Road, Traveller
from tests.server.fleet.house import PROFILE

pytestmark = pytest.mark.slow
CONVERTS = True

POLICY = {"fields": {"x": [{"do": "bin", "width": 0.5}]}, "low_confidence": 0}
SENT = np.array([[1.2, 0.3, 0.9, 0.0]], np.float32)
BINNED = [[1.0, 0.0, 0.5, 0.0]]


def publish(road: Road, folder: Path) -> None:
    """Publish a classifier with a privacy policy, and want it everywhere."""
    (folder / "model.onnx").write_bytes(classifier_onnx())
    (folder / "privacy.json").write_text(json.dumps(POLICY))
    flags = ("--name", "digits", "--version", "1.0.0", "--profile", PROFILE, "--precision", "fp32")
    misspelt = folder / "misspelt.json"
    misspelt.write_text(json.dumps({"fields": {"xx": [{"do": "drop"}]}}))
    refused = road.edgectl(
        "publish", folder / "model.onnx", "--privacy", misspelt, *flags[:3], "0.9.0", *flags[4:], code=1
    )
    assert "xx" in json.dumps(refused), refused
    road.edgectl("publish", folder / "model.onnx", "--privacy", folder / "privacy.json", *flags)
    road.edgectl("deploy", "digits@1.0.0", "--to", f"profile={PROFILE}")


def as_role(road: Road, role: str, method: str, path: str) -> httpx.Response:
    """Send a request with a fresh token of a role."""
    token = road.edgectl("token", "create", "--name", "test", "--role", role)["token"]
    headers = {"authorization": f"Bearer {token}"}
    return httpx.request(
        method, f"{road.server.url}/api/v1{path}", headers=headers, json={} if method == "POST" else None
    )


def captured(device: Traveller) -> list[Path]:
    """Return the records on the device."""
    return sorted((device.state / "capture").glob("*.cap"))


def test_what_a_device_captures_reaches_the_holder_of_the_key_and_nobody_else(road: Road, tmp_path: Path) -> None:
    device = Traveller(
        road, "one", EDGEFLEET_AGENT_CAPTURE_CONSENT="true", EDGEFLEET_AGENT_CAPTURE_WINDOW_S="0.2",
        EDGEFLEET_AGENT_CAPTURE_RANDOM_RATIO="0",
    )  # fmt: skip
    key = tmp_path / "keys" / "capture.key"
    road.edgectl("capture-key", "new", "--out", key)
    publish(road, tmp_path)
    device.told("digits", release="digits@1.0.0", phase="committed", serving=True)
    assert eventually(lambda: device.status().get("capture", {}).get("on"), PATIENCE_S), device.status()
    with Model("digits", url=device.status()["infer_url"]) as model:
        model.infer({"x": SENT})
        trace_id = model.trace_id
        assert trace_id is not None
        assert eventually(lambda: model.flag(trace_id))
        assert not model.flag("never-given")
    assert eventually(lambda: captured(device)), device.log.read_text()[-2_000:]
    assert all(SENT.tobytes() not in path.read_bytes() for path in captured(device))

    folder = tmp_path / "captured"
    listed = road.edgectl("device", "capture", device.name, "--reason", "flag", "--out", folder, "--key", key)
    (item,) = listed["items"]
    document = json.loads((folder / f"{item['id']}.json").read_text())
    assert (document["trace_id"], document["reason"], document["device"]) == (trace_id, "flag", device.name)
    assert np.load(folder / f"{item['id']}.npz")["in.x"].tolist() == BINNED
    assert eventually(lambda: not captured(device)), "what the server has stored is still on the device"
    with Model("digits", url=device.status()["infer_url"]) as model:
        model.infer({"x": SENT})
    assert road.edgectl("device", "capture", device.name)["items"] == [], "nothing was asked for, nothing was kept"

    path = f"/devices/{device.name}/captures"
    assert [as_role(road, "viewer", *call).status_code for call in (("POST", f"{path}:fetch"), ("GET", path))] == [
        403,
        403,
    ]
    answer: dict[str, Any] = as_role(road, "operator", "GET", f"{path}/{item['id']}").json()
    with pytest.raises(SealedError):
        open_record(base64.b64decode(answer["sealed"]), answer, new_key()[0])
    audit = as_role(road, "admin", "GET", "/audit?limit=200").json()["items"]
    actions = [row["action"] for row in audit]
    assert actions.count("get_capture") == 2
    assert {"set_capture_key", "fetch_captures"} <= set(actions)
