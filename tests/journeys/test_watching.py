"""Somebody watches a device: one server, one broker, one agent, `edgectl`; answers are seen as they are given, and no input is."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_agent.client import Model
from edgefleet_server.telemetry import store
from tests.agent.field import eventually
from tests.agent.worker.models import classifier_onnx
from tests.journeys.road import PATIENCE_S, Road, Traveller
from tests.server.fleet.house import PROFILE

pytestmark = pytest.mark.slow
CONVERTS = True

SENT = np.array([[1.2, 0.3, 0.9, 0.0]], np.float32)


def test_answers_are_seen_while_somebody_watches_and_only_then(road: Road, tmp_path: Path) -> None:
    device = Traveller(road, "one")
    (tmp_path / "model.onnx").write_bytes(classifier_onnx())
    flags = ("--name", "digits", "--version", "1.0.0", "--profile", PROFILE, "--precision", "fp32")
    road.edgectl("publish", tmp_path / "model.onnx", *flags)
    road.edgectl("deploy", "digits@1.0.0", "--to", f"profile={PROFILE}")
    device.told("digits", release="digits@1.0.0", phase="committed", serving=True)
    answered: list[str] = []
    is_over = threading.Event()

    def ask() -> None:
        with Model("digits", url=device.status()["infer_url"]) as model:
            while not is_over.wait(0.1):
                model.infer({"x": SENT})
                answered.append(str(model.trace_id))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert eventually(lambda: answered)
        assert _rows(road, device.name) == [], "nobody watches, and something was sent"
        first = road.edgectl("device", "watch", device.name, "--limit", "1", "--timeout", f"{PATIENCE_S:.0f}s")
    finally:
        is_over.set()
        asking.join()
    assert (first["model"], first["version"], first["lane"], first["hidden"]) == ("digits", "1.0.0", "active", False)
    assert first["trace_id"] in answered
    assert first["scores"]
    assert first["latency_ms"] > 0
    kept = _rows(road, device.name)
    assert kept
    assert all(SENT.tobytes() not in row.lines for row in kept)


def _rows(road: Road, device: str) -> list[Any]:
    with road.house.db.read() as session:
        return list(store.watched_after(session, device, 0))
