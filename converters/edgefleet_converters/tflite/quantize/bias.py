"""Take the mean error that rounded weights make out of the biases (bias correction).

A channel's weights are rounded up or down together more often than not, so its results are shifted; on inputs with known means the
shift is known: error of each weight · mean of what it multiplies. Padding is left out of the account.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from edgefleet_converters.tflite.ir import Array, Graph, Op, Tensor
from edgefleet_converters.tflite.quantize import affine
from edgefleet_converters.tflite.quantize.ranges import watched
from edgefleet_converters.tflite.writer import write
from edgefleet_runtime.port import ModelRuntime, load

CHANNEL_AXIS: Final[Mapping[str, int]] = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
"""Operator with a bias -> axis of its weights that the results' channels lie on."""
_MOST_SAMPLES: Final = 32
"""A mean needs no more; each costs a run of the model."""


def channel_means(
    graph: Graph, samples: Callable[[ModelRuntime], Iterable[Mapping[str, Array]]], adapter: str
) -> dict[int, Array]:
    """Return id of tensor -> means float64 [channels] of each input of an operator that `corrected` corrects.

    samples: as for `ranges.observe`. Blocks while the model runs. Raises ModelLoadError, RunError, InputError.
    """
    needed = {id(op.inputs[0]): op.inputs[0] for op in graph.ops if _bias(op) is not None}
    shown, made = watched(graph)
    if not needed or not made:
        return {}
    model = load(adapter, write(shown))
    names = {id(tensor): f"watched_{index}" for index, tensor in enumerate(made)}
    sums: dict[int, Array] = {}
    count = 0
    for sample, _ in zip(samples(model), range(_MOST_SAMPLES), strict=False):
        answers, count = model.run(sample), count + 1
        for key, tensor in needed.items():
            if tensor is None or (key not in names and tensor.name not in sample):
                continue
            values = answers[names[key]] if key in names else np.asarray(sample[tensor.name])
            mean = values.reshape(-1, values.shape[-1]).mean(axis=0, dtype=np.float64)
            sums[key] = sums[key] + mean if key in sums else mean
    return {key: total / count for key, total in sums.items() if np.isfinite(total).all()}


def corrected(
    graph: Graph, means: Mapping[int, Array], skip: frozenset[str] = frozenset(), *, per_channel: bool = True
) -> Graph:
    """Return the graph with the biases that suit weights rounded to int8, by channel or as a whole.

    skip: names of weights that are not rounded.
    """
    return replace(graph, ops=tuple(_corrected(op, means, skip, per_channel) for op in graph.ops))


def _bias(op: Op) -> Tensor | None:
    """Return the constant float32 bias of an operator with constant float32 weights; None where one is missing."""
    if op.code not in CHANNEL_AXIS or len(op.inputs) < 3:
        return None
    weights, bias = op.inputs[1], op.inputs[2]
    if weights is None or bias is None or weights.data is None or bias.data is None:
        return None
    return bias if weights.dtype == bias.dtype == "float32" and weights.data.size else None


def _corrected(op: Op, means: Mapping[int, Array], skip: frozenset[str], per_channel: bool) -> Op:
    bias, weights = _bias(op), op.inputs[1] if len(op.inputs) > 1 else None
    if bias is None or weights is None or id(op.inputs[0]) not in means or weights.name in skip:
        return op
    axis, mean = CHANNEL_AXIS[op.code], means[id(op.inputs[0])]
    own = axis if per_channel else None
    scales = affine.weight_scales(weights.constant, own)
    spread = scales.reshape([-1 if i == own else 1 for i in range(weights.rank)])
    error = weights.constant.astype(np.float64) - affine.weights_as(weights, scales, own).constant * spread
    if error.shape[-1] != len(mean):
        return op  # in groups each result sees a part of the channels
    products = error * mean
    shift = products.sum(axis=tuple(i for i in range(weights.rank) if i != axis))
    moved = replace(bias, name=f"{bias.name}/corrected", data=(bias.constant + shift).astype(np.float32))
    return replace(op, inputs=(op.inputs[0], weights, moved, *op.inputs[3:]))
