"""Small TFLite files for tests, written with the flatbuffer schema that LiteRT ships."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

CONV_2D, FULLY_CONNECTED, LOG, CUSTOM = 3, 9, 73, 32


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
    dense = operator([0, 1, 2], [3])
    dense.builtinOptionsType, dense.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options
    number = CUSTOM if custom else FULLY_CONNECTED
    return pack(tensors, [dense], [code(number, op_version, custom)], [weight, bias], [0], [3])


def logarithm() -> bytes:
    """Return `y` = log(`x`), float32 [1, 4]: NaN for negative input."""
    return pack([_tensor("x", [1, 4]), _tensor("y", [1, 4])], [operator([0], [1])], [code(LOG, 1)], [], [0], [1])


def detections(*, boxes: int = 12, classes: int = 3, most: int = 4) -> bytes:
    """Return the box decoder that both runtimes have as a custom operator: `boxes` [1, N, 4], `scores` [1, N, C + 1] -> 4 outputs."""
    from flatbuffers import flexbuffers

    options = {
        "max_detections": most, "max_classes_per_detection": 1, "num_classes": classes, "nms_score_threshold": 0.1,
        "nms_iou_threshold": 0.6, "y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0,
    }  # fmt: skip
    anchors = np.random.default_rng(0).uniform(0.2, 0.8, (boxes, 4)).astype(np.float32)
    shapes = {"boxes": [1, boxes, 4], "scores": [1, boxes, classes + 1], "a": [boxes, 4], "at": [1, most, 4], "of": [1, most],
              "sure": [1, most], "count": [1]}  # fmt: skip
    tensors = [_tensor(name, shape, buffer=int(name == "a")) for name, shape in shapes.items()]
    decode = operator([0, 1, 2], [3, 4, 5, 6])
    decode.customOptions = np.frombuffer(bytes(flexbuffers.Dumps(options)), np.uint8)
    custom = code(CUSTOM, 1, "TFLite_Detection_PostProcess")
    return pack(tensors, [decode], [custom], [anchors], [0, 1], [3, 4, 5, 6])


def edited(data: bytes, change: Callable[[Any], None]) -> bytes:
    """Return a file after `change` was called on its unpacked model (`schema.ModelT`)."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    change(model)
    return packed(model)


def packed(model: Any) -> bytes:
    """Return the bytes of an unpacked model."""
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def dynamic_range_by_channel(data: bytes) -> bytes:
    """Return a float file with int8 weights as ai-edge-quantizer 0.10 writes them (recipe dynamic_wi8_afp32).

    CONV_2D and FULLY_CONNECTED get symmetric int8 weights with a scale a channel, keep float activations, float biases and version
    1 of the operator. LiteRT 2.3 computes that; tflite-runtime 2.14 loads it, runs it and answers wrong.
    """
    return edited(data, _weights_by_channel)


def _weights_by_channel(model: Any) -> None:
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode not in (CONV_2D, FULLY_CONNECTED):
            continue
        tensor = graph.tensors[operator.inputs[1]]
        weight = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32).reshape(tensor.shape)
        largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
        scales = (np.where(largest > 0, largest, 1.0) / 127).astype(np.float32)
        stored = np.clip(np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1))), -127, 127).astype(np.int8)
        model.buffers[tensor.buffer].data = np.frombuffer(stored.tobytes(), np.uint8)
        tensor.type, tensor.quantization = schema.TensorType.INT8, schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = scales, np.zeros(len(scales), np.int64)
        tensor.quantization.quantizedDimension = 0


def _tensor(name: str, shape: list[int], *, buffer: int = 0) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), shape, schema.TensorType.FLOAT32, buffer
    return tensor


def operator(inputs: list[int], outputs: list[int]) -> Any:
    """Return an operator with the first code."""
    made = schema.OperatorT()
    made.opcodeIndex, made.inputs, made.outputs = 0, inputs, outputs
    return made


def code(number: int, version: int, custom: str = "") -> Any:
    """Return an operator code. custom: the name of a custom operator."""
    made = schema.OperatorCodeT()
    made.builtinCode, made.deprecatedBuiltinCode, made.version = number, min(number, 127), version
    if custom:
        made.customCode = custom.encode()
    return made


def pack(
    tensors: list[Any], operators: list[Any], codes: list[Any], values: list[npt.NDArray[Any]], inputs: list[int],
    outputs: list[int],
) -> bytes:  # fmt: skip
    """Return the file. values: the contents of buffers 1, 2 …"""
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
    return packed(model)
