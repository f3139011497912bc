"""Rewrite a float graph, with equal results, into operators that have int8 kernels and lose less in 8 bits.

1. NEG(x) = x · -1, and x ÷ c = x · (1/c) for a constant c.
2. x ÷ y = x · (1/y): the reciprocal of one value is a table (`tables`), the product an int8 kernel.
3. An average that is multiplied by a constant for each place (a padded pool that leaves the padding out) becomes a convolution
   with equal weights: AVERAGE_POOL_2D writes with its input's scale, and the factor would multiply its rounding.

Operators that decide (`floats.before_decisions`) are left as they are: a last bit turns a FLOOR.
"""

from dataclasses import replace
from typing import Final

import numpy as np

from edgefleet_converters.tflite.ir import Graph, Op, Tensor, constant
from edgefleet_converters.tflite.quantize.float_operators import before_decisions

_VALID: Final = 1
"""The schema's Padding."""


def made_ready(graph: Graph, *, float_ops: frozenset[int] = frozenset()) -> Graph:
    """Return the graph with the rewrites of this module. Inputs and outputs are the same tensors.

    float_ops: ids of operators that stay float32; they stay in the graph.
    """
    kept = before_decisions(graph) | float_ops
    readers: dict[int, list[Op]] = {}
    for op in graph.ops:
        for tensor in op.inputs:
            readers.setdefault(id(tensor), []).append(op)
    ops: list[Op] = []
    for op in graph.ops:
        if id(op) in kept or op.outputs[0].dtype != "float32":
            ops.append(op)
        elif op.code == "NEG":
            ops.append(
                _product(op, op.inputs[0], constant(f"{op.outputs[0].name}/minus", np.float32(-1.0).reshape(())))
            )
        elif op.code == "DIV":
            ops.extend(_division(op))
        elif op.code == "AVERAGE_POOL_2D" and _is_corrected(op, readers.get(id(op.outputs[0]), [])):
            ops.append(as_convolution(op))
        else:
            ops.append(op)
    return replace(graph, ops=tuple(ops))


def _product(op: Op, x: Tensor | None, factor: Tensor) -> Op:
    options = {"fused_activation_function": op.options.get("fused_activation_function", 0)}
    return replace(op, code="MUL", inputs=(x, factor), options=options)


def _division(op: Op) -> list[Op]:
    x, y = op.inputs
    assert x is not None
    assert y is not None
    name = f"{op.outputs[0].name}/reciprocal"
    if y.data is not None:
        with np.errstate(divide="ignore"):
            factor = (np.float64(1.0) / y.constant.astype(np.float64)).astype(np.float32)
        return [_product(op, x, constant(name, factor))] if np.isfinite(factor).all() else [op]
    if x.data is not None:
        return [op]
    inverse = Tensor(name, "float32", y.shape)
    one = constant(f"{name}/one", np.float32(1.0).reshape(()))
    return [
        Op("DIV", (one, y), (inverse,), {"fused_activation_function": 0}, op.source),
        _product(op, x, inverse),
    ]


def _is_corrected(op: Op, readers: list[Op]) -> bool:
    if op.options.get("padding") != _VALID or op.options.get("fused_activation_function"):
        return False
    for reader in readers:
        if reader.code == "MUL" and any(
            t is not None and t.data is not None and t.data.size > 1 for t in reader.inputs
        ):
            return True
        if reader.code == "TRANSPOSE":
            return False
    return False


def as_convolution(op: Op) -> Op:
    """Return AVERAGE_POOL_2D without padding as a convolution with equal weights, which may write another scale than it reads."""
    height, width = int(op.options["filter_height"]), int(op.options["filter_width"])  # type: ignore[arg-type]
    channels = op.outputs[0].shape[3]
    name = op.outputs[0].name
    weights = np.full((1, height, width, channels), 1.0 / (height * width), np.float32)
    options = {
        "padding": _VALID, "stride_w": op.options["stride_w"], "stride_h": op.options["stride_h"], "depth_multiplier": 1,
        "fused_activation_function": 0, "dilation_w_factor": 1, "dilation_h_factor": 1,
    }  # fmt: skip
    inputs = (op.inputs[0], constant(f"{name}/mean", weights), constant(f"{name}/zero", np.zeros(channels, np.float32)))
    return Op("DEPTHWISE_CONV_2D", inputs, op.outputs, options, op.source)
