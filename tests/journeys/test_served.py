"""What happens while a device serves: versions that go wrong are taken back."""

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
