"""Quantized tensors and integer products. Source: the ONNX operator pages.

Scales are ordinary tensors in ONNX and may change from run to run, so all is computed in float32 or int32 with plain operators.
Rounding is to even, as ONNX asks and as ROUND does.
"""

from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Quantization, Tensor
from edgefleet_converters.tflite.lower.convolution import Window, convolved, window_of
from edgefleet_converters.tflite.node import Lowering, Node

_EXACT_IN_FLOAT32 = 1 << 24
_STORED = ("uint8", "int8", "uint16", "int16")


def _spread(b: Builder, value: Tensor, like: Tensor, axis: int, block: int) -> Tensor:
    """Return a scale or zero point in a shape that broadcasts against `like`: one, one for each of an axis, or for blocks."""
    if layout_moves.size(value.shape) == 1:
        return layout_moves.reshape(b, value, [])
    if value.rank == 1 and not block:
        return layout_moves.reshape(b, value, [value.shape[0] if i == axis else 1 for i in range(like.rank)])
    apart = [*value.shape[: axis + 1], 1, *value.shape[axis + 1 :]]
    wide = [*value.shape[: axis + 1], block, *value.shape[axis + 1 :]]
    repeated = layout_moves.broadcast_to(b, layout_moves.reshape(b, value, apart), wide)
    joined = [*value.shape[:axis], value.shape[axis] * block, *value.shape[axis + 1 :]]
    return layout_moves.take(b, layout_moves.reshape(b, repeated, joined), axis, 0, like.shape[axis])


def quantize(b: Builder, n: Node) -> Sequence[Tensor]:
    """QuantizeLinear to 8 or 16 bits."""
    from edgefleet_converters.tflite.trace import dtype_name

    x, scale, zero = n.input(0), n.input(1), n.optional(2)
    kind = zero.dtype if zero is not None else "uint8"
    kind = dtype_name(int(n.get("output_dtype"))) if n.get("output_dtype", 0) else kind
    axis = int(n.get("axis", 1)) % max(1, x.rank)
    block = int(n.get("block_size", 0))
    factor = _spread(b, layout_moves.cast(b, scale, "float32"), x, axis, block)
    point = _spread(b, zero, x, axis, block) if zero is not None else None
    return [quantized(b, layout_moves.cast(b, x, "float32"), factor, point, kind)]


def quantized(b: Builder, x: Tensor, scale: Tensor, zero: Tensor | None, kind: str) -> Tensor:
    """Return round(x / scale) + zero, kept inside the type."""
    if kind not in _STORED:
        b.lacks(f"quantized {kind} tensors")
    whole = arithmetic.unary(b, "ROUND", arithmetic.div(b, x, scale))
    if zero is not None:
        whole = arithmetic.add(b, whole, layout_moves.cast(b, zero, "float32"))
    limits = np.iinfo(kind)
    inside = arithmetic.clamp(b, whole, float(limits.min), float(limits.max))
    return layout_moves.cast(b, layout_moves.cast(b, inside, "int32"), kind)


def dequantize(b: Builder, n: Node) -> Sequence[Tensor]:
    """DequantizeLinear from 8, 16 or 32 bits."""
    x, scale, zero = n.input(0), n.input(1), n.optional(2)
    if x.dtype not in (*_STORED, "int32"):
        b.lacks(f"quantized {x.dtype} tensors")
    axis = int(n.get("axis", 1)) % max(1, x.rank)
    block = int(n.get("block_size", 0))
    factor = _spread(b, scale, x, axis, block)
    return [layout_moves.cast(b, dequantized(b, x, layout_moves.cast(b, factor, "float32"),
                                      _spread(b, zero, x, axis, block) if zero is not None else None), scale.dtype)]  # fmt: skip


def dequantized(b: Builder, x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """Return (x - zero) · scale."""
    whole = layout_moves.cast(b, x, "int32")
    if zero is not None:
        whole = arithmetic.sub(b, whole, layout_moves.cast(b, zero, "int32"))
    return arithmetic.mul(b, layout_moves.cast(b, whole, "float32"), scale)


def _centred(b: Builder, x: Tensor, zero: Tensor | None, axis: int | None) -> Tensor:
    """Return x - zero as int32. axis: that a vector of zero points belongs to."""
    whole = layout_moves.cast(b, x, "int32")
    if zero is None:
        return whole
    point = layout_moves.cast(b, zero, "int32")
    if layout_moves.size(point.shape) == 1:
        point = layout_moves.reshape(b, point, [])
    elif point.rank == 1 and axis is not None:
        point = layout_moves.reshape(b, point, [point.shape[0] if i == axis % x.rank else 1 for i in range(x.rank)])
    return arithmetic.sub(b, whole, point)


def matmul_integer(b: Builder, n: Node) -> Sequence[Tensor]:
    """MatMulInteger: int32 sums."""
    x, y = n.input(0), n.input(1)
    return [_integer_product(b, _centred(b, x, n.optional(2), -2), _centred(b, y, n.optional(3), -1))]


def _integer_product(b: Builder, x: Tensor, y: Tensor) -> Tensor:
    """Return the exact int32 product of centred 8-bit numbers: in float32 while no sum can pass 2^24, else number by number."""
    if x.shape[-1] * 255 * 255 < _EXACT_IN_FLOAT32:
        made = arithmetic.matmul(b, layout_moves.cast(b, x, "float32"), layout_moves.cast(b, y, "float32"))
        return layout_moves.cast(b, arithmetic.unary(b, "ROUND", made), "int32")
    return arithmetic.matmul(b, x, y)


def qlinear_matmul(b: Builder, n: Node) -> Sequence[Tensor]:
    """QLinearMatMul."""
    x, x_scale, x_zero, y, y_scale, y_zero, scale, zero = (n.input(i) for i in range(8))
    total = _integer_product(b, _centred(b, x, x_zero, -2), _centred(b, y, y_zero, -1))
    factor = arithmetic.mul(b, _float(b, x_scale, -2, x.rank), _float(b, y_scale, -1, y.rank))
    real = arithmetic.mul(b, layout_moves.cast(b, total, "float32"), factor)
    return [quantized(b, real, _float(b, scale, -1, 1), layout_moves.reshape(b, zero, []), zero.dtype)]


def _float(b: Builder, scale: Tensor, axis: int, rank: int) -> Tensor:
    wide = layout_moves.cast(b, scale, "float32")
    if layout_moves.size(wide.shape) == 1:
        return layout_moves.reshape(b, wide, [])
    return layout_moves.reshape(b, wide, [wide.shape[0] if i == axis % rank else 1 for i in range(rank)])


def _integer_conv(b: Builder, x: Tensor, weight: Tensor, window: Window, group: int) -> Tensor:
    """Return the int32 convolution of centred 8-bit numbers, in float32 while no sum can pass 2^24."""
    if layout_moves.size(weight.shape[1:]) * 255 * 255 >= _EXACT_IN_FLOAT32:
        b.not_compiled("an integer convolution whose sums may pass 2^24")
    zeros = b.const(np.zeros(weight.shape[0], np.float32))
    made = convolved(
        b, layout_moves.cast(b, x, "float32"), layout_moves.cast(b, weight, "float32"), zeros, window, group
    )
    return layout_moves.cast(b, arithmetic.unary(b, "ROUND", made), "int32")


def conv_integer(b: Builder, n: Node) -> Sequence[Tensor]:
    """ConvInteger."""
    x, weight = n.input(0), n.input(1)
    window = window_of(n, weight.shape[2:], x.shape[2:])
    whole = _centred(b, x, n.optional(2), None)
    return [_integer_conv(b, whole, _centred(b, weight, n.optional(3), 0), window, int(n.get("group", 1)))]


def qlinear_conv(b: Builder, n: Node) -> Sequence[Tensor]:
    """QLinearConv: padding is the input's zero point, which is zero once centred."""
    x, x_scale, x_zero, weight, w_scale, w_zero, scale, zero = (n.input(i) for i in range(8))
    window = window_of(n, weight.shape[2:], x.shape[2:])
    total = _integer_conv(
        b, _centred(b, x, x_zero, None), _centred(b, weight, w_zero, 0), window, int(n.get("group", 1))
    )
    if n.given(8):
        total = arithmetic.add(b, total, layout_moves.reshape(b, n.input(8), [1, weight.shape[0], *[1] * (x.rank - 2)]))
    factor = arithmetic.mul(b, _float(b, x_scale, 0, 1), _float(b, w_scale, 1, x.rank))
    real = arithmetic.mul(b, layout_moves.cast(b, total, "float32"), factor)
    return [quantized(b, real, _float(b, scale, 0, 1), layout_moves.reshape(b, zero, []), zero.dtype)]


def stored(b: Builder, n: Node) -> Sequence[Tensor]:
    """`Stored` of `tflite.source_quantization`: the value as it is on the source's own grid."""
    return [b.stored(n.input(0), Quantization((float(n.get("scale")),), (int(n.get("zero")),)))]


LOWERINGS: dict[str, Lowering] = {
    "QuantizeLinear": quantize, "DequantizeLinear": dequantize, "MatMulInteger": matmul_integer,
    "QLinearMatMul": qlinear_matmul, "ConvInteger": conv_integer, "QLinearConv": qlinear_conv,
}  # fmt: skip
