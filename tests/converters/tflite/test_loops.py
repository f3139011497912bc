"""Long recurrent layers are a loop: the answers are onnxruntime's, the weights are stored once and get small."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgefleet_converters.cost.tflite_work import tflite_work
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.tflite.compile import compile_model
from edgefleet_converters.tflite.quantize.candidates import made
from edgefleet_converters.tflite.quantize.weights import dynamic_range, weight_only
from edgefleet_converters.tflite.runtimes import LITERT_23, RUNTIMES, TfliteRuntime
from edgefleet_converters.tflite.writer import write
from tests.converters.tflite.models import Array, file_in, graph_of, in_onnxruntime, one_node

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@pytest.fixture(params=sorted(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> TfliteRuntime:
    if request.param == "tflite-2.14" and sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime ends with Python 3.11")
    return RUNTIMES[request.param]


def layer(op: str, *, steps: int, width: int = 8, hidden: int = 16, **attributes: Any) -> tuple[onnx.ModelProto, Array]:
    """Return a recurrent model of two samples at a time, and an input for it."""
    rng = np.random.default_rng(7)
    count = 2 if attributes.get("direction") == "bidirectional" else 1

    def values(*shape: int) -> Array:
        return (0.3 * rng.standard_normal(shape)).astype(np.float32)

    rows = GATES[op] * hidden
    given: dict[str, Array | None] = {
        "x": values(steps, 2, width), "w": values(count, rows, width), "r": values(count, rows, hidden),
        "b": values(count, 2 * rows),
    }  # fmt: skip
    outputs = 3 if op == "LSTM" else 2
    model = one_node(op, given, ["w", "r", "b"], outputs, hidden_size=hidden, **attributes)
    return model, values(steps, 2, width)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("LSTM", {}),
        ("LSTM", {"direction": "bidirectional", "input_forget": 1}),
        ("GRU", {"direction": "reverse", "linear_before_reset": 1}),
        ("GRU", {"activations": ["Sigmoid", "Softplus"]}),
        ("RNN", {"direction": "bidirectional"}),
    ],
)
def test_a_loop_answers_as_the_source(runtime: TfliteRuntime, op: str, attributes: dict[str, Any]) -> None:
    model, x = layer(op, steps=20, **attributes)
    compiled = compile_model(model, runtime)
    assert compiled.operators["WHILE"] == (2 if attributes.get("direction") == "bidirectional" else 1)
    for got, wanted in zip(file_in(runtime, compiled.data, {"x": x}), in_onnxruntime(model, {"x": x}), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_equal_layers_with_other_weights_stay_two(runtime: TfliteRuntime) -> None:
    model, x = layer("GRU", steps=16)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    other = {f"{name}2": value[:, ::-1].copy() for name, value in weights.items()}
    nodes = [
        onnx.helper.make_node("GRU", ["x", f"w{n}", f"r{n}", f"b{n}"], [f"y{n}"], hidden_size=16) for n in ("", "2")
    ]
    both = graph_of(nodes, {"x": x, **weights, **other}, [*weights, *other], ["y", "y2"])
    got = file_in(runtime, compile_model(both, runtime).data, {"x": x})
    for mine, wanted in zip(got, in_onnxruntime(both, {"x": x}), strict=True):
        np.testing.assert_allclose(mine, wanted, atol=1e-5)


@pytest.mark.parametrize("op", ["GRU", "LSTM"])
def test_weights_are_stored_once_and_in_eight_bits(runtime: TfliteRuntime, op: str) -> None:
    model, x = layer(op, steps=40, width=32, hidden=64)
    graph = compile_model(model, runtime).graph
    source = len(model.SerializeToString())
    static = made(
        graph, CandidateSpec(id="s", precision="int8", method="static", act_dtype="int8", per_channel=True),
        {"x": x[None]}, runtime.adapter,
    )  # fmt: skip
    wanted = in_onnxruntime(model, {"x": x})[0]
    assert len(write(graph)) <= 1.25 * source
    for small in (weight_only(graph), dynamic_range(graph, per_channel=True, adapter=runtime.adapter), static):
        data = write(small)
        assert len(data) <= 0.55 * source
        assert float(np.abs(file_in(runtime, data, {"x": x})[0] - wanted).mean()) < 0.02


def test_a_board_of_integers_has_it_written_out() -> None:
    model, _ = layer("GRU", steps=20)
    assert "WHILE" not in compile_model(model, LITERT_23, loops=False).operators


def test_the_work_of_all_rounds_counts() -> None:
    model, _ = layer("GRU", steps=20)
    rounds, samples, rows, read = 20, 2, 48, 8 + 16
    assert tflite_work(compile_model(model, LITERT_23).data)["macs"] == {"matmul.float": rounds * samples * rows * read}


@pytest.mark.parametrize(
    ("middle", "is_one"),
    [
        ([("Sub", ["d"], {}), ("ReduceSumSquare", ["o"], {"axes": [1], "keepdims": 0})], True),
        ([("Sub", ["d"], {}), ("ReduceL1", ["r"], {"axes": [-1], "keepdims": 1}), ("Sqrt", ["o"], {})], True),
        ([("Mul", ["d"], {}), ("Exp", ["o"], {})], True),
        ([("Sub", ["d"], {}), ("ReduceSum", ["o"], {"axes": [0], "keepdims": 0})], False),
        ([("Sub", ["d"], {}), ("Softmax", ["o"], {"axis": 1})], False),
    ],
    ids=["squares", "absolute", "no-sum", "over-the-states", "unknown"],
)
def test_rows_that_are_on_their_own_are_computed_at_once(
    runtime: TfliteRuntime, middle: list[tuple[str, list[str], dict[str, Any]]], is_one: bool
) -> None:
    """Distances to 30 neighbours: as one operator a kind, or as 30; the answers are the same."""
    nodes, last = [helper.make_node("Identity", ["state"], ["kept"])], "d"
    for kind, outputs, attributes in middle:
        inputs = ["state", "row"] if kind in ("Sub", "Mul") else [last]
        nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        last = outputs[0]
    kept, out = (helper.make_tensor_value_info(name, 1, None) for name in ("kept", "o"))
    body = helper.make_graph(
        nodes, "body", [helper.make_tensor_value_info("state", 1, [1, 6]), helper.make_tensor_value_info("row", 1, [6])], [kept, out]
    )  # fmt: skip
    random = np.random.default_rng(0)
    x, rows = (random.uniform(0, 1, shape).astype(np.float32) for shape in ((1, 6), (30, 6)))
    scan = helper.make_node("Scan", ["x", "rows"], ["same", "y0"], body=body, num_scan_inputs=1)
    model = graph_of([scan], {"x": x, "rows": rows}, ("rows",), ["y0"], opset=12)
    compiled = compile_model(model, runtime)
    assert (len(compiled.graph.ops) < 12) is is_one
    (wanted,) = in_onnxruntime(model, {"x": x})
    (got,) = file_in(runtime, compiled.data, {"x": x})
    assert got.shape == wanted.shape
    assert np.allclose(got, wanted, atol=1e-5)
