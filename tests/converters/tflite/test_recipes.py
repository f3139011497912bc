"""What a recipe may ask of a compiled TFLite model: done, or refused by its key; never passed over in silence."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgefleet_converters.errors import RecipeKeyError
from edgefleet_converters.onnx.calibrate import Samples, tensor_ranges
from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.tflite.compile import compile_model
from edgefleet_converters.tflite.ir import Graph
from edgefleet_converters.tflite.quantize.calibration import Calibrator, samples_of
from edgefleet_converters.tflite.quantize.candidates import compiled_for, made, static_form
from edgefleet_converters.tflite.quantize.ranges import observe
from edgefleet_converters.tflite.quantize.weights import weight_only
from edgefleet_converters.tflite.runtimes import BY_ADAPTER
from edgefleet_converters.tflite.writer import write
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import load
from tests.converters.graphs import model_of

HERE = ["litert"] + (["tflite"] if sys.version_info < (3, 12) else [])
X = np.random.default_rng(5).standard_normal((48, 6)).astype(np.float32)


def uneven() -> onnx.ModelProto:
    """Two layers with one channel that is a thousand times larger than the others before the second evens it out."""
    random = np.random.default_rng(0)
    sizes = np.array([1000.0, *[1.0] * 7], np.float32)
    tensors = {
        "w": random.standard_normal((6, 8)).astype(np.float32) * sizes, "b": random.standard_normal(8).astype(np.float32) * sizes,
        "v": random.standard_normal((8, 4)).astype(np.float32) / sizes[:, None], "c": np.zeros(4, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "c"], ["y"]),
    ]  # fmt: skip
    return model_of(nodes, tensors, {"x": [1, 6]}, {"y": [1, 4]})


def spec(**keys: Any) -> CandidateSpec:
    return CandidateSpec(**({"id": "own", "precision": "int8", "method": "static", "act_dtype": "int8"} | keys))


def answers(graph: Graph, adapter: str) -> np.ndarray[Any, Any]:
    model = load(adapter, write(graph))
    return np.concatenate([model.run({"x": row[None]})["y"] for row in X])


@pytest.mark.parametrize("adapter", HERE)
def test_channels_are_evened_out_as_for_onnx(adapter: str) -> None:
    plain = compile_model(uneven(), BY_ADAPTER[adapter]).graph
    wanted = answers(plain, adapter)
    even = compiled_for(uneven(), spec(equalise=True), adapter)
    assert np.allclose(answers(even, adapter), wanted, rtol=1e-5, atol=1e-6)

    def off(graph: Graph, **keys: Any) -> float:
        return float(np.abs(answers(made(graph, spec(**keys), {"x": X}, adapter), adapter) - wanted).mean())

    assert off(even, equalise=True) < 0.2 * off(plain)


def layer() -> tuple[onnx.ModelProto, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return one layer with channels of different sizes, inputs with a mean of 1.5, and its exact answers."""
    x = np.random.default_rng(1).uniform(1, 2, (40, 64)).astype(np.float32)
    sizes = np.geomspace(1, 20, 8).astype(np.float32)
    w = np.random.default_rng(2).standard_normal((64, 8)).astype(np.float32) * sizes
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"])]
    return model_of(nodes, {"w": w, "b": np.zeros(8, np.float32)}, {"x": [1, 64]}, {"y": [1, 8]}), x, x @ w


@pytest.mark.parametrize("adapter", HERE)
def test_biases_of_a_static_candidate_make_up_for_weights_as_its_kernels_round_them(adapter: str) -> None:
    """tflite-runtime 2.14 has one scale for all weights of FULLY_CONNECTED, whatever the recipe says."""
    model, x, wanted = layer()
    graph = compile_model(model, BY_ADAPTER[adapter]).graph

    def off(**keys: Any) -> float:
        small = load(adapter, write(made(graph, spec(per_channel=True, **keys), {"x": x}, adapter)))
        got = np.concatenate([small.run({"x": row[None]})["y"] for row in x])
        return float(np.abs((got - wanted).mean(axis=0)).mean())

    assert off(correct_bias=True) < 0.3 * off()


def test_biases_of_what_finds_no_int8_kernel_are_corrected_once_for_the_weights_that_it_stores() -> None:
    model, x, _ = layer()
    graph = compile_model(model, BY_ADAPTER["litert"]).graph
    calibrator = Calibrator({"x": x}, "litert")
    means, unknown = calibrator.means(graph), {id(t): (-np.inf, np.inf) for op in graph.ops for t in op.outputs}
    stored = spec(per_channel=True, correct_bias=True, weight_bits=8)
    mixed = static_form(graph, stored, calibrator.ranges(graph) | unknown, "litert", means)
    assert write(mixed) == write(weight_only(graph, means=means))


@pytest.mark.parametrize("keys", [
    {"reduce_range": True}, {"half": "int16"}, {"weight_bits": 4}, {"weight_bits": 16, "method": "weights"}, {"act_dtype": "uint16"},
])  # fmt: skip
def test_a_key_that_means_nothing_here_is_refused_by_name(keys: dict[str, Any]) -> None:
    with pytest.raises(RecipeKeyError, match=next(iter(keys))) as refused:
        compiled_for(uneven(), spec(**keys), "litert")
    assert refused.value.code == "convert.recipe_key"
    assert "leave" in refused.value.next_step


@pytest.mark.parametrize("adapter", HERE)
def test_entropy_ranges_are_those_of_the_onnx_side(adapter: str) -> None:
    """The same tensors in both runtimes, so the same ranges: there is one implementation."""
    random = np.random.default_rng(3)
    x = random.standard_t(2, (40, 6)).astype(np.float32)  # heavy tails, which entropy cuts
    model = uneven()
    graph = compile_model(model, BY_ADAPTER[adapter]).graph
    found = observe(graph, lambda loaded: samples_of(loaded, {"x": x}), adapter, "Entropy")
    theirs = tensor_ranges(
        model, Samples({"x": x}, [TensorSpec(name="x", dtype="float32", shape=[1, 6])]), method="Entropy"
    )
    mine = {"x": found[id(graph.inputs[0])], "y": found[id(graph.outputs[0])]}
    for name, bounds in mine.items():
        assert bounds == pytest.approx(theirs[name], rel=2e-2)
    assert mine["x"][1] < x.max()
    assert made(graph, spec(calibration="Entropy"), {"x": x}, adapter).outputs[0].name == "y"
