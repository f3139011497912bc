"""Reductions, and places of the largest and smallest. Source: the ONNX operator pages."""

from collections.abc import Callable, Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.lower.activations import in_float32
from edgefleet_converters.tflite.lower.shapes import promised
from edgefleet_converters.tflite.node import Lowering, Node

Before = Callable[[Builder, Tensor], Tensor]


def _unchanged(_b: Builder, x: Tensor) -> Tensor:
    return x


def reduction_of(code: str, before: Before = _unchanged, after: Before = _unchanged) -> Lowering:
    """Return the lowering of a reduction: `before` on each element, `after` on each result."""

    def lower(b: Builder, n: Node) -> Sequence[Tensor]:
        x = n.input(0)
        given = n.optional(1)
        if n.get("noop_with_empty_axes", 0) and "axes" not in n.attributes and (given is None or given.shape == (0,)):
            return [after(b, before(b, x))]
        if given is not None and given.data is None and given.shape != (0,):
            return [after(b, _at_run_time(b, n, code, before(b, x), given))]
        axes = n.ints(b, 1, "axes") if given is None or given.data is not None else []
        keep = bool(n.get("keepdims", 1))
        return [after(b, reduce_of(b, code, before(b, x), axes or list(range(x.rank)), keep=keep))]

    return lower


def reduce_of(b: Builder, code: str, x: Tensor, axes: Sequence[int], *, keep: bool) -> Tensor:
    """Return a reduction of one type; MEAN of integers is the sum over the count, cut towards zero."""
    if x.dtype == "bool" and code in ("REDUCE_MAX", "REDUCE_MIN"):
        return arithmetic.reduce(b, "REDUCE_ANY" if code == "REDUCE_MAX" else "REDUCE_ALL", x, axes, keep=keep)
    if code == "MEAN" and x.dtype in ("int32", "int64") and layout_moves.size(x.shape):
        # No kernel takes integers. The sum of int32 may need more bits than they have.
        count = layout_moves.size([x.shape[a] for a in {a % x.rank for a in axes}])
        total = arithmetic.reduce(b, "SUM", layout_moves.cast(b, x, "int64"), axes, keep=keep)
        return layout_moves.cast(b, arithmetic.divide_int64(b, total, b.const(np.int64(count))), x.dtype)
    if x.dtype == "uint64" and code in ("SUM", "REDUCE_PROD"):
        return layout_moves.bitcast(
            b, arithmetic.reduce(b, code, layout_moves.bitcast(b, x, "int64"), axes, keep=keep), "uint64"
        )
    return arithmetic.reduce(b, code, x, axes, keep=keep)


def _at_run_time(b: Builder, n: Node, code: str, x: Tensor, axes: Tensor) -> Tensor:
    """Reduce over axes that are known at run time; the model's declared shape makes the result fixed again."""
    shape = promised(b, n, "axes")
    if not layout_moves.size(x.shape):
        return b.const(np.full(shape, arithmetic.identity(b, code, x.dtype), x.dtype))
    if x.dtype == "bool":
        code = {"REDUCE_MAX": "REDUCE_ANY", "REDUCE_MIN": "REDUCE_ALL"}[code]
    places = layout_moves.cast(b, axes, "int32")
    kind = arithmetic.computed_in(b, code, x.dtype)
    made = b.emit(code, [layout_moves.cast(b, x, kind), places], kind, shape, keep_dims=bool(n.get("keepdims", 1)))
    # The kernel's own result has an open shape; this reshape is never left out.
    fixed = b.emit("RESHAPE", [made, b.ints(shape)], kind, shape, new_shape=tuple(shape))
    return layout_moves.cast(b, fixed, x.dtype)


def _square(b: Builder, x: Tensor) -> Tensor:
    return arithmetic.mul(b, x, x)


def _magnitude(b: Builder, x: Tensor) -> Tensor:
    from edgefleet_converters.tflite.lower.elementwise import magnitude

    return x if x.dtype.startswith("uint") else magnitude(b, x)


def _root(b: Builder, x: Tensor) -> Tensor:
    return layout_moves.cast(b, arithmetic.unary(b, "SQRT", layout_moves.cast(b, x, "float32")), x.dtype) if x.dtype in (
        "float32", "float16") else b.lacks(f"SQRT on {x.dtype}")  # fmt: skip


def _log(b: Builder, x: Tensor) -> Tensor:
    return arithmetic.unary(b, "LOG", x)


def _exp(b: Builder, x: Tensor) -> Tensor:
    return arithmetic.unary(b, "EXP", x)


def log_sum_exp(b: Builder, n: Node) -> Sequence[Tensor]:
    """ReduceLogSumExp, less its largest element where the axes are known, so that nothing overflows."""
    x = n.input(0)
    axes_known = not n.given(1) or n.array(1) is not None
    empty = n.given(1) and n.input(1).shape == (0,)
    noop = n.get("noop_with_empty_axes", 0) and "axes" not in n.attributes and (not n.given(1) or empty)
    if noop or not (axes_known or empty) or not layout_moves.size(x.shape) or x.dtype == "float64":
        return reduction_of("SUM", _exp, _log)(b, n)
    axes = ([] if empty else n.ints(b, 1, "axes")) or list(range(x.rank))
    wide = in_float32(b, x)
    top = arithmetic.reduce(b, "REDUCE_MAX", wide, axes, keep=True)
    top = arithmetic.clamp(b, top, -3.0e38, 3.0e38)
    total = arithmetic.reduce(b, "SUM", _exp(b, arithmetic.sub(b, wide, top)), axes, keep=True)
    made = arithmetic.add(b, _log(b, total), top)
    gone = {a % x.rank for a in axes} if x.rank else set()
    shape = made.shape if n.get("keepdims", 1) else [v for i, v in enumerate(made.shape) if i not in gone]
    return [layout_moves.cast(b, layout_moves.reshape(b, made, shape), x.dtype)]


def arg_of(code: str) -> Lowering:
    """Return the lowering of ArgMax or ArgMin; the last of equals is found by reading backwards."""

    def lower(b: Builder, n: Node) -> Sequence[Tensor]:
        x = n.input(0)
        axis = int(n.get("axis", 0)) % x.rank
        last = bool(n.get("select_last_index", 0))
        kind = arithmetic.computed_in(b, code, x.dtype) if x.dtype != "int64" else b.lacks(f"{code} on int64")
        wide = layout_moves.cast(b, x, kind)
        rows = layout_moves.reshape(
            b, wide, [layout_moves.size(x.shape[:axis]), x.shape[axis], layout_moves.size(x.shape[axis + 1 :])]
        )
        rows = layout_moves.reverse(b, rows, 1) if last else rows
        found = b.emit(code, [rows, b.const(1, "int32")], "int32", [rows.shape[0], rows.shape[2]], output_type="int32")
        found = arithmetic.sub(b, float(x.shape[axis] - 1), found) if last else found
        kept = [1] if n.get("keepdims", 1) else []
        shape = [*x.shape[:axis], *kept, *x.shape[axis + 1 :]]
        return [layout_moves.cast(b, layout_moves.reshape(b, found, shape), "int64")]

    return lower


def cumulative_sum(b: Builder, n: Node) -> Sequence[Tensor]:
    """CumSum; the axis may be known at run time only."""
    x, axis = n.input(0), n.array(1)
    kind = arithmetic.computed_in(b, "CUMSUM", x.dtype)
    flags = {"exclusive": bool(n.get("exclusive", 0)), "reverse": bool(n.get("reverse", 0))}
    wide = layout_moves.cast(b, x, kind)
    if axis is None:
        where = layout_moves.reshape(b, layout_moves.cast(b, n.input(1), "int32"), [])
        made = b.emit("CUMSUM", [wide, where], kind, x.shape, **flags)
    else:
        at = int(axis.reshape(())) % x.rank
        rows = layout_moves.reshape(
            b, wide, [layout_moves.size(x.shape[:at]), x.shape[at], layout_moves.size(x.shape[at + 1 :])]
        )
        made = b.emit("CUMSUM", [rows, b.const(1, "int32")], kind, rows.shape, **flags)
    return [layout_moves.cast(b, layout_moves.reshape(b, made, x.shape), x.dtype)]


def by_axis(
    b: Builder, axis: Tensor, rank: int, shapes: Sequence[Sequence[int]], make: Callable[[int], Tensor]
) -> Tensor:
    """Return what `make` makes of the axis. One that is known only at run time runs all axes of one result shape and selects."""
    if axis.data is not None:
        return make(int(axis.data.reshape(())) % rank)
    if len({tuple(shape) for shape in shapes}) > 1:
        b.not_compiled("an axis known only at run time that changes the result's shape")
    at = layout_moves.reshape(b, layout_moves.cast(b, axis, "int32"), [])
    total = make(0)
    for candidate in range(1, len(shapes)):
        hit = arithmetic.binary(b, "EQUAL", at, b.const(np.int32(candidate)))
        again = arithmetic.binary(b, "EQUAL", at, b.const(np.int32(candidate - rank)))
        total = layout_moves.select(b, arithmetic.binary(b, "LOGICAL_OR", hit, again), make(candidate), total)
    return total


def cumulative_product(b: Builder, n: Node) -> Sequence[Tensor]:
    """CumProd, one product a place."""
    x = n.input(0)
    return [by_axis(b, n.input(1), x.rank, [x.shape] * x.rank, lambda at: _product_along(b, n, x, at))]


def _product_along(b: Builder, n: Node, x: Tensor, at: int) -> Tensor:
    order = list(range(x.shape[at]))
    order = order[::-1] if n.get("reverse", 0) else order
    total = b.const(np.ones([1 if i == at else v for i, v in enumerate(x.shape)], x.dtype))
    made: dict[int, Tensor] = {}
    for place in order:
        entry = arithmetic.mul(b, total, layout_moves.take(b, x, at, place, 1))
        made[place] = total if n.get("exclusive", 0) else entry
        total = entry
    return layout_moves.concat(b, [made[place] for place in sorted(made)], at)


LOWERINGS: dict[str, Lowering] = {
    "ReduceSum": reduction_of("SUM"), "ReduceMean": reduction_of("MEAN"), "ReduceMax": reduction_of("REDUCE_MAX"),
    "ReduceMin": reduction_of("REDUCE_MIN"), "ReduceProd": reduction_of("REDUCE_PROD"),
    "ReduceSumSquare": reduction_of("SUM", _square), "ReduceL1": reduction_of("SUM", _magnitude),
    "ReduceL2": reduction_of("SUM", _square, _root), "ReduceLogSum": reduction_of("SUM", after=_log),
    "ReduceLogSumExp": log_sum_exp, "ArgMax": arg_of("ARG_MAX"), "ArgMin": arg_of("ARG_MIN"),
    "CumSum": cumulative_sum, "CumProd": cumulative_product,
}  # fmt: skip
