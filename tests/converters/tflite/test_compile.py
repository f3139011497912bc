"""The edge of a compiled model is the ONNX model's own, in every odd form that ONNX allows; what cannot be sound is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from edgefleet_converters.errors import (
    ModelTooLargeError,
    OperatorNotCompiledError,
    RefusedError,
    UnsupportedOperatorError,
)
from edgefleet_converters.tflite import builder
from edgefleet_converters.tflite.compile import compile_model, compile_step
from edgefleet_converters.tflite.runtimes import LITERT_23, RUNTIMES
from tests.converters.tflite.models import compiled_in, graph_of, one_node, same_as_onnxruntime

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime ends with Python 3.11")

Array = npt.NDArray[Any]
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_an_output_may_be_an_input_a_constant_or_given_twice() -> None:
    inputs: dict[str, Array | None] = {"x": X, "c": np.ones((2,), np.float32)}
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Identity", ["c"], ["fixed"]),
        helper.make_node("Neg", ["x"], ["one"]), helper.make_node("Identity", ["one"], ["two"]),
    ]  # fmt: skip
    same_as_onnxruntime(graph_of(nodes, inputs, ["c"], ["same", "fixed", "one", "two"]), inputs, ["c"])


def test_an_input_that_nobody_reads_stays() -> None:
    inputs: dict[str, Array | None] = {"unused": np.zeros(4, np.int64), "x": X}
    same_as_onnxruntime(graph_of([helper.make_node("Abs", ["x"], ["y"])], inputs, [], ["y"]), inputs)


@pytest.mark.parametrize("value", [np.array(2.5, np.float32), np.zeros((1, 1, 1, 1, 1, 1, 1), np.float32)])
def test_ranks_from_nothing_to_seven(value: Array) -> None:
    inputs: dict[str, Array | None] = {"x": value}
    same_as_onnxruntime(one_node("Exp", inputs), inputs)


def test_a_condition_known_at_run_time_chooses() -> None:
    def branch(op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(op, TensorProto.FLOAT, [2, 3])
        return helper.make_graph([helper.make_node(op, ["x"], [op])], op, [], [out])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("Neg"), else_branch=branch("Exp"))
    for choice in (True, False):
        inputs: dict[str, Array | None] = {"c": np.array(choice), "x": X}
        same_as_onnxruntime(graph_of([node], inputs, [], ["y"]), inputs)


def test_a_loop_of_known_length_is_written_out() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["v", "v"], ["w"]), helper.make_node("Identity", ["go"], ["on"]),
         helper.make_node("Identity", ["w"], ["z"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("v", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3]),
         helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 3])],
    )  # fmt: skip
    count = np.array(3, np.int64)
    inputs: dict[str, Array | None] = {"n": count, "x": X}
    model = graph_of(
        [helper.make_node("Loop", ["n", "", "x"], ["last", "all"], body=body)], inputs, ["n"], ["last", "all"]
    )
    for runtime in RUNTIMES.values():
        last, rows = compiled_in(runtime, _fixed(model, [[2, 3], [3, 2, 3]]), {"x": X})
        np.testing.assert_array_equal(last, X * 8)
        np.testing.assert_array_equal(rows, np.stack([X * 2, X * 4, X * 8]))


def _fixed(model: onnx.ModelProto, shapes: list[list[int]]) -> onnx.ModelProto:
    for value, shape in zip(model.graph.output, shapes, strict=True):
        value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape))
    return model


def test_functions_of_the_model_itself_are_entered() -> None:
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 21)]
    )
    inputs: dict[str, Array | None] = {"x": X}
    model = graph_of([helper.make_node("Add", ["x", "x"], ["y"])], inputs, [], ["y"])
    model.graph.node[0].CopyFrom(helper.make_node("Twice", ["x"], ["y"], domain="own"))
    model.functions.append(twice)
    model.opset_import.append(helper.make_opsetid("own", 1))
    np.testing.assert_array_equal(compiled_in(LITERT_23, model, {"x": X})[0], X * 2)


@pytest.mark.parametrize(
    ("op", "inputs", "error", "said"),
    [
        ("Exp", {"x": X.astype(np.float64)}, UnsupportedOperatorError, "EXP on float64"),
        ("Div", {"x": X.astype(np.uint64), "y": X.astype(np.uint64)}, UnsupportedOperatorError, "DIV on uint64"),
        ("Pow", {"x": X.astype(np.int64), "y": X}, UnsupportedOperatorError, "POW of int64 and float32"),
        ("Unique", {"x": X}, OperatorNotCompiledError, "Unique"),
    ],
)
def test_what_would_lose_digits_is_refused_by_name(
    op: str, inputs: dict[str, Array | None], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        compile_model(one_node(op, inputs), LITERT_23)


def test_a_constant_that_grows_without_bound_is_refused() -> None:
    inputs: dict[str, Array | None] = {"x": np.ones((1,), np.float32), "s": np.array([1 << 14, 1 << 14], np.int64)}
    with pytest.raises(ModelTooLargeError, match="268435456 elements"):
        compile_model(one_node("Expand", inputs, ["x", "s"]), LITERT_23)


def test_a_model_too_large_for_this_compiler_refuses_one_profile_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "MAX_OPS", 1)
    inputs: dict[str, Array | None] = {"x": X}
    nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Exp", ["a"], ["y"])]
    path = tmp_path / "model.onnx"
    path.write_bytes(graph_of(nodes, inputs, [], ["y"]).SerializeToString())
    with pytest.raises(RefusedError, match="more than 1 operators"):
        compile_step(
            {"model": str(path), "runtime": "litert", "io_dtype": "float32", "out": str(tmp_path / "out.tflite")}
        )
