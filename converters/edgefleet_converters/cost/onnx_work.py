"""Count the work of an ONNX model by running it once on one sample, without any optimisation, and reading what was run.

Only a run knows the shapes behind open dimensions, which branch an `If` takes and how often a loop goes round. Optimisation is off
because what it makes depends on the host's processor. The profile of onnxruntime gives shapes; its times are not looked at.
"""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
import onnx
from onnx import AttributeProto

from edgefleet_converters.cost.work import Work
from edgefleet_runtime.port import first_line

Array = npt.NDArray[Any]
Shape = list[int]

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


def onnx_work(data: bytes, inputs: Mapping[str, Array]) -> dict[str, Any]:
    """Return the work of one run on `inputs` (one sample). Raises ValueError when it cannot be counted; blocks for one run."""
    model = onnx.ModelProto()
    model.ParseFromString(data)
    nodes = _named(model.graph)
    integer = _integer_nodes(model.graph)
    work = Work()
    for event in _events(model.SerializeToString(), inputs):
        args = event.get("args") or {}
        operator = str(args.get("op_name"))
        name = str(event.get("name")).removesuffix(_SUFFIX)
        if operator in _NOT_COUNTED or name not in nodes:
            continue
        read, written = _shapes(args.get("input_type_shape")), _shapes(args.get("output_type_shape"))
        sizes = (int(args.get(key) or 0) for key in ("parameter_size", "activation_size", "output_size"))
        weights, seen, made = sizes
        work.add(weights=weights, read=seen, written=made)
        kind, count = _macs(operator, nodes[name], read, written)
        work.add_macs(kind, count, is_integer=operator in _INTEGER or name in integer)
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


def _events(model: bytes, inputs: Mapping[str, Array]) -> list[dict[str, Any]]:
    import onnxruntime as ort

    with tempfile.TemporaryDirectory(dir=".") as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # A packed weight is no longer an input of its operator, and its shape is not told.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            session.run(None, dict(inputs))
        except Exception as error:
            raise ValueError(f"onnxruntime does not run the model as it is: {first_line(error)}") from error
        told = json.loads(Path(session.end_profiling()).read_bytes())
    return [event for event in told if event.get("cat") == "Node" and str(event.get("name")).endswith(_SUFFIX)]


def _shapes(told: Any) -> list[Shape]:
    """Return the shapes of `[{"float": [1, 3]}, …]`."""
    return [[int(size) for size in next(iter(one.values()), [])] for one in told or []]


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
