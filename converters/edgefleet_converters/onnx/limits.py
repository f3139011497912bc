"""Limits and the operator allow-list for ONNX sources (`security.md` §4, ONNX graph)."""

import math
from dataclasses import dataclass
from typing import Final

import onnx

from edgefleet_converters.errors import ForeignOperatorError, ModelTooLargeError
from edgefleet_converters.onnx.walk import MAX_DEPTH, all_graphs, all_nodes, all_tensors

STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})


@dataclass(frozen=True)
class OnnxLimits:
    """What a source may hold at most."""

    bytes: int = 2**31 - 1
    nodes: int = 50_000
    tensor_elements: int = 2**31 - 1


def check_limits(model: onnx.ModelProto, limits: OnnxLimits) -> None:
    """Raise ModelTooLargeError naming the limit that is passed."""
    for graph, depth in all_graphs(model):
        if depth > MAX_DEPTH:
            raise ModelTooLargeError(
                f"graph {graph.name[:60]!r} is nested {depth} deep; the converter takes {MAX_DEPTH}",
                next_step="export the model without nested control flow",
            )
    nodes = sum(1 for _ in all_nodes(model))
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


def check_domains(model: onnx.ModelProto) -> None:
    """Raise ForeignOperatorError when a node is in no standard domain (local functions are inlined before)."""
    own = {(function.domain, function.name) for function in model.functions}
    for node in all_nodes(model):
        domain = node.domain
        if domain in STANDARD_DOMAINS or (domain, node.op_type) in own:
            continue
        raise ForeignOperatorError(
            f"node {node.name or '(unnamed)'!r} uses the operator {domain}::{node.op_type}, which no standard runtime has",
            next_step="export the model with standard ONNX operators only; custom operator libraries are never loaded",
        )


def schema_known(op_type: str, domain: str, opset: int) -> bool:
    """Return whether the ONNX standard has this operator at this opset version."""
    try:
        onnx.defs.get_schema(op_type, opset, "" if domain == "ai.onnx" else domain)
    except onnx.defs.SchemaError:
        return False
    return True
