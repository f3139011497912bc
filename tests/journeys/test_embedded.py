"""Publish, deploy, ask: on the broker that needs nothing installed."""

from pathlib import Path

from tests.agent.worker.models import classifier_onnx
from tests.journeys.road import Road, Traveller
from tests.server.fleet.house import PROFILE

BROKER = "embedded"
CONVERTS = True


def test_a_published_model_answers_on_a_device(road: Road, tmp_path: Path) -> None:
    device = Traveller(road, "device")
    model = tmp_path / "model.onnx"
    model.write_bytes(classifier_onnx())
    published = road.edgectl("publish", model, "--name", "digits", "--version", "1.0.0", "--profile", PROFILE)
    assert (published["state"], len(published["bundles"])) == ("ready", 1)
    road.edgectl("deploy", "digits@1.0.0", "--to", f"id={device.name}", "--wait")
    device.told("digits", release="digits@1.0.0", phase="committed", serving=True)
    assert device.ask_four("digits").json()["model_version"] == "1.0.0"
