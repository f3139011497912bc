"""Limits and the operator allow-list for ONNX sources (docs/explanation/converting.md)."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Final

import onnx

from edgefleet_converters.errors import ForeignOperatorError, InvalidModelError, ModelTooLargeError
from edgefleet_converters.onnx.walk import MAX_DEPTH, all_graphs, all_nodes, all_tensors, function_nodes

_INFERENCE_BYTES: Final = 512 * 1024 * 1024
STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
CONTRIB: Final = "com.microsoft"
"""Operators that onnxruntime has built in, next to those of the standard."""
_LAYOUT_DOMAINS: Final = frozenset({"com.microsoft.nchwc", "com.ms.internal.nhwc"})
"""What onnxruntime writes when it optimises a model for the processor that it runs on."""


@dataclass(frozen=True)
class OnnxLimits:
    """What a source may hold at most."""

    bytes: int = 2**31 - 1
    nodes: int = 50_000
    tensor_elements: int = 2**31 - 1
    value_elements: int = 2**27
    """Of one value between nodes, where its shape is known: half a gigabyte of float32, more than a board has to give."""


def check_limits(model: onnx.ModelProto, limits: OnnxLimits) -> None:
    """Raise ModelTooLargeError naming the limit that is passed."""
    for graph, depth in all_graphs(model):
        if depth > MAX_DEPTH:
            raise ModelTooLargeError(
                f"graph {graph.name[:60]!r} is nested {depth} deep; the converter takes {MAX_DEPTH}",
                next_step="export the model without nested control flow",
            )
    nodes = sum(1 for _ in all_nodes(model)) if not model.functions else inlined_nodes(model)
    if nodes > limits.nodes:
        raise ModelTooLargeError(
            f"the model has {nodes} nodes; the converter takes {limits.nodes}", next_step="split or simplify the model"
        )
    for tensor in all_tensors(model):
        if any(dim < 0 for dim in tensor.dims) or math.prod(tensor.dims) > limits.tensor_elements:
            raise ModelTooLargeError(
                f"tensor {tensor.name[:60]!r} has the shape {list(tensor.dims)}, which is too large",
                next_step="export the model again",
            )


def check_values(model: onnx.ModelProto, limits: OnnxLimits) -> None:
    """Raise ModelTooLargeError for an input, output or inner value that is larger than any board can hold.

    A file of a hundred bytes can ask for gigabytes; folding and running it would take minutes to find out. What shape inference
    cannot tell is left to the limits of the sandbox.
    """
    if model.ByteSize() > _INFERENCE_BYTES:
        return
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError, RuntimeError):
        graph = model.graph  # the runtime reports what is wrong with the shapes, with the node
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.dim_value > 0]
        if math.prod(dims) > limits.value_elements:
            raise ModelTooLargeError(
                f"{value.name[:60]!r} has the shape {dims}, which is more than {limits.value_elements} elements",
                next_step="export the model with smaller shapes",
            )


def inlined_nodes(model: onnx.ModelProto) -> int:
    """Return how many nodes the model has once its local functions are inlined.

    Forty functions that each call the next one twice are 2⁴⁰ nodes. Raises InvalidModelError for functions that call each other
    in a circle.
    """
    bodies = {(function.domain, function.name): list(function_nodes(function)) for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    pending, open_calls = list(bodies), set[tuple[str, str]]()
    while pending:
        key = pending[-1]
        left = [call for node in bodies[key] if (call := (node.domain, node.op_type)) in bodies and call not in sizes]
        if key in sizes or not left:
            sizes[key] = sum(sizes.get((node.domain, node.op_type), 1) for node in bodies[key])
            open_calls.discard(key)
            pending.pop()
            continue
        open_calls.add(key)
        if open_calls & set(left):
            raise InvalidModelError(
                f"the local function {key[1][:60]!r} calls itself", next_step="export the model without local functions"
            )
        pending.extend(left)
    return sum(sizes.get((node.domain, node.op_type), 1) for graph, _ in all_graphs(model) for node in graph.node)


def check_domains(model: onnx.ModelProto) -> None:
    """Raise ForeignOperatorError for a node that neither ONNX nor this onnxruntime has (local functions are inlined before).

    Imports onnxruntime where the model has operators of its own domain.
    """
    own = {(function.domain, function.name) for function in model.functions}
    for node in all_nodes(model):
        domain = node.domain
        if domain in STANDARD_DOMAINS or (domain, node.op_type) in own:
            continue
        if domain != CONTRIB or node.op_type not in contrib_operators():
            raise _foreign(node)


@cache
def contrib_operators() -> frozenset[str]:
    """Return the operators of `CONTRIB` that the installed onnxruntime can run on the CPU."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    return frozenset(
        kernel.op_name
        for kernel in get_all_opkernel_def()
        if kernel.domain == CONTRIB and kernel.provider == "CPUExecutionProvider"
    )


def _foreign(node: onnx.NodeProto) -> ForeignOperatorError:
    import onnxruntime

    what = f"node {node.name or '(unnamed)'!r} uses the operator {node.domain}::{node.op_type}, which "
    runtime = f"onnxruntime {onnxruntime.__version__}"
    if node.domain in _LAYOUT_DOMAINS:
        return ForeignOperatorError(
            f"{what}{runtime} writes for one kind of processor alone",
            next_step="publish the model as it was before onnxruntime optimised it, or optimise it at level basic",
        )
    lacking = f"{runtime} has not on the CPU" if node.domain == CONTRIB else f"neither ONNX nor {runtime} has"
    return ForeignOperatorError(
        what + lacking,
        next_step="export the model with standard ONNX operators only; custom operator libraries are never loaded",
    )


def schema_known(op_type: str, domain: str, opset: int) -> bool:
    """Return whether the ONNX standard has this operator at this opset version."""
    try:
        onnx.defs.get_schema(op_type, opset, "" if domain == "ai.onnx" else domain)
    except onnx.defs.SchemaError:
        return False
    return True
