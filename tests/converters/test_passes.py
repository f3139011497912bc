"""Graph passes: each keeps its promise, and the frame drops one that does not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefleet_converters import errors
from edgefleet_converters.graph_passes import run_passes
from edgefleet_converters.onnx.load import opset_of
from edgefleet_converters.onnx.passes.fix_shapes import FixShapes
from edgefleet_converters.onnx.passes.fold import FoldConstants, canonical
from edgefleet_converters.onnx.passes.gemm_to_matmul import GemmToMatMul
from edgefleet_converters.onnx.passes.strip_inputs import StripStoredInputs
from edgefleet_converters.onnx.passes.upgrade_opset import UpgradeOpset
from edgefleet_converters.onnx.quantize import head_nodes
from edgefleet_converters.onnx.simplify import largest_relative_difference
from edgefleet_runtime.port import load
from tests.converters.graphs import Array, classifier, data_for, model_of


def answer(model: onnx.ModelProto, x: Array) -> Array:
    runtime = load("ort", model.SerializeToString())
    return next(iter(runtime.run({"x": x}).values()))


def test_weights_listed_as_inputs_are_taken_off() -> None:
    model = classifier(ir=3)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims)))
    result = run_passes(model, [StripStoredInputs()])
    assert [value.name for value in result.model.graph.input] == ["x"]
    assert result.notes[0].outcome == "applied"
    assert len(model.graph.input) == 5, "a pass must not change its argument"
    assert run_passes(result.model, [StripStoredInputs()]).notes[0].outcome == "unchanged"


@pytest.mark.parametrize("opset", [7, 11, 13])
def test_old_opsets_are_raised_and_answer_the_same(opset: int) -> None:
    model = classifier(opset=opset)
    x, _ = data_for(model, 8)
    result = run_passes(model, [UpgradeOpset()])
    assert opset_of(result.model) == 17
    assert np.allclose(answer(result.model, x), answer(model, x), atol=1e-6)


def test_a_current_opset_stays() -> None:
    assert run_passes(classifier(opset=20), [UpgradeOpset()]).notes[0].outcome == "unchanged"


def test_shapes_are_fixed_and_wrong_ones_refused() -> None:
    result = run_passes(classifier(), [FixShapes({"x": [1, 16]})])
    assert [d.dim_value for d in result.model.graph.input[0].type.tensor_type.shape.dim] == [1, 16]
    assert [d.dim_value for d in result.model.graph.output[0].type.tensor_type.shape.dim] == [1, 4]
    for wrong in ({"x": [1, 15]}, {"x": [1]}, {"z": [1, 16]}):
        with pytest.raises(errors.TransformError, match="fix-shapes"):
            run_passes(classifier(), [FixShapes(wrong)])


def test_constants_are_folded_with_the_same_answer_and_bytes() -> None:
    nodes = [
        helper.make_node("Add", ["one", "two"], ["three"]),
        helper.make_node("Mul", ["x", "three"], ["y"]),
    ]
    tensors = {"one": np.ones(4, np.float32), "two": np.full(4, 2, np.float32)}
    model = model_of(nodes, tensors, {"x": ["N", 4]}, {"y": ["N", 4]})
    first, second = (run_passes(model, [FoldConstants()]).model for _ in range(2))
    assert [node.op_type for node in first.graph.node] == ["Mul"]
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert np.array_equal(answer(first, x), 3 * x)


def test_what_an_exporter_noted_of_its_source_is_not_kept() -> None:
    model = classifier(features=16)
    noted = canonical(model, like=model)
    for part in (model.graph, *model.graph.node, *model.graph.initializer, *model.graph.input):
        part.doc_string = "line 7 of net.py"
        part.metadata_props.add(key="stack_trace", value="File net.py, line 7, in forward")
    assert canonical(model, like=model).SerializeToString() == noted.SerializeToString()


def test_a_fold_that_blows_the_model_up_is_dropped() -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["big"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Slice", ["zeros", "start", "end"], ["part"]),
        helper.make_node("Add", ["x", "part"], ["y"]),
        helper.make_node("Add", ["zeros", "scale"], ["kept"]),
    ]
    tensors = {
        "big": np.array([12_000_000], np.int64), "start": np.array([0], np.int64), "end": np.array([4], np.int64),
        "scale": np.ones(1, np.float32),
    }  # fmt: skip
    model = model_of(nodes, tensors, {"x": [1, 4]}, {"y": [1, 4], "kept": [12_000_000]})
    result = run_passes(model, [FoldConstants()])
    assert result.notes[0].outcome == "dropped"
    assert "grow the model" in result.notes[0].reason
    assert result.model == model


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_gemm_becomes_matmul_with_the_same_answer(transposed: int, bias: bool) -> None:
    weight = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    tensors = {"w": weight.T.copy() if transposed else weight, "b": np.arange(4, dtype=np.float32)}
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    if not bias:
        del tensors["b"]
    model = model_of(
        [helper.make_node("Gemm", inputs, ["y"], transB=transposed)], tensors, {"x": ["N", 16]}, {"y": ["N", 4]}
    )
    result = run_passes(model, [GemmToMatMul()])
    assert [n.op_type for n in result.model.graph.node] == (["MatMul", "Add"] if bias else ["MatMul"])
    x = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)
    assert np.allclose(answer(result.model, x), answer(model, x), atol=1e-6)
    assert {t.name for t in result.model.graph.initializer} <= {
        n for node in result.model.graph.node for n in node.input
    }


def test_a_scaled_gemm_stays() -> None:
    model = model_of([helper.make_node("Gemm", ["x", "w"], ["y"], alpha=0.5)], {"w": np.ones((4, 4), np.float32)},
                     {"x": [1, 4]}, {"y": [1, 4]})  # fmt: skip
    assert run_passes(model, [GemmToMatMul()]).notes[0].outcome == "unchanged"


class Liar:
    """A pass that loses the output."""

    name = "liar"

    def __init__(self, *, required: bool) -> None:
        self.required = required

    def requires(self, model: onnx.ModelProto) -> str:
        return ""

    def apply(self, model: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        return onnx.ModelProto(), True

    def ensures(self, before: onnx.ModelProto, after: onnx.ModelProto) -> str:
        return "the graph was lost"


def test_a_broken_promise_drops_the_result_or_ends_when_required() -> None:
    model = classifier()
    result = run_passes(model, [StripStoredInputs(), Liar(required=False)])
    assert result.model == model
    assert [note.outcome for note in result.notes] == ["unchanged", "dropped"]
    with pytest.raises(errors.TransformError, match=r"liar.*the graph was lost"):
        run_passes(model, [Liar(required=True)])


def test_the_head_ends_at_the_last_weighted_node() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="body"),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="last"),
        helper.make_node("Sigmoid", ["b"], ["c"], name="sigmoid"),
        helper.make_node("Concat", ["c", "b"], ["y"], name="join", axis=1),
    ]
    model = model_of(nodes, {"w": np.ones((4, 4), np.float32)}, {"x": [1, 4]}, {"y": [1, 8]})
    assert head_nodes(model) == ["join", "last", "sigmoid"]


def test_differences_are_relative_to_the_range_and_fail_closed() -> None:
    a = [{"o": np.array([0.0, 100.0])}]
    assert largest_relative_difference(a, [{"o": np.array([0.0, 101.0])}]) == pytest.approx(0.01)
    assert largest_relative_difference(a, [{"o": np.array([0.0])}]) == np.inf
    assert largest_relative_difference(a, [{"o": np.array([0.0, np.nan])}]) == np.inf
    assert numpy_helper.to_array(classifier().graph.initializer[0]).shape == (16, 32)
