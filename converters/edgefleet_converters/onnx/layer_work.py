"""Count what int8 saves in each weighted layer of an ONNX model whose shapes are stated. Pure."""

import math

import onnx

from edgefleet_converters.onnx.walk import attributes_of
from edgefleet_converters.precision_ranking import time_saved


def saved_by_layer(model: onnx.ModelProto) -> dict[str, float]:
    """Return node name -> multiply-adds that int8 saves (`worth.time_saved`) of Conv, ConvTranspose, Gemm and MatMul with weights.

    An open length (a batch) counts as 1. Depthwise layers have int8 kernels of their own and count in full.
    Layers whose shapes are not stated are left out.
    """
    stored = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    shapes = {
        value.name: [max(1, dim.dim_value) for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    found = {}
    for node in model.graph.node:
        weights = stored.get(node.input[1]) if len(node.input) > 1 else None
        given, made = shapes.get(node.input[0]) if node.input else None, shapes.get(node.output[0])
        if not weights or given is None or made is None:
            continue
        facts = attributes_of(node)
        if node.op_type == "Conv":
            macs = math.prod(made) * math.prod(weights[1:])
            found[node.name] = float(macs) if weights[1] == 1 else time_saved(macs, weights[1])
        elif node.op_type == "ConvTranspose":
            found[node.name] = time_saved(
                math.prod(given) * math.prod(weights[1:]), weights[0] // facts.get("group", 1)
            )
        elif node.op_type in ("Gemm", "MatMul") and len(weights) >= 2:
            depth = weights[-1] if facts.get("transB", 0) else weights[-2]
            found[node.name] = time_saved(math.prod(made) * depth, depth)
    return found
