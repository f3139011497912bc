"""Which tensors flow through an ONNX model: operator, types and rank, for the gates of a profile."""

import math
from typing import Any, Final

import onnx
from onnx import helper

from edgefleet_converters.onnx.walk import all_graphs, all_nodes

_SMALL_ELEMENTS: Final = 256
"""Stored tensors up to this size may be shapes and axes, whose values inference reads."""


def flow_of(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """Return `{name, node, flowing, rank}` for each kind of node, also inside subgraphs; the first of a kind stands for all.

    flowing: numpy names of the types of its inputs and outputs that are no constants. rank: the largest number of dimensions
    among them, counted from the first that is not 1 (an open one counts). Tensors whose type cannot be inferred are left out.
    """
    known = _types(model)
    found: dict[tuple[str, tuple[str, ...], int], dict[str, Any]] = {}
    for position, node in enumerate(all_nodes(model)):
        seen = [known[name] for name in (*node.input, *node.output) if name in known]
        flowing = sorted({dtype for dtype, _ in seen if dtype})
        rank = max((rank for _, rank in seen), default=0)
        use = {"name": node.op_type, "node": node.name or f"#{position}", "flowing": flowing, "rank": rank}
        found.setdefault((node.op_type, tuple(flowing), rank), use)
    return list(found.values())


def _types(model: onnx.ModelProto) -> dict[str, tuple[str, int]]:
    """Return tensor name -> (dtype, rank) of all tensors that are not stored."""
    try:
        inferred = onnx.shape_inference.infer_shapes(_without_weights(model))
    except Exception:  # noqa: BLE001 - inference is a help here: without it only the declared tensors are known
        inferred = model
    stored = {tensor.name for graph, _ in all_graphs(model) for tensor in graph.initializer}
    stored |= {name for node in all_nodes(model) if node.op_type == "Constant" for name in node.output}
    known = {}
    for graph, _ in all_graphs(inferred):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.name not in stored and value.type.HasField("tensor_type"):
                known[value.name] = _type_of(value.type.tensor_type)
    return known


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with large stored tensors as inputs: inference needs their types only, and would copy their values."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    light.graph.value_info.extend(model.graph.value_info)
    declared = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL_ELEMENTS:
            light.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return light


def _type_of(tensor: Any) -> tuple[str, int]:
    shape = [dim.dim_value if dim.WhichOneof("value") == "dim_value" else 0 for dim in tensor.shape.dim]
    return _dtype(tensor.elem_type), rank_of(shape)


def _dtype(number: int) -> str:
    if number == onnx.TensorProto.STRING:
        return "string"
    try:
        name: str = helper.tensor_dtype_to_np_dtype(number).name
    except (KeyError, ValueError):
        return ""
    return name


def rank_of(shape: list[int]) -> int:
    """Return the number of dimensions from the first that is not 1: `[1, 3, 8, 8]` has 3."""
    leading = next((position for position, size in enumerate(shape) if size != 1), len(shape))
    return len(shape) - leading
