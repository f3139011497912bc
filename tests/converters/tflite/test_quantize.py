"""Quantized forms of operators on both runtimes against onnxruntime: within two steps of the scale they are stored with."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

from edgefleet_converters.tflite.compile import compile_model
from edgefleet_converters.tflite.ir import Graph
from edgefleet_converters.tflite.quantize import affine
from edgefleet_converters.tflite.quantize.graph_rewrites import made_ready
from edgefleet_converters.tflite.quantize.ranges import observe
from edgefleet_converters.tflite.quantize.static import Form, quantize_static
from edgefleet_converters.tflite.quantize.weights import dynamic_range, float16_weights, weight_only
from edgefleet_converters.tflite.runtimes import LITERT_23, RUNTIMES, TfliteRuntime
from edgefleet_converters.tflite.writer import write
from tests.converters.tflite.models import file_in, graph_of, in_onnxruntime, one_node

Array = npt.NDArray[Any]


@pytest.fixture(params=sorted(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> TfliteRuntime:
    if request.param == "tflite-2.14" and sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime ends with Python 3.11")
    return RUNTIMES[request.param]


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(-2, 2, shape).astype(np.float32)


def quantized(model: onnx.ModelProto, runtime: TfliteRuntime, arrays: dict[str, Array], **how: Any) -> Graph:
    graph = made_ready(compile_model(model, runtime).graph)
    return quantize_static(
        graph, observe(graph, lambda _model: [arrays], runtime.adapter), runtime.adapter, Form(**how)
    )


def in_int8(graph: Graph) -> set[str]:
    small = [op for op in graph.ops if any(t is not None and t.dtype == "int8" for t in (op.inputs[0], *op.outputs))]
    return {op.code for op in small} - {"QUANTIZE", "DEQUANTIZE", "CAST"}


def hold(
    model: onnx.ModelProto, runtime: TfliteRuntime, given: dict[str, Array], constants: tuple[str, ...], steps: float
) -> Graph:
    """Assert that each output is within `steps` of onnxruntime's answer, and return the int8 graph."""
    arrays = {name: value for name, value in given.items() if name not in constants}
    graph = quantized(model, runtime, arrays)
    stored = {op.outputs[0].name: op.inputs[0] for op in graph.ops if op.code == "DEQUANTIZE"}
    for tensor, got, wanted in zip(
        graph.outputs, file_in(runtime, write(graph), arrays), in_onnxruntime(model, arrays), strict=True
    ):
        source = stored[tensor.name]
        assert source is not None
        assert source.quantization is not None
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= steps * source.quantization.scale[0]
    return graph


IMAGE = floats(1, 4, 9, 9)
FAMILIES: list[tuple[str, dict[str, Array], tuple[str, ...], dict[str, Any], set[str]]] = [
    ("Conv", {"x": IMAGE, "w": floats(6, 4, 3, 3, seed=1), "b": floats(6, seed=2)}, ("w", "b"), {"pads": [1] * 4}, {"CONV_2D"}),
    ("Conv", {"x": IMAGE, "w": floats(4, 1, 3, 3, seed=1), "b": floats(4)}, ("w", "b"), {"group": 4}, {"DEPTHWISE_CONV_2D"}),
    ("ConvTranspose", {"x": IMAGE, "w": floats(4, 3, 3, 3, seed=1)}, ("w",), {"strides": [2, 2]}, {"TRANSPOSE_CONV"}),
    ("Gemm", {"x": floats(3, 16), "w": floats(16, 5, seed=1), "b": floats(5)}, ("w", "b"), {}, {"FULLY_CONNECTED"}),
    ("MatMul", {"x": floats(2, 3, 8), "y": floats(2, 8, 4, seed=1)}, (), {}, {"BATCH_MATMUL"}),
    ("Add", {"x": floats(2, 5), "y": floats(5, seed=1)}, (), {}, {"ADD"}),
    ("Sub", {"x": floats(2, 5), "y": floats(2, 5, seed=1)}, ("y",), {}, {"SUB"}),
    ("Mul", {"x": floats(2, 5), "y": floats(2, 5, seed=1)}, (), {}, {"MUL"}),
    ("Max", {"x": floats(2, 5), "y": floats(2, 5, seed=1)}, (), {}, {"MAXIMUM"}),
    ("Min", {"x": floats(2, 5), "y": floats(2, 5, seed=1)}, (), {}, {"MINIMUM"}),
    ("Relu", {"x": floats(2, 5)}, (), {}, {"RELU"}),
    ("LeakyRelu", {"x": floats(2, 5)}, (), {"alpha": 0.1}, {"LEAKY_RELU"}),
    ("Sigmoid", {"x": floats(2, 5)}, (), {}, {"LOGISTIC"}),
    ("Tanh", {"x": floats(2, 5)}, (), {}, {"TANH"}),
    ("Softmax", {"x": floats(2, 5)}, (), {}, {"SOFTMAX"}),
    ("HardSwish", {"x": floats(2, 5)}, (), {}, {"HARD_SWISH"}),
    ("MaxPool", {"x": IMAGE}, (), {"kernel_shape": [2, 2]}, {"MAX_POOL_2D"}),
    ("AveragePool", {"x": IMAGE}, (), {"kernel_shape": [3, 3]}, {"AVERAGE_POOL_2D"}),
    ("GlobalAveragePool", {"x": IMAGE}, (), {}, {"MEAN"}),
    ("ReduceSum", {"x": floats(2, 5), "a": np.array([1])}, ("a",), {}, {"SUM"}),
    ("ReduceMax", {"x": floats(2, 5), "a": np.array([1])}, ("a",), {}, {"REDUCE_MAX"}),
    ("Concat", {"x": floats(2, 5), "y": 3 * floats(2, 5, seed=1)}, (), {"axis": 1}, {"CONCATENATION"}),
    ("Reshape", {"x": floats(2, 6), "s": np.array([3, 4])}, ("s",), {}, {"RESHAPE"}),
    ("Transpose", {"x": floats(2, 3, 4)}, (), {"perm": [2, 0, 1]}, {"TRANSPOSE"}),
    ("Pad", {"x": floats(2, 5) + 3, "p": np.array([1, 0, 0, 2])}, ("p",), {}, {"PAD"}),
    ("Gather", {"x": floats(5, 3), "i": np.array([3, 0])}, ("i",), {}, {"GATHER"}),
    ("Softmax", {"x": floats(2, 40) / 4}, (), {}, {"SOFTMAX"}),
    ("Neg", {"x": floats(2, 5)}, (), {}, {"MUL"}),
    ("Div", {"x": floats(2, 5), "y": np.array([4.0], np.float32)}, ("y",), {}, {"MUL"}),
    ("Div", {"x": floats(2, 5), "y": floats(2, 5, seed=1) + 3}, (), {}, {"GATHER", "MUL"}),
    ("Erf", {"x": floats(2, 50)}, (), {}, {"GATHER"}),
    ("Cos", {"x": floats(2, 50)}, (), {}, {"GATHER"}),
    ("Log", {"x": floats(2, 50) + 2.05}, (), {}, {"GATHER"}),
    ("Softplus", {"x": floats(2, 50)}, (), {}, {"GATHER"}),
    ("AveragePool", {"x": IMAGE}, (), {"kernel_shape": [3, 3], "pads": [1] * 4}, {"DEPTHWISE_CONV_2D"}),
    ("DepthToSpace", {"x": floats(1, 8, 3, 3)}, (), {"blocksize": 2, "mode": "DCR"}, {"RESHAPE", "TRANSPOSE"}),
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES, ids=[f"{i}-{family[0]}" for i, family in enumerate(FAMILIES)])
def test_an_operator_answers_within_two_steps(runtime: TfliteRuntime, family: Any) -> None:
    op, given, constants, attributes, wanted = family
    graph = hold(one_node(op, given, constants, **attributes), runtime, given, constants, 2.0)
    assert wanted <= in_int8(graph)


WIDE = [
    family for family in FAMILIES
    if family[0] not in ("HardSwish", "ReduceSum", "Neg", "Div", "Erf", "Cos", "Log", "Softplus", "DepthToSpace")
]  # fmt: skip


@pytest.mark.parametrize("family", WIDE, ids=[f"{i}-{family[0]}" for i, family in enumerate(WIDE)])
def test_activations_may_have_16_bits_in_litert(family: Any) -> None:
    op, given, constants, attributes, wanted = family
    model = one_node(op, given, constants, **attributes)
    arrays = {name: value for name, value in given.items() if name not in constants}
    runtime = RUNTIMES["litert-2.3"]
    graph = quantized(model, runtime, arrays, act_dtype="int16")
    wide = {op.code for op in graph.ops if op.outputs[0].dtype == "int16"} - {"QUANTIZE"}
    assert wanted <= wide
    # Weights keep 8 bits; where there are none, 16 bits are nearly exact.
    most = 0.01 if any(name in constants for name in ("w", "b")) else 0.001
    for got, answer in zip(file_in(runtime, write(graph), arrays), in_onnxruntime(model, arrays), strict=True):
        assert np.abs(got - answer).max() <= most * np.abs(answer).max()


def test_an_operator_without_an_int8_kernel_stays_float(runtime: TfliteRuntime) -> None:
    given = {"x": np.abs(floats(2, 5)) + 1, "e": floats(2, 5, seed=1)}
    model = graph_of(
        [helper.make_node("Pow", ["x", "e"], ["r"]), helper.make_node("Relu", ["r"], ["y0"])], given, (), ["y0"]
    )
    graph = hold(model, runtime, given, (), 1.0)
    assert [op.code for op in graph.ops] == ["POW", "QUANTIZE", "RELU", "DEQUANTIZE"]


def test_a_table_ends_where_the_calibration_did(runtime: TfliteRuntime) -> None:
    seen = np.linspace(0.05, 4.0, 64, dtype=np.float32).reshape(1, -1)
    graph = quantized(one_node("Log", {"x": seen}), runtime, {"x": seen})
    assert "QUANTIZE" in {op.code for op in graph.ops if op.outputs[0].dtype == "int16"}
    (got,) = file_in(runtime, write(graph), {"x": np.where(seen > 2, 1e6, -1e6).astype(np.float32)})
    assert np.abs(got[seen > 2] - np.log(4.0)).max() < 0.1
    assert np.isfinite(got).all()


def test_a_long_tensor_is_not_looked_up_where_float_is_faster(runtime: TfliteRuntime) -> None:
    x = floats(1, 40_000)
    graph = quantized(one_node("Erf", {"x": x}), runtime, {"x": x})
    assert ("GATHER" in in_int8(graph)) == (runtime.adapter == "tflite")
    assert "GATHER" in in_int8(quantized(one_node("Erf", {"x": x}), runtime, {"x": x}, io_dtype="int8"))


def test_a_board_without_float_gets_no_16_bits_either(runtime: TfliteRuntime) -> None:
    x = floats(2, 40) / 4
    model = one_node("Softmax", {"x": x})
    assert "int16" in {op.outputs[0].dtype for op in quantized(model, runtime, {"x": x}).ops}
    assert "int16" not in {op.outputs[0].dtype for op in quantized(model, runtime, {"x": x}, io_dtype="int8").ops}


def test_a_very_long_chain_gets_no_table(runtime: TfliteRuntime) -> None:
    x = floats(1, 8)
    nodes = [helper.make_node("Cos", [f"a{i}" if i else "x"], [f"a{i + 1}"]) for i in range(400)]
    model = graph_of([*nodes, helper.make_node("Tanh", ["a400"], ["y0"])], {"x": x}, (), ["y0"])
    assert "GATHER" not in in_int8(quantized(model, runtime, {"x": x}))


def test_a_variance_from_two_large_means_stays_float(runtime: TfliteRuntime) -> None:
    x = floats(2, 64) + 20
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["s"]),
        helper.make_node("ReduceMean", ["s", "axes"], ["ms"]),
        helper.make_node("ReduceMean", ["x", "axes"], ["m"]),
        helper.make_node("Mul", ["m", "m"], ["mm"]),
        helper.make_node("Sub", ["ms", "mm"], ["v"]),
        helper.make_node("Tanh", ["v"], ["y0"]),
    ]
    given = {"x": x, "axes": np.array([1])}
    graph = hold(graph_of(nodes, given, ("axes",), ["y0"]), runtime, given, ("axes",), 2.0)
    assert in_int8(graph) == {"TANH"}


def test_a_choice_among_stored_values_needs_no_float(runtime: TfliteRuntime) -> None:
    given = {"x": floats(3, 16), "w": floats(16, 5, seed=1)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["s"]), helper.make_node("ArgMax", ["s"], ["y0"], axis=1)]
    model = graph_of(nodes, given, ("w",), ["y0"])
    graph = quantized(model, runtime, {"x": given["x"]})
    assert "DEQUANTIZE" not in {op.code for op in graph.ops}
    (got,) = file_in(runtime, write(graph), {"x": given["x"]})
    assert np.array_equal(got, in_onnxruntime(model, {"x": given["x"]})[0])


def test_what_becomes_an_index_stays_float(runtime: TfliteRuntime) -> None:
    x, table = np.array([0.1, 199.6, 70.2], np.float32), floats(300, 2)
    nodes = [
        helper.make_node("Mul", ["x", "one"], ["m"]),
        helper.make_node("Cast", ["m"], ["i"], to=onnx.TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["y0"]),
    ]
    given = {"x": x, "one": np.ones(1, np.float32) + 0.01, "table": table}
    graph = hold(graph_of(nodes, given, ("one",), ["y0"]), runtime, given, ("one",), 1.0)
    assert "GATHER" in in_int8(graph)
    assert "MUL" not in in_int8(graph)


def test_a_value_read_in_two_scales_is_not_cut_by_the_first(runtime: TfliteRuntime) -> None:
    x = floats(3, 7)
    nodes = [
        helper.make_node("Min", ["x", "zero"], ["low"]),
        helper.make_node("Relu", ["x"], ["high"]),
        helper.make_node("Add", ["low", "high"], ["y0"]),
    ]
    given = {"x": x, "zero": np.zeros(1, np.float32)}
    hold(graph_of(nodes, given, ("zero",), ["y0"]), runtime, given, ("zero",), 2.0)


def test_a_mask_of_infinity_does_not_take_the_scale(runtime: TfliteRuntime) -> None:
    mask = np.where(floats(4, 4) > 0, 0, -np.inf).astype(np.float32)
    mask[:, 0] = 0
    given = {"x": floats(4, 4, seed=2), "mask": mask}
    nodes = [helper.make_node("Add", ["x", "mask"], ["s"]), helper.make_node("Softmax", ["s"], ["y0"])]
    model = graph_of(nodes, given, ("mask",), ["y0"])
    graph = quantized(model, runtime, {"x": given["x"]})
    assert in_int8(graph) == set()
    (got,) = file_in(runtime, write(graph), {"x": given["x"]})
    np.testing.assert_allclose(got, in_onnxruntime(model, {"x": given["x"]})[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_inputs_and_outputs_can_be_integers(runtime: TfliteRuntime, kind: str) -> None:
    x, w = floats(3, 16), floats(16, 5, seed=1)
    model = one_node("MatMul", {"x": x, "w": w}, ("w",))
    graph = quantized(model, runtime, {"x": x}, io_dtype=kind)
    (source,), (result,) = graph.inputs, graph.outputs
    assert (source.name, source.dtype, result.name, result.dtype) == ("x", kind, "y0", kind)
    assert source.quantization is not None
    assert result.quantization is not None
    limits = np.iinfo(kind)
    given = np.rint(x / source.quantization.scale[0]) + source.quantization.zero_point[0]
    (got,) = file_in(runtime, write(graph), {"x": np.clip(given, limits.min, limits.max).astype(kind)})
    real = (got.astype(np.float32) - result.quantization.zero_point[0]) * np.float32(result.quantization.scale[0])
    assert np.abs(real - x @ w).max() <= 2 * result.quantization.scale[0]


@pytest.mark.parametrize("form", ["weight-only", "float16", "dynamic"])
def test_smaller_weights_answer_nearly_the_same(runtime: TfliteRuntime, form: str) -> None:
    x = floats(1, 8, 9, 9)
    given = {"x": x, "w": floats(16, 8, 3, 3, seed=1), "b": floats(16), "g": floats(16 * 49, 10, seed=3)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "g"], ["y0"]),
    ]
    model = graph_of(nodes, given, ("w", "b", "g"), ["y0"])
    before = compile_model(model, runtime).graph
    graph = {
        "weight-only": weight_only(before),
        "float16": float16_weights(before),
        "dynamic": dynamic_range(before, per_channel=True, adapter=runtime.adapter),
    }[form]
    assert len(write(graph)) < (0.55 if form == "float16" else 0.4) * len(write(before))
    (wanted,) = in_onnxruntime(model, {"x": x})
    (got,) = file_in(runtime, write(graph), {"x": x})
    assert np.abs(got - wanted).max() <= (0.002 if form == "float16" else 0.03) * np.abs(wanted).max()


def test_a_channel_of_small_weights_keeps_its_steps_where_the_kernel_takes_a_scale_a_channel() -> None:
    weights = floats(64, 32) * np.logspace(-4, 0, 32, dtype=np.float32)
    x = floats(4, 64)
    graph = compile_model(one_node("MatMul", {"x": x, "w": weights}, ("w",)), LITERT_23).graph
    got = file_in(LITERT_23, write(dynamic_range(graph, per_channel=True, adapter="litert")), {"x": x})[0]
    lost = np.abs(got - x @ weights).max(axis=0) / np.abs(x @ weights).max(axis=0)
    assert float(lost.max()) < 0.03


def test_what_has_no_fast_kernel_is_stored_in_int8_and_computed_in_float() -> None:
    given = {"x": floats(1, 16, 9, 9), "w": floats(16, 1, 5, 5), "t": floats(16, 8, 2, 2)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], group=16),
        helper.make_node("ConvTranspose", ["c", "t"], ["y0"], strides=[2, 2]),
    ]
    graph = compile_model(graph_of(nodes, given, ("w", "t"), ["y0"]), LITERT_23).graph
    made = dynamic_range(graph, per_channel=True, adapter="litert")
    weights = [op.inputs[0] for op in made.ops if op.code == "DEQUANTIZE"]
    assert [tensor.dtype for tensor in weights if tensor is not None] == ["int8", "int8"]
    before = file_in(LITERT_23, write(graph), {"x": given["x"]})[0]
    after = file_in(LITERT_23, write(made), {"x": given["x"]})[0]
    assert np.abs(after - before).max() < 0.03 * np.abs(before).max()


def test_weights_beyond_float16_stay_float32(runtime: TfliteRuntime) -> None:
    model = one_node("MatMul", {"x": floats(1, 64), "w": floats(64, 8) * 1e6}, ("w",))
    graph = float16_weights(compile_model(model, runtime).graph)
    assert not [op for op in graph.ops if op.code == "DEQUANTIZE"]


def test_percentile_leaves_outliers_aside(runtime: TfliteRuntime) -> None:
    x = floats(1, 200_000)
    x[0, 7] = 1000.0
    graph = compile_model(one_node("Relu", {"x": x}), runtime).graph
    key = id(graph.inputs[0])
    every = observe(graph, lambda _model: [{"x": x}], runtime.adapter)[key]
    most = observe(graph, lambda _model: [{"x": x}], runtime.adapter, "Percentile")[key]
    assert every == (float(x.min()), 1000.0)
    assert most[1] < 10


def test_a_large_bias_still_fits_32_bits() -> None:
    scales = affine.room_for_bias(np.array([1e-9, 1e-3]), np.array([5.0, 5.0], np.float32), 1e-3)
    assert scales[0] > 1e-9
    assert scales[1] == pytest.approx(1e-3)
    assert np.abs(5.0 / (scales * 1e-3)).max() < 2**31


@pytest.mark.parametrize("bounds", [(-1.0, 3.0), (2.0, 3.0), (-3.0, -2.0), (0.0, 0.0)])
def test_zero_is_always_stored_exactly(bounds: affine.Range) -> None:
    scale = affine.activation(bounds)
    assert affine.stored(np.zeros(1), scale)[0] == scale.zero_point[0]
    low, high = ((end - scale.zero_point[0]) * scale.scale[0] for end in (-128, 127))
    assert low <= min(bounds[0], 0) + scale.scale[0]
    assert high >= max(bounds[1], 0) - scale.scale[0]
