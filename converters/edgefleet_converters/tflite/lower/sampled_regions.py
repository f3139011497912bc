"""DeformConv and RoiAlign: values between the entries of a picture, at places known at run time.

Source: the ONNX operator pages (DeformConv 19 and 22, RoiAlign 10, 16 and 22). Both read four entries around each place, as GridSample
does; a convolution is then a matrix product over what was read, a region the mean (or the largest) of its places.
"""

from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.lower.activations import smooth
from edgefleet_converters.tflite.lower.grid_sample import tap, taps
from edgefleet_converters.tflite.node import Lowering, Node


def deform_conv(b: Builder, n: Node) -> Sequence[Tensor]:
    """DeformConv in two dimensions, with groups, groups of offsets, mask and bias."""
    x, weight, offset = n.input(0), n.input(1), n.input(2)
    if x.rank != 4:
        b.not_compiled("DeformConv in other than two dimensions")
    samples, channels = x.shape[:2]
    made, own, *kernel = weight.shape
    out, apart = offset.shape[2:], int(n.get("offset_group", 1))
    count = layout_moves.size(kernel)
    strides, pads, steps = (
        list(n.get(name, [default] * 4)) for name, default in (("strides", 1), ("pads", 0), ("dilations", 1))
    )
    # All places of one tap of the kernel lie together: [taps, rows, columns].
    at = np.meshgrid(np.arange(kernel[0]), np.arange(kernel[1]), np.arange(out[0]), np.arange(out[1]), indexing="ij")
    base = [(at[2 + i] * strides[i] - pads[i] + at[i] * steps[i]).reshape(1, -1).astype(np.float32) for i in (0, 1)]
    moved = layout_moves.reshape(b, offset, [samples, apart, count, 2, layout_moves.size(out)])
    parts = []
    for group in range(apart):
        one = layout_moves.index(b, moved, 1, group)
        places = [
            arithmetic.add(
                b, layout_moves.reshape(b, layout_moves.index(b, one, 2, i), [samples, base[i].size]), b.const(base[i])
            )
            for i in (0, 1)
        ]
        read = _between(b, layout_moves.take(b, x, 1, group * channels // apart, channels // apart), places)
        if n.given(4):
            mask = layout_moves.reshape(b, n.input(4), [samples, apart, base[0].size, 1])
            read = arithmetic.mul(b, read, layout_moves.index(b, mask, 1, group))
        parts.append(layout_moves.reshape(b, read, [samples, count, layout_moves.size(out), channels // apart]))
    rows = layout_moves.transpose(b, layout_moves.concat(b, parts, 3), [0, 2, 1, 3])
    groups = channels // own
    sums = [
        arithmetic.matmul(
            b,
            layout_moves.reshape(
                b, layout_moves.take(b, rows, 3, g * own, own), [samples * layout_moves.size(out), count * own]
            ),
            _turned_weight(b, layout_moves.take(b, weight, 0, g * made // groups, made // groups), count),
        )
        for g in range(groups)
    ]
    total = layout_moves.concat(b, sums, 1)
    total = arithmetic.add(b, total, n.input(3)) if n.given(3) else total
    whole = layout_moves.reshape(b, total, [samples, *out, made])
    return [layout_moves.transpose(b, whole, [0, 3, 1, 2])]


def _turned_weight(b: Builder, weight: Tensor, count: int) -> Tensor:
    """Return [taps · inputs, outputs]."""
    made, own = weight.shape[:2]
    flat = layout_moves.reshape(b, weight, [made, own, count])
    return layout_moves.reshape(b, layout_moves.transpose(b, flat, [2, 1, 0]), [count * own, made])


def _between(b: Builder, x: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Return [N, K, C]: x at places [N, K] of each axis, zero outside."""
    lengths = x.shape[2:]
    turned = layout_moves.transpose(b, x, [0, 2, 3, 1])
    rows = layout_moves.reshape(b, turned, [x.shape[0], layout_moves.size(lengths), x.shape[1]])
    held = [arithmetic.clamp(b, place, -3.0, float(length + 2)) for place, length in zip(places, lengths, strict=True)]
    down, across = (
        taps(b, place, length, "linear", "zeros", corners=False) for place, length in zip(held, lengths, strict=True)
    )
    parts = [tap(b, rows, (y, z), lengths) for y in down for z in across]
    return _joined(b, parts, "ADD")


def _joined(b: Builder, parts: Sequence[Tensor], code: str) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = arithmetic.binary(b, code, total, part)
    return total


def roi_align(b: Builder, n: Node) -> Sequence[Tensor]:
    """RoiAlign by mean or largest, with a fixed number of places in each cell."""
    x, regions = n.input(0), n.input(1)
    each = int(n.get("sampling_ratio", 0))
    if each <= 0:
        b.not_compiled("RoiAlign whose number of places depends on the size of a region (sampling_ratio 0)")
    half = (
        n.text("coordinate_transformation_mode", "half_pixel" if n.opset >= 16 else "output_half_pixel") == "half_pixel"
    )
    scaled = arithmetic.sub(b, arithmetic.mul(b, regions, float(n.get("spatial_scale", 1.0))), 0.5 if half else 0.0)
    cells = int(n.get("output_height", 1)), int(n.get("output_width", 1))
    count, channels, lengths = regions.shape[0], x.shape[1], x.shape[2:]
    order = np.meshgrid(*(np.arange(size) for size in (*cells, each, each)), indexing="ij")
    sides = []
    for axis in (0, 1):
        first = layout_moves.take(b, scaled, 1, 1 - axis, 1)
        wide = arithmetic.sub(b, layout_moves.take(b, scaled, 1, 3 - axis, 1), first)
        wide = wide if half else arithmetic.binary(b, "MAXIMUM", wide, arithmetic.scalar(b, 1.0, wide))
        # Which part of the region's side each place has behind it.
        share = (order[axis] + (order[2 + axis] + 0.5) / each) / cells[axis]
        place = arithmetic.add(b, arithmetic.mul(b, wide, b.const(share.reshape(1, -1).astype(np.float32))), first)
        sides.append(_edge_taps(b, place, lengths[axis]))
    turned = layout_moves.reshape(
        b, layout_moves.transpose(b, x, [0, 2, 3, 1]), [x.shape[0] * lengths[0] * lengths[1], channels]
    )
    picture = arithmetic.mul(b, layout_moves.cast(b, n.input(2), "float32"), float(lengths[0] * lengths[1]))
    base = layout_moves.reshape(b, picture, [count, 1])
    parts = []
    for row, row_share in sides[0]:
        for column, column_share in sides[1]:
            at = arithmetic.add(b, arithmetic.add(b, arithmetic.mul(b, row, float(lengths[1])), column), base)
            values = layout_moves.gather(b, turned, layout_moves.cast(b, at, "int32"), 0)
            weight = arithmetic.mul(b, row_share, column_share)
            parts.append(arithmetic.mul(b, values, layout_moves.reshape(b, weight, [*weight.shape, 1])))
    is_mean = n.text("mode", "avg") == "avg"
    # The standard takes the largest of the weighted entries, not of their sums.
    joined = _joined(b, parts, "ADD" if is_mean else "MAXIMUM")
    joined = layout_moves.reshape(b, joined, [count * cells[0] * cells[1], each * each, channels])
    made = arithmetic.reduce(b, "MEAN" if is_mean else "REDUCE_MAX", joined, [1], keep=False)
    whole = layout_moves.reshape(b, made, [count, *cells, channels])
    return [layout_moves.transpose(b, whole, [0, 3, 1, 2])]


def _edge_taps(b: Builder, place: Tensor, length: int) -> list[tuple[Tensor, Tensor]]:
    """Return (index, weight) of both taps along one axis: up to one entry outside counts as the border, further out weighs nothing."""
    inside = arithmetic.clamp(b, place, 0.0, float(length - 1))
    far = arithmetic.clamp(b, place, -1.0, float(length))
    there = layout_moves.cast(b, arithmetic.binary(b, "EQUAL", place, far), "float32")
    first = arithmetic.unary(b, "FLOOR", inside)
    part = arithmetic.sub(b, inside, first)
    second = arithmetic.clamp(b, arithmetic.add(b, first, 1.0), 0.0, float(length - 1))
    shares = (arithmetic.sub(b, 1.0, part), part)
    return [(at, arithmetic.mul(b, share, there)) for at, share in zip((first, second), shares, strict=True)]


LOWERINGS: dict[str, Lowering] = {"DeformConv": smooth(deform_conv), "RoiAlign": smooth(roi_align)}
