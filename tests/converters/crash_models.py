"""Models that misbehave, for tests of the sandbox and the gate."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.converters.graphs import model_of


def crashing_at_load() -> onnx.ModelProto:
    """Return a sound model whose constants onnxruntime divides at load: -2³¹ / -1 traps on x86."""
    lowest = np.iinfo(np.int32).min
    tensors = {
        "extent": np.array([lowest, 4], np.int32), "divisor": np.array([-1, 1], np.int32), "w": np.ones((4, 4), np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Div", ["extent", "divisor"], ["quotient"]),
        helper.make_node("Cast", ["quotient"], ["shape"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["h", "shape"], ["y"]),
    ]
    return model_of(nodes, tensors, {"x": ["N", 4]}, {"y": ["N", 4]})


def never_ending() -> onnx.ModelProto:
    """Return a model with a loop that runs 2⁶² times."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["keep"], ["go"]), helper.make_node("Add", ["value", "value"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, [1, 4]),
        ],
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [1, 4]),
        ],
    )
    nodes = [helper.make_node("Loop", ["trips", "yes", "x"], ["y"], body=body)]
    tensors = {"trips": np.array(2**62, np.int64), "yes": np.array(True)}
    return model_of(nodes, tensors, {"x": [1, 4]}, {"y": [1, 4]})


def answering_nan() -> onnx.ModelProto:
    """Return a model that answers NaN for every negative input."""
    return model_of([helper.make_node("Log", ["x"], ["y"])], {}, {"x": ["N", 4]}, {"y": ["N", 4]})


def too_hungry() -> onnx.ModelProto:
    """Return a model that fills 64 GB."""
    nodes = [
        helper.make_node("Shape", ["x"], ["n"]),
        helper.make_node("Mul", ["n", "factor"], ["big"]),
        helper.make_node("ConstantOfShape", ["big"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["y"], keepdims=1),
    ]
    tensors = {"factor": np.array([100_000, 40_000], np.int64)}
    return model_of(nodes, tensors, {"x": ["N", 4]}, {"y": [1, 1]})
