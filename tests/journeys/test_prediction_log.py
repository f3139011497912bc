"""A prediction log from the device to the auditor: server, broker, agent, worker and `edgectl`, with kills in between."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet as pq
import pytest

from edgefleet_server.gateway.broker.model import find_mosquitto
from tests.agent.field import eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.journeys.road import PATIENCE_S, Road, Traveller

pytestmark = pytest.mark.slow

MODEL = "digits"
POLICY = {"fields": {"x": [{"do": "bin", "width": 0.5}]}}


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    """A server that packs at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEFLEET_SERVER_PREDICTION_PACK_S", "1")
        made = Road(tmp_path_factory.mktemp("road"), "mosquitto" if find_mosquitto() else "embedded")
        yield made
        made.close()


def ask(device: Traveller, subject: str, n: int) -> None:
    """Have a caller ask n times for a subject."""
    url = f"{device.status()['infer_url']}/v2/models/{MODEL}/infer"
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.2, 0.3, 0.9, 0.0]}]}
    headers = {"X-Edgefleet-Subject": subject, "X-Edgefleet-Key": f"order-{subject}"}
    for _ in range(n):
        answer = httpx.post(url, json=body, headers=headers, timeout=60)
        assert answer.is_success, answer.text


def log_of(device: Traveller) -> dict[str, Any]:
    """Return what the device says of its log."""
    found: dict[str, Any] = device.status().get("capture", {}).get("logs", {}).get(MODEL, {})
    return found


def numbered(device: Traveller) -> int:
    """Return how many answers the one worker has numbered."""
    (path,) = (device.state / "run" / "counts").glob("*.count")
    return int.from_bytes(path.read_bytes(), "little")


def checked(road: Road, rows: int, last: int = 0) -> dict[str, Any]:
    """Return what verifying says, once so many rows are there and the number `last` is accounted for."""
    found: dict[str, Any] = {}

    def has_come() -> bool:
        found.update(road.edgectl("predictions", "verify", MODEL))
        return bool(found["rows"] >= rows and max(log["last"] for log in found["logs"]) >= last)

    assert eventually(has_come, PATIENCE_S, 0.3), found
    return found


def test_a_log_is_kept_killed_proved_opened_and_erased(road: Road, tmp_path: Path) -> None:
    device = Traveller(road, "one", EDGEFLEET_AGENT_PREDICTION_PART_S="0.5", EDGEFLEET_AGENT_CAPTURE_CONSENT="true")
    key = tmp_path / "keys" / "capture.key"
    road.edgectl("capture-key", "create", "--out", key)
    bundle = bundle_bytes(
        classifier_onnx(), name=MODEL, version="1.0.0", extra={"privacy.json": json.dumps(POLICY).encode()}
    )
    road.release(f"{MODEL}@1.0.0", bundle)
    device.told(MODEL, phase="committed", serving=True)
    made = road.edgectl("predictions", "keep", MODEL, "--inputs", "--days", "30")
    assert (made["state"], made["is_sealed"]) == ("complete", True)

    def is_kept() -> bool:
        ask(device, "ann", 1)
        return int(log_of(device).get("seq", 0)) > 0

    assert eventually(is_kept, PATIENCE_S, 0.3), device.log.read_text()[-2_000:]
    ask(device, "bob", 5)
    assert eventually(lambda: log_of(device)["seq"] == numbered(device), PATIENCE_S)
    assert device.process is not None
    worker = next(
        child for child in psutil.Process(device.process.pid).children() if "worker" in " ".join(child.cmdline())
    )
    ask(device, "bob", 3)
    given = numbered(device)
    worker.kill()
    assert eventually(lambda: log_of(device)["seq"] >= given, PATIENCE_S), (
        "what the worker had not told is missing and unseen"
    )
    assert eventually(lambda: device.ask_four(MODEL).is_success, PATIENCE_S, 0.3)
    device.process.kill()
    device.process.wait()
    device.start()
    assert eventually(lambda: "infer_url" in device.status() and device.ask_four(MODEL).is_success, PATIENCE_S, 0.3)
    ask(device, "ann", 4)

    found = checked(road, 10, numbered(device))  # all of hers: what comes after an erasure is counted apart
    assert found["is_whole"], found
    (log,) = found["logs"]
    assert log["written"] > 0, "the device says how far its log is"
    reasons = {gap["reason"]: gap["n"] for gap in log["missing"]}
    assert reasons["stopped"] > 0, "the kill of the agent is seen"
    assert set(reasons) <= {"stopped", "lost"}
    assert eventually(lambda: not road.edgectl("predictions", "show", MODEL)["waiting"], PATIENCE_S, 0.3)

    folder = tmp_path / "log"
    road.edgectl("predictions", "export", MODEL, "--out", folder, "--key", key)
    opened = [row for path in (folder / "_opened").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    seqs = [row["seq"] for row in opened]
    assert len(seqs) == len(set(seqs))
    said = [json.loads(row["answer"]) for row in opened]
    assert {one.get("key") for one in said} >= {"order-ann", "order-bob"}
    assert all(len(one["scores"]) == len(one["labels"]) > 0 for one in said)
    sealed = pq.read_table(folder).to_pylist()
    assert len(sealed) == len(opened) > 0
    assert all(row["answer"] is None for row in sealed)
    anns = {row["trace_id"] for row, one in zip(opened, said, strict=True) if one.get("key") == "order-ann"}
    assert len({row["subject"] for row in opened if row["subject"]}) == 2

    receipt = road.edgectl("data", "erase", "--subject", "ann", "--yes")
    assert receipt["rows"] >= 5
    after = checked(road, found["rows"] - receipt["rows"])
    assert (after["is_whole"], after["erased"]) == (True, receipt["rows"])
    again = tmp_path / "again"
    road.edgectl("predictions", "export", MODEL, "--out", again)
    left = [row for path in again.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert left
    assert not anns & {row["trace_id"] for row in left}
    (listed,) = road.edgectl("data", "list")["items"]
    goes_on = {"late", "overwritten", "remains"}  # the device may send more of hers, and the server goes on overwriting
    assert {key: listed[key] for key in listed if key not in goes_on} == {
        key: receipt[key] for key in receipt if key not in goes_on
    }
    assert listed["late"] >= receipt["late"]
    audit = [row["action"] for row in road.edgectl("audit", "list", "--limit", "200")["items"]]
    assert {"set_prediction_log", "erase_subject", "get_prediction_log_file"} <= set(audit)
