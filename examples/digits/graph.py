"""The network of the digits example as a plain ONNX graph (opset 17), from a dictionary of weights.

conv1 1→32 3×3 · ReLU · conv2 32→64 3×3 · ReLU · max-pool 2×2 · fc1 1024→128 · ReLU · fc2 128→10; 151,306 parameters.
Weights are float32 in PyTorch's layout: convolution `[out, in, kh, kw]`, linear `[out, in]`, bias `[out]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Weights = Mapping[str, npt.NDArray[np.float32]]
LAYERS = ("conv1", "conv2", "fc1", "fc2")
NAMES = tuple(f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias"))
SHAPES = {
    "conv1.weight": (32, 1, 3, 3),
    "conv2.weight": (64, 32, 3, 3),
    "fc1.weight": (128, 1024),
    "fc2.weight": (10, 128),
}


def digits_model(weights: Weights, version: str) -> onnx.ModelProto:
    """Return the checked model. Input `image` float32 `[N, 1, 8, 8]` in 0..1, output `logits` float32 `[N, 10]`."""
    nodes = [
        helper.make_node(
            "Conv", ["image", "conv1.weight", "conv1.bias"], ["c1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "conv2.weight", "conv2.bias"], ["c2"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("MaxPool", ["r2"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], axis=1),
        helper.make_node("Gemm", ["f", "fc1.weight", "fc1.bias"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r3"]),
        helper.make_node("Gemm", ["r3", "fc2.weight", "fc2.bias"], ["logits"], transB=1),
    ]
    for node in nodes:
        node.name = f"{node.op_type.lower()}_{node.output[0]}"
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(np.ascontiguousarray(weights[name], dtype=np.float32), name) for name in NAMES],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="digits")
    helper.set_model_props(model, {"version": version, "license": "Apache-2.0", "data": "scikit-learn digits"})
    onnx.checker.check_model(model, full_check=True)
    return model


def read_weights(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Return the weights of a model that `digits_model` made."""
    model = onnx.load(path)
    return {tensor.name: numpy_helper.to_array(tensor).astype(np.float32) for tensor in model.graph.initializer}
