"""The compiled float32 form is held before a smaller one is made; places of 64 bits where a board has 32."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_converters import pipeline
from edgefleet_converters.job_steps import JobSteps, ModelFile
from edgefleet_protocol.bundle import open_bundle
from edgefleet_runtime.port import load
from tests.converters.graphs import run, samples

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "examples" / "digits"


class Crooked(JobSteps):
    """A workshop whose compiler makes the largest weights of a model 1 % larger: less than int8 rounds them."""

    def compiled(self, base: ModelFile, runtime: str, io_dtype: str = "float32") -> ModelFile:
        """Compile another model than the given one."""
        model = onnx.load_model_from_string(base.path.read_bytes())
        largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * np.float32(1.01), largest.name))
        path = self._new("crooked.onnx")
        path.write_bytes(model.SerializeToString())
        return super().compiled(self._file(path, base.facts), runtime, io_dtype)


def digits_data(folder: Path) -> dict[str, str]:
    known, tuned = (np.load(DIGITS / "data" / f"{name}.npz") for name in ("eval", "calibration"))
    return {
        "eval": samples(folder, "eval.npz", image=known["image"][:60], y=known["y"][:60]),
        "calibration": samples(folder, "calibration.npz", image=tuned["image"][:40]),
    }


@pytest.mark.parametrize("held", [True, False])
def test_a_fault_of_the_compiler_does_not_hide_behind_rounding(*, held: bool, tmp_path: Path) -> None:
    data = digits_data(tmp_path)
    with mock.patch.object(pipeline, "JobSteps", Crooked):
        if held:
            report, _ = run(DIGITS / "digits-1.1.0.onnx", tmp_path / "out", ["generic-x86_64-litert"], data)
            (refused,) = report.refused
            assert refused.code == "convert.differs"
            assert "compiled float32" in refused.reason
            assert "no smaller form" in refused.reason
            return
        # The same fault passes as int8 where nothing holds the float form: this is what the rule is for.
        with mock.patch.object(pipeline, "hold_compiled"):
            report, _ = run(DIGITS / "digits-1.1.0.onnx", tmp_path / "out", ["generic-x86_64-litert"], data)
    assert [row.precision for row in report.bundles] == ["int8"]


def choosing(folder: Path, *, narrow: bool) -> Path:
    """Return the example with ArgMax behind it. narrow: a Cast to int32 behind that."""
    model = onnx.load(DIGITS / "digits-1.1.0.onnx")
    last = model.graph.output[0].name
    nodes = [
        helper.make_node("ArgMax", [last], ["digit" if not narrow else "place"], axis=1, keepdims=0, name="choose")
    ]
    if narrow:
        nodes.append(helper.make_node("Cast", ["place"], ["digit"], to=TensorProto.INT32, name="narrow"))
    model.graph.node.extend(nodes)
    del model.graph.output[:]
    kind = TensorProto.INT32 if narrow else TensorProto.INT64
    model.graph.output.append(helper.make_tensor_value_info("digit", kind, ["N"]))
    path = folder / "choosing.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime has no build for this Python")
def test_an_edge_tpu_leaves_argmax_to_the_processor(tmp_path: Path) -> None:
    report, _ = run(choosing(tmp_path, narrow=False), tmp_path / "out", ["coral-tflite-edgetpu"], digits_data(tmp_path))
    assert {row.profile: row.reason for row in report.refused} == {}
    bundle = open_bundle(io.BytesIO(Path(report.bundles[0].path).read_bytes()))
    (result,) = bundle.manifest.outputs
    assert (result.dtype, result.name) == ("int64", "digit")
    assert bundle.manifest.inputs[0].dtype == "int8"
    assert "ARG_MAX" in bundle.manifest.operators
    assert load("tflite", bundle.read("model.tflite")).outputs[0].dtype == "int64"


def test_the_cure_for_int64_on_a_board_of_32_bits_helps(tmp_path: Path) -> None:
    if importlib.util.find_spec("tflite_micro") is None:
        pytest.skip("tflite-micro has no build for this Python")
    data = digits_data(tmp_path)
    report, _ = run(choosing(tmp_path, narrow=False), tmp_path / "wide", ["cortex-m-tflm"], data)
    (refused,) = report.refused
    assert refused.code == "convert.dtype_not_allowed"
    assert "Cast to int32" in refused.next
    report, _ = run(choosing(tmp_path, narrow=True), tmp_path / "narrow", ["cortex-m-tflm"], data)
    assert {row.profile: row.reason for row in report.refused} == {}
    manifest = open_bundle(io.BytesIO(Path(report.bundles[0].path).read_bytes())).manifest
    assert "CAST" not in manifest.operators
    assert manifest.outputs[0].dtype == "int32"
