"""What happens while a device serves: versions that go wrong are taken back, and its figures are told."""

from typing import Any

import pytest

from tests.agent.field import eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.journeys.road import ASK_AGAIN_S, PATIENCE_S, Road, Traveller

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def device(road: Road) -> Traveller:
    """One device for all; each test has models of its own."""
    return Traveller(road, "device", EDGEFLEET_AGENT_TELEMETRY_INTERVAL_S="2")


def test_golden_vectors_that_do_not_match_keep_the_old_version(road: Road, device: Traveller) -> None:
    road.release("gold@1.0.0", bundle_bytes(classifier_onnx(), name="gold"))
    device.told("gold", release="gold@1.0.0", phase="committed")
    bad = bundle_bytes(classifier_onnx(2.0), name="gold", version="1.1.0", golden_shift=0.5)
    road.release("gold@1.1.0", bad)
    told = device.told("gold", phase="failed", error_class="golden")
    assert told["release"] == "gold@1.0.0"
    assert told["reason"]
    assert device.served("gold") == "1.0.0"
    assert eventually(
        lambda: "golden_mismatch" in {event["kind"] for event in device.events_told()}, PATIENCE_S, ASK_AGAIN_S
    )


def test_the_figures_that_are_shown_are_those_of_the_requests(road: Road, device: Traveller) -> None:
    road.release("counted@1.0.0", bundle_bytes(classifier_onnx(), name="counted"))
    device.told("counted", release="counted@1.0.0", phase="committed")
    answered: list[bool] = []

    def counted(windows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [window for window in windows if window["model"] == "counted"]

    def told() -> list[dict[str, Any]]:
        with road.server.client() as api:
            return counted(api.get(f"/api/v1/devices/{device.name}/telemetry?limit=200").json()["items"])

    def shown_at_work() -> list[dict[str, Any]]:
        answered.append(device.ask_four("counted").is_success)
        telemetry = device.shown()["telemetry"] or {"windows": []}
        return [window for window in counted(telemetry["windows"]) if window["n"]]

    (shown,) = eventually(shown_at_work, PATIENCE_S, ASK_AGAIN_S)
    assert eventually(lambda: sum(window["n"] for window in told()) >= len(answered), PATIENCE_S, ASK_AGAIN_S), told()
    before = len(told())
    assert eventually(lambda: len(told()) > before, PATIENCE_S, ASK_AGAIN_S), "a device at rest goes on reporting"
    assert sum(window["n"] for window in told()) == len(answered)
    assert shown in told()
    assert all(answered)
    assert (shown["version"], shown["errors"], shown["timeouts"], shown["nonfinite"]) == ("1.0.0", 0, 0, 0)
    assert 0 < shown["latency_p50_ms"] <= shown["latency_p95_ms"] <= shown["latency_p99_ms"]
    assert shown["worker_rss_bytes"] > 1_000_000
