"""An ONNX model through the whole pipeline onto TFLite runtimes: the bundle answers as the original, or there is none."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import helper

from edgefleet_profiles.profile import HardwareProfile, QuantRules
from edgefleet_protocol.bundle import open_bundle
from edgefleet_runtime.golden import check_golden, load_golden
from edgefleet_runtime.port import load
from edgefleet_runtime.quantization import quantize_array, real_values
from tests.converters.graphs import changed, model_of, run, samples, save

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "examples" / "digits"
PROFILES = ["generic-x86_64-litert"] + (["raspberry-pi-armv7-tflite"] if sys.version_info < (3, 12) else [])


def test_the_example_becomes_a_bundle_for_each_tflite_profile(tmp_path: Path) -> None:
    data = {"calibration": str(DIGITS / "data" / "calibration.npz"), "eval": str(DIGITS / "data" / "eval.npz")}
    report, events = run(DIGITS / "digits-1.1.0.onnx", tmp_path, PROFILES, data)
    assert not report.refused
    assert [row.profile for row in report.bundles] == PROFILES
    for row in report.bundles:
        assert (row.precision, row.candidate) == ("int8", "int8-static")
        assert row.ratio <= 0.3
        assert row.metric.value >= row.metric.baseline - 0.005
        bundle = open_bundle(io.BytesIO(Path(row.path).read_bytes()))
        assert bundle.manifest.model_member == "model.tflite"
        assert [(spec.name, spec.dtype, list(spec.shape)) for spec in bundle.manifest.inputs] == [
            ("image", "float32", [1, 1, 8, 8])
        ]
        assert [(spec.name, list(spec.shape)) for spec in bundle.manifest.outputs] == [("logits", [1, 10])]
        device = load(bundle.manifest.runtime, bundle.read("model.tflite"))
        assert check_golden(device, load_golden(bundle.read("golden.npz")), bundle.manifest.tolerances).ok
    stages = [event["stage"] for event in events if event["type"] == "progress" and event["profile"] == PROFILES[0]]
    assert stages[:4] == ["validate", "simplify", "compile", "quantize"]


def test_a_board_without_float_gets_a_model_of_integers(tmp_path: Path) -> None:
    profiles = ["coral-tflite-edgetpu"] if sys.version_info < (3, 12) else []
    profiles += ["cortex-m-tflm", "esp32-tflm"] if importlib.util.find_spec("tflite_micro") else []
    data = {"calibration": str(DIGITS / "data" / "calibration.npz"), "eval": str(DIGITS / "data" / "eval.npz")}
    report, _ = run(DIGITS / "digits-1.1.0.onnx", tmp_path, profiles, data)
    assert not report.refused
    assert [row.profile for row in report.bundles] == profiles
    images = np.load(DIGITS / "data" / "eval.npz")
    for row in report.bundles:
        assert row.precision == "int8"
        assert row.metric.value >= row.metric.baseline - 0.005
        bundle = open_bundle(io.BytesIO(Path(row.path).read_bytes()))
        (source,), (result,) = bundle.manifest.inputs, bundle.manifest.outputs
        assert (source.dtype, result.dtype) == ("int8", "int8")
        assert source.quantization is not None
        assert not {"QUANTIZE", "DEQUANTIZE"} & set(bundle.manifest.operators)
        device = load(bundle.manifest.runtime, bundle.read("model.tflite"))
        assert check_golden(device, load_golden(bundle.read("golden.npz")), bundle.manifest.tolerances).ok
        # What a client does: real values in, by the manifest's scale, and real values out.
        x = quantize_array(images["image"][:20], source.quantization, source.dtype)
        scores = np.concatenate(
            [real_values(result, device.run({source.name: x[i : i + 1]})[result.name]) for i in range(20)]
        )
        assert (scores.argmax(axis=1) == images["y"][:20]).mean() >= 0.95


def test_tables_and_probabilities_run_where_there_are_only_integers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tensors = {
        "w": 0.3 * random.standard_normal((8, 3, 3, 3)).astype(np.float32), "b": np.zeros(8, np.float32),
        "v": random.standard_normal((8, 10)).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Softplus", ["c"], ["h"]),
        helper.make_node("GlobalAveragePool", ["h"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["l"]),
        helper.make_node("Softmax", ["l"], ["y"]),
    ]
    model = model_of(nodes, tensors, {"x": [1, 3, 12, 12]}, {"y": [1, 10]})
    data = {"calibration": samples(tmp_path, x=random.standard_normal((60, 3, 12, 12)).astype(np.float32))}
    profiles = [no_float()] + (["cortex-m-tflm"] if importlib.util.find_spec("tflite_micro") else [])
    report, _ = run(save(model, tmp_path), tmp_path / "out", profiles, data, max_drop=0.2)
    assert not report.refused
    for row in report.bundles:
        operators = open_bundle(io.BytesIO(Path(row.path).read_bytes())).manifest.operators
        assert {"GATHER", "SOFTMAX"} <= set(operators)
        assert not {"QUANTIZE", "DEQUANTIZE"} & set(operators)


def test_what_has_no_form_in_integers_is_refused_by_node_and_key(tmp_path: Path) -> None:
    tensors = {"b": np.linspace(1, 2, 6, dtype=np.float32), "w": np.eye(6, dtype=np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Pow", ["b", "a"], ["y"], name="growth")]
    model = model_of(nodes, tensors, {"x": [1, 6]}, {"y": [1, 6]})
    data = {"calibration": samples(tmp_path, x=np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32))}
    report, _ = run(save(model, tmp_path), tmp_path / "out", ["raspberry-pi-armv7-tflite", no_float()], data)
    assert [row.profile for row in report.bundles] == ["raspberry-pi-armv7-tflite"]
    (refused,) = report.refused
    assert refused.code == "convert.dtype_not_allowed"
    assert "growth" in refused.reason
    assert "POW on float32 tensors" in refused.reason
    assert "tensor_dtypes" in refused.reason
    assert refused.next


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_no_static_form_is_made_of_weights_that_lose_too_much_alone_unless_int8_is_asked_for(
    tmp_path: Path, precision: str
) -> None:
    random = np.random.default_rng(0)
    # What the classes share takes most of each scale, and what tells them apart is a few steps of it.
    weights = (30 * random.standard_normal((64, 1)) + random.standard_normal((64, 8))).astype(np.float32)
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights}, {"x": [1, 64]}, {"y": [1, 8]})
    data = {"calibration": samples(tmp_path, x=random.standard_normal((200, 64)).astype(np.float32))}
    report, _ = run(
        save(model, tmp_path), tmp_path / "out", PROFILES[:1], data, precision=precision, metric="agreement"
    )
    rows = {row.id: row for row in report.profiles[0].candidates}
    plain = [rows[name] for name in ("int8-static", "int8-static-percentile", "int8-static-weighted")]
    assert {row.verdict for row in plain} == {"rejected"}
    if precision == "int8":
        assert all(row.bytes and row.metric is not None for row in plain), "each was made and judged"
        return
    assert all(row.bytes is None and "its weights in int8 lose too much" in row.reason for row in plain)
    assert "agreement" in plain[0].reason, "the loss is told"
    assert "its weights" not in rows["int8-static-head-float"].reason, "what leaves weights in float is tried"
    assert report.bundles[0].precision in ("fp16", "fp32")


def test_a_profile_may_ask_for_unsigned_edges(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tensors = {
        "w": random.standard_normal((6, 8)).astype(np.float32),
        "v": random.standard_normal((8, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Erf", ["a"], ["e"]),
        helper.make_node("MatMul", ["e", "v"], ["y"]),
    ]
    model = model_of(nodes, tensors, {"x": [1, 6]}, {"y": [1, 3]})
    data = {"calibration": samples(tmp_path, x=random.standard_normal((200, 6)).astype(np.float32))}
    report, _ = run(save(model, tmp_path), tmp_path / "out", [no_float(io_dtype="uint8")], data, max_drop=0.1)
    assert not report.refused
    manifest = open_bundle(io.BytesIO(Path(report.bundles[0].path).read_bytes())).manifest
    assert [spec.dtype for spec in (*manifest.inputs, *manifest.outputs)] == ["uint8", "uint8"]
    assert manifest.operators["GATHER"] == 1
    assert not {"DEQUANTIZE", "EXP", "DIV"} & set(manifest.operators)


def test_a_board_that_takes_one_sample_refuses_a_batch_in_the_graph(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")]
    model = model_of(nodes, {"w": np.eye(6, dtype=np.float32)}, {"x": [4, 6]}, {"y": [4, 6]})
    x = np.random.default_rng(0).standard_normal((40, 4, 6)).astype(np.float32)
    data = {"calibration": samples(tmp_path, x=x)}
    report, _ = run(save(model, tmp_path), tmp_path / "out", [no_float(batch_fixed=True)], data)
    assert report.refused[0].code == "convert.batch_not_fixed"
    assert "quant.batch_fixed" in report.refused[0].reason


def test_where_only_int8_runs_no_cure_names_another_precision(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"], name="m"), helper.make_node("Exp", ["a"], ["y"], name="e")]
    model = model_of(nodes, {"w": random.standard_normal((6, 8)).astype(np.float32)}, {"x": [1, 6]}, {"y": [1, 8]})
    path = save(model, tmp_path)
    report, _ = run(path, tmp_path / "none", [no_float()])
    assert report.refused[0].code == "convert.precision_unavailable"
    assert "--calibration" in report.refused[0].next
    assert "dynamic" not in report.refused[0].next
    data = {"calibration": samples(tmp_path, x=random.standard_normal((60, 6)).astype(np.float32))}
    report, _ = run(path, tmp_path / "lossy", [no_float()], data, metric="mae", max_drop=0.0)
    assert report.refused[0].code == "convert.accuracy"
    assert not {"fp32", "auto"} & set(report.refused[0].next.replace(",", " ").split())


def test_a_board_without_scales_by_channel_gets_one_a_tensor(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tensors = {"w": 0.3 * random.standard_normal((16, 3, 3, 3)).astype(np.float32), "b": np.zeros(16, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4, strides=[2, 2], name="c"),
        helper.make_node("Relu", ["c"], ["y"], name="r"),
    ]
    model = model_of(nodes, tensors, {"x": [1, 3, 12, 12]}, {"y": [1, 16, 6, 6]})
    data = {"calibration": samples(tmp_path, x=random.standard_normal((60, 3, 12, 12)).astype(np.float32))}
    for precision in ("int8", "int8-weights"):
        profile = changed("raspberry-pi-armv7-tflite", quant=QuantRules(act_dtype="int8", per_channel=False))
        report, _ = run(
            save(model, tmp_path),
            tmp_path / precision,
            [profile],
            data,
            precision=precision,
            metric="mae",
            max_drop=0.1,
        )
        assert [row.precision for row in report.bundles] == [precision], report.refused


def no_float(**rules: Any) -> HardwareProfile:
    """Return the armv7 profile of a board without float32."""
    own = changed("raspberry-pi-armv7-tflite", tensor_dtypes=["int8", "uint8", "int32"])
    quant = msgspec.structs.replace(own.quant, mode="required", act_dtype="int8", **rules)
    return msgspec.structs.replace(own, name="no-float", quant=quant)


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


@pytest.mark.parametrize(("precision", "ratio"), [("fp32", 1.0), ("fp16", 0.52), ("dynamic", 0.3), ("int8", 0.3)])
def test_a_precision_can_be_asked_for(tmp_path: Path, precision: str, ratio: float) -> None:
    data = {"calibration": str(DIGITS / "data" / "calibration.npz"), "eval": str(DIGITS / "data" / "eval.npz")}
    report, _ = run(DIGITS / "digits-1.1.0.onnx", tmp_path, PROFILES, data, precision=precision, max_drop=0.005)
    assert not report.refused
    for row in report.bundles:
        assert row.precision == precision
        assert row.ratio <= ratio


def test_16_bit_activations_can_be_asked_for_where_litert_is_alone(tmp_path: Path) -> None:
    data = {"calibration": str(DIGITS / "data" / "calibration.npz"), "eval": str(DIGITS / "data" / "eval.npz")}
    report, _ = run(DIGITS / "digits-1.1.0.onnx", tmp_path, PROFILES, data, precision="int16x8", max_drop=0.005)
    assert [row.profile for row in report.bundles] == PROFILES[:1]
    assert (report.bundles[0].precision, report.bundles[0].candidate) == ("int16x8", "int16x8-static")
    assert report.bundles[0].ratio <= 0.3
    assert [row.profile for row in report.refused] == PROFILES[1:]


def test_int8_needs_calibration_data(tmp_path: Path) -> None:
    report, _ = run(DIGITS / "digits-1.1.0.onnx", tmp_path, PROFILES[:1], precision="int8")
    (refused,) = report.refused
    assert refused.code == "convert.precision_unavailable"
    assert "calibration" in refused.next


def test_a_runtime_with_other_kernels_gets_a_file_of_its_own(tmp_path: Path) -> None:
    if len(PROFILES) == 1:
        pytest.skip("tflite-runtime ends with Python 3.11")
    data = {"calibration": str(DIGITS / "data" / "calibration.npz")}
    report, _ = run(DIGITS / "digits-1.1.0.onnx", tmp_path, PROFILES, data)
    assert [row.candidate for row in report.bundles] == ["int8-static", "int8-static"]
    assert report.bundles[0].bytes != report.bundles[1].bytes
