"""Normalisations. Source: the ONNX operator pages. Statistics are computed by the mean of squared differences, as the definition says."""

from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.lower.activations import smooth
from edgefleet_converters.tflite.node import Lowering, Node


def _per_channel(b: Builder, value: Tensor, rank: int) -> Tensor:
    """Return a vector as [1, C, 1, …]."""
    return layout_moves.reshape(b, value, [1, layout_moves.size(value.shape), *[1] * (rank - 2)])


def batch_normalization(b: Builder, n: Node) -> Sequence[Tensor]:
    """BatchNormalization with stored statistics, as one product and one sum; in training mode with those of the batch."""
    x, scale, bias = n.input(0), n.input(1), n.input(2)
    mean, variance = n.input(3), n.input(4)
    epsilon = float(n.get("epsilon", 1e-5))
    training = bool(n.get("training_mode", 0))
    kept: list[Tensor] = []
    if training:
        axes = [i for i in range(x.rank) if i != 1]
        own_mean = arithmetic.reduce(b, "MEAN", x, axes, keep=False)
        apart = arithmetic.sub(b, x, _per_channel(b, own_mean, x.rank))
        own_variance = arithmetic.reduce(b, "MEAN", arithmetic.mul(b, apart, apart), axes, keep=False)
        momentum = float(n.get("momentum", 0.9))
        for old, own in ((mean, own_mean), (variance, own_variance)):
            kept.append(arithmetic.add(b, arithmetic.mul(b, old, momentum), arithmetic.mul(b, own, 1 - momentum)))
        mean, variance = own_mean, own_variance
    factor = arithmetic.div(b, scale, arithmetic.unary(b, "SQRT", arithmetic.add(b, variance, epsilon)))
    offset = arithmetic.sub(b, bias, arithmetic.mul(b, mean, factor))
    if x.rank == 1:
        return [arithmetic.add(b, arithmetic.mul(b, x, factor), offset), *kept]
    wide = arithmetic.mul(b, x, _per_channel(b, factor, x.rank))
    return [arithmetic.add(b, wide, _per_channel(b, offset, x.rank)), *kept]


def normalized(b: Builder, x: Tensor, axes: Sequence[int], epsilon: float) -> Tensor:
    """Return x less its mean, over its deviation."""
    apart = arithmetic.sub(b, x, arithmetic.reduce(b, "MEAN", x, axes, keep=True))
    variance = arithmetic.reduce(b, "MEAN", arithmetic.mul(b, apart, apart), axes, keep=True)
    return arithmetic.div(b, apart, arithmetic.unary(b, "SQRT", arithmetic.add(b, variance, epsilon)))


def instance_normalization(b: Builder, n: Node) -> Sequence[Tensor]:
    """InstanceNormalization."""
    x = n.input(0)
    made = normalized(b, x, list(range(2, x.rank)), float(n.get("epsilon", 1e-5)))
    scaled = arithmetic.mul(b, made, _per_channel(b, n.input(1), x.rank))
    return [arithmetic.add(b, scaled, _per_channel(b, n.input(2), x.rank))]


def mean_variance_normalization(b: Builder, n: Node) -> Sequence[Tensor]:
    """MeanVarianceNormalization: less the mean, over the deviation and 1e-9."""
    x = n.input(0)
    axes = [int(a) for a in n.get("axes", [0, 2, 3])]
    apart = arithmetic.sub(b, x, arithmetic.reduce(b, "MEAN", x, axes, keep=True))
    variance = arithmetic.reduce(b, "MEAN", arithmetic.mul(b, apart, apart), axes, keep=True)
    return [arithmetic.div(b, apart, arithmetic.add(b, arithmetic.unary(b, "SQRT", variance), 1e-9))]


def lp_normalization(b: Builder, n: Node) -> Sequence[Tensor]:
    """LpNormalization; rows of zeros stay zeros."""
    x = n.input(0)
    axis = int(n.get("axis", -1))
    size = arithmetic.unary(b, "ABS", x)
    if int(n.get("p", 2)) == 1:
        norm = arithmetic.reduce(b, "SUM", size, [axis], keep=True)
    else:
        norm = arithmetic.unary(b, "SQRT", arithmetic.reduce(b, "SUM", arithmetic.mul(b, x, x), [axis], keep=True))
    nothing = arithmetic.binary(b, "EQUAL", norm, arithmetic.scalar(b, 0.0, norm))
    safe = layout_moves.select(b, nothing, arithmetic.scalar(b, 1.0, norm), norm)
    return [layout_moves.select(b, nothing, arithmetic.scalar(b, 0.0, x), arithmetic.div(b, x, safe))]


def local_response(b: Builder, n: Node) -> Sequence[Tensor]:
    """LRN across channels: sums of neighbouring squares by shifted slices."""
    x = n.input(0)
    size = int(n.get("size"))
    alpha, beta, bias = float(n.get("alpha", 1e-4)), float(n.get("beta", 0.75)), float(n.get("bias", 1.0))
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    rest = [0] * (x.rank - 2)
    squares = layout_moves.pad(b, arithmetic.mul(b, x, x), [0, before, *rest], [0, after, *rest])
    total = layout_moves.take(b, squares, 1, 0, x.shape[1])
    for shift in range(1, size):
        total = arithmetic.add(b, total, layout_moves.take(b, squares, 1, shift, x.shape[1]))
    base = arithmetic.add(b, arithmetic.mul(b, total, alpha / size), bias)
    return [arithmetic.div(b, x, arithmetic.binary(b, "POW", base, b.const(np.float32(beta))))]


LOWERINGS: dict[str, Lowering] = {
    "BatchNormalization": smooth(batch_normalization), "InstanceNormalization": smooth(instance_normalization),
    "MeanVarianceNormalization": smooth(mean_variance_normalization), "LpNormalization": smooth(lp_normalization),
    "LRN": smooth(local_response),
}  # fmt: skip
