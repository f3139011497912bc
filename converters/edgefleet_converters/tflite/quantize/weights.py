"""Smaller weights with float32 activations: weight-only int8, float16, and dynamic-range int8.

Weight-only and float16: the constant is stored small and a DEQUANTIZE makes it float32 when the model is loaded. Dynamic-range:
the kernel itself takes int8 weights next to float32 values and quantizes those on each run.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from edgefleet_converters.tflite.ir import Array, Graph, Op, Tensor, all_ops, in_bodies
from edgefleet_converters.tflite.quantize import affine
from edgefleet_converters.tflite.quantize.bias import CHANNEL_AXIS, corrected

_LEAST_ELEMENTS: Final = 256
"""Smaller constants are left: the DEQUANTIZE costs more bytes than it saves."""
_CHANNEL_AXIS: Final[Mapping[str, int]] = {**CHANNEL_AXIS, "TRANSPOSE_CONV": 0}
_DYNAMIC: Final = ("CONV_2D", "FULLY_CONNECTED")
"""Not DEPTHWISE_CONV_2D: its kernel for int8 weights next to float32 values takes 5 times float32's time in LiteRT (ADR 0097)."""
_WEIGHTS: Final = 1


def weight_only(
    graph: Graph,
    *,
    half: frozenset[str] = frozenset(),
    kept: frozenset[str] = frozenset(),
    means: Mapping[int, Array] | None = None,
    per_channel: bool = True,
) -> Graph:
    """Return the graph with float32 weights stored as int8. Those of products have one scale a channel, others one in all; without
    `per_channel` all have one.

    half, kept: names of constants that are stored as float16, and left as they are. means: of `bias.ChannelMeans`, for biases
    that take the mean error of the rounding out.
    """

    def suited(op: Op) -> Op:
        weights = op.inputs[_WEIGHTS] if len(op.inputs) > _WEIGHTS else None
        if not means or weights is None or not _is_large(weights) or weights.name in half | kept:
            return op
        return corrected(op, means, _channel_axis(op, weights) if per_channel else None)

    def small(tensor: Tensor, op: Op, position: int) -> Tensor | None:
        if tensor.name in kept:
            return None
        if tensor.name in half:
            return _halved(tensor)
        axis = _channel_axis(op, tensor) if position == _WEIGHTS and per_channel else None
        return affine.weights_as(tensor, affine.weight_scales(tensor.constant, axis), axis)

    return _unpacked(_each(graph, suited), small)


def float16_weights(graph: Graph) -> Graph:
    """Return the graph with float32 weights stored as float16; those beyond its range stay float32."""

    return _unpacked(graph, lambda tensor, _op, _position: _halved(tensor))


def large_constants(graph: Graph) -> list[str]:
    """Return the names of the constants that `weight_only` stores small, in the order of their first use."""
    return list(dict.fromkeys(t.name for op in all_ops(graph) for t in op.inputs if t is not None and _is_large(t)))


def _halved(tensor: Tensor) -> Tensor | None:
    if np.abs(tensor.constant).max(initial=0.0) > np.finfo(np.float16).max:
        return None
    half = tensor.constant.astype(np.float16)
    return replace(tensor, name=f"{tensor.name}_float16", dtype="float16", data=half)


def dynamic_range(graph: Graph, *, per_channel: bool, adapter: str) -> Graph:
    """Return the graph with int8 weights in the kernels that take them next to float32 values; other weights are stored in int8 as
    by `weight_only`.

    adapter: `litert` or `tflite`. FULLY_CONNECTED of tflite-runtime has one scale, the only form that it computes.
    """
    single = set() if per_channel and adapter == "litert" else {"FULLY_CONNECTED"}

    def small(op: Op) -> Op:
        weights = op.inputs[_WEIGHTS] if op.code in _DYNAMIC else None
        if weights is None or not _is_large(weights):
            return op
        axis = _CHANNEL_AXIS[op.code] if per_channel and op.code not in single else None
        made = affine.weights_as(weights, affine.weight_scales(weights.constant, axis), axis)
        return replace(op, inputs=(op.inputs[0], made, *op.inputs[2:]))

    return weight_only(_each(graph, small), per_channel=per_channel)


def _each(graph: Graph, change: Callable[[Op], Op]) -> Graph:
    """Return the graph with each operator changed, those of loops too."""
    inner = in_bodies(graph, lambda body: _each(body, change))
    return replace(inner, ops=tuple(map(change, inner.ops)))


def _channel_axis(op: Op, weights: Tensor) -> int | None:
    """Return the axis of the results' channels, None where the operator has none."""
    if op.code == "BATCH_MATMUL" and weights.rank == 2:
        return 0 if op.options.get("adj_y") else 1
    return _CHANNEL_AXIS.get(op.code)


def _is_large(tensor: Tensor) -> bool:
    """Say whether a constant is worth storing small. A vector is a bias or a scale: few bytes, and 8 bits would ruin it."""
    data = tensor.data
    large = tensor.dtype == "float32" and tensor.rank > 1 and data is not None and data.size >= _LEAST_ELEMENTS
    return large and bool(np.isfinite(tensor.constant).all())


def _unpacked(graph: Graph, small: Callable[[Tensor, Op, int], Tensor | None]) -> Graph:
    """Return the graph with each large constant stored as `small` says and made float32 by a DEQUANTIZE before its first use."""
    ops: list[Op] = []
    made: dict[int, Tensor] = {}
    for op in in_bodies(graph, lambda body: _unpacked(body, small)).ops:
        inputs = list(op.inputs)
        for position, tensor in enumerate(op.inputs):
            if tensor is None or not _is_large(tensor):
                continue
            if id(tensor) not in made:
                stored = small(tensor, op, position)
                made[id(tensor)] = replace(tensor, name=f"{tensor.name}_float", data=None) if stored else tensor
                if stored:
                    ops.append(Op("DEQUANTIZE", (stored,), (made[id(tensor)],), source=op.source))
            inputs[position] = made[id(tensor)]
        ops.append(replace(op, inputs=tuple(inputs)))
    return replace(graph, ops=tuple(ops))
