"""What a candidate of a recipe leaves in float32, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from onnx import helper

from edgefleet_converters.errors import RecipeKeyError
from edgefleet_converters.layer_search import Found, resolved
from edgefleet_converters.precision_ranking import time_saved
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.tflite.compile import compile_model
from edgefleet_converters.tflite.ir import Graph
from edgefleet_converters.tflite.quantize.calibration import Calibrator
from edgefleet_converters.tflite.quantize.candidate_recipe import WEIGHTED
from edgefleet_converters.tflite.quantize.candidates import made
from edgefleet_converters.tflite.quantize.graph_rewrites import made_ready
from edgefleet_converters.tflite.quantize.layer_regions import region, saved_by_layer, wide_operators
from edgefleet_converters.tflite.quantize.sensitivity import _every_second, _Search, sensitivity_step
from edgefleet_converters.tflite.quantize.weights import large_constants, weight_only
from edgefleet_converters.tflite.runtimes import LITERT_23
from edgefleet_converters.tflite.writer import write
from edgefleet_runtime.litert import LiteModel
from edgefleet_runtime.port import load
from tests.converters.tflite.models import graph_of

Array = npt.NDArray[Any]
RNG = np.random.default_rng(2)
X = RNG.standard_normal((20, 6)).astype(np.float32)


def graph() -> Graph:
    """Return two products with a RELU between them and a SOFTMAX behind."""
    weights = {"w": RNG.standard_normal((6, 8)).astype(np.float32), "v": RNG.standard_normal((8, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y0"]),
    ]
    return compile_model(graph_of(nodes, {"x": X[:1], **weights}, ("w", "v"), ["y0"]), LITERT_23).graph


def in_int8(spec: CandidateSpec, before: Graph) -> list[str]:
    after = made(before, spec, {"x": X}, "litert")
    return [op.code for op in after.ops if op.outputs[0].dtype == "int8" and op.code != "QUANTIZE"]


def static(**how: object) -> CandidateSpec:
    spec: CandidateSpec = CandidateSpec(id="it", precision="int8", method="static", **how)  # type: ignore[arg-type]
    return spec


def test_all_operators_with_a_kernel_are_in_int8() -> None:
    before = graph()
    product = before.ops[0].code
    assert in_int8(static(), before) == [product, "TANH", product, "SOFTMAX"]


def test_only_the_operators_that_are_named() -> None:
    before = graph()
    product = before.ops[0].code
    assert in_int8(static(op_types=[product]), before) == [product, product]


def test_an_excluded_operator_and_a_float_head_stay_float() -> None:
    before = graph()
    product = before.ops[0].code
    assert in_int8(static(exclude=[before.ops[1].outputs[0].name]), before) == [product, product, "SOFTMAX"]
    assert in_int8(static(head_float=True), before) == [product, "TANH"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"precision": "fp16", "method": "weights", "weight_bits": 16}, "weight_bits: 16"),
        ({"precision": "int4-weights", "method": "weights", "weight_bits": 4}, "weight_bits: 4"),
        ({"precision": "int16x8", "method": "static", "act_dtype": "uint16"}, "act_dtype: uint16"),
    ],
)
def test_a_form_of_onnx_models_is_no_other_form_under_its_name(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeKeyError, match=told) as caught:
        made(graph(), CandidateSpec(id="it", **keys), {"x": X}, "litert")
    assert "--recipe" in caught.value.next_step


def test_a_search_leaves_the_layer_out_that_int8_ruins(tmp_path: Path) -> None:
    spread = np.array([1e4, 1e4, 1e4, 1, 1, 1, 1, 1], np.float32)
    values = {
        "w": RNG.standard_normal((6, 8)).astype(np.float32) * spread, "even": 1 / spread,
        "v": RNG.standard_normal((8, 8)).astype(np.float32), "u": RNG.standard_normal((8, 3)).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Mul", ["a", "even"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["c"]),
        helper.make_node("Tanh", ["c"], ["t"]),
        helper.make_node("MatMul", ["t", "u"], ["y0"]),
    ]
    model = graph_of(nodes, {"x": X[:1], **values}, ("w", "even", "v", "u"), ["y0"])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    np.savez(tmp_path / "x.npz", x=X)
    spec = static(op_types=list(WEIGHTED), weight_bits=8, per_channel=True)
    args = {
        "model": str(tmp_path / "model.onnx"), "runtime": "litert", "samples": str(tmp_path / "x.npz"), "metric": "mae",
        "seen": None, "max_drop": 0.1, "max_bytes": 10**9, "spec": msgspec.to_builtins(msgspec.structs.replace(spec, method="mixed")),
    }  # fmt: skip
    found = msgspec.convert(sensitivity_step(args), Found)
    before = compile_model(model, LITERT_23).graph
    first, *others = (op.outputs[0].name for op in before.ops if op.code in WEIGHTED)
    assert [harm.name for harm in found.nodes[: found.out]] == [first]
    assert {harm.name for harm in found.nodes[found.out :]} == set(others)
    result = resolved(spec, found)
    assert (result.method, result.exclude) == ("static", sorted(region(before, first)))
    assert len(result.exclude) == 2, "the factor behind it leaves with it"
    product = next(op.code for op in before.ops if op.code in WEIGHTED)
    assert in_int8(result, before) == [product, "TANH"], "what lies between is in int8 too, and the head is not"


def test_a_search_widens_by_what_moves_and_knows_what_int8_saves() -> None:
    weights = {"w": RNG.standard_normal((32, 16, 3, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["a"]),
        helper.make_node("Concat", ["a", "x"], ["j"], axis=1),
        helper.make_node("Erf", ["j"], ["y0"]),
    ]
    x = RNG.standard_normal((1, 16, 4, 4)).astype(np.float32)
    before = compile_model(graph_of(nodes, {"x": x, **weights}, ("w",), ["y0"]), LITERT_23).graph
    form = wide_operators(before, static(op_types=list(WEIGHTED)), "litert")
    assert {"CONV_2D", "LOGISTIC", "MUL", "CONCATENATION"} <= set(form) <= {op.code for op in before.ops}
    assert made_ready(before, float_ops=frozenset(id(op) for op in before.ops if op.code not in form)).ops == before.ops
    layer, gate, product = (
        next(op.outputs[0].name for op in before.ops if op.code == code) for code in ("CONV_2D", "LOGISTIC", "MUL")
    )
    assert set(region(before, layer)) == {layer, gate, product}
    assert saved_by_layer(before) == {layer: time_saved(32 * 16 * 16 * 9, 16)}
    assert wide_operators(weights_alone(), static(op_types=list(WEIGHTED)), "litert") == (), (
        "no function, nothing to widen by"
    )


def weights_alone() -> Graph:
    given = {"x": X[:1], "w": RNG.standard_normal((6, 8)).astype(np.float32)}
    return compile_model(
        graph_of([helper.make_node("MatMul", ["x", "w"], ["y0"])], given, ("w",), ["y0"]), LITERT_23
    ).graph


def test_weights_that_are_named_stay_in_16_bits() -> None:
    large = RNG.standard_normal((20, 32)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "v"], ["y0"])]
    given = {"x": RNG.standard_normal((1, 20)).astype(np.float32), "w": large, "v": large.T.copy()}
    before = compile_model(graph_of(nodes, given, ("w", "v"), ["y0"]), LITERT_23).graph
    names = large_constants(before)
    after = weight_only(before, half=frozenset(names[:1]), kept=frozenset(names[1:]))
    kinds = [t.dtype for op in after.ops for t in op.inputs if t is not None and t.data is not None and t.rank == 2]
    assert sorted(kinds) == ["float16", "float32"]


def test_the_mean_error_of_rounded_weights_is_taken_out() -> None:
    x = RNG.uniform(1, 2, (40, 64)).astype(np.float32)
    given = {"x": x[:1], "w": RNG.standard_normal((64, 8)).astype(np.float32), "b": np.zeros(8, np.float32)}
    model = graph_of([helper.make_node("Gemm", ["x", "w", "b"], ["y0"])], given, ("w", "b"), ["y0"])
    before = compile_model(model, LITERT_23).graph

    def off(**how: object) -> float:
        spec = CandidateSpec(id="it", precision="int8-weights", method="weights", **how)  # type: ignore[arg-type]
        small = load("litert", write(made(before, spec, {"x": x}, "litert")))
        got = np.concatenate([small.run({"x": row[None]})["y0"] for row in x])
        return float(np.abs((got - x @ given["w"]).mean(axis=0)).max())

    assert off(correct_bias=True) < 0.1 * off()


def test_the_biases_of_static_layers_are_corrected_and_those_left_out_only_where_they_are_rounded() -> None:
    x = RNG.uniform(1, 2, (40, 64)).astype(np.float32)
    given = {"x": x[:1], "w": RNG.standard_normal((64, 8)).astype(np.float32), "b": np.zeros(8, np.float32)}
    model = graph_of([helper.make_node("Gemm", ["x", "w", "b"], ["y0"])], given, ("w", "b"), ["y0"])
    before = compile_model(model, LITERT_23).graph
    kept = [op.outputs[0].name for op in before.ops]

    def off(**how: object) -> float:
        small = load("litert", write(made(before, static(per_channel=True, **how), {"x": x}, "litert")))
        got = np.concatenate([small.run({"x": row[None]})["y0"] for row in x])
        return float(np.abs((got - x @ given["w"]).mean(axis=0)).max())

    assert off(correct_bias=True) < 0.5 * off()
    assert off(correct_bias=True, exclude=kept) < 1e-4, "what stays in float32 keeps its bias"


def test_what_joins_stays_in_float_where_what_it_joins_does() -> None:
    weights = {name: RNG.standard_normal((6, 8)).astype(np.float32) for name in ("w", "v", "u")}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["x", "v"], ["b"]),
        helper.make_node("MatMul", ["x", "u"], ["c"]),
        helper.make_node("Concat", ["a", "b"], ["j"], axis=1),
        helper.make_node("Concat", ["b", "c"], ["k"], axis=1),
        helper.make_node("Concat", ["j", "k"], ["l"], axis=1),
        helper.make_node("Softmax", ["l"], ["y0"]),
    ]
    before = compile_model(graph_of(nodes, {"x": X[:1], **weights}, ("w", "v", "u"), ["y0"]), LITERT_23).graph
    first = next(op for op in before.ops if op.code == before.ops[0].code).outputs[0].name
    assert in_int8(static(), before).count("CONCATENATION") == 3
    assert in_int8(static(exclude=[first]), before).count("CONCATENATION") == 1, "only the one of two int8 results"


def test_a_search_judges_biases_on_samples_that_they_were_not_fitted_to() -> None:
    samples = {"x": np.arange(16)}
    assert _every_second(samples, 0)["x"].tolist() == list(range(0, 16, 2))
    assert _every_second(samples, 1)["x"].tolist() == list(range(1, 16, 2))
    assert _every_second({"x": np.arange(15)}, 1)["x"].tolist() == list(range(15)), "too few to be parted"


def test_a_search_gives_a_hopeless_choice_up_after_a_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"w": RNG.standard_normal((6, 80)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y0"])]
    graph_ = compile_model(graph_of(nodes, {"x": X[:1], **weights}, ("w",), ["y0"]), LITERT_23).graph
    x = RNG.standard_normal((40, 6)).astype(np.float32)
    spec = static(op_types=list(WEIGHTED), weight_bits=8, per_channel=True)
    search = _Search(graph_, Calibrator({"x": x}, "litert"), spec, "agreement", 0.05, 10**9)
    runs: list[int] = []
    run = LiteModel.run

    def counted(self: LiteModel, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        runs.append(len(runs))
        return run(self, inputs)

    monkeypatch.setattr(LiteModel, "run", counted)
    assert search._holds(graph_)
    assert len(runs) == 40
    runs.clear()
    turned = {"w": -weights["w"]}
    other = compile_model(graph_of(nodes, {"x": X[:1], **turned}, ("w",), ["y0"]), LITERT_23).graph
    assert not search._holds(other)
    assert len(runs) == 4, "with 2 of 40 allowed, four wrong answers decide"
