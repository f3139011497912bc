"""Take the mean error that rounded weights make out of the biases (bias correction).

A channel's weights are rounded up or down together more often than not, so its results are shifted; on inputs with known means the
shift is known: error of each weight · mean of what it multiplies. Padding is left out of the account.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from edgefleet_converters.tflite.ir import Array, Graph, Op, Tensor
from edgefleet_converters.tflite.quantize import affine
from edgefleet_converters.tflite.quantize.ranges import Row

CHANNEL_AXIS: Final[Mapping[str, int]] = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
"""Operator with a bias -> axis of its weights that the results' channels lie on."""
MOST_SAMPLES: Final = 32
"""A mean needs no more; each costs a run of the model."""


class ChannelMeans:
    """Means of each input of an operator that `corrected` corrects, over the samples that are added."""

    def __init__(self, graph: Graph) -> None:
        self._needed = {id(op.inputs[0]) for op in graph.ops if _bias(op) is not None}
        self._sums: dict[int, Array] = {}
        self._count = 0

    def add(self, row: Row) -> None:
        """Take one sample's values into account; those beyond `MOST_SAMPLES` are not."""
        if self._count == MOST_SAMPLES:
            return
        self._count += 1
        for key in self._needed.intersection(row):
            mean = row[key].reshape(-1, row[key].shape[-1]).mean(axis=0, dtype=np.float64)
            self._sums[key] = self._sums[key] + mean if key in self._sums else mean

    def means(self) -> dict[int, Array]:
        """Return id of tensor -> means float64 [channels]; tensors with a value that is not finite are left out."""
        return {key: total / self._count for key, total in self._sums.items() if np.isfinite(total).all()}


def _bias(op: Op) -> Tensor | None:
    """Return the constant float32 bias of an operator with constant float32 weights; None where one is missing."""
    if op.code not in CHANNEL_AXIS or len(op.inputs) < 3:
        return None
    weights, bias = op.inputs[1], op.inputs[2]
    if weights is None or bias is None or weights.data is None or bias.data is None:
        return None
    return bias if weights.dtype == bias.dtype == "float32" and weights.data.size else None


def corrected(op: Op, means: Mapping[int, Array], axis: int | None) -> Op:
    """Return the operator with the bias that suits weights rounded to int8; as it is where one is missing.

    means: as `ChannelMeans.means`. axis: of the weights, along which each place has a scale of its own; None = one scale for all.
    """
    bias, weights = _bias(op), op.inputs[1] if len(op.inputs) > 1 else None
    if bias is None or weights is None or id(op.inputs[0]) not in means:
        return op
    channels, mean = CHANNEL_AXIS[op.code], means[id(op.inputs[0])]
    scales = affine.weight_scales(weights.constant, axis)
    spread = scales.reshape([-1 if i == axis else 1 for i in range(weights.rank)])
    error = weights.constant.astype(np.float64) - affine.weights_as(weights, scales, axis).constant * spread
    if error.shape[-1] != len(mean):
        return op  # in groups each result sees a part of the channels
    products = error * mean
    shift = products.sum(axis=tuple(i for i in range(weights.rank) if i != channels))
    moved = replace(bias, name=f"{bias.name}/corrected", data=(bias.constant + shift).astype(np.float32))
    return replace(op, inputs=(op.inputs[0], weights, moved, *op.inputs[3:]))
