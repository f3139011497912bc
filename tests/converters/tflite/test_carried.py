"""Models that are quantized already: the source's own scales in real int8 operators, on both runtimes; nothing rounded anew."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_converters.errors import ForeignOperatorError
from edgefleet_converters.onnx.limits import OnnxLimits
from edgefleet_converters.onnx.load import read_checked
from edgefleet_converters.tflite.compile import Compiled, compile_as_given
from edgefleet_converters.tflite.ir import Op
from edgefleet_converters.tflite.runtimes import RUNTIMES
from edgefleet_protocol.bundle import open_bundle
from edgefleet_runtime.port import load
from tests.converters.graphs import run

Array = npt.NDArray[Any]
ROOT = Path(__file__).resolve().parents[3]
DIGITS = ROOT / "examples" / "digits"
HERE = ["litert-2.3"] + (["tflite-2.14"] if sys.version_info < (3, 12) else [])
PROFILES = ["generic-x86_64-litert"] + (["raspberry-pi-armv7-tflite"] if sys.version_info < (3, 12) else [])
FORMS: dict[str, dict[str, Any]] = {
    "unsigned": {"acts": "QUInt8", "weights": "QInt8", "per_channel": True},
    "signed": {"acts": "QInt8", "weights": "QInt8", "per_channel": False},
    "operators": {"acts": "QUInt8", "weights": "QInt8", "per_channel": True, "form": "QOperator"},
}


def quantized(model: onnx.ModelProto, samples: list[dict[str, Array]], folder: Path, *, acts: str = "QUInt8",
              weights: str = "QInt8", per_channel: bool = True, form: str = "QDQ") -> onnx.ModelProto:  # fmt: skip
    """Return what onnxruntime's own tool makes of a model."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(samples)

        def get_next(self) -> dict[str, Array] | None:
            return next(self._left, None)

    onnx.save(model, folder / "float.onnx")
    quantize_static(
        folder / "float.onnx", folder / "quantized.onnx", Reader(), quant_format=QuantFormat[form],
        activation_type=QuantType[acts], weight_type=QuantType[weights], per_channel=per_channel,
    )  # fmt: skip
    return onnx.load(folder / "quantized.onnx")


def conv_net() -> onnx.ModelProto:
    """A net with what mobile nets are made of: depthwise, a residual, pools, a join, a gate, products."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = random.standard_normal(shape) / np.sqrt(max(1, int(np.prod(shape[1:]))))
        return numpy_helper.from_array(values.astype(np.float32), name)

    def node(kind: str, inputs: str, output: str, **facts: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), [output], name=output, **facts)

    nodes = [
        node("Conv", "x w1 b1", "c1", pads=[1] * 4), node("Relu", "c1", "r1"),
        node("Conv", "r1 w2 b2", "c2", pads=[1] * 4, group=8), node("Relu", "c2", "r2"), node("Add", "r2 r1", "a"),
        node("MaxPool", "a", "m", kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", "a", "v", kernel_shape=[2, 2], strides=[2, 2]), node("Concat", "m v", "k", axis=1),
        node("Sigmoid", "k", "s"), node("Mul", "s k", "g"), node("GlobalAveragePool", "g", "p"), node("Flatten", "p", "f"),
        node("Gemm", "f w3 b3", "h", transB=1), node("MatMul", "h w4", "y"),
    ]  # fmt: skip
    stored = [
        weight("w1", 8, 3, 3, 3), weight("b1", 8), weight("w2", 8, 1, 3, 3), weight("b2", 8), weight("w3", 12, 16),
        weight("b3", 12), weight("w4", 12, 5),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])], stored,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def images(count: int, seed: int) -> list[dict[str, Array]]:
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def answers(model: onnx.ModelProto, samples: list[dict[str, Array]]) -> Array:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.array([session.run(None, sample)[0] for sample in samples])


def told(compiled: Compiled, runtime: str, samples: list[dict[str, Array]]) -> Array:
    device = load(RUNTIMES[runtime].adapter, compiled.data)
    name = compiled.graph.outputs[0].name
    return np.array([device.run(sample)[name] for sample in samples])


def in_float(compiled: Compiled) -> list[str]:
    """Return the operators that compute on float32."""

    def floats(op: Op) -> bool:
        return any(t is not None and t.dtype == "float32" for t in (*op.inputs, *op.outputs))

    return [op.code for op in compiled.graph.ops if op.code not in ("QUANTIZE", "DEQUANTIZE") and floats(op)]


def last_step(compiled: Compiled) -> float:
    stored = compiled.graph.ops[-1].inputs[0]
    assert stored is not None
    assert stored.quantization is not None
    return stored.quantization.scale[0]


@pytest.mark.parametrize("runtime", HERE)
@pytest.mark.parametrize("form", FORMS)
def test_a_net_quantized_by_onnxruntime_computes_in_int8(form: str, runtime: str, tmp_path: Path) -> None:
    source = quantized(conv_net(), images(16, 1), tmp_path, **FORMS[form])
    compiled = compile_as_given(source, RUNTIMES[runtime])
    assert compiled.is_carried
    assert in_float(compiled) == []
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "CONCATENATION"} <= set(compiled.operators)
    fresh = images(40, 2)
    off = np.abs(told(compiled, runtime, fresh) - answers(source, fresh)) / last_step(compiled)
    assert off.max() <= 3.01
    assert off.mean() <= 0.5


def test_weights_and_scales_are_the_sources_own_numbers(tmp_path: Path) -> None:
    source = quantized(conv_net(), images(16, 1), tmp_path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in source.graph.initializer}
    graph = compile_as_given(source, RUNTIMES["litert-2.3"]).graph
    (conv,) = (op for op in graph.ops if op.code == "CONV_2D")
    x, weights, bias = conv.inputs
    assert x is not None
    assert weights is not None
    assert bias is not None
    assert x.quantization is not None
    assert weights.quantization is not None
    assert np.array_equal(weights.constant, stored["w1_quantized"].transpose(0, 2, 3, 1))
    assert weights.quantization.scale == tuple(float(s) for s in stored["w1_scale"])
    assert weights.quantization.dimension == 0
    assert x.quantization.scale == (float(stored["x_scale"]),)
    assert x.quantization.zero_point == (int(stored["x_zero_point"]) - 128,)
    assert np.array_equal(bias.constant, stored["b1_quantized"])
    scales = {t.quantization.scale for op in graph.ops for t in op.outputs if t.quantization is not None}
    own = {(float(value),) for name, value in stored.items() if name.endswith("_scale") and value.size == 1}
    assert scales <= own


@pytest.mark.parametrize("runtime", HERE)
def test_weights_that_symmetric_int8_cannot_hold_keep_their_operator_in_float(runtime: str, tmp_path: Path) -> None:
    source = quantized(conv_net(), images(16, 1), tmp_path, weights="QUInt8", per_channel=False)
    compiled = compile_as_given(source, RUNTIMES[runtime])
    assert compiled.is_carried
    assert set(in_float(compiled)) == {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
    fresh = images(20, 2)
    off = np.abs(told(compiled, runtime, fresh) - answers(source, fresh)) / last_step(compiled)
    assert off.max() <= 4.01


def test_what_reads_stored_numbers_as_numbers_gets_them(tmp_path: Path) -> None:
    """An output of stored numbers, and arithmetic on them, beside the real ones."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["r"]),
        helper.make_node("Relu", ["r"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["qa"]),
        helper.make_node("DequantizeLinear", ["qa", "s", "z"], ["y"]),
        helper.make_node("Cast", ["q"], ["n"], to=TensorProto.INT32),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5]),
            helper.make_tensor_value_info("n", TensorProto.INT32, [2, 5]),
            helper.make_tensor_value_info("q", TensorProto.UINT8, [2, 5]),
        ],
        [numpy_helper.from_array(np.float32(0.02), "s"), numpy_helper.from_array(np.uint8(100), "z")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    compiled = compile_as_given(model, RUNTIMES["litert-2.3"])
    assert compiled.is_carried
    x = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    import onnxruntime as ort

    wanted = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    got = load("litert", compiled.data).run({"x": x})
    assert np.allclose(got["y"], wanted[0], atol=1e-6)
    assert np.array_equal(got["n"], wanted[1])
    assert np.array_equal(got["q"], wanted[2])


def digits(folder: Path, **how: Any) -> Path:
    calibration = np.load(DIGITS / "data" / "calibration.npz")["image"][:60]
    samples = [{"image": image.reshape(1, 1, 8, 8)} for image in calibration]
    model = quantized(onnx.load(DIGITS / "digits-1.1.0.onnx"), samples, folder, **how)
    path = folder / "digits.onnx"
    onnx.save(model, path)
    return path


def test_a_quantized_source_is_served_as_it_is(tmp_path: Path) -> None:
    """int8 alone, not quantized again, held against the source; also where the edges must be integers."""
    coral = ["coral-tflite-edgetpu"] if sys.version_info < (3, 12) else []
    source = digits(tmp_path)
    data = {"calibration": str(DIGITS / "data" / "calibration.npz"), "eval": str(DIGITS / "data" / "eval.npz")}
    report, _ = run(source, tmp_path / "out", [*PROFILES, *coral], data)
    assert {row.profile: row.reason for row in report.refused} == {}
    images = np.load(DIGITS / "data" / "eval.npz")
    for row, told_of in zip(report.bundles, report.profiles, strict=True):
        assert [(c.id, c.precision, c.verdict) for c in told_of.candidates] == [("as-given", "int8", "passed")]
        assert row.metric.value >= row.metric.baseline - 0.005
        bundle = open_bundle(io.BytesIO(Path(row.path).read_bytes()))
        assert "CONV_2D" in bundle.manifest.operators
        (edge,) = bundle.manifest.inputs
        assert edge.dtype == ("float32" if row.profile in PROFILES else "int8")
        if edge.dtype == "float32":
            device = load(bundle.manifest.runtime, bundle.read("model.tflite"))
            scores = [device.run({"image": images["image"][i : i + 1]})["logits"].argmax() for i in range(60)]
            assert (np.array(scores) == images["y"][:60]).mean() >= 0.95


def test_another_precision_of_a_quantized_source_is_refused(tmp_path: Path) -> None:
    report, _ = run(digits(tmp_path), tmp_path / "out", PROFILES[:1], precision="fp16")
    (refused,) = report.refused
    assert refused.code == "convert.precision_unavailable"
    assert "quantised already" in refused.reason
    assert "--precision auto or int8" in refused.next


def test_operators_of_onnxruntime_are_read_and_no_others_of_their_domain(tmp_path: Path) -> None:
    source = quantized(conv_net(), images(16, 1), tmp_path, **FORMS["operators"])
    assert "com.microsoft" in {node.domain for node in source.graph.node}
    read = read_checked(tmp_path / "quantized.onnx", None, OnnxLimits())
    assert len(read.graph.node) == len(source.graph.node)
    next(node for node in source.graph.node if node.op_type == "QLinearAdd").op_type = "QOrderedGelu"
    onnx.save(source, tmp_path / "other.onnx")
    with pytest.raises(ForeignOperatorError, match="QOrderedGelu"):
        read_checked(tmp_path / "other.onnx", None, OnnxLimits())
