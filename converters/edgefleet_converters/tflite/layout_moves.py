"""Operators that move values and never change them: each works for every type, by a carrier where the kernel lacks it.

A carrier is a type of the same width that the kernel moves (bits are kept by BITCAST), or a wider one that holds every value
exactly. Source of the widths: the types' own sizes; which kernel moves which type: `runtimes.py`.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from edgefleet_converters.tflite.builder import Builder, broadcast_shape
from edgefleet_converters.tflite.ir import Shape, Tensor

_SAME_BITS: Final = {"uint8": "int8", "uint16": "int16", "float16": "int16", "uint32": "int32", "uint64": "int64", "float64": "int64",
                     "complex64": "int64"}  # fmt: skip
_WIDER: Final = {
    "bool": ("uint8", "int32"), "int8": ("int32",), "uint8": ("int32",), "int16": ("int32",), "uint16": ("int32",),
    "float16": ("float32",), "uint32": ("int64",),
}  # fmt: skip
MAX_SLICED_RANK: Final = 5
MAX_TRANSPOSED_RANK: Final = 6


def reshape(b: Builder, x: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the same values in another shape. shape: without -1."""
    wanted = tuple(int(n) for n in shape)
    if wanted == x.shape:
        return x
    if size(wanted) != size(x.shape):
        b.not_compiled(f"a reshape of {list(x.shape)} to {list(wanted)}")
    done = b.folded(lambda a: a.reshape(wanted), x)
    return done or b.emit("RESHAPE", [x, b.ints(wanted)], x.dtype, wanted, new_shape=wanted)


def flatten(b: Builder, x: Tensor) -> Tensor:
    """Return the values as a vector."""
    return reshape(b, x, [size(x.shape)])


def size(shape: Sequence[int]) -> int:
    """Return the number of elements."""
    return int(np.prod(shape, dtype=np.int64))


def cast(b: Builder, x: Tensor, dtype: str) -> Tensor:
    """Convert each value. Integers wrap, floats are cut towards zero, as numpy does. uint64 goes by its bits."""
    if x.dtype == dtype:
        return x
    done = b.folded(lambda a: a.astype(dtype), x)
    if done:
        return done
    if dtype == "uint64" and x.dtype.startswith(("int", "uint", "bool")):
        return bitcast(b, cast(b, x, "int64"), dtype)
    if x.dtype == "uint64" and dtype.startswith(("int", "uint")):
        return cast(b, bitcast(b, x, "int64"), dtype)
    if dtype == "bool" and x.dtype != "uint64":
        return _to_bool(b, x)
    if "uint64" in (x.dtype, dtype):
        b.lacks(f"CAST from {x.dtype} to {dtype}")
    return b.emit("CAST", [x], dtype, x.shape, in_data_type=x.dtype, out_data_type=dtype)


def _to_bool(b: Builder, x: Tensor) -> Tensor:
    return b.emit("CAST", [x], "bool", x.shape, in_data_type=x.dtype, out_data_type="bool")


def bitcast(b: Builder, x: Tensor, dtype: str) -> Tensor:
    """Return the same bits under a type of the same width."""
    if x.dtype == dtype:
        return x
    if (x.dtype, dtype) in (("bool", "uint8"), ("bool", "int8")):
        return cast(b, x, dtype)
    done = b.folded(lambda a: a.view(dtype), x)
    return done or b.emit("BITCAST", [x], dtype, x.shape)


def carrier(b: Builder, code: str, dtype: str) -> str:
    """Return the type to use for moving `dtype` with this operator. Raises UnsupportedOperatorError."""
    if b.runtime.takes(code, dtype):
        return dtype
    for other in (_SAME_BITS.get(dtype, ""), *_WIDER.get(dtype, ())):
        if other and b.runtime.takes(code, other):
            return other
    return b.lacks(f"{code} on {dtype}")


def carry(b: Builder, x: Tensor, dtype: str) -> Tensor:
    """Return `x` under its carrier, or back from it."""
    if x.dtype == dtype:
        return x
    if _SAME_BITS.get(x.dtype) == dtype or _SAME_BITS.get(dtype) == x.dtype:
        return bitcast(b, x, dtype)
    return cast(b, x, dtype)


def carried(b: Builder, code: str, x: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `move` to `x` under a type that the operator moves, and return the result under the own type."""
    return carry(b, move(carry(b, x, carrier(b, code, x.dtype))), x.dtype)


def transpose(b: Builder, x: Tensor, perm: Sequence[int]) -> Tensor:
    """Permute dimensions; axes that stay together are moved as one, and a move of ones only is a reshape."""
    order = tuple(int(p) for p in perm)
    shape = tuple(x.shape[p] for p in order)
    done = b.folded(lambda a: a.transpose(order), x)
    if done:
        return done
    moving = [p for p in order if x.shape[p] != 1]
    if moving == sorted(moving):
        return reshape(b, x, shape)
    if len(order) <= 4:
        return carried(b, "TRANSPOSE", x, lambda v: _transposed(b, v, order))
    groups: list[list[int]] = []
    for axis in moving:
        if groups and all(x.shape[i] == 1 for i in range(groups[-1][-1] + 1, axis)) and axis > groups[-1][-1]:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    ordered = sorted(groups)
    merged = reshape(b, x, [size([x.shape[a] for a in group]) for group in ordered])
    small = tuple(ordered.index(group) for group in groups)
    if len(small) > MAX_TRANSPOSED_RANK:
        b.lacks(f"TRANSPOSE of {len(small)} dimensions")
    return reshape(b, carried(b, "TRANSPOSE", merged, lambda v: _transposed(b, v, small)), shape)


def _transposed(b: Builder, x: Tensor, order: Shape) -> Tensor:
    return b.emit("TRANSPOSE", [x, b.ints(order)], x.dtype, [x.shape[p] for p in order])


def concat(b: Builder, tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Join along `axis`; tensors without elements are left out, as kernels read them wrongly."""
    axis %= tensors[0].rank
    dtype = tensors[0].dtype
    parts = [t for t in tensors if t.shape[axis]]
    total = sum(t.shape[axis] for t in tensors)
    shape = [total if i == axis else n for i, n in enumerate(tensors[0].shape)]
    if not parts:
        return b.const(np.zeros(shape, dtype))
    if len(parts) == 1:
        return parts[0]
    done = b.folded(lambda *a: np.concatenate(a, axis), *parts)
    if done:
        return done
    flat = [_three(b, t, axis) for t in parts] if len(shape) > 4 else list(parts)
    at = 1 if len(shape) > 4 else axis
    kind = carrier(b, "CONCATENATION", dtype)
    inputs = [carry(b, t, kind) for t in flat]
    joined = [sum(t.shape[at] for t in inputs) if i == at else n for i, n in enumerate(inputs[0].shape)]
    return reshape(b, carry(b, b.emit("CONCATENATION", inputs, kind, joined, axis=at), dtype), shape)


def _three(b: Builder, x: Tensor, axis: int) -> Tensor:
    return reshape(b, x, [size(x.shape[:axis]), x.shape[axis], size(x.shape[axis + 1 :])])


def stack(b: Builder, tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Join along a new axis."""
    axis %= tensors[0].rank + 1
    shape = [*tensors[0].shape[:axis], 1, *tensors[0].shape[axis:]]
    return concat(b, [reshape(b, t, shape) for t in tensors], axis)


def take(b: Builder, x: Tensor, axis: int, start: int, count: int, step: int = 1) -> Tensor:
    """Return `count` entries of one axis from `start` on, each `step` further (negative: backwards)."""
    axis %= x.rank
    if start == 0 and step == 1 and count == x.shape[axis]:
        return x
    stop: int | None = start + count * step
    index = slice(start, None if stop is not None and stop < 0 else stop, step)
    done = b.folded(lambda a: a[(slice(None),) * axis + (index,)], x)
    shape = [*x.shape[:axis], count, *x.shape[axis + 1 :]]
    if done:
        return done
    if count == 0:
        return b.const(np.zeros(shape, x.dtype))
    if x.rank > MAX_SLICED_RANK - 1:
        return reshape(b, take(b, _three(b, x, axis), 1, start, count, step), shape)
    begin = [start if i == axis else 0 for i in range(x.rank)]
    if step == 1:
        sizes = b.ints(shape)
        return carried(b, "SLICE", x, lambda v: b.emit("SLICE", [v, b.ints(begin), sizes], v.dtype, shape))
    end = [start + (count - 1) * step + (1 if step > 0 else -1) if i == axis else n for i, n in enumerate(x.shape)]
    steps = [step if i == axis else 1 for i in range(x.rank)]
    # An end of -1 would mean "the last": a mask says that the axis is read to its beginning instead.
    mask = 1 << axis if end[axis] < 0 else 0
    return carried(
        b, "STRIDED_SLICE", x,
        lambda v: b.emit("STRIDED_SLICE", [v, b.ints(begin), b.ints([max(e, 0) for e in end]), b.ints(steps)], v.dtype,
                         shape, begin_mask=0, end_mask=mask, shrink_axis_mask=0),
    )  # fmt: skip


def index(b: Builder, x: Tensor, axis: int, position: int) -> Tensor:
    """Return one entry of an axis, without that axis."""
    axis %= x.rank
    return reshape(b, take(b, x, axis, position, 1), [*x.shape[:axis], *x.shape[axis + 1 :]])


def gather(b: Builder, x: Tensor, indices: Tensor, axis: int, batch_dims: int = 0) -> Tensor:
    """Return entries of one axis. indices: int32, 0 … n-1; their shape stands in the axis's place."""
    axis %= x.rank
    shape = [*x.shape[:axis], *indices.shape[batch_dims:], *x.shape[axis + 1 :]]
    if not batch_dims:
        done = b.folded(lambda a, i: a.take(i, axis), x, indices)
        if done:
            return done
    flat = x if x.rank <= 4 or batch_dims else _three(b, x, axis)
    at = axis if flat is x else 1
    first = flatten(b, indices) if not batch_dims else indices
    got = [*flat.shape[:at], *first.shape[batch_dims:], *flat.shape[at + 1 :]]
    moved = carried(
        b, "GATHER", flat, lambda v: b.emit("GATHER", [v, first], v.dtype, got, axis=at, batch_dims=batch_dims)
    )
    return reshape(b, moved, shape)


def reverse(b: Builder, x: Tensor, axis: int) -> Tensor:
    """Return one axis backwards."""
    axis %= x.rank
    return take(b, x, axis, x.shape[axis] - 1, x.shape[axis], -1)


def broadcast_to(b: Builder, x: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat values by numpy's rules."""
    wanted = tuple(int(n) for n in shape)
    if x.shape == wanted:
        return x
    done = b.folded(lambda a: np.broadcast_to(a, wanted), x)
    if done:
        return done
    if size(wanted) == size(x.shape):
        return reshape(b, x, wanted)
    return carried(b, "BROADCAST_TO", x, lambda v: b.emit("BROADCAST_TO", [v, b.ints(wanted)], v.dtype, wanted))


def tile(b: Builder, x: Tensor, repeats: Sequence[int]) -> Tensor:
    """Repeat the whole tensor along each axis."""
    shape = [n * r for n, r in zip(x.shape, repeats, strict=True)]
    done = b.folded(lambda a: np.tile(a, repeats), x)
    if done or list(x.shape) == shape:
        return done or x
    apart = [n for pair in zip([1] * x.rank, x.shape, strict=True) for n in pair]
    wide = [n for pair in zip(repeats, x.shape, strict=True) for n in pair]
    if len(wide) > 8:
        for axis, count in enumerate(repeats):
            x = concat(b, [x] * count, axis) if count else b.const(np.zeros(shape, x.dtype))
        return x
    return reshape(b, broadcast_to(b, reshape(b, x, apart), wide), shape)


def pad(b: Builder, x: Tensor, before: Sequence[int], after: Sequence[int], value: Tensor | None = None) -> Tensor:
    """Add `before` and `after` entries to each axis, holding `value` (zero when None); negative counts cut."""
    for axis in range(x.rank):
        cut = max(0, -before[axis]), max(0, -after[axis])
        if any(cut):
            x = take(b, x, axis, cut[0], max(0, x.shape[axis] - sum(cut)))
    grown = [(max(0, p), max(0, q)) for p, q in zip(before, after, strict=True)]
    if not any(map(any, grown)):
        return x
    shape = [n + p + q for n, (p, q) in zip(x.shape, grown, strict=True)]
    fill = value or b.const(np.zeros((), x.dtype))
    if size(x.shape) == 0:
        return broadcast_to(b, fill, shape)
    if x.rank > 4:
        return _pad_by_axis(b, x, grown, fill)
    kind = carrier(b, "PADV2", x.dtype)
    inputs = [carry(b, x, kind), b.const(np.array(grown, np.int32)), carry(b, reshape(b, fill, []), kind)]
    zero = fill.data is not None and not fill.data.any()
    code = "PAD" if zero else "PADV2"
    return carry(b, b.emit(code, inputs[:2] if zero else inputs, kind, shape), x.dtype)


def _pad_by_axis(b: Builder, x: Tensor, grown: Sequence[tuple[int, int]], fill: Tensor) -> Tensor:
    for axis, (p, q) in enumerate(grown):
        if p or q:
            shape = [n + p + q if i == axis else n for i, n in enumerate(x.shape)]
            x = reshape(b, pad(b, _three(b, x, axis), [0, p, 0], [0, q, 0], fill), shape)
    return x


def select(b: Builder, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return x where the condition holds, else y; shapes broadcast, types are equal."""
    shape = broadcast_shape(b, condition.shape, x.shape, y.shape)
    done = b.folded(lambda c, p, q: np.where(c, p, q).astype(p.dtype), condition, x, y)
    if done:
        return done
    kind = carrier(b, "SELECT_V2", x.dtype)
    inputs = [condition, carry(b, x, kind), carry(b, y, kind)]
    flat = shape
    if len(shape) > 4:
        inputs = [flatten(b, broadcast_to(b, t, shape)) for t in inputs]
        flat = (size(shape),)
    return reshape(b, carry(b, b.emit("SELECT_V2", inputs, kind, flat), x.dtype), shape)
