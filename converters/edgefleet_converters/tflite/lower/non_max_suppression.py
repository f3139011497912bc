"""NonMaxSuppression. Source: the ONNX operator page.

How many boxes survive is known only at run time, so the model must declare it. Each class of each image is one kernel call; the
survivors of all are then put together in order.
"""

from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.lower.shapes import promised
from edgefleet_converters.tflite.node import Lowering, Node


def non_max_suppression(b: Builder, n: Node) -> Sequence[Tensor]:
    """NonMaxSuppression of as many boxes as the model declares."""
    boxes, scores = n.input(0), n.input(1)
    count = promised(b, n, "a number of results")[0]
    images, classes, total = scores.shape
    if not count or not n.given(2):
        return [b.const(np.zeros((0, 3), np.int64))]
    # The kernel drops a box at the threshold, ONNX only above it: the next float is handed over.
    above = arithmetic.clamp(
        b, arithmetic.mul(b, _scalar(b, n, 3, 0.0), 1 + 2.0**-23), float(np.finfo(np.float32).tiny), None
    )
    limits = [above, _scalar(b, n, 4, -np.inf)]
    most = arithmetic.clamp(b, n.input(2), 0.0, float(total))
    most = layout_moves.reshape(b, layout_moves.cast(b, most, "int32"), [])
    rows, valid = [], []
    for image in range(images):
        corners = _corners(b, layout_moves.index(b, boxes, 0, image), centred=bool(n.get("center_point_box", 0)))
        for kind in range(classes):
            line = layout_moves.index(b, layout_moves.index(b, scores, 0, image), 0, kind)
            chosen, found = b.emit_all(
                "NON_MAX_SUPPRESSION_V4", [corners, line, b.const(np.int32(total)), *limits],
                [("int32", [total]), ("int32", [])],
            )  # fmt: skip
            found = arithmetic.binary(b, "MINIMUM", found, most)
            valid.append(arithmetic.binary(b, "LESS", b.const(np.arange(total, dtype=np.int32)), found))
            named = b.const(np.tile(np.array([image, kind], np.int32), (total, 1)))
            rows.append(layout_moves.concat(b, [named, layout_moves.reshape(b, chosen, [total, 1])], 1))
    kept = b.emit("WHERE", [layout_moves.concat(b, valid, 0)], "int64", [count, 1])
    # WHERE gives an open length; this reshape fixes it to what the model declares.
    places = b.emit("RESHAPE", [kept, b.ints([count])], "int64", [count])
    made = layout_moves.gather(b, layout_moves.concat(b, rows, 0), layout_moves.cast(b, places, "int32"), 0)
    return [layout_moves.cast(b, made, "int64")]


def _scalar(b: Builder, n: Node, position: int, default: float) -> Tensor:
    if not n.given(position):
        return b.const(np.float32(default))
    return layout_moves.reshape(b, n.input(position), [])


def _corners(b: Builder, boxes: Tensor, *, centred: bool) -> Tensor:
    """Return [N, 4] as y1 x1 y2 x2 with the smaller corner first."""
    one, two, three, four = (layout_moves.take(b, boxes, 1, i, 1) for i in range(4))
    if centred:
        half_w, half_h = arithmetic.mul(b, three, 0.5), arithmetic.mul(b, four, 0.5)
        parts = [
            arithmetic.sub(b, two, half_h),
            arithmetic.sub(b, one, half_w),
            arithmetic.add(b, two, half_h),
            arithmetic.add(b, one, half_w),
        ]
        return layout_moves.concat(b, parts, 1)
    parts = [arithmetic.binary(b, "MINIMUM", one, three), arithmetic.binary(b, "MINIMUM", two, four)]
    parts += [arithmetic.binary(b, "MAXIMUM", one, three), arithmetic.binary(b, "MAXIMUM", two, four)]
    return layout_moves.concat(b, parts, 1)


LOWERINGS: dict[str, Lowering] = {"NonMaxSuppression": non_max_suppression}
