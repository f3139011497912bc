"""`If` with a condition that can only have one value: gone, with the same answers; any other stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgefleet_converters.graph_passes import run_passes
from edgefleet_converters.onnx.load import parse, serialise, specialise
from edgefleet_converters.onnx.passes.fold import FoldConstants
from edgefleet_converters.onnx.passes.inline_if import InlineConstantIf
from edgefleet_converters.onnx.passes.upgrade_opset import UpgradeOpset
from edgefleet_converters.onnx.walk import all_nodes
from edgefleet_runtime.port import load
from tests.converters.graphs import Array, model_of
from tests.support.real_models import SILERO_VAD, SILERO_VAD_16K, Wheel, real_model


def branch(name: str, nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, [], [value])


def switch(condition: str, scale: str = "two") -> onnx.NodeProto:
    """Return an If: `x * 2` through an inner value `h`, or `-x`."""
    yes = [helper.make_node("Mul", ["x", scale], ["h"]), helper.make_node("Identity", ["h"], ["b"])]
    no = [helper.make_node("Neg", ["x"], ["h"]), helper.make_node("Identity", ["h"], ["b"])]
    return helper.make_node(
        "If", [condition], ["y"], then_branch=branch("yes", yes, "b"), else_branch=branch("no", no, "b"), name="switch"
    )


def ifs(model: onnx.ModelProto) -> int:
    return sum(node.op_type == "If" for node in all_nodes(model))


def answer(model: onnx.ModelProto, x: Array) -> Array:
    return next(iter(load("ort", serialise(model)).run({"x": x}).values()))


TENSORS = {"two": np.array(2, np.float32), "four": np.array(4, np.int64), "one": np.array(1, np.int64)}
X = np.arange(-2, 2, dtype=np.float32).reshape(1, 4)


@pytest.mark.parametrize(("wanted", "factor"), [("four", 2.0), ("one", -1.0)])
def test_a_condition_on_a_fixed_shape_takes_its_branch(wanted: str, factor: float) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "one"], ["width"]),
        helper.make_node("Equal", ["width", wanted], ["c"]), switch("c"),
    ]  # fmt: skip
    model = model_of(nodes, TENSORS, {"x": [1, 4]}, {"y": [1, 4]})
    result = run_passes(model, [InlineConstantIf()])
    assert [note.outcome for note in result.notes] == ["applied"], result.notes
    assert (ifs(model), ifs(result.model)) == (1, 0)
    assert np.array_equal(answer(result.model, X), factor * X)
    assert np.array_equal(answer(result.model, X), answer(model, X))


def test_a_condition_on_an_open_shape_or_on_data_stays() -> None:
    shape = [
        helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "one"], ["width"]),
        helper.make_node("Equal", ["width", "four"], ["c"]), switch("c"),
    ]  # fmt: skip
    open_shape = model_of(shape, TENSORS, {"x": [1, "W"]}, {"y": [1, "W"]})
    assert run_passes(open_shape, [InlineConstantIf()]).notes[0].outcome == "unchanged"
    data = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0), helper.make_node("Greater", ["sum", "two"], ["c"]), switch("c"),
    ]  # fmt: skip
    on_data = model_of(data, TENSORS, {"x": [1, 4]}, {"y": [1, 4]})
    assert run_passes(on_data, [InlineConstantIf()]).notes[0].outcome == "unchanged"


def test_a_model_without_if_is_skipped() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": [1, 4]}, {"y": [1, 4]})
    assert run_passes(model, [InlineConstantIf()]).notes[0].outcome == "skipped"


def test_branches_with_the_same_names_inside_do_not_clash() -> None:
    first, second = switch("yes"), switch("no")
    second.input[0], second.output[0] = "no", "y2"
    tensors = TENSORS | {"yes": np.array(True), "no": np.array(False)}
    model = model_of([first, second], tensors, {"x": [1, 4]}, {"y": [1, 4], "y2": [1, 4]})
    result = run_passes(model, [InlineConstantIf()])
    assert ifs(result.model) == 0
    got = load("ort", serialise(result.model)).run({"x": X})
    assert np.array_equal(got["y"], 2 * X)
    assert np.array_equal(got["y2"], -X)


def test_an_if_inside_a_branch_comes_up_and_goes_too() -> None:
    inner = switch("yes")
    inner.output[0] = "inner"
    outer = helper.make_node(
        "If", ["no"], ["y"],
        then_branch=branch("a", [helper.make_node("Neg", ["x"], ["b"])], "b"), else_branch=branch("b", [inner], "inner"),
    )  # fmt: skip
    tensors = TENSORS | {"yes": np.array([True]), "no": np.array(False)}
    model = model_of([outer], tensors, {"x": [1, 4]}, {"y": [1, 4]})
    result = run_passes(model, [InlineConstantIf()])
    assert (ifs(model), ifs(result.model)) == (2, 0)
    assert np.array_equal(answer(result.model, X), 2 * X)


def test_an_inner_graph_that_makes_the_same_name_keeps_its_own() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["v", "h"], ["h2"])], "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 4]),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("h2", TensorProto.FLOAT, [1, 4])],
    )  # fmt: skip
    looped = [
        helper.make_node("Mul", ["x", "two"], ["h"]),
        helper.make_node("Loop", ["four", "yes", "x"], ["b"], body=body),
    ]
    node = helper.make_node(
        "If", ["yes"], ["y"], then_branch=branch("a", looped, "b"),
        else_branch=branch("b", [helper.make_node("Neg", ["x"], ["b"])], "b"),
    )  # fmt: skip
    model = model_of([node], TENSORS | {"yes": np.array(True)}, {"x": [1, 4]}, {"y": [1, 4]})
    result = run_passes(model, [InlineConstantIf()])
    assert ifs(result.model) == 0
    assert np.array_equal(answer(result.model, X), X + 4 * 2 * X)


@pytest.mark.network
@pytest.mark.parametrize(
    ("source", "rate", "samples"),
    [(SILERO_VAD, 16000, 576), (SILERO_VAD, 8000, 288), (SILERO_VAD_16K, 16000, 576)], ids=["16k", "8k", "16k-only"],
)  # fmt: skip
def test_silero_loses_every_if_and_answers_the_same(source: Wheel, rate: int, samples: int) -> None:
    given = parse(real_model(source).read_bytes())
    model = specialise(given, {"input": [1, samples], "state": [2, 1, 128]}, {"sr": rate})
    inlined = run_passes(model, [UpgradeOpset(), InlineConstantIf()])
    assert inlined.notes[1].outcome == "applied"
    folded = run_passes(inlined.model, [FoldConstants()])
    assert folded.notes[0].outcome == "applied", folded.notes
    assert ifs(given) >= 12
    assert ifs(folded.model) == 0
    random = np.random.default_rng(0)
    inputs = {
        "input": random.standard_normal((1, samples)).astype(np.float32) * 0.1,
        "state": np.zeros((2, 1, 128), np.float32),
    }
    wanted = load("ort", serialise(given)).run(inputs | {"sr": np.array(rate)})
    got = load("ort", serialise(folded.model)).run(inputs)
    for name, value in wanted.items():
        assert np.abs(value - got[name]).max() < 1e-5, name
