"""PyTorch and Keras files through their real tool environments, which are made once and kept in the tests' cache."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgefleet_profiles
from edgefleet_converters import errors
from edgefleet_converters.pipeline import convert
from edgefleet_converters.report import ConversionReport
from edgefleet_converters.request import ConversionRequest, DataFiles, Options
from edgefleet_converters.tools.environment import Environment
from edgefleet_converters.tools.manage import install
from tests.support.real_models import cache_folder

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(1800)]

TORCH = """
import sys, torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.dense = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(144, 10)
    def forward(self, image):
        return torch.softmax(self.dense(torch.relu(self.conv(image)).flatten(1)), 1)
folder = sys.argv[1]
torch.manual_seed(0)
net = Net().eval()
example = (torch.randn(2, 1, 8, 8),)
program = torch.export.export(net, example, dynamic_shapes=({0: torch.export.Dim("batch")},))
torch.export.save(program, folder + "/model.pt2")
torch.save(net.state_dict(), folder + "/weights.pt")
torch.jit.save(torch.jit.trace(net, example[0]), folder + "/script.pt")
x = torch.randn(16, 1, 8, 8)
import numpy
numpy.savez(folder + "/wanted.npz", x=x.numpy(), y=net(x).detach().numpy())
"""
EVIL = """
import io, os, sys, torch, zipfile
class Evil:
    def __reduce__(self):
        return os.mkdir, (sys.argv[1] + "/owned",)
folder = sys.argv[1]
with zipfile.ZipFile(folder + "/model.pt2") as old, zipfile.ZipFile(folder + "/evil.pt2", "w") as new:
    for name in old.namelist():
        data = old.read(name)
        if "sample_inputs" in name:
            buffer = io.BytesIO()
            torch.save((Evil(),), buffer)
            data = buffer.getvalue()
        new.writestr(name, data)
"""
KERAS = """
import sys, keras, numpy
folder = sys.argv[1]
keras.utils.set_random_seed(0)
net = keras.Sequential([
    keras.layers.Input((8, 8, 1), name="image"), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(),
    keras.layers.Dense(10, activation="softmax"),
])
net.save(folder + "/model.keras")
x = numpy.random.default_rng(0).standard_normal((16, 8, 8, 1)).astype("float32")
numpy.savez(folder + "/wanted.npz", x=x, y=numpy.asarray(net(x)))
keras.Sequential([keras.layers.Input((4,)), keras.layers.Lambda(lambda v: v * 2)]).save(folder + "/lambda.keras")
"""


def environment(name: str) -> Environment:
    """Return a tool's environment, made when it is not in the cache (1 to 2 GB)."""
    return install(cache_folder() / "tools", name)


def made(name: str, program: str, folder: Path) -> None:
    """Run a program with a tool's Python; it writes model files into `folder`."""
    python = str(environment(name).python)
    subprocess.run([python, "-I", "-c", program, str(folder)], check=True, capture_output=True, timeout=300)


def converted(source: Path, out: Path, **options: Any) -> ConversionReport:
    request = ConversionRequest(
        model="m", version="1", source=source, profiles=(edgefleet_profiles.load("generic-x86_64-ort"),), data=DataFiles(),
        options=Options(precision="fp32"), out_dir=out, tools_dir=cache_folder() / "tools",
    )  # fmt: skip
    return convert(replace(request, options=Options(precision="fp32", **options)), lambda _event: None)


def answers_as_wanted(report: ConversionReport, folder: Path) -> None:
    """Hold the bundle's answers against those that the framework itself gave when the file was made."""
    import io

    from edgefleet_protocol.bundle import open_bundle
    from edgefleet_runtime.port import load

    assert not report.refused, report.refused
    bundle = open_bundle(io.BytesIO(Path(report.bundles[0].path).read_bytes()))
    runtime = load("ort", bundle.read("model.onnx"))
    with np.load(folder / "wanted.npz") as wanted:
        got = next(iter(runtime.run({runtime.inputs[0].name: wanted["x"]}).values()))
        assert np.abs(got - wanted["y"]).max() < 1e-5


def test_an_exported_program_answers_as_pytorch_did(tmp_path: Path) -> None:
    made("torch", TORCH, tmp_path)
    report = converted(tmp_path / "model.pt2", tmp_path / "out")
    answers_as_wanted(report, tmp_path)
    imported = report.source["imported"]
    assert imported["tool"] == "torch"
    assert imported["compared"]["samples"] == 2
    assert report.source["inputs"][0]["name"] == "image"
    fixed = converted(tmp_path / "model.pt2", tmp_path / "fixed", shapes={"image": [1, 1, 8, 8]})
    assert fixed.source["inputs"][0]["shape"] == [1, 1, 8, 8]
    for name, told in (("weights.pt", "weights without the model"), ("script.pt", "TorchScript")):
        with pytest.raises(errors.NotAModelError, match=told):
            converted(tmp_path / name, tmp_path / "out")


def test_a_pickle_inside_an_exported_program_is_not_run(tmp_path: Path) -> None:
    made("torch", TORCH, tmp_path)
    made("torch", EVIL, tmp_path)
    with pytest.raises(errors.ToolFailedError) as caught:
        converted(tmp_path / "evil.pt2", tmp_path / "out")
    assert "weights_only" in caught.value.message.lower() or "unpickl" in caught.value.message.lower()
    assert not (tmp_path / "owned").exists()


def test_a_keras_model_answers_as_keras_did_and_its_code_is_not_loaded(tmp_path: Path) -> None:
    made("tensorflow", KERAS, tmp_path)
    report = converted(tmp_path / "model.keras", tmp_path / "out")
    answers_as_wanted(report, tmp_path)
    assert report.source["imported"]["tool"] == "tensorflow"
    with pytest.raises(errors.ToolFailedError, match="Lambda"):
        converted(tmp_path / "lambda.keras", tmp_path / "out")
