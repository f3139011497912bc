"""What a candidate of a recipe leaves in float32, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from edgefleet_converters.errors import TransformError
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.tflite.compile import compile_model
from edgefleet_converters.tflite.ir import Graph
from edgefleet_converters.tflite.quantize.candidates import made
from edgefleet_converters.tflite.runtimes import LITERT_23
from tests.converters.tflite.models import graph_of

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


def test_entropy_is_refused() -> None:
    with pytest.raises(TransformError, match="Percentile"):
        made(graph(), static(calibration="Entropy"), {"x": X}, "litert")
