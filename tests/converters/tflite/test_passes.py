"""Passes: fewer operators, the same answers; a promise that does not hold drops the result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgefleet_converters.graph_passes import run_passes
from edgefleet_converters.tflite.compile import compile_model
from edgefleet_converters.tflite.ir import Graph, Op, Shape, Tensor, constant
from edgefleet_converters.tflite.passes.contract import broken, count
from edgefleet_converters.tflite.passes.layout import CancelTransposes, _ones_between
from edgefleet_converters.tflite.passes.tidy import DropRoundTrips, DropUnused, ShareEqual
from edgefleet_converters.tflite.runtimes import LITERT_23
from edgefleet_converters.tflite.writer import write
from tests.converters.tflite.board import named_twice
from tests.converters.tflite.models import file_in, graph_of, in_onnxruntime

Array = npt.NDArray[Any]


def net(*middle: onnx.NodeProto, last: str = "r") -> onnx.ModelProto:
    """Return Conv -> `middle` (from `a` to `last`) -> Conv."""
    inputs: dict[str, Array | None] = {
        "x": np.zeros((1, 3, 8, 8), np.float32), "w": np.ones((4, 3, 3, 3), np.float32), "s": np.ones((4, 1, 1), np.float32),
    }  # fmt: skip
    channels = 8 if any(node.op_type == "Concat" for node in middle) else 4
    inputs["v"] = np.ones((2, channels, 1, 1), np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), *middle, helper.make_node("Conv", [last, "v"], ["y"])]
    return graph_of(nodes, inputs, ["w", "s", "v"], ["y"])


@pytest.mark.parametrize(
    "middle",
    [
        [helper.make_node("Relu", ["a"], ["r"])],
        [helper.make_node("Mul", ["a", "s"], ["m"]), helper.make_node("Sigmoid", ["m"], ["r"])],
        [helper.make_node("Sigmoid", ["a"], ["g"]), helper.make_node("Mul", ["a", "g"], ["r"])],
        [helper.make_node("Tanh", ["a"], ["t"]), helper.make_node("Concat", ["a", "t"], ["r"], axis=1)],
        [helper.make_node("MaxPool", ["a"], ["p"], kernel_shape=[2, 2]), helper.make_node("HardSwish", ["p"], ["r"])],
    ],
    ids=["relu", "scale", "gate", "concat", "pool"],
)
def test_only_the_outermost_transposes_stay(middle: list[onnx.NodeProto]) -> None:
    assert count(compile_model(net(*middle), LITERT_23).graph, "TRANSPOSE") == 2


def test_a_constant_turned_in_two_ways_becomes_two_tensors_of_different_names() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "s"], ["m"]),
        helper.make_node("Transpose", ["m"], ["t"], perm=[0, 3, 2, 1]),
        helper.make_node("Mul", ["t", "s"], ["y"]),
    ]
    inputs = {
        "x": np.zeros((1, 3, 8, 8), np.float32), "w": np.ones((4, 3, 3, 3), np.float32),
        "s": np.arange(6, dtype=np.float32).reshape(1, 6, 1),
    }  # fmt: skip
    assert named_twice(compile_model(graph_of(nodes, inputs, ["w", "s"], ["y"]), LITERT_23).graph) == []


def test_an_activation_is_done_by_the_kernel_before_it() -> None:
    graph = compile_model(net(helper.make_node("Relu", ["a"], ["r"])), LITERT_23).graph
    assert count(graph, "RELU") == 0
    assert [op.options["fused_activation_function"] for op in graph.ops if op.code == "CONV_2D"] == [1, 0]


@pytest.mark.parametrize("pads", [[1, 1], [2, 0]], ids=["same", "causal"])
def test_between_convolutions_in_one_dimension_nothing_is_turned_and_no_activation_is_left(pads: list[int]) -> None:
    random = np.random.default_rng(0)
    arrays: dict[str, Array] = {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in {"x": (1, 5, 12), "w": (7, 5, 3), "v": (7, 7, 3), "u": (2, 7, 1)}.items()
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=pads),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"], pads=pads),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Add", ["d", "b"], ["e"]),
        helper.make_node("Conv", ["e", "u"], ["y"]),
    ]
    model = graph_of(nodes, arrays, ["w", "v", "u"], ["y"])
    graph = compile_model(model, LITERT_23).graph
    assert count(graph, "TRANSPOSE") == 2, "one at each end"
    assert count(graph, "RELU") == 0
    (wanted,) = in_onnxruntime(model, {"x": arrays["x"]})
    (got,) = file_in(LITERT_23, write(graph), {"x": arrays["x"]})
    assert np.allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ((1, 4, 1, 8), (1, 4, 8), (2, 1, 0)),
        ((1, 4, 8), (1, 4, 1, 8), (2, 0, 1)),
        ((4, 8), (4, 8, 1, 1), (2, 0, 2)),
        ((1, 1, 4), (4,), (0, 2, 0)),
        ((4, 8), (8, 4), None),
        ((4, 8), (32,), None),
        ((4, 1, 8), (1, 4, 8), None),
        ((4, 8), (4, 8), None),
    ],
)
def test_a_reshape_of_axes_of_one_is_known(before: Shape, after: Shape, changed: tuple[int, int, int] | None) -> None:
    assert _ones_between(before, after) == changed


@given(data=st.data(), perm=st.permutations(range(3)), turn=st.permutations(range(4)))
@settings(max_examples=30, deadline=None)
def test_a_transpose_goes_behind_a_reshape_of_axes_of_one(
    data: st.DataObject, perm: list[int], turn: list[int]
) -> None:
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 3]), min_size=3, max_size=3))
    turned = [sizes[axis] for axis in perm]
    place = data.draw(st.integers(0, 3))
    wide = [*turned[:place], 1, *turned[place:]]
    x = np.arange(int(np.prod(sizes)), dtype=np.float32).reshape(sizes)
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=perm),
        helper.make_node("Reshape", ["a", "s"], ["b"]),
        helper.make_node("Sigmoid", ["b"], ["c"]),
        helper.make_node("Transpose", ["c"], ["y"], perm=turn),
    ]
    model = graph_of(nodes, {"x": x, "s": np.array(wide, np.int64)}, ["s"], ["y"])
    (wanted,) = in_onnxruntime(model, {"x": x})
    (got,) = file_in(LITERT_23, compile_model(model, LITERT_23).data, {"x": x})
    assert got.shape == wanted.shape
    assert np.allclose(got, wanted, atol=1e-6)


def _chain() -> tuple[Graph, Tensor]:
    x, y, z = (Tensor(name, "float32", (2, 3)) for name in "xyz")
    unused = Tensor("unused", "float32", (2, 3))
    ops = (Op("EXP", (x,), (y,)), Op("ABS", (x,), (unused,)), Op("EXP", (x,), (z,)))
    total = Tensor("total", "float32", (2, 3))
    return Graph((x,), (total,), (*ops, Op("ADD", (y, z), (total,)))), total


def test_what_nobody_reads_and_what_is_made_twice_goes() -> None:
    graph, _ = _chain()
    after = run_passes(graph, [DropUnused(), ShareEqual()]).model
    assert [op.code for op in after.ops] == ["EXP", "ADD"]
    assert after.ops[1].inputs[0] is after.ops[1].inputs[1]


def test_a_transpose_and_its_inverse_are_nothing() -> None:
    x, a, b, y = (
        Tensor("x", "float32", (2, 3)),
        Tensor("a", "float32", (3, 2)),
        Tensor("b", "float32", (2, 3)),
        Tensor("y", "float32", (2, 3)),
    )
    turn = constant("p", np.array([1, 0], np.int32))
    graph = Graph(
        (x,), (y,), (Op("TRANSPOSE", (x, turn), (a,)), Op("TRANSPOSE", (a, turn), (b,)), Op("EXP", (b,), (y,)))
    )
    after = run_passes(graph, [CancelTransposes(), DropUnused()]).model
    assert [op.code for op in after.ops] == ["EXP"]
    assert after.ops[0].inputs[0] is x


def test_a_graph_that_reads_what_is_not_made_is_no_result() -> None:
    graph, total = _chain()
    assert "before it is made" in broken(graph, replace(graph, ops=graph.ops[3:]))
    assert broken(graph, replace(graph, outputs=(replace(total, name="other"),))) == "the outputs changed"
    assert broken(graph, graph) == ""


def test_a_cast_to_64_bits_and_back_goes() -> None:
    x, wide, narrow = (Tensor(name, dtype, (3,)) for name, dtype in (("x", "int32"), ("w", "int64"), ("n", "int32")))
    y = Tensor("y", "int32", (3,))
    ops = (Op("CAST", (x,), (wide,)), Op("CAST", (wide,), (narrow,)), Op("ABS", (narrow,), (y,)))
    after, changed = DropRoundTrips().apply(Graph((x,), (y,), ops))
    assert changed
    assert DropRoundTrips().ensures(Graph((x,), (y,), ops), after) == ""
    assert [op.code for op in after.ops] == ["CAST", "ABS"]  # the first has no reader left: `DropUnused` takes it
    assert after.ops[1].inputs == (x,)
    edge, _ = DropRoundTrips().apply(Graph((x,), (narrow,), ops[:2]))
    assert [op.code for op in edge.ops] == ["CAST", "RESHAPE"]
    assert edge.ops[1].outputs == (narrow,)
