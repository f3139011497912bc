"""An ONNX model through the whole pipeline onto TFLite runtimes: the bundle answers as the original, or there is none."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from edgefleet_protocol.bundle import open_bundle
from edgefleet_runtime.golden import check_golden, load_golden
from edgefleet_runtime.port import load
from tests.converters.graphs import run, save

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "examples" / "digits"
PROFILES = ["generic-x86_64-litert"] + (["raspberry-pi-armv7-tflite"] if sys.version_info < (3, 12) else [])


def test_the_example_becomes_a_bundle_for_each_tflite_profile(tmp_path: Path) -> None:
    data = {"calibration": str(DIGITS / "data" / "calibration.npz"), "eval": str(DIGITS / "data" / "eval.npz")}
    report, events = run(DIGITS / "digits-1.1.0.onnx", tmp_path, PROFILES, data)
    assert not report.refused
    assert [row.profile for row in report.bundles] == PROFILES
    for row in report.bundles:
        assert row.precision == "fp32"
        assert row.metric.value >= row.metric.baseline
        bundle = open_bundle(io.BytesIO(Path(row.path).read_bytes()))
        assert bundle.manifest.model_member == "model.tflite"
        assert [(spec.name, spec.dtype, list(spec.shape)) for spec in bundle.manifest.inputs] == [
            ("image", "float32", [1, 1, 8, 8])
        ]
        assert [(spec.name, list(spec.shape)) for spec in bundle.manifest.outputs] == [("logits", [1, 10])]
        device = load(bundle.manifest.runtime, bundle.read("model.tflite"))
        assert check_golden(device, load_golden(bundle.read("golden.npz")), bundle.manifest.tolerances).ok
    stages = [event["stage"] for event in events if event["type"] == "progress" and event["profile"] == PROFILES[0]]
    assert stages[:4] == ["validate", "simplify", "compile", "gate"]


def test_two_runs_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        run(DIGITS / "digits-1.1.0.onnx", tmp_path / name, PROFILES)[0].bundles[0].sha256 for name in ("one", "two")
    )
    assert first == second


def test_what_the_runtime_lacks_is_refused_by_name(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("Exp", ["x"], ["y"], name="growth")
    values = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, [1, 3]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph([node], "g", values[:1], values[1:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    report, _ = run(save(model, tmp_path), tmp_path / "out", ["generic-x86_64-litert"])
    (refused,) = report.refused
    assert refused.code == "convert.unsupported_operator"
    assert "growth" in refused.reason
    assert "EXP on float64" in refused.reason
    assert "-ort" in refused.next


def test_int8_is_not_made_for_these_profiles_yet(tmp_path: Path) -> None:
    data = {"calibration": str(DIGITS / "data" / "calibration.npz")}
    report, _ = run(DIGITS / "digits-1.1.0.onnx", tmp_path, PROFILES[:1], data, precision="int8")
    assert report.refused[0].code == "convert.precision_unavailable"
