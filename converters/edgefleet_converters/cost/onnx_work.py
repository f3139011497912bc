"""Count the work of an ONNX model by running it once on one sample, without any optimisation, and reading what was run.

Only a run knows the shapes behind open dimensions, which branch an `If` takes and how often a loop goes round. Optimisation is off
because what it makes depends on the host's processor. The profile of onnxruntime gives shapes; its times are not looked at.
"""

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
import onnx
from onnx import AttributeProto

from edgefleet_converters.cost.work import Work
from edgefleet_runtime.port import first_line

Array = npt.NDArray[Any]
Shape = list[int]

_BYTES: Final[Mapping[str, int]] = {
    "float": 4, "double": 8, "float16": 2, "bfloat16": 2, "int64": 8, "uint64": 8, "int32": 4, "uint32": 4, "int16": 2,
    "uint16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
_SUFFIX: Final = "_kernel_time"
_NOT_COUNTED: Final = frozenset({"Constant", "Identity", "QuantizeLinear", "DequantizeLinear"})
"""Gone when a runtime has optimised the model: constants are folded, pairs of quantize and dequantize become integer kernels."""
_CONV: Final = frozenset({"Conv", "FusedConv", "ConvInteger", "QLinearConv", "NhwcConv"})
_MATMUL: Final = frozenset(
    {
        "MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
        "MatMulNBits",
    }
)  # fmt: skip
_RECURRENT: Final = frozenset({"LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"})
_INTEGER: Final = frozenset(
    {"ConvInteger", "QLinearConv", "MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
     "DynamicQuantizeLSTM"}
)  # fmt: skip

_INTEGER_FORM: Final = frozenset(
    {
        "Conv", "MatMul", "Gemm", "Add", "Mul", "Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool", "Concat", "Softmax",
        "ReduceMean", "ReduceMax", "Where", "MaxPool", "Resize", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Gather",
        "Slice", "Split", "Expand", "DepthToSpace", "TopK", "ArgMax", "Relu", "Clip", "QuantizeLinear", "DequantizeLinear", "",
    }
)  # fmt: skip
"""Between dequantize and quantize these become integer kernels of onnxruntime, or need none; "" = an input or output of the graph."""
_SLOW: Final[Mapping[str, str]] = {"Softmax": "softmax", "AveragePool": "softmax", "Mul": "round"}
"""Operator -> what its values cost as much as, between dequantize and quantize (ADR 0097)."""
_ROUNDING: Final = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})


def onnx_work(data: bytes, inputs: Mapping[str, Array]) -> dict[str, Any]:
    """Return the work of one run on `inputs` (one sample). Raises ValueError when it cannot be counted; blocks for one run."""
    model = onnx.ModelProto()
    model.ParseFromString(data)
    nodes = _named(model.graph)
    weights, integer = _weights(model.graph), _integer_nodes(model.graph)
    rounding, slow = _rounding_nodes(model.graph), _slow_nodes(model.graph)
    work = Work()
    for event in _events(model.SerializeToString(), inputs):
        args = event.get("args") or {}
        operator = str(args.get("op_name"))
        name = str(event.get("name")).removesuffix(_SUFFIX)
        if name in slow:
            written = _tensors(args.get("output_type_shape"))
            work.add_integers(_SLOW[operator], math.prod(written[0][1]) if written else 0)
        if name in rounding:
            written = _tensors(args.get("output_type_shape"))
            work.add_integers("round", math.prod(written[0][1]) if written else 0)
        if operator in _NOT_COUNTED or name not in nodes:
            continue
        node = nodes[name]
        read, written = _tensors(args.get("input_type_shape")), _tensors(args.get("output_type_shape"))
        is_integer = operator in _INTEGER or name in integer
        sizes = [1 if is_integer and kind == "float" else _BYTES.get(kind, 4) for kind, _ in read]
        given = [one for one in node.input if one]
        known = [given[at] in weights if len(given) == len(read) else False for at in range(len(read))]
        amounts = [size * math.prod(shape) for size, (_, shape) in zip(sizes, read, strict=True)]
        work.add(
            weights=sum(amount for amount, is_weight in zip(amounts, known, strict=True) if is_weight),
            read=sum(amount for amount, is_weight in zip(amounts, known, strict=True) if not is_weight),
            written=sum((1 if name in integer else _BYTES.get(kind, 4)) * math.prod(shape) for kind, shape in written),
        )
        kind, count = _macs(operator, node, [shape for _, shape in read], [shape for _, shape in written])
        work.add_macs(kind, count, is_integer=is_integer or _rounds_in_blocks(node))
        if operator in _ROUNDING or _rounds_in_blocks(node):
            # In blocks each value takes twice as long.
            work.add_integers("round", math.prod(read[0][1]) * (1 if operator in _ROUNDING else 2))
    return work.facts()


def _named(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Give every node a name of its own, in subgraphs too, and return them by it."""
    found: dict[str, onnx.NodeProto] = {}
    waiting = [graph]
    while waiting:
        for node in waiting.pop().node:
            node.name = f"node{len(found)}"
            found[node.name] = node
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    waiting.append(attribute.g)
                elif attribute.type == AttributeProto.GRAPHS:
                    waiting.extend(attribute.graphs)
    return found


def _weights(graph: onnx.GraphProto) -> set[str]:
    """Return the names of tensors that are stored, or dequantized from what is stored, in the main graph."""
    stored = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" or (node.op_type == "DequantizeLinear" and node.input[0] in stored):
            stored.update(node.output)
    return stored


def _integer_nodes(graph: onnx.GraphProto) -> set[str]:
    """Return the names of nodes between dequantize and quantize: activation and weight both come quantized."""
    stored = {tensor.name for tensor in graph.initializer}
    flowing: set[str] = set()
    dequantized: set[str] = set()
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            dequantized.update(node.output)
            if node.input[0] not in stored:
                flowing.update(node.output)
    return {
        node.name
        for node in graph.node
        if len(node.input) >= 2 and node.input[0] in flowing and node.input[1] in dequantized
    }


def _rounding_nodes(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the quantize and dequantize nodes of values that stay: next to an operator that has no integer kernel."""
    stored = {tensor.name for tensor in graph.initializer}
    makers = {name: node.op_type for node in graph.node for name in node.output}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    found = set()
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and makers.get(node.input[0], "") not in _INTEGER_FORM:
            found.add(node.name)
        if node.op_type == "DequantizeLinear" and node.input[0] not in stored:
            next_ = readers.get(node.output[0], set())
            if not next_ <= _INTEGER_FORM:
                found.add(node.name)
    return found


def _slow_nodes(graph: onnx.GraphProto) -> set[str]:
    """Return the names of nodes between dequantize and quantize whose integer kernel is slower than the float one."""
    stored = {tensor.name for tensor in graph.initializer}
    flowing = {
        node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] not in stored
    }
    rounded = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    return {
        node.name
        for node in graph.node
        if node.op_type in _SLOW and node.input[0] in flowing and node.output[0] in rounded
    }


def _rounds_in_blocks(node: onnx.NodeProto) -> bool:
    """Say whether a product in blocks rounds its left side to 8 bits as well (`onnx.block_weights`)."""
    return node.op_type == "MatMulNBits" and any(a.name == "accuracy_level" and a.i == 4 for a in node.attribute)


def _events(model: bytes, inputs: Mapping[str, Array]) -> list[dict[str, Any]]:
    import onnxruntime as ort

    with tempfile.TemporaryDirectory(dir=".") as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # A packed weight is no longer an input of its operator, and its shape is not given.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            session.run(None, dict(inputs))
        except Exception as error:
            raise ValueError(f"onnxruntime does not run the model as it is: {first_line(error)}") from error
        profile = json.loads(Path(session.end_profiling()).read_bytes())
    return [event for event in profile if event.get("cat") == "Node" and str(event.get("name")).endswith(_SUFFIX)]


def _tensors(profile: Any) -> list[tuple[str, Shape]]:
    """Return (type, shape) of each of `[{"float": [1, 3]}, …]`."""
    found: Iterator[tuple[Any, Any]] = (next(iter(one.items()), ("", [])) for one in profile or [])
    return [(str(kind), [int(size) for size in shape]) for kind, shape in found]


def _macs(operator: str, node: onnx.NodeProto, read: Sequence[Shape], written: Sequence[Shape]) -> tuple[str, int]:
    """Return (kind, multiply-adds) of one operator, 0 for those that have none."""
    if len(read) < 2 or not written:
        return "", 0
    made = math.prod(written[0])
    weight = read[3] if operator == "QLinearConv" and len(read) > 3 else read[1]
    if operator in _CONV:
        is_depthwise = weight[1:2] == [1] and read[0][1:2] != [1]
        kind = "depthwise" if is_depthwise else "conv"
        return kind, made * math.prod(weight[1:])
    if operator == "ConvTranspose":
        return "conv", math.prod(read[0]) * math.prod(weight[1:])
    if operator in _MATMUL:
        return "matmul", made * (read[0][-1] if read[0] else 1)
    if operator == "Gemm":
        return "matmul", made * (math.prod(read[0]) // max(1, written[0][0]))
    if operator in _RECURRENT and len(read) > 2 and len(read[0]) == 3:
        return "recurrent", read[0][0] * read[0][1] * (math.prod(read[1]) + math.prod(read[2]))
    if operator == "Einsum":
        equation = next((a.s.decode() for a in node.attribute if a.name == "equation"), "")
        return "matmul", _einsum(equation, read)
    return "", 0


def _einsum(equation: str, read: Sequence[Shape]) -> int:
    """Return the product of all lengths of an equation without an ellipsis, 0 for others."""
    lengths: dict[str, int] = {}
    for term, shape in zip(equation.replace(" ", "").split("->")[0].split(","), read, strict=False):
        if len(term) != len(shape):
            return 0
        lengths.update(zip(term, shape, strict=True))
    return math.prod(lengths.values())
