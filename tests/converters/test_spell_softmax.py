"""Softmax over a short axis in the middle is written as what it is made of; every other one stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from edgefleet_converters.graph_passes import run_passes
from edgefleet_converters.onnx.passes.spell_softmax import SpellSoftmax
from edgefleet_converters.onnx.prepare import prepared
from edgefleet_converters.onnx.quantize import candidate
from edgefleet_converters.recipe import CandidateSpec
from tests.converters.graphs import model_of
from tests.converters.test_quantize import answer, samples_of

SPELLED = ["ReduceMax", "Sub", "Exp", "ReduceSum", "Div"]


def softmax(shape: list[int | str], axis: int | None, *, opset: int = 17) -> onnx.ModelProto:
    facts = {} if axis is None else {"axis": axis}
    node = helper.make_node("Softmax", ["x"], ["y"], name="s", **facts)
    return model_of([node], {}, {"x": shape}, {"y": shape}, opset=opset, ir=8)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("opset", [13, 17, 18])
@pytest.mark.parametrize(("shape", "axis"), [([1, 16, 4, 40], 1), ([1, 4, 16, 40], -2), ([1, 64, 8, 4], 1)])
def test_a_short_axis_in_the_middle_is_spelled_with_the_same_answer(
    shape: list[int | str], axis: int, opset: int
) -> None:
    model = softmax(shape, axis, opset=opset)
    result = run_passes(model, [SpellSoftmax()])
    assert (result.notes[0].outcome, operators(result.model)) == ("applied", SPELLED)
    x = np.random.default_rng(0).normal(0, 30, [int(n) for n in shape]).astype(np.float32)
    x.reshape(-1)[:2] = (3e4, -3e4)  # exp of these alone would overflow
    got = answer(result.model, x)
    assert np.abs(got - answer(model, x)).max() <= 1e-6
    assert np.allclose(got.sum(axis=axis), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ([1, 16, 4, 40], -1),
        ([1, 16, 4, 40], None),
        ([1, 65, 40], 1),
        ([1, 16, 31], 1),
        ([1, "N", 40], 1),
        ([1, 16, "N"], 1),
    ],
    ids=["last", "default", "long", "short-rows", "open-axis", "open-rows"],
)
def test_another_softmax_stays(shape: list[int | str], axis: int | None) -> None:
    model = softmax(shape, axis)
    assert run_passes(model, [SpellSoftmax()]).notes[0].outcome == "unchanged"


def test_an_old_softmax_over_all_axes_stays() -> None:
    assert run_passes(softmax([1, 16, 40], 1, opset=12), [SpellSoftmax()]).notes[0].outcome == "skipped"


def test_a_candidate_with_parts_in_float_has_it_spelled_and_a_whole_one_has_not() -> None:
    weights = np.random.default_rng(0).normal(0, 0.3, (16, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="c", pads=[1] * 4),
        helper.make_node("Softmax", ["c"], ["y"], name="s", axis=1),
    ]
    model = model_of(nodes, {"w": weights}, {"x": [1, 3, 8, 8]}, {"y": [1, 16, 8, 8]})
    x = np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)
    static = CandidateSpec(id="t", precision="int8", method="static", per_channel=True)
    parts = CandidateSpec(id="t", precision="int8", method="static", per_channel=True, op_types=["Conv"])
    ready, calibration, _ = prepared(model, parts, samples_of(x))
    made = candidate(ready, parts, calibration)
    assert set(SPELLED) <= set(operators(made))
    assert np.abs(answer(made, x) - answer(model, x)).max() < 0.05
    assert "Softmax" in operators(candidate(ready, static, calibration))
