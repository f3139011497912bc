"""What happens while a device serves: versions that go wrong are taken back, and the figures agree with what was asked."""

import pytest

from tests.agent.field import eventually
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.journeys.road import PATIENCE_S, Road, Traveller

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
    assert eventually(lambda: "golden_mismatch" in {event["kind"] for event in device.events_told()}, PATIENCE_S)


def test_figures_agree_with_what_was_asked(road: Road, device: Traveller) -> None:
    road.release("counted@1.0.0", bundle_bytes(classifier_onnx(), name="counted"))
    device.told("counted", release="counted@1.0.0", phase="committed")
    assert device.served("counted") == "1.0.0"
    good = [device.ask_four("counted").status_code for _ in range(40)]
    wrong = [device.ask("counted", [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.0] * 3}]).status_code
             for _ in range(3)]  # fmt: skip
    assert (set(good), set(wrong)) == ({200}, {400})

    def windows() -> list[dict[str, object]]:
        with road.server.client() as http:
            pages = http.get(f"/api/v1/devices/{device.name}/telemetry", params={"limit": 100}).json()["items"]
        return [window for window in pages if window["model"] == "counted"]

    assert eventually(lambda: sum(int(str(w["n"])) for w in windows()) >= 41, PATIENCE_S), windows()
    shown = device.shown()["telemetry"]
    assert shown is not None
