"""Activation functions and other smooth maps of one element. Source: the ONNX operator pages."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.lower.elementwise import unary_of
from edgefleet_converters.tflite.node import Lowering, Node

_ERF_P = 0.3275911
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
"""Abramowitz and Stegun 7.1.26: largest error 1.5e-7."""


def in_float32(b: Builder, x: Tensor) -> Tensor:
    """Return a float16 tensor as float32, another as it is."""
    return layout_moves.cast(b, x, "float32") if x.dtype == "float16" else x


def smooth(formula: Lowering) -> Lowering:
    """Return a lowering that computes float16 in float32 and refuses float64, which no kernel has."""

    def lower(b: Builder, n: Node) -> Sequence[Tensor]:
        x = n.input(0)
        if x.dtype not in ("float32", "float16"):
            b.lacks(f"{n.op_type} on {x.dtype}")
        view = Node(n.op_type, tuple(in_float32(b, t) if t is not None else None for t in n.inputs), n.attributes, n.opset,
                    n.wanted, n.declared, n.trace)  # fmt: skip
        return [layout_moves.cast(b, made, x.dtype) for made in formula(b, view)]

    return lower


def leaky_relu(b: Builder, n: Node) -> Sequence[Tensor]:
    """LeakyRelu."""
    return [arithmetic.unary(b, "LEAKY_RELU", n.input(0), alpha=float(n.get("alpha", 0.01)))]


def relu(b: Builder, n: Node) -> Sequence[Tensor]:
    """Relu, of integers too."""
    x = n.input(0)
    if x.dtype == "float32":
        return [arithmetic.unary(b, "RELU", x)]
    return [arithmetic.binary(b, "MAXIMUM", x, arithmetic.scalar(b, 0, x))]


def prelu(b: Builder, n: Node) -> Sequence[Tensor]:
    """PRelu: x where it is positive, slope · x where it is not."""
    x, slope = n.input(0), n.input(1)
    if n.opset < 7 and slope.rank == 1 and x.rank > 2 and slope.shape[0] > 1:
        slope = layout_moves.reshape(b, slope, [*slope.shape, *[1] * (x.rank - 2)])
    negative = arithmetic.binary(b, "LESS", x, arithmetic.scalar(b, 0, x))
    return [layout_moves.select(b, negative, arithmetic.mul(b, x, slope), x)]


def elu(b: Builder, n: Node) -> Sequence[Tensor]:
    """Elu: the kernel has alpha 1."""
    return [_elu(b, n.input(0), float(n.get("alpha", 1.0)))]


def _elu(b: Builder, x: Tensor, alpha: float) -> Tensor:
    if alpha == 1.0:
        return arithmetic.unary(b, "ELU", x)
    below = arithmetic.mul(
        b, arithmetic.sub(b, arithmetic.unary(b, "EXP", arithmetic.clamp(b, x, None, 0.0)), 1.0), alpha
    )
    return arithmetic.add(b, arithmetic.unary(b, "RELU", x), below)


def selu(b: Builder, n: Node) -> Sequence[Tensor]:
    """Selu."""
    alpha, gamma = float(n.get("alpha", 1.67326319217681884765625)), float(n.get("gamma", 1.05070102214813232421875))
    return [arithmetic.mul(b, _elu(b, n.input(0), alpha), gamma)]


def sigmoid(b: Builder, x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x))."""
    return arithmetic.unary(b, "LOGISTIC", x)


def hard_sigmoid(b: Builder, n: Node) -> Sequence[Tensor]:
    """HardSigmoid."""
    x = arithmetic.add(b, arithmetic.mul(b, n.input(0), float(n.get("alpha", 0.2))), float(n.get("beta", 0.5)))
    return [arithmetic.clamp(b, x, 0.0, 1.0)]


def softplus(b: Builder, n: Node) -> Sequence[Tensor]:
    """Softplus, without overflow: max(x, 0) + log(1 + exp(-|x|))."""
    return [softplus_of(b, n.input(0))]


def softplus_of(b: Builder, x: Tensor) -> Tensor:
    """Return log(1 + exp(x))."""
    small = arithmetic.unary(b, "EXP", arithmetic.unary(b, "NEG", arithmetic.unary(b, "ABS", x)))
    return arithmetic.add(b, arithmetic.unary(b, "RELU", x), arithmetic.unary(b, "LOG", arithmetic.add(b, small, 1.0)))


def softsign(b: Builder, n: Node) -> Sequence[Tensor]:
    """Softsign."""
    x = n.input(0)
    return [arithmetic.div(b, x, arithmetic.add(b, arithmetic.unary(b, "ABS", x), 1.0))]


def erf(b: Builder, n: Node) -> Sequence[Tensor]:
    """Erf."""
    return [erf_of(b, n.input(0))]


def erf_of(b: Builder, x: Tensor) -> Tensor:
    """Return erf(x) to 1.5e-7, by the formula at `_ERF`."""
    size = arithmetic.unary(b, "ABS", x)
    t = arithmetic.div(b, 1.0, arithmetic.add(b, arithmetic.mul(b, size, _ERF_P), 1.0))
    total = arithmetic.mul(b, t, _ERF[-1])
    for factor in reversed(_ERF[:-1]):
        total = arithmetic.mul(b, arithmetic.add(b, total, factor), t)
    fall = arithmetic.unary(b, "EXP", arithmetic.unary(b, "NEG", arithmetic.mul(b, x, x)))
    return arithmetic.mul(b, arithmetic.unary(b, "SIGN", x), arithmetic.sub(b, 1.0, arithmetic.mul(b, total, fall)))


def gelu(b: Builder, n: Node) -> Sequence[Tensor]:
    """Gelu, exact or by tanh."""
    x = n.input(0)
    if n.text("approximate", "none") == "tanh":
        cube = arithmetic.mul(b, arithmetic.mul(b, x, x), x)
        inner = arithmetic.mul(b, arithmetic.add(b, x, arithmetic.mul(b, cube, 0.044715)), math.sqrt(2 / math.pi))
        part = arithmetic.unary(b, "TANH", inner)
    else:
        part = erf_of(b, arithmetic.mul(b, x, math.sqrt(0.5)))
    return [arithmetic.mul(b, arithmetic.mul(b, x, 0.5), arithmetic.add(b, part, 1.0))]


def mish(b: Builder, n: Node) -> Sequence[Tensor]:
    """Mish."""
    x = n.input(0)
    return [arithmetic.mul(b, x, arithmetic.unary(b, "TANH", softplus_of(b, x)))]


def swish(b: Builder, n: Node) -> Sequence[Tensor]:
    """Swish: x · sigmoid(alpha · x)."""
    x = n.input(0)
    return [arithmetic.mul(b, x, sigmoid(b, arithmetic.mul(b, x, float(n.get("alpha", 1.0)))))]


def hard_swish(b: Builder, n: Node) -> Sequence[Tensor]:
    """HardSwish."""
    return [arithmetic.unary(b, "HARD_SWISH", n.input(0))]


def reciprocal(b: Builder, n: Node) -> Sequence[Tensor]:
    """Reciprocal."""
    return [arithmetic.div(b, 1.0, n.input(0))]


def tangent(b: Builder, n: Node) -> Sequence[Tensor]:
    """Tan."""
    x = n.input(0)
    return [arithmetic.div(b, arithmetic.unary(b, "SIN", x), arithmetic.unary(b, "COS", x))]


def arc(kind: str) -> Lowering:
    """Return the lowering of Asin, Acos or Atan, all by ATAN2."""

    def lower(b: Builder, n: Node) -> Sequence[Tensor]:
        x = n.input(0)
        if kind == "atan":
            return [arithmetic.binary(b, "ATAN2", x, b.const(np.ones(x.shape, np.float32)))]
        one = arithmetic.mul(b, arithmetic.sub(b, 1.0, x), arithmetic.add(b, x, 1.0))
        other = arithmetic.unary(b, "SQRT", one)
        return [arithmetic.binary(b, "ATAN2", *((x, other) if kind == "asin" else (other, x)))]

    return smooth(lower)


def hyperbolic(kind: str) -> Lowering:
    """Return the lowering of Sinh or Cosh."""

    def lower(b: Builder, n: Node) -> Sequence[Tensor]:
        x = n.input(0)
        up, down = arithmetic.unary(b, "EXP", x), arithmetic.unary(b, "EXP", arithmetic.unary(b, "NEG", x))
        both = arithmetic.sub(b, up, down) if kind == "sinh" else arithmetic.add(b, up, down)
        if kind == "sinh":
            # Near zero the difference of two ones loses all digits; the series is exact there.
            square = arithmetic.mul(b, x, x)
            series = arithmetic.mul(b, x, arithmetic.add(b, arithmetic.mul(b, square, 1 / 6), 1.0))
            near = arithmetic.binary(b, "LESS", arithmetic.unary(b, "ABS", x), arithmetic.scalar(b, 0.05, x))
            return [layout_moves.select(b, near, series, arithmetic.mul(b, both, 0.5))]
        return [arithmetic.mul(b, both, 0.5)]

    return smooth(lower)


def area(kind: str) -> Lowering:
    """Return the lowering of Asinh, Acosh or Atanh."""

    def lower(b: Builder, n: Node) -> Sequence[Tensor]:
        x = n.input(0)
        if kind == "atanh":
            ratio = arithmetic.div(b, arithmetic.add(b, x, 1.0), arithmetic.sub(b, 1.0, x))
            return [arithmetic.mul(b, arithmetic.unary(b, "LOG", ratio), 0.5)]
        if kind == "acosh":
            root = arithmetic.mul(
                b,
                arithmetic.unary(b, "SQRT", arithmetic.sub(b, x, 1.0)),
                arithmetic.unary(b, "SQRT", arithmetic.add(b, x, 1.0)),
            )
            return [arithmetic.unary(b, "LOG", arithmetic.add(b, x, root))]
        size = arithmetic.unary(b, "ABS", x)
        root = arithmetic.unary(b, "SQRT", arithmetic.add(b, arithmetic.mul(b, x, x), 1.0))
        return [
            arithmetic.mul(b, arithmetic.unary(b, "SIGN", x), arithmetic.unary(b, "LOG", arithmetic.add(b, size, root)))
        ]

    return smooth(lower)


def softmax(b: Builder, n: Node) -> Sequence[Tensor]:
    """Softmax: one axis from opset 13 on; before, all axes from `axis` on as one."""
    return [_along(b, n, softmax_last)]


def log_softmax(b: Builder, n: Node) -> Sequence[Tensor]:
    """LogSoftmax, with the same axes as Softmax."""
    return [_along(b, n, log_softmax_last)]


def softmax_last(b: Builder, x: Tensor) -> Tensor:
    """Return softmax over the last axis."""
    return arithmetic.unary(b, "SOFTMAX", x, beta=1.0)


def log_softmax_last(b: Builder, x: Tensor) -> Tensor:
    """Return log softmax over the last axis, by its definition: the kernel's own loses digits on wide rows."""
    lower = arithmetic.sub(b, x, arithmetic.reduce(b, "REDUCE_MAX", x, [-1], keep=True))
    total = arithmetic.reduce(b, "SUM", arithmetic.unary(b, "EXP", lower), [-1], keep=True)
    return arithmetic.sub(b, lower, arithmetic.unary(b, "LOG", total))


def hardmax(b: Builder, n: Node) -> Sequence[Tensor]:
    """Hardmax: one at the first largest entry."""

    def one(builder: Builder, x: Tensor) -> Tensor:
        best = builder.emit(
            "ARG_MAX", [x, builder.const(x.rank - 1, "int32")], "int32", x.shape[:-1], output_type="int32"
        )
        places = builder.const(np.arange(x.shape[-1], dtype=np.int32))
        hit = arithmetic.binary(builder, "EQUAL", layout_moves.reshape(builder, best, [*best.shape, 1]), places)
        return layout_moves.cast(builder, hit, "float32")

    return [_along(b, n, one)]


def _along(b: Builder, n: Node, last: Callable[[Builder, Tensor], Tensor]) -> Tensor:
    """Apply `last` to rows of the axis (or, before opset 13, of all axes from it on)."""
    x = n.input(0)
    axis = int(n.get("axis", -1 if n.opset >= 13 else 1))
    axis = axis + x.rank if axis < 0 else axis
    if n.opset < 13:
        rows = layout_moves.reshape(b, x, [layout_moves.size(x.shape[:axis]), layout_moves.size(x.shape[axis:])])
        return layout_moves.reshape(b, last(b, rows), x.shape)
    if not x.rank:
        return layout_moves.reshape(b, last(b, layout_moves.reshape(b, x, [1])), [])
    order = [i for i in range(x.rank) if i != axis] + [axis]
    turned = layout_moves.transpose(b, x, order)
    rows = layout_moves.reshape(b, turned, [layout_moves.size(turned.shape[:-1]), turned.shape[-1]])
    made = layout_moves.reshape(b, last(b, rows), turned.shape)
    return layout_moves.transpose(b, made, [order.index(i) for i in range(x.rank)])


def thresholded_relu(b: Builder, n: Node) -> Sequence[Tensor]:
    """ThresholdedRelu."""
    x = n.input(0)
    above = arithmetic.binary(b, "GREATER", x, arithmetic.scalar(b, float(n.get("alpha", 1.0)), x))
    return [layout_moves.select(b, above, x, arithmetic.scalar(b, 0.0, x))]


def shrink(b: Builder, n: Node) -> Sequence[Tensor]:
    """Shrink."""
    x = n.input(0)
    bias, limit = float(n.get("bias", 0.0)), float(n.get("lambd", 0.5))
    low = arithmetic.binary(b, "LESS", x, arithmetic.scalar(b, -limit, x))
    high = arithmetic.binary(b, "GREATER", x, arithmetic.scalar(b, limit, x))
    inner = layout_moves.select(b, high, arithmetic.sub(b, x, bias), arithmetic.scalar(b, 0.0, x))
    return [layout_moves.select(b, low, arithmetic.add(b, x, bias), inner)]


LOWERINGS: dict[str, Lowering] = {
    "Relu": relu, "LeakyRelu": smooth(leaky_relu), "PRelu": prelu, "Elu": smooth(elu), "Selu": smooth(selu),
    "Sigmoid": unary_of("LOGISTIC"), "Tanh": unary_of("TANH"), "HardSigmoid": smooth(hard_sigmoid),
    "Softplus": smooth(softplus), "Softsign": smooth(softsign), "Erf": smooth(erf), "Gelu": smooth(gelu),
    "Mish": smooth(mish), "Swish": smooth(swish), "HardSwish": smooth(hard_swish), "Reciprocal": smooth(reciprocal),
    "Sin": unary_of("SIN"), "Cos": unary_of("COS"), "Tan": smooth(tangent), "Asin": arc("asin"), "Acos": arc("acos"),
    "Atan": arc("atan"), "Sinh": hyperbolic("sinh"), "Cosh": hyperbolic("cosh"), "Asinh": area("asinh"),
    "Acosh": area("acosh"), "Atanh": area("atanh"), "Softmax": smooth(softmax), "LogSoftmax": smooth(log_softmax),
    "Hardmax": smooth(hardmax), "ThresholdedRelu": smooth(thresholded_relu), "Shrink": shrink,
}  # fmt: skip
