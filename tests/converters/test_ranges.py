"""Ranges that are cut where the next operator sees no difference."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edgefleet_converters.onnx.ranges import cut
from tests.converters.graphs import model_of


def graph(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    first = helper.make_node("Neg", ["x"], ["a"])
    return model_of([first, *nodes], {}, {"x": ["N", 4]}, {name: ["N", 4] for name in outputs})


def silu() -> list[onnx.NodeProto]:
    return [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["y"])]


@given(low=st.floats(-300, -1.3), high=st.floats(0.1, 300))
def test_a_range_before_silu_is_cut_where_the_product_stays_within_a_quarter_step(low: float, high: float) -> None:
    out_high = high / (1 + np.exp(-high))
    ranges = {"a": (low, high), "y": (-0.2785, out_high)}
    floor, kept = cut(graph(*silu()), ranges)["a"]
    assert (kept, floor >= low) == (high, True)
    step = (out_high + 0.2785) / 255
    lost = np.linspace(low, floor, 200)
    if floor > low and floor < -1.2785:
        assert np.abs(lost / (1 + np.exp(-lost))).max() <= step / 4 + 1e-6
    if floor > low:
        assert floor <= -1.2784, "what lies above the minimum of SiLU is not cut"


@pytest.mark.parametrize(
    ("nodes", "floor"),
    [
        ([helper.make_node("Relu", ["a"], ["y"])], 0.0),
        ([helper.make_node("HardSwish", ["a"], ["y"])], -3.0),
        (
            [
                helper.make_node("HardSigmoid", ["a"], ["s"], alpha=1 / 6, beta=0.5),
                helper.make_node("Mul", ["s", "a"], ["y"]),
            ],
            -3.0,
        ),
    ],
    ids=["relu", "hard-swish", "hard-sigmoid-and-product"],
)
def test_a_range_is_cut_where_the_operator_answers_zero(nodes: list[onnx.NodeProto], floor: float) -> None:
    low, high = cut(graph(*nodes), {"a": (-9.0, 5.0), "y": (0.0, 5.0)})["a"]
    assert low == pytest.approx(floor, abs=1e-6)
    assert high == 5.0


@pytest.mark.parametrize(
    "model",
    [
        graph(helper.make_node("Relu", ["a"], ["y"]), outputs=("y", "a")),
        graph(helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Add", ["a", "r"], ["y"])),
        graph(helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["s", "x"], ["y"]), outputs=("y",)),
        graph(helper.make_node("Tanh", ["a"], ["y"])),
    ],
    ids=["an-output", "also-added", "another-product", "another-function"],
)
def test_other_ranges_stay(model: onnx.ModelProto) -> None:
    ranges = {"a": (-90.0, 5.0), "y": (-1.0, 5.0)}
    assert cut(model, ranges) == ranges


def test_a_range_that_ends_below_the_floor_stays() -> None:
    assert cut(graph(helper.make_node("Relu", ["a"], ["y"])), {"a": (-9.0, -2.0)}) == {"a": (-9.0, -2.0)}


def joined(*, other_reader: bool = False) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("Split", ["x", "halves"], ["s1", "s2"], axis=1),
        helper.make_node("Concat", ["a", "t", "s1"], ["y"], axis=1),
        helper.make_node("Add", ["s2", "t" if other_reader else "s2"], ["z"]),
    ]
    first = helper.make_node("Neg", ["x"], ["a"])
    return model_of([first, *nodes], {"halves": np.array([2, 2])}, {"x": ["N", 4]}, {"y": ["N", 10], "z": ["N", 2]})


def test_what_is_only_joined_is_written_in_the_scale_of_the_whole() -> None:
    ranges = {"a": (-9.0, 5.0), "t": (-1.0, 1.0), "s1": (0.0, 2.0), "y": (-9.0, 5.5), "z": (0.0, 1.0)}
    whole = {"a": (-9.0, 5.5), "t": (-9.0, 5.5)}
    assert cut(joined(), ranges) == ranges | whole, "a part of a split keeps the scale of what was split"
    assert cut(joined(other_reader=True), ranges) == ranges | {"a": (-9.0, 5.5)}
    without = {name: pair for name, pair in ranges.items() if name != "y"}
    assert cut(joined(), without) == without, "nothing is known of the whole"
