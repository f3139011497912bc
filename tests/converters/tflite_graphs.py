"""Small TFLite files for tests, written with the flatbuffer schema that LiteRT ships."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

FULLY_CONNECTED, LOG, CUSTOM = 9, 73, 32


def classifier(*, features: int = 16, classes: int = 4, custom: str = "", op_version: int = 1) -> bytes:
    """Return one dense layer: `x` float32 [1, features] -> `scores` float32 [1, classes]."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((classes, features)).astype(np.float32)
    bias = random.standard_normal(classes).astype(np.float32)
    tensors = [
        _tensor("x", [1, features]), _tensor("w", [classes, features], buffer=1), _tensor("b", [classes], buffer=2),
        _tensor("scores", [1, classes]),
    ]  # fmt: skip
    options = schema.FullyConnectedOptionsT()
    operator = _operator([0, 1, 2], [3])
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options
    code = _code(CUSTOM if custom else FULLY_CONNECTED, op_version, custom)
    return _pack(tensors, [operator], [code], [weight, bias], [0], [3])


def logarithm() -> bytes:
    """Return `y` = log(`x`), float32 [1, 4]: NaN for negative input."""
    return _pack([_tensor("x", [1, 4]), _tensor("y", [1, 4])], [_operator([0], [1])], [_code(LOG, 1, "")], [], [0], [1])


def _tensor(name: str, shape: list[int], *, buffer: int = 0) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), shape, schema.TensorType.FLOAT32, buffer
    return tensor


def _operator(inputs: list[int], outputs: list[int]) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, inputs, outputs
    return operator


def _code(number: int, version: int, custom: str) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
    if custom:
        code.customCode = custom.encode()
    return code


def _pack(
    tensors: list[Any], operators: list[Any], codes: list[Any], values: list[npt.NDArray[Any]], inputs: list[int],
    outputs: list[int],
) -> bytes:  # fmt: skip
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs, graph.name = (
        tensors,
        operators,
        inputs,
        outputs,
        b"main",
    )
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.description = 3, codes, [graph], b"test"
    model.buffers = [schema.BufferT()]
    for value in values:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(value.tobytes(), dtype=np.uint8)
        model.buffers.append(buffer)
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
