"""A small recurrent tagger for tests: what static quantization leaves in float."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from onnx import helper

from tests.converters.graphs import Array, model_of


def tagger(operator: Literal["LSTM", "GRU"], *, size: int = 32, seed: int = 0) -> onnx.ModelProto:
    """Return MatMul-Relu, a bidirectional LSTM or GRU, MatMul: `x` float32 [N, 12, 24] -> `y` [N, 12, 6]."""
    random = np.random.default_rng(seed)
    gates = 4 if operator == "LSTM" else 3

    def normal(*shape: int) -> Array:
        return np.asarray(random.standard_normal(shape) / np.sqrt(shape[-1]), np.float32)

    tensors = {
        "w1": normal(24, 32), "w": normal(2, gates * size, 32), "r": normal(2, gates * size, size),
        "b": normal(2, 2 * gates * size), "w2": normal(2 * size, 6), "flat": np.array([0, 0, -1], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m"], name="first"),
        helper.make_node("Relu", ["m"], ["a"], name="relu"),
        helper.make_node("Transpose", ["a"], ["t"], name="time", perm=[1, 0, 2]),
        helper.make_node(
            operator, ["t", "w", "r", "b"], ["s"], name="rnn", direction="bidirectional", hidden_size=size
        ),
        helper.make_node("Transpose", ["s"], ["u"], name="back", perm=[2, 0, 1, 3]),
        helper.make_node("Reshape", ["u", "flat"], ["v"], name="join"),
        helper.make_node("MatMul", ["v", "w2"], ["y"], name="head"),
    ]
    return model_of(nodes, tensors, {"x": ["N", 12, 24]}, {"y": ["N", 12, 6]})


def sequences(count: int, seed: int = 1) -> Array:
    """Return float32 [count, 12, 24]."""
    return np.random.default_rng(seed).standard_normal((count, 12, 24)).astype(np.float32)
