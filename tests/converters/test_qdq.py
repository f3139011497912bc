"""The quick quantizer gives the bytes of onnxruntime's own, and does not walk through the model for each tensor."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgefleet_converters.onnx import qdq
from edgefleet_converters.onnx.prepare import prepared
from edgefleet_converters.onnx.quantize import quantized
from edgefleet_converters.recipe import WEIGHTED, CandidateSpec
from tests.converters.graphs import model_of
from tests.converters.test_quantize import convolutions, images, samples_of

SPECS = [
    CandidateSpec(id="all", precision="int8", method="static", per_channel=True),
    CandidateSpec(id="one-scale", precision="int8", method="static", act_dtype="int8", reduce_range=True),
    CandidateSpec(
        id="weighted", precision="int8", method="static", per_channel=True, op_types=WEIGHTED, exclude=["c2"]
    ),
    CandidateSpec(id="wide", precision="int16x8", method="static", act_dtype="uint16"),
]


def mixture() -> onnx.ModelProto:
    """Return a model with what the quantizer treats in ways of its own: shared weights and biases, Pad, Concat, Softmax, Resize."""
    random = np.random.default_rng(3)
    weights = {
        "w": random.standard_normal((3, 3, 3, 3)).astype(np.float32), "b": random.standard_normal(3).astype(np.float32),
        "m": random.standard_normal((8, 8)).astype(np.float32), "k": np.full((1,), 0.5, np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "fill": np.array(0.25, np.float32), "scales": np.array([1, 1, 2, 2], np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Pad", ["x", "pads", "fill"], ["p"], name="pad"),
        helper.make_node("Conv", ["p", "w", "b"], ["c1"], name="c1"),
        helper.make_node("Relu", ["c1"], ["r"], name="r"),
        helper.make_node("Conv", ["r", "w", "b"], ["c2"], name="c2", pads=[1] * 4),
        helper.make_node("Clip", ["c2"], ["cl"], name="cl"),
        helper.make_node("Add", ["cl", "x"], ["s"], name="s"),
        helper.make_node("Mul", ["s", "k"], ["h"], name="h"),
        helper.make_node("MatMul", ["h", "m"], ["mm"], name="mm"),
        helper.make_node("Concat", ["mm", "s"], ["cat"], name="cat", axis=1),
        helper.make_node("MaxPool", ["cat"], ["mp"], name="mp", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["mp", "", "scales"], ["up"], name="up", mode="nearest"),
        helper.make_node("Softmax", ["up"], ["y"], name="sm"),
    ]
    model = model_of(nodes, weights, {"x": ["N", 3, 8, 8]}, {"y": ["N", 6, 8, 8]})
    model.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, None))
    return model


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
@pytest.mark.parametrize("make", [convolutions, mixture])
def test_the_bytes_are_those_of_onnxruntimes_own(
    make: object, spec: CandidateSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.quantization import base_quantizer, qdq_quantizer

    assert callable(make)
    model, calibration, _ = prepared(make(), spec, samples_of(images(4)))
    quick = quantized(model, spec, calibration)
    monkeypatch.setattr(qdq, "quantizer_of", qdq_quantizer.QDQQuantizer)
    for module in (base_quantizer, qdq_quantizer):
        monkeypatch.setattr(module, "find_by_name", qdq._PATIENT)
    assert quick.SerializeToString() == quantized(model, spec, calibration).SerializeToString()


def test_no_tensor_costs_a_walk_through_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    walked: list[str] = []
    monkeypatch.setattr(qdq, "_PATIENT", lambda name, _: walked.append(name))
    model, calibration, _ = prepared(convolutions(), SPECS[0], samples_of(images(4)))
    indexed = qdq.IndexedModel(model)
    indexed.replace_input_of_all_nodes("r1", "other")
    assert [list(node.input)[:1] for node in model.graph.node if node.name == "c2"] == [["other"]]
    indexed.replace_input_of_nodes("other", "r1", {"c2"})
    assert [list(node.input)[:1] for node in model.graph.node if node.name == "c2"] == [["r1"]]
    stored = indexed.initializer()
    first = next(iter(stored))
    indexed.remove_initializer(first)
    assert stored.find(first.name) is None
    assert len(stored) == len(model.graph.initializer)
    quantized(prepared(convolutions(), SPECS[0], samples_of(images(4)))[0], SPECS[0], calibration)
    assert not walked
