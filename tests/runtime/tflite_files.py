"""Tiny TFLite files made from the schema alone: one fully connected layer, float or int8, with or without a free batch."""

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema


def fully_connected(
    weights: npt.NDArray[np.generic],
    *,
    batch_free: bool = False,
    scales: tuple[float, float, float] | None = None,
    signature: tuple[str, str] | None = None,
) -> bytes:
    """Return y = x·Wᵀ + 0 as a .tflite file.

    weights: [out, in], float32, or int8 with scales (input, weight, output; zero points 0). signature: names of input and
    output in a `serving_default` signature.
    """
    outs, ins = weights.shape
    kind = schema.TensorType.INT8 if scales else schema.TensorType.FLOAT32
    bias_kind = schema.TensorType.INT32 if scales else schema.TensorType.FLOAT32
    bias_scale = scales[0] * scales[1] if scales else None
    tensors = [
        _tensor("in_tensor", [1, ins], kind, 0, scales[0] if scales else None, free=batch_free),
        _tensor("weights", [outs, ins], kind, 1, scales[1] if scales else None),
        _tensor("bias", [outs], bias_kind, 2, bias_scale),
        _tensor("out_tensor", [1, outs], kind, 0, scales[2] if scales else None, free=batch_free),
    ]
    operator = schema.OperatorT()
    operator.opcodeIndex = 0
    operator.inputs, operator.outputs = [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, [operator], [0], [3]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4 if scales else 1
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    zero = np.zeros(outs, np.int32 if scales else np.float32)
    model.buffers = [_buffer(b""), _buffer(weights.tobytes()), _buffer(zero.tobytes())]
    if signature is not None:
        model.signatureDefs = [_signature(*signature)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(
    name: str, shape: list[int], kind: int, buffer: int, scale: float | None, *, free: bool = False
) -> "schema.TensorT":
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, kind, buffer
    if free:
        tensor.shapeSignature = [-1, *shape[1:]]
    if scale is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [0]
    return tensor


def _buffer(data: bytes) -> "schema.BufferT":
    buffer = schema.BufferT()
    buffer.data = list(data)
    return buffer


def _signature(input_name: str, output_name: str) -> "schema.SignatureDefT":
    definition = schema.SignatureDefT()
    definition.signatureKey = "serving_default"
    definition.subgraphIndex = 0
    first, last = schema.TensorMapT(), schema.TensorMapT()
    first.name, first.tensorIndex = input_name, 0
    last.name, last.tensorIndex = output_name, 3
    definition.inputs, definition.outputs = [first], [last]
    return definition
