"""Optimizer steps of ai.onnx.preview.training, for models that learn on the device. Source: the ONNX operator pages."""

from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.node import Lowering, Node


def _groups(n: Node, kinds: int) -> list[list[Tensor]]:
    """Return the tensors of each optimised value: inputs come as all X, all G, all of each state."""
    each = (len(n.inputs) - 2) // kinds
    return [[n.input(2 + kind * each + i) for kind in range(kinds)] for i in range(each)]


def _regularised(b: Builder, n: Node, x: Tensor, gradient: Tensor) -> Tensor:
    return arithmetic.add(b, arithmetic.mul(b, x, float(n.get("norm_coefficient", 0.0))), gradient)


def _first(b: Builder, n: Node) -> Tensor:
    """Say whether no step was made before."""
    return layout_moves.reshape(
        b, arithmetic.binary(b, "LESS_EQUAL", n.input(1), arithmetic.scalar(b, 0, n.input(1))), []
    )


def _columns(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [tensor for column in zip(*rows, strict=True) for tensor in column]


def adagrad(b: Builder, n: Node) -> Sequence[Tensor]:
    """Adagrad."""
    steps = layout_moves.cast(b, n.input(1), "float32")
    rate = arithmetic.div(
        b, n.input(0), arithmetic.add(b, arithmetic.mul(b, steps, float(n.get("decay_factor", 0.0))), 1.0)
    )
    rows = []
    for x, gradient, state in _groups(n, 3):
        slope = _regularised(b, n, x, gradient)
        new = arithmetic.add(b, state, arithmetic.mul(b, slope, slope))
        root = arithmetic.add(b, arithmetic.unary(b, "SQRT", new), float(n.get("epsilon", 1e-6)))
        rows.append((arithmetic.sub(b, x, arithmetic.div(b, arithmetic.mul(b, rate, slope), root)), new))
    return _columns(rows)


def momentum(b: Builder, n: Node) -> Sequence[Tensor]:
    """Momentum, standard or after Nesterov."""
    alpha, beta = float(n.get("alpha")), float(n.get("beta"))
    share = layout_moves.select(b, _first(b, n), b.const(np.float32(1)), b.const(np.float32(beta)))
    rows = []
    for x, gradient, state in _groups(n, 3):
        slope = _regularised(b, n, x, gradient)
        new = arithmetic.add(b, arithmetic.mul(b, state, alpha), arithmetic.mul(b, slope, share))
        way = (
            new if n.text("mode", "standard") == "standard" else arithmetic.add(b, slope, arithmetic.mul(b, new, alpha))
        )
        rows.append((arithmetic.sub(b, x, arithmetic.mul(b, way, n.input(0))), new))
    return _columns(rows)


def adam(b: Builder, n: Node) -> Sequence[Tensor]:
    """Adam, with its correction of the first steps."""
    alpha, beta = float(n.get("alpha", 0.9)), float(n.get("beta", 0.999))
    steps = layout_moves.cast(b, n.input(1), "float32")
    fade_alpha = arithmetic.sub(b, 1.0, arithmetic.binary(b, "POW", b.const(np.float32(alpha)), steps))
    fade_beta = arithmetic.sub(b, 1.0, arithmetic.binary(b, "POW", b.const(np.float32(beta)), steps))
    corrected = arithmetic.div(b, arithmetic.mul(b, n.input(0), arithmetic.unary(b, "SQRT", fade_beta)), fade_alpha)
    rate = layout_moves.select(b, _first(b, n), n.input(0), corrected)
    rows = []
    for x, gradient, first, second in _groups(n, 4):
        slope = _regularised(b, n, x, gradient)
        mean = arithmetic.add(b, arithmetic.mul(b, first, alpha), arithmetic.mul(b, slope, 1 - alpha))
        square = arithmetic.add(
            b, arithmetic.mul(b, second, beta), arithmetic.mul(b, arithmetic.mul(b, slope, slope), 1 - beta)
        )
        root = arithmetic.add(b, arithmetic.unary(b, "SQRT", square), float(n.get("epsilon", 1e-6)))
        new = arithmetic.sub(b, x, arithmetic.mul(b, rate, arithmetic.div(b, mean, root)))
        rows.append((arithmetic.mul(b, new, 1 - float(n.get("norm_coefficient_post", 0.0))), mean, square))
    return _columns(rows)


LOWERINGS: dict[str, Lowering] = {"Adagrad": adagrad, "Momentum": momentum, "Adam": adam}
