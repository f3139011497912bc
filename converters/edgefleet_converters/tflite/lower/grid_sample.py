"""GridSample: values between the entries of a grid, at places known at run time. Source: the ONNX operator page, opset 20.

Each output reads a few taps along each axis (one for nearest, two for linear, four for cubic). A tap is a gather from the flat
tensor; its weight is the product of the weights of its axes.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.lower.activations import smooth
from edgefleet_converters.tflite.node import Lowering, Node

_CUBIC = -0.75
_MODES = {"bilinear": "linear", "bicubic": "cubic"}


def grid_sample(b: Builder, n: Node) -> Sequence[Tensor]:
    """GridSample in two or three dimensions, all modes and paddings."""
    x, grid = n.input(0), n.input(1)
    mode = n.text("mode", "linear")
    mode = _MODES.get(mode, mode)
    padding, corners = n.text("padding_mode", "zeros"), bool(n.get("align_corners", 0))
    lengths = x.shape[2:]
    count = layout_moves.size(grid.shape[1:-1])
    flat_grid = layout_moves.reshape(b, grid, [x.shape[0], count, len(lengths)])
    found = []
    for i, length in enumerate(lengths):
        # The grid's last axis runs from the innermost axis outwards.
        place = layout_moves.index(b, flat_grid, 2, len(lengths) - 1 - i)
        found.append(
            taps(b, _placed(b, place, length, mode, padding, corners=corners), length, mode, padding, corners=corners)
        )
    turned = layout_moves.transpose(b, x, [0, *range(2, x.rank), 1])
    rows = layout_moves.reshape(b, turned, [x.shape[0], layout_moves.size(lengths), x.shape[1]])
    total: Tensor | None = None
    for chosen in itertools.product(*found):
        part = tap(b, rows, chosen, lengths)
        total = part if total is None else arithmetic.add(b, total, part)
    assert total is not None
    made = layout_moves.transpose(b, total, [0, 2, 1])
    return [layout_moves.reshape(b, made, [x.shape[0], x.shape[1], *grid.shape[1:-1]])]


def tap(b: Builder, rows: Tensor, chosen: Sequence[tuple[Tensor, Tensor]], lengths: Sequence[int]) -> Tensor:
    """Return [N, K, C]: the entries at one tap, by its weight. chosen: (index, weight) float32 [N, K] for each axis."""
    place: Tensor | None = None
    weight: Tensor | None = None
    for (at, share), length in zip(chosen, lengths, strict=True):
        place = at if place is None else arithmetic.add(b, arithmetic.mul(b, place, float(length)), at)
        weight = share if weight is None else arithmetic.mul(b, weight, share)
    assert place is not None
    assert weight is not None
    whole = layout_moves.cast(b, place, "int32")
    base = np.arange(rows.shape[0], dtype=np.int32).reshape(-1, 1) * rows.shape[1]
    flat = layout_moves.reshape(b, rows, [rows.shape[0] * rows.shape[1], rows.shape[2]])
    values = layout_moves.gather(b, flat, arithmetic.add(b, whole, b.const(base)), 0)
    return arithmetic.mul(b, values, layout_moves.reshape(b, weight, [*weight.shape, 1]))


def _placed(b: Builder, place: Tensor, length: int, mode: str, padding: str, *, corners: bool) -> Tensor:
    """Return -1 … 1 as a place on the axis, brought inside where the padding asks for it."""
    shifted = arithmetic.add(b, place, 1.0)
    if corners:
        real = arithmetic.mul(b, shifted, (length - 1) / 2)
    else:
        real = arithmetic.mul(b, arithmetic.sub(b, arithmetic.mul(b, shifted, float(length)), 1.0), 0.5)
    real = arithmetic.unary(b, "ROUND", real) if mode == "nearest" else real
    if padding == "border":
        return (
            arithmetic.clamp(b, real, 0.0, float(length - 1))
            if mode != "cubic"
            else _outside_clamped(b, real, length, corners=corners)
        )
    if padding == "reflection":
        return _reflected(b, real, length, corners=corners)
    # Far places have no tap inside; the clamp only keeps the index arithmetic in range.
    return arithmetic.clamp(b, real, -3.0, float(length + 2))


def _borders(length: int, *, corners: bool) -> tuple[float, float]:
    return (0.0, float(length - 1)) if corners else (-0.5, length - 0.5)


def _outside_clamped(b: Builder, real: Tensor, length: int, *, corners: bool) -> Tensor:
    """Return places beyond the border at the last entry; those between border and entry stay."""
    low, high = _borders(length, corners=corners)
    under = arithmetic.binary(b, "LESS", real, arithmetic.scalar(b, low, real))
    over = arithmetic.binary(b, "GREATER", real, arithmetic.scalar(b, high, real))
    raised = layout_moves.select(b, under, arithmetic.scalar(b, 0.0, real), real)
    return layout_moves.select(b, over, arithmetic.scalar(b, float(length - 1), real), raised)


def _reflected(b: Builder, real: Tensor, length: int, *, corners: bool) -> Tensor:
    """Return places mirrored at the borders until they lie between them."""
    low, high = _borders(length, corners=corners)
    width = high - low
    if width == 0:
        return arithmetic.mul(b, real, 0.0)
    apart = arithmetic.unary(b, "ABS", arithmetic.sub(b, real, low))
    turned = arithmetic.binary(b, "FLOOR_MOD", apart, arithmetic.scalar(b, 2 * width, real))
    inside = arithmetic.binary(b, "MINIMUM", turned, arithmetic.sub(b, 2 * width, turned))
    return arithmetic.add(b, inside, low)


def taps(
    b: Builder, place: Tensor, length: int, mode: str, padding: str, *, corners: bool
) -> list[tuple[Tensor, Tensor]]:
    """Return (index, weight) of each tap along one axis; indices lie inside, outside taps weigh nothing for zeros."""
    if mode == "nearest":
        return [_inside(b, place, None, length, padding, corners=corners)]
    first = arithmetic.unary(b, "FLOOR", place)
    part = arithmetic.sub(b, place, first)
    if mode == "linear":
        shares = [(0, arithmetic.sub(b, 1.0, part)), (1, part)]
    else:
        shares = [(-1, _outer(b, arithmetic.add(b, part, 1.0))), (0, _inner(b, part)), (1, _inner(b, arithmetic.sub(b, 1.0, part))),
                  (2, _outer(b, arithmetic.sub(b, 2.0, part)))]  # fmt: skip
    return [
        _inside(b, arithmetic.add(b, first, float(step)), share, length, padding, corners=corners)
        for step, share in shares
    ]


def _inside(
    b: Builder, place: Tensor, share: Tensor | None, length: int, padding: str, *, corners: bool
) -> tuple[Tensor, Tensor]:
    if padding == "reflection":
        mirrored = _reflected(b, place, length, corners=corners)
        kept = arithmetic.clamp(b, arithmetic.unary(b, "FLOOR", mirrored), 0.0, float(length - 1))
    else:
        kept = arithmetic.clamp(b, place, 0.0, float(length - 1))
    weight = share if share is not None else b.const(np.ones(place.shape, np.float32))
    if padding == "zeros":
        there = layout_moves.cast(b, arithmetic.binary(b, "EQUAL", place, kept), "float32")
        weight = arithmetic.mul(b, weight, there)
    return kept, weight


def _inner(b: Builder, d: Tensor) -> Tensor:
    line = arithmetic.sub(b, arithmetic.mul(b, d, _CUBIC + 2), _CUBIC + 3)
    return arithmetic.add(b, arithmetic.mul(b, arithmetic.mul(b, line, d), d), 1.0)


def _outer(b: Builder, d: Tensor) -> Tensor:
    line = arithmetic.add(
        b, arithmetic.mul(b, arithmetic.sub(b, arithmetic.mul(b, d, _CUBIC), 5 * _CUBIC), d), 8 * _CUBIC
    )
    return arithmetic.sub(b, arithmetic.mul(b, line, d), 4 * _CUBIC)


LOWERINGS: dict[str, Lowering] = {"GridSample": smooth(grid_sample)}
