"""Pools. Source: the ONNX operator pages.

A plain two-dimensional float pool is one kernel. Everything else (other types and ranks, dilations, indices, counts that leave
padding out) is made of strided slices, one for each place in the window, joined by MAXIMUM or ADD: exact in every type.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.lower.activations import in_float32
from edgefleet_converters.tflite.lower.convolution import VALID, Window, channel_first, channel_last, window_of
from edgefleet_converters.tflite.node import Lowering, Node

MAX_SLICES = 1024


def _counted(n: Node, x: Tensor) -> tuple[Window, list[int], list[int]]:
    """Return the window, the number of places on each axis, and the padding at each end that those places need."""
    window = window_of(n, n.get("kernel_shape"), x.shape[2:])
    places, extra = [], []
    for i, length in enumerate(x.shape[2:]):
        room = length + window.before[i] + window.after[i] - window.reach(i)
        count = room // window.strides[i] + 1
        if n.get("ceil_mode", 0) and n.text("auto_pad", "NOTSET") == "NOTSET":
            count = -(-room // window.strides[i]) + 1
            # A last window that would start in the padding behind the data is left out.
            if (count - 1) * window.strides[i] >= length + window.before[i]:
                count -= 1
        places.append(count)
        extra.append(max(0, (count - 1) * window.strides[i] + window.reach(i) - length - window.before[i]))
    return window, places, extra


def _slices(
    b: Builder, padded: Tensor, window: Window, places: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Yield, for each place in the window, what lies there: (place, [N, C, *places])."""
    if layout_moves.size(window.kernel) > MAX_SLICES:
        b.not_compiled(f"a pool over a window of {list(window.kernel)} in this form")
    for place in itertools.product(*(range(k) for k in window.kernel)):
        part = padded
        for i, step in enumerate(place):
            part = layout_moves.take(b, part, 2 + i, step * window.dilations[i], places[i], window.strides[i])
        yield place, part


def _lowest(b: Builder, dtype: str) -> Tensor:
    if dtype.startswith("float"):
        return b.const(np.array(-np.inf, dtype))
    return b.const(np.array(np.iinfo(dtype).min, dtype))


def max_pool(b: Builder, n: Node) -> Sequence[Tensor]:
    """MaxPool, with the places of the maxima where they are asked for."""
    x = n.input(0)
    window, places, extra = _counted(n, x)
    if n.wants(1):
        return _max_with_places(b, n, x, window, places, extra)
    if x.dtype == "float32" and x.rank in (3, 4) and set(window.dilations) == {1}:
        return [_kernel(b, "MAX_POOL_2D", x, window, places, extra, _lowest(b, x.dtype))]
    if x.dtype == "float64":
        b.lacks("MAXIMUM on float64")
    wide = in_float32(b, x)
    padded = layout_moves.pad(b, wide, [0, 0, *window.before], [0, 0, *extra], _lowest(b, wide.dtype))
    return [layout_moves.cast(b, _joined_along(b, "MAXIMUM", padded, window, places), x.dtype)]


def _joined_along(b: Builder, code: str, x: Tensor, window: Window, places: Sequence[int]) -> Tensor:
    """Join what lies in each window by an operator whose order does not matter, one axis after the other."""
    for i, count in enumerate(places):
        made: Tensor | None = None
        for step in range(window.kernel[i]):
            part = layout_moves.take(b, x, 2 + i, step * window.dilations[i], count, window.strides[i])
            made = part if made is None else arithmetic.binary(b, code, made, part)
        assert made is not None
        x = made
    return x


def _kernel(
    b: Builder, code: str, x: Tensor, window: Window, places: Sequence[int], extra: Sequence[int], fill: Tensor
) -> Tensor:
    """Return a float32 pool of [N, C, W] or [N, C, H, W] by the two-dimensional kernel, padded with `fill`."""
    if x.rank == 3:
        lifted = layout_moves.reshape(b, x, [*x.shape[:2], 1, x.shape[2]])
        made = _kernel(b, code, lifted, window.lifted(), [1, *places], [0, *extra], fill)
        return layout_moves.reshape(b, made, [*made.shape[:2], made.shape[3]])
    data = channel_last(b, x)
    padding = VALID
    if any(window.before) or any(extra):
        data = layout_moves.pad(b, data, [0, *window.before, 0], [0, *extra, 0], fill)
    made = b.emit(
        code, [data], "float32", [x.shape[0], *places, x.shape[1]], padding=padding, stride_h=window.strides[0],
        stride_w=window.strides[1], filter_height=window.kernel[0], filter_width=window.kernel[1],
        fused_activation_function=0,
    )  # fmt: skip
    return channel_first(b, made)


def _max_with_places(
    b: Builder, n: Node, x: Tensor, window: Window, places: Sequence[int], extra: Sequence[int]
) -> Sequence[Tensor]:
    """Return the maxima and the flat places of the first of each in the whole input."""
    padded = layout_moves.pad(b, x, [0, 0, *window.before], [0, 0, *extra], _lowest(b, x.dtype))
    best: Tensor | None = None
    where: Tensor | None = None
    for place, part in _slices(b, padded, window, places):
        flat = b.const(_flat_places(x.shape, window, places, place, column_major=bool(n.get("storage_order", 0))))
        if best is None or where is None:
            best, where = part, flat
            continue
        more = arithmetic.binary(b, "GREATER", part, best)
        best, where = arithmetic.binary(b, "MAXIMUM", best, part), layout_moves.select(b, more, flat, where)
    assert best is not None
    assert where is not None
    return [best, layout_moves.cast(b, layout_moves.broadcast_to(b, where, best.shape), "int64")]


def _flat_places(
    shape: Sequence[int], window: Window, places: Sequence[int], place: Sequence[int], *, column_major: bool
) -> "np.ndarray[tuple[int, ...], np.dtype[np.int32]]":
    rank = len(places)
    lengths = shape[2:]
    steps = [int(np.prod(lengths[:i])) if column_major else int(np.prod(lengths[i + 1 :])) for i in range(rank)]
    flat = np.zeros([1, 1, *places], np.int64)
    for i in range(rank):
        line = np.arange(places[i]) * window.strides[i] + place[i] * window.dilations[i] - window.before[i]
        flat = flat + (line * steps[i]).reshape([1, 1, *(places[i] if j == i else 1 for j in range(rank))])
    planes = np.arange(shape[0] * shape[1]).reshape([shape[0], shape[1], *[1] * rank]) * int(np.prod(lengths))
    return np.asarray(flat + planes, np.int32)


def average_pool(b: Builder, n: Node) -> Sequence[Tensor]:
    """AveragePool: the sum over each window, by the count of what it covers."""
    x = n.input(0)
    if x.dtype not in ("float32", "float16"):
        b.lacks(f"AVERAGE_POOL_2D on {x.dtype}")
    window, places, extra = _counted(n, x)
    mean = _window_mean(b, in_float32(b, x), window, places, extra)
    counted = _covered(window, places, x.shape[2:], padding=bool(n.get("count_include_pad", 0)))
    share = layout_moves.size(window.kernel) / counted
    return [
        layout_moves.cast(
            b, mean if np.all(share == 1) else arithmetic.mul(b, mean, b.const(share.astype(np.float32))), x.dtype
        )
    ]


def _window_mean(b: Builder, x: Tensor, window: Window, places: Sequence[int], extra: Sequence[int]) -> Tensor:
    """Return the sum over each window of the zero-padded data, divided by the window's whole size."""
    if x.rank in (3, 4) and set(window.dilations) == {1}:
        return _kernel(b, "AVERAGE_POOL_2D", x, window, places, extra, b.const(np.zeros((), np.float32)))
    padded = layout_moves.pad(b, x, [0, 0, *window.before], [0, 0, *extra])
    total = _joined_along(b, "ADD", padded, window, places)
    return arithmetic.mul(b, total, 1.0 / layout_moves.size(window.kernel))


def _covered(
    window: Window, places: Sequence[int], lengths: Sequence[int], *, padding: bool
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Return how many entries each window covers: of the data, or of data and padding."""
    total = np.ones([1, 1, *places])
    for i, length in enumerate(lengths):
        first = np.arange(places[i])[:, None] * window.strides[i] - window.before[i]
        read = first + np.arange(window.kernel[i]) * window.dilations[i]
        low, high = (-window.before[i], length + window.after[i]) if padding else (0, length)
        line = np.maximum(1, ((read >= low) & (read < high)).sum(1))
        total = total * line.reshape([1, 1, *(places[i] if j == i else 1 for j in range(len(places)))])
    return np.asarray(total)


def lp_pool(b: Builder, n: Node) -> Sequence[Tensor]:
    """LpPool: the p-th root of the sum of p-th powers."""
    x = n.input(0)
    if x.dtype not in ("float32", "float16"):
        b.lacks(f"AVERAGE_POOL_2D on {x.dtype}")
    window, places, extra = _counted(n, x)
    order = int(n.get("p", 2))
    size = arithmetic.unary(b, "ABS", in_float32(b, x))
    raised = (
        arithmetic.mul(b, size, size) if order == 2 else arithmetic.binary(b, "POW", size, b.const(np.float32(order)))
    )
    total = arithmetic.mul(b, _window_mean(b, raised, window, places, extra), float(layout_moves.size(window.kernel)))
    root = (
        arithmetic.unary(b, "SQRT", total)
        if order == 2
        else arithmetic.binary(b, "POW", total, b.const(np.float32(1 / order)))
    )
    return [layout_moves.cast(b, root, x.dtype)]


def global_of(code: str) -> Lowering:
    """Return the lowering of GlobalAveragePool or GlobalMaxPool."""

    def lower(b: Builder, n: Node) -> Sequence[Tensor]:
        x = n.input(0)
        return [arithmetic.reduce(b, code, x, list(range(2, x.rank)), keep=True)]

    return lower


def global_lp_pool(b: Builder, n: Node) -> Sequence[Tensor]:
    """GlobalLpPool."""
    x = n.input(0)
    order = float(n.get("p", 2))
    raised = arithmetic.binary(b, "POW", arithmetic.unary(b, "ABS", x), b.const(np.float32(order)))
    total = arithmetic.reduce(b, "SUM", raised, list(range(2, x.rank)), keep=True)
    return [arithmetic.binary(b, "POW", total, b.const(np.float32(1 / order)))]


def max_unpool(b: Builder, n: Node) -> Sequence[Tensor]:
    """MaxUnpool: values go back to their flat places; the rest is zero."""
    x, places = n.input(0), n.input(1)
    rank = x.rank - 2
    kernel = n.get("kernel_shape")
    strides, pads = n.get("strides", [1] * rank), n.get("pads", [0] * (2 * rank))
    natural = [(v - 1) * strides[i] - pads[i] - pads[i + rank] + kernel[i] for i, v in enumerate(x.shape[2:])]
    shape = [*x.shape[:2], *natural]
    # Places are flat in the natural shape; a larger output_shape only adds zeros behind it.
    flat = b.emit(
        "SCATTER_ND",
        [layout_moves.reshape(b, layout_moves.cast(b, places, "int32"), [layout_moves.size(x.shape), 1]),
         layout_moves.flatten(b, x), b.ints([layout_moves.size(shape)])], x.dtype, [layout_moves.size(shape)],
    )  # fmt: skip
    made = layout_moves.reshape(b, flat, shape)
    wanted = n.array(2)
    if n.given(2):
        target = tuple(int(v) for v in wanted) if wanted is not None else n.shape_of(0)
        if target is None:
            b.not_compiled("MaxUnpool with an output shape known only at run time")
        made = layout_moves.pad(b, made, [0] * x.rank, [t - v for t, v in zip(target, shape, strict=True)])
    return [made]


LOWERINGS: dict[str, Lowering] = {
    "MaxPool": max_pool, "AveragePool": average_pool, "LpPool": lp_pool, "GlobalAveragePool": global_of("MEAN"),
    "GlobalMaxPool": global_of("REDUCE_MAX"), "GlobalLpPool": global_lp_pool, "MaxUnpool": max_unpool,
}  # fmt: skip
