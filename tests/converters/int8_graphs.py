"""Small quantized TFLite files with exactly one thing to vary, written with the schema that LiteRT ships."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tests.converters.tflite_graphs import FULLY_CONNECTED, code, operator, pack

TYPES = {"float32": 0, "uint8": 3, "int16": 7, "int8": 9}
_NUMPY = {"float32": np.float32, "uint8": np.uint8, "int16": np.int16, "int8": np.int8}
LOGISTIC, RELU, GELU = 14, 19, 150


def dense(
    *, act: str = "int8", weight: str = "int8", out: str = "", per_channel: bool = False, batch: int = 1,
    features: int = 16, classes: int = 4, version: int = 4, is_open: bool = False,
) -> bytes:  # fmt: skip
    """Return one dense layer: `x` [batch, features] -> `scores` [batch, classes], both of type `act` (`out` for the output).

    per_channel: a weight scale for each class. version: of the operator. is_open: the first dimension is declared free.
    """
    random = np.random.default_rng(0)
    float_only = act == "float32" and weight == "float32"
    values: Any = (
        random.integers(-100, 100, (classes, features))
        if not float_only
        else random.standard_normal((classes, features))
    )
    weights = (values + 128 if weight == "uint8" else values).astype(_NUMPY[weight])
    bias = np.zeros(classes, np.float32 if act == "float32" else np.int64 if act == "int16" else np.int32)
    bias_type = {"float32": 0, "int64": 4, "int32": 2}[bias.dtype.name]
    scales = [0.01] * (classes if per_channel else 1)
    tensors = [
        tensor("x", [batch, features], TYPES[act], scales=[] if act == "float32" else [0.05], is_open=is_open),
        tensor("w", [classes, features], TYPES[weight], buffer=1, scales=[] if weight == "float32" else scales),
        tensor("b", [classes], bias_type, buffer=2, scales=[] if act == "float32" else [0.0005] * len(scales)),
        tensor(
            "scores", [batch, classes], TYPES[out or act], scales=[] if act == "float32" else [0.2], is_open=is_open
        ),
    ]
    layer = operator([0, 1, 2], [3])
    layer.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    layer.builtinOptions = schema.FullyConnectedOptionsT()
    return pack(tensors, [layer], [code(FULLY_CONNECTED, version)], [weights, bias], [0], [3])


def chain(number: int, shape: list[int], *, dtype: str = "int8", version: int = 1, length: int = 1) -> bytes:
    """Return `x` -> the same elementwise operator `length` times -> `y`, all of one shape and type."""
    scale = 1 / 256 if number == LOGISTIC else 0.05
    point = -128 if number == LOGISTIC else 0
    tensors = [tensor("x", shape, TYPES[dtype], scales=[0.05])]
    tensors += [tensor(f"t{at}", shape, TYPES[dtype], scales=[scale], point=point) for at in range(length - 1)]
    tensors += [tensor("y", shape, TYPES[dtype], scales=[scale], point=point)]
    operators = [operator([at], [at + 1]) for at in range(length)]
    return pack(tensors, operators, [code(number, version)], [], [0], [length])


def tensor(
    name: str,
    shape: list[int],
    kind: int,
    *,
    buffer: int = 0,
    scales: list[float],
    point: int = 0,
    is_open: bool = False,
) -> Any:
    """Return a tensor with an affine quantization where `scales` has any."""
    made = schema.TensorT()
    made.name, made.shape, made.type, made.buffer = name.encode(), shape, kind, buffer
    if is_open:
        made.shapeSignature = [-1, *shape[1:]]
    if scales:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = np.array(scales, np.float32)
        made.quantization.zeroPoint = np.array([point] * len(scales), np.int64)
        made.quantization.quantizedDimension = 0
    return made
