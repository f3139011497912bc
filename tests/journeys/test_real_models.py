"""Models that others made, published with `edgectl` and asked on a device: the answers are the original's."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from edgefleet_protocol.bundle import open_bundle
from edgefleet_protocol.manifest import Manifest
from tests.journeys.road import Road, Traveller
from tests.server.fleet.house import PROFILE
from tests.support.real_data import file_heads
from tests.support.real_models import BASIC_PITCH_ONNX, MAGIKA, real_model

pytestmark = [pytest.mark.network, pytest.mark.slow]
CONVERTS = True

Array = npt.NDArray[Any]


def same_as_original(device: Traveller, name: str, original: Path, x: Array) -> None:
    """Ask the device and onnxruntime on the original file; hold every output against the tolerance the bundle declares."""
    manifest = manifest_of(device, name)
    spec = manifest.inputs[0]
    datatype = {"float32": "FP32", "int32": "INT32"}[x.dtype.name]
    tensor = {"name": spec.name, "datatype": datatype, "shape": list(x.shape), "data": x.ravel().tolist()}
    response = device.ask(name, [tensor])
    assert response.is_success, response.text
    got = {output["name"]: np.array(output["data"]).reshape(output["shape"]) for output in response.json()["outputs"]}
    session = ort.InferenceSession(str(original), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {session.get_inputs()[0].name: x})
    assert len(got) == len(wanted) == len(manifest.outputs)
    for output, right in zip(manifest.outputs, wanted, strict=True):
        allowed = manifest.tolerances[output.name]
        np.testing.assert_allclose(got[output.name], right, rtol=allowed.rtol, atol=allowed.atol)


def manifest_of(device: Traveller, name: str) -> Manifest:
    """Return the manifest of the bundle that the device has installed."""
    slot = device.model(name)["slot"]
    return open_bundle(io.BytesIO((device.state / "models" / name / slot / "bundle").read_bytes())).manifest


def publish(road: Road, name: str, model: Path, x: Array, folder: Path) -> None:
    """Publish a model with data to judge it by, and want it on every device."""
    data = folder / f"{name}.npz"
    np.savez(data, x=x)
    flags = ("--name", name, "--version", "1.0.0", "--profile", PROFILE, "--eval", data, "--precision", "fp32")
    published = road.edgectl("publish", model, *flags)
    assert (published["state"], len(published["bundles"])) == ("ready", 1)
    road.edgectl("deploy", f"{name}@1.0.0", "--to", f"profile={PROFILE}")


def test_two_foreign_models_answer_on_one_device_as_their_originals(road: Road, tmp_path: Path) -> None:
    device = Traveller(road, "device")
    files = file_heads(24)
    audio = np.random.default_rng(3).standard_normal((10, 43844, 1)).astype(np.float32) * 0.1
    publish(road, "magika", real_model(MAGIKA), files[:20], tmp_path)
    publish(road, "pitch", real_model(BASIC_PITCH_ONNX), audio[:8], tmp_path)
    for name in ("magika", "pitch"):
        device.told(name, release=f"{name}@1.0.0", phase="committed", serving=True)
    for index in range(20, 24):
        same_as_original(device, "magika", real_model(MAGIKA), files[index : index + 1])
    for index in (8, 9):
        same_as_original(device, "pitch", real_model(BASIC_PITCH_ONNX), audio[index : index + 1])
    assert {model["model"] for model in device.shown()["models"]} == {"magika", "pitch"}
