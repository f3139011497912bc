"""Operators that move, cut, join and repeat. Source: the ONNX operator pages.

A shape, a count or an axis that is known only at run time is taken from the output shape that the model itself declares: the
model promises it for every run, so nothing else can come.
"""

from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder, broadcast_shape
from edgefleet_converters.tflite.ir import Shape, Tensor
from edgefleet_converters.tflite.node import Lowering, Node


def promised(b: Builder, n: Node, what: str) -> Shape:
    """Return the declared shape of the first output. Raises OperatorNotCompiledError when it is open."""
    shape = n.shape_of(0)
    if shape is None:
        b.not_compiled(f"{n.op_type} with {what} known only at run time and an open result shape")
    return shape


def same(b: Builder, n: Node) -> Sequence[Tensor]:
    """Identity and operators that do nothing at inference."""
    return [n.input(0)]


def reshape(b: Builder, n: Node) -> Sequence[Tensor]:
    """Reshape: 0 keeps a length unless allowzero, -1 takes what is left."""
    x = n.input(0)
    asked = n.get("shape") if n.opset < 5 else n.array(1)
    if asked is None:
        return [layout_moves.reshape(b, x, promised(b, n, "a shape"))]
    shape = [int(v) for v in asked]
    if not n.get("allowzero", 0):
        shape = [x.shape[i] if v == 0 else v for i, v in enumerate(shape)]
    if -1 in shape:
        rest = layout_moves.size([v for v in shape if v != -1])
        shape[shape.index(-1)] = layout_moves.size(x.shape) // rest if rest else 0
    return [layout_moves.reshape(b, x, shape)]


def flatten(b: Builder, n: Node) -> Sequence[Tensor]:
    """Flatten to a matrix."""
    x = n.input(0)
    axis = int(n.get("axis", 1))
    axis = axis + x.rank if axis < 0 else axis
    return [layout_moves.reshape(b, x, [layout_moves.size(x.shape[:axis]), layout_moves.size(x.shape[axis:])])]


def squeeze(b: Builder, n: Node) -> Sequence[Tensor]:
    """Squeeze."""
    x = n.input(0)
    if n.given(1) and n.array(1) is None:
        return [layout_moves.reshape(b, x, promised(b, n, "axes"))]
    axes = n.ints(b, 1, "axes")
    gone = {a % x.rank for a in axes} if axes is not None else {i for i, v in enumerate(x.shape) if v == 1}
    return [layout_moves.reshape(b, x, [v for i, v in enumerate(x.shape) if i not in gone])]


def unsqueeze(b: Builder, n: Node) -> Sequence[Tensor]:
    """Unsqueeze."""
    x = n.input(0)
    if n.given(1) and n.array(1) is None:
        return [layout_moves.reshape(b, x, promised(b, n, "axes"))]
    axes = n.ints(b, 1, "axes") or []
    rank = x.rank + len(axes)
    new = {a % rank for a in axes}
    left = list(x.shape)
    return [layout_moves.reshape(b, x, [1 if i in new else left.pop(0) for i in range(rank)])]


def transpose(b: Builder, n: Node) -> Sequence[Tensor]:
    """Transpose; backwards without perm."""
    x = n.input(0)
    return [layout_moves.transpose(b, x, n.get("perm", list(reversed(range(x.rank)))))]


def concat(b: Builder, n: Node) -> Sequence[Tensor]:
    """Concat."""
    return [layout_moves.concat(b, [n.input(i) for i in range(len(n.inputs))], int(n.get("axis", 1)))]


def expand(b: Builder, n: Node) -> Sequence[Tensor]:
    """Expand: the shape broadcasts both ways."""
    x, asked = n.input(0), n.array(1)
    shape = promised(b, n, "a shape") if asked is None else tuple(int(v) for v in asked)
    return [layout_moves.broadcast_to(b, x, broadcast_shape(b, x.shape, shape))]


def tile(b: Builder, n: Node) -> Sequence[Tensor]:
    """Tile."""
    x, repeats = n.input(0), n.array(1)
    if repeats is None:
        shape = promised(b, n, "repeats")
        if not layout_moves.size(x.shape):
            b.not_compiled("Tile of no elements with repeats known only at run time")
        return [layout_moves.tile(b, x, [w // h for w, h in zip(shape, x.shape, strict=True)])]
    return [layout_moves.tile(b, x, [int(r) for r in repeats])]


def split(b: Builder, n: Node) -> Sequence[Tensor]:
    """Split in given lengths, or in equal ones with a shorter last one."""
    x = n.input(0)
    axis = int(n.get("axis", 0)) % x.rank
    count = len(n.wanted)
    total = x.shape[axis]
    if n.given(1) and n.array(1) is None:
        shapes = [n.shape_of(i) for i in range(count)]
        lengths = [shape[axis] for shape in shapes if shape is not None]
        if len(lengths) != count:
            b.not_compiled("Split with lengths known only at run time and open result shapes")
    else:
        given = n.ints(b, 1, "split")
        each = -(-total // int(n.get("num_outputs", count)))
        lengths = given if given is not None else [max(0, min(each, total - i * each)) for i in range(count)]
    starts = np.cumsum([0, *lengths])
    return [layout_moves.take(b, x, axis, int(start), length) for start, length in zip(starts, lengths, strict=False)]


def slice_(b: Builder, n: Node) -> Sequence[Tensor]:
    """Slice: constant bounds cut, others gather at places computed on the device."""
    x = n.input(0)
    if n.opset >= 10 and any(n.given(i) and n.array(i) is None for i in range(1, 5)):
        return [_slice_at_run_time(b, n)]
    starts, ends = n.ints(b, 1, "starts") or [], n.ints(b, 2, "ends") or []
    axes = n.ints(b, 3, "axes") or list(range(len(starts)))
    steps = n.ints(b, 4, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last, by = slice(start, end, step).indices(x.shape[axis]) if step > 0 else _backwards(
            start, end, step, x.shape[axis]
        )  # fmt: skip
        x = layout_moves.take(b, x, axis, first, len(range(first, last, by)), by)
    return [x]


def _backwards(start: int, end: int, step: int, length: int) -> tuple[int, int, int]:
    """Return the range of a negative step; an end before the first element means "to the very beginning"."""
    stop: int | None = end
    if end < -length:
        stop = None
    return slice(start, stop, step).indices(length)


def _slice_at_run_time(b: Builder, n: Node) -> Tensor:
    """Gather the declared number of entries from starts that are known at run time.

    The declared result shape fixes the counts, so ends are not needed.
    """
    x = n.input(0)
    shape = promised(b, n, "bounds")
    rank = x.rank
    count = n.input(1).shape[0]
    axes = layout_moves.cast(b, n.input(3), "int32") if n.given(3) else b.const(np.arange(count, dtype=np.int32))
    axes = _from_end(b, axes, b.const(np.full((), rank, np.int32)))
    steps = _clamped(b, n.input(4)) if n.given(4) else b.const(np.ones(count, np.int32))
    starts = _clamped(b, n.input(1))
    lengths = layout_moves.gather(b, b.const(np.array(x.shape, np.int32)), axes, 0)
    starts = _from_end(b, starts, lengths)
    # The last allowed start is one before the end for a step back, the end itself for a step forward.
    back = arithmetic.binary(b, "LESS", steps, b.const(0, "int32"))
    top = arithmetic.sub(b, lengths, layout_moves.cast(b, back, "int32"))
    starts = arithmetic.clamp(b, starts, 0, top)
    wide_starts = scatter_rows(b, axes, starts, rank)
    wide_steps = arithmetic.add(b, scatter_rows(b, axes, arithmetic.sub(b, steps, 1), rank), 1)
    for axis in range(rank):
        first, by = layout_moves.take(b, wide_starts, 0, axis, 1), layout_moves.take(b, wide_steps, 0, axis, 1)
        places = arithmetic.add(b, arithmetic.mul(b, b.const(np.arange(shape[axis], dtype=np.int32)), by), first)
        x = layout_moves.gather(b, x, places, axis)
    return x


def scatter_rows(b: Builder, places: Tensor, values: Tensor, length: int) -> Tensor:
    """Return a vector with `values` at `places` and zero elsewhere. Both int32 vectors; places 0 … length-1."""
    if places.data is not None and values.data is not None:
        made = np.zeros(length, np.int32)
        made[places.constant] = values.constant
        return b.const(made)
    rows = layout_moves.reshape(b, places, [*places.shape, 1])
    return b.emit("SCATTER_ND", [rows, values, b.ints([length])], "int32", [length])


def _clamped(b: Builder, x: Tensor) -> Tensor:
    """Return int64 bounds as int32; the far ends ("all the rest") stay far."""
    if x.dtype == "int64":
        x = arithmetic.clamp(b, x, float(-(2**30)), float(2**30))
    return layout_moves.cast(b, x, "int32")


def _from_end(b: Builder, places: Tensor, length: Tensor) -> Tensor:
    """Return places with the negative ones counted from the end."""
    negative = arithmetic.binary(b, "LESS", places, b.const(0, "int32"))
    return arithmetic.add(b, places, arithmetic.mul(b, length, layout_moves.cast(b, negative, "int32")))


def pad(b: Builder, n: Node) -> Sequence[Tensor]:
    """Pad in all modes, with negative counts too."""
    x = n.input(0)
    mode = n.text("mode", "constant")
    amounts = n.get("pads") if n.opset < 11 else n.array(1)
    value = n.optional(2) or b.const(np.array(n.get("value", 0.0)).astype(x.dtype))
    if amounts is None or (n.given(3) and n.array(3) is None):
        return [_pad_at_run_time(b, n, mode, value)]
    given = [int(p) for p in amounts]
    axes = n.array(3)
    chosen = [int(a) % x.rank for a in axes] if axes is not None else list(range(x.rank))
    before, after = [0] * x.rank, [0] * x.rank
    for i, axis in enumerate(chosen):
        before[axis], after[axis] = given[i], given[i + len(chosen)]
    if mode == "constant":
        return [layout_moves.pad(b, x, before, after, value)]
    for axis in range(x.rank):
        if before[axis] or after[axis]:
            places = np.arange(-before[axis], x.shape[axis] + after[axis])
            x = layout_moves.gather(b, x, b.const(_mirrored(places, x.shape[axis], mode).astype(np.int32)), axis)
    return [x]


def _mirrored(
    places: "np.ndarray[tuple[int], np.dtype[np.int64]]", length: int, mode: str
) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    if mode == "edge":
        return np.clip(places, 0, length - 1)
    if mode == "wrap":
        return places % length
    around = 2 * (length - 1)
    if around == 0:
        return places * 0
    turned = np.abs(places) % around
    return np.minimum(turned, around - turned)


def _pad_at_run_time(b: Builder, n: Node, mode: str, value: Tensor) -> Tensor:
    """Gather along each axis at places computed from amounts that are known at run time."""
    x = n.input(0)
    shape = promised(b, n, "amounts")
    amounts = _clamped(b, n.input(1))
    count = amounts.shape[0] // 2
    before = layout_moves.take(b, amounts, 0, 0, count)
    if n.given(3):
        axes = _from_end(b, layout_moves.cast(b, n.input(3), "int32"), b.const(np.full((), x.rank, np.int32)))
        before = scatter_rows(b, axes, before, x.rank)
    for axis, length in enumerate(x.shape):
        start = layout_moves.take(b, before, 0, axis, 1)
        places = arithmetic.sub(b, b.const(np.arange(shape[axis], dtype=np.int32)), start)
        inside = arithmetic.clamp(b, places, 0, length - 1)
        if mode == "reflect" and length > 1:
            around = 2 * (length - 1)
            turned = arithmetic.binary(b, "FLOOR_MOD", places, b.const(np.int32(around)))
            inside = arithmetic.binary(b, "MINIMUM", turned, arithmetic.sub(b, float(around), turned))
        elif mode == "wrap":
            inside = arithmetic.binary(b, "FLOOR_MOD", places, b.const(np.int32(length)))
        x = layout_moves.gather(b, x, inside, axis)
        if mode == "constant":
            kept = arithmetic.binary(b, "EQUAL", places, inside)
            kept = layout_moves.reshape(b, kept, [shape[axis], *[1] * (x.rank - axis - 1)])
            x = layout_moves.select(b, kept, x, layout_moves.reshape(b, value, []))
    return x


def center_crop_pad(b: Builder, n: Node) -> Sequence[Tensor]:
    """CenterCropPad: what is over or missing is shared between both ends, the odd one at the end."""
    x, asked = n.input(0), n.array(1)
    axes = [int(a) % x.rank for a in n.get("axes", range(x.rank))]
    sizes = [int(v) for v in asked] if asked is not None else [promised(b, n, "a shape")[a] for a in axes]
    before, after = [0] * x.rank, [0] * x.rank
    for axis, size in zip(axes, sizes, strict=True):
        missing = size - x.shape[axis]
        before[axis] = missing // 2 if missing > 0 else -(-missing // 2)
        after[axis] = missing - before[axis]
    return [layout_moves.pad(b, x, before, after)]


def depth_to_space(b: Builder, n: Node) -> Sequence[Tensor]:
    """DepthToSpace in both orders, as two reshapes around a transpose."""
    x = n.input(0)
    size = int(n.get("blocksize"))
    batch, depth, height, width = x.shape
    if n.text("mode", "DCR") == "DCR":
        apart, order = [batch, size, size, depth // size**2, height, width], [0, 3, 4, 1, 5, 2]
    else:
        apart, order = [batch, depth // size**2, size, size, height, width], [0, 1, 4, 2, 5, 3]
    turned = layout_moves.transpose(b, layout_moves.reshape(b, x, apart), order)
    return [layout_moves.reshape(b, turned, [batch, depth // size**2, height * size, width * size])]


def space_to_depth(b: Builder, n: Node) -> Sequence[Tensor]:
    """SpaceToDepth in both orders."""
    x = n.input(0)
    size = int(n.get("blocksize"))
    batch, depth, height, width = x.shape
    apart = layout_moves.reshape(b, x, [batch, depth, height // size, size, width // size, size])
    order = [0, 3, 5, 1, 2, 4] if n.text("mode", "DCR") == "DCR" else [0, 1, 3, 5, 2, 4]
    turned = layout_moves.transpose(b, apart, order)
    return [layout_moves.reshape(b, turned, [batch, depth * size**2, height // size, width // size])]


def cast(b: Builder, n: Node) -> Sequence[Tensor]:
    """Cast. Float to unsigned 64-bit, text and 8-bit floats have no TFLite form."""
    from edgefleet_converters.tflite.trace import dtype_name

    return [layout_moves.cast(b, n.input(0), _known(b, dtype_name(int(n.get("to")))))]


def cast_like(b: Builder, n: Node) -> Sequence[Tensor]:
    """CastLike."""
    return [layout_moves.cast(b, n.input(0), _known(b, n.input(1).dtype))]


def _known(b: Builder, dtype: str) -> str:
    if not b.runtime.takes("CAST", dtype) and dtype != "uint64":
        b.lacks(f"CAST to {dtype}")
    return dtype


def bit_cast(b: Builder, n: Node) -> Sequence[Tensor]:
    """BitCast between types of one width."""
    from edgefleet_converters.tflite.trace import dtype_name

    return [layout_moves.bitcast(b, n.input(0), dtype_name(int(n.get("to"))))]


def constant_of_shape(b: Builder, n: Node) -> Sequence[Tensor]:
    """ConstantOfShape of a shape that only the model's declaration fixes."""
    from onnx import numpy_helper

    stored = n.get("value")
    value = numpy_helper.to_array(stored) if stored is not None else np.zeros(1, np.float32)
    return [b.const(np.full(promised(b, n, "a shape"), value.reshape(()), value.dtype))]


def dropout(b: Builder, n: Node) -> Sequence[Tensor]:
    """Dropout at inference: nothing is dropped."""
    training = n.array(2)
    ratio = n.array(1)
    if n.given(2) and (training is None or bool(training.reshape(()))) and not (ratio is not None and not ratio.any()):
        b.lacks("random numbers as ONNX makes them")
    x = n.input(0)
    return [x, b.const(np.ones(x.shape, bool if n.opset >= 10 else x.dtype))]


LOWERINGS: dict[str, Lowering] = {
    "Identity": same, "Reshape": reshape, "Flatten": flatten, "Squeeze": squeeze, "Unsqueeze": unsqueeze,
    "Transpose": transpose, "Concat": concat, "Expand": expand, "Tile": tile, "Split": split, "Slice": slice_,
    "Pad": pad, "DepthToSpace": depth_to_space, "SpaceToDepth": space_to_depth, "Cast": cast, "CastLike": cast_like,
    "BitCast": bit_cast, "CenterCropPad": center_crop_pad, "ConstantOfShape": constant_of_shape, "Dropout": dropout,
}  # fmt: skip
