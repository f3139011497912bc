"""Optimizer steps of ai.onnx.preview.training, for models that learn on the device. Source: the ONNX operator pages."""

from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import maths, moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.node import Lowering, Node


def _groups(n: Node, kinds: int) -> list[list[Tensor]]:
    """Return the tensors of each optimised value: inputs come as all X, all G, all of each state."""
    each = (len(n.inputs) - 2) // kinds
    return [[n.input(2 + kind * each + i) for kind in range(kinds)] for i in range(each)]


def _regularised(b: Builder, n: Node, x: Tensor, gradient: Tensor) -> Tensor:
    return maths.add(b, maths.mul(b, x, float(n.get("norm_coefficient", 0.0))), gradient)


def _first(b: Builder, n: Node) -> Tensor:
    """Say whether no step was made before."""
    return moves.reshape(b, maths.binary(b, "LESS_EQUAL", n.input(1), maths.scalar(b, 0, n.input(1))), [])


def _columns(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [tensor for column in zip(*rows, strict=True) for tensor in column]


def adagrad(b: Builder, n: Node) -> Sequence[Tensor]:
    """Adagrad."""
    steps = moves.cast(b, n.input(1), "float32")
    rate = maths.div(b, n.input(0), maths.add(b, maths.mul(b, steps, float(n.get("decay_factor", 0.0))), 1.0))
    rows = []
    for x, gradient, state in _groups(n, 3):
        slope = _regularised(b, n, x, gradient)
        new = maths.add(b, state, maths.mul(b, slope, slope))
        root = maths.add(b, maths.unary(b, "SQRT", new), float(n.get("epsilon", 1e-6)))
        rows.append((maths.sub(b, x, maths.div(b, maths.mul(b, rate, slope), root)), new))
    return _columns(rows)


def momentum(b: Builder, n: Node) -> Sequence[Tensor]:
    """Momentum, standard or after Nesterov."""
    alpha, beta = float(n.get("alpha")), float(n.get("beta"))
    share = moves.select(b, _first(b, n), b.const(np.float32(1)), b.const(np.float32(beta)))
    rows = []
    for x, gradient, state in _groups(n, 3):
        slope = _regularised(b, n, x, gradient)
        new = maths.add(b, maths.mul(b, state, alpha), maths.mul(b, slope, share))
        way = new if n.text("mode", "standard") == "standard" else maths.add(b, slope, maths.mul(b, new, alpha))
        rows.append((maths.sub(b, x, maths.mul(b, way, n.input(0))), new))
    return _columns(rows)


def adam(b: Builder, n: Node) -> Sequence[Tensor]:
    """Adam, with its correction of the first steps."""
    alpha, beta = float(n.get("alpha", 0.9)), float(n.get("beta", 0.999))
    steps = moves.cast(b, n.input(1), "float32")
    fade_alpha = maths.sub(b, 1.0, maths.binary(b, "POW", b.const(np.float32(alpha)), steps))
    fade_beta = maths.sub(b, 1.0, maths.binary(b, "POW", b.const(np.float32(beta)), steps))
    corrected = maths.div(b, maths.mul(b, n.input(0), maths.unary(b, "SQRT", fade_beta)), fade_alpha)
    rate = moves.select(b, _first(b, n), n.input(0), corrected)
    rows = []
    for x, gradient, first, second in _groups(n, 4):
        slope = _regularised(b, n, x, gradient)
        mean = maths.add(b, maths.mul(b, first, alpha), maths.mul(b, slope, 1 - alpha))
        square = maths.add(b, maths.mul(b, second, beta), maths.mul(b, maths.mul(b, slope, slope), 1 - beta))
        root = maths.add(b, maths.unary(b, "SQRT", square), float(n.get("epsilon", 1e-6)))
        new = maths.sub(b, x, maths.mul(b, rate, maths.div(b, mean, root)))
        rows.append((maths.mul(b, new, 1 - float(n.get("norm_coefficient_post", 0.0))), mean, square))
    return _columns(rows)


LOWERINGS: dict[str, Lowering] = {"Adagrad": adagrad, "Momentum": momentum, "Adam": adam}
