"""Gather, scatter, select by index, sort. Source: the ONNX operator pages. Indices are int32 on the device; negative ones count from
the end, which is computed there when they are known only at run time.
"""

from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Tensor
from edgefleet_converters.tflite.lower.shapes import promised
from edgefleet_converters.tflite.node import Lowering, Node


def counted(b: Builder, indices: Tensor, length: int) -> Tensor:
    """Return indices as int32 with the negative ones counted from the end of an axis of `length`."""
    if indices.data is not None:
        array = indices.data.astype(np.int64)
        return b.const(np.where(array < 0, array + length, array).astype(np.int32))
    small = layout_moves.cast(b, indices, "int32")
    negative = arithmetic.binary(b, "LESS", small, b.const(0, "int32"))
    return arithmetic.add(b, small, arithmetic.mul(b, layout_moves.cast(b, negative, "int32"), float(length)))


def gather(b: Builder, n: Node) -> Sequence[Tensor]:
    """Gather."""
    x = n.input(0)
    axis = int(n.get("axis", 0)) % x.rank
    return [layout_moves.gather(b, x, counted(b, n.input(1), x.shape[axis]), axis)]


def flat_places(b: Builder, shape: Sequence[int], indices: Tensor, axis: int) -> Tensor:
    """Return the place in the flat tensor of `shape` for each entry of `indices` along `axis`."""
    steps = [layout_moves.size(shape[i + 1 :]) for i in range(len(shape))]
    base = np.zeros(indices.shape, np.int64)
    for i, length in enumerate(indices.shape):
        if i != axis:
            base = base + (np.arange(length) * steps[i]).reshape([length if j == i else 1 for j in range(len(shape))])
    small = counted(b, indices, shape[axis])
    return arithmetic.add(b, arithmetic.mul(b, small, float(steps[axis])), b.const(base.astype(np.int32)))


def gather_elements(b: Builder, n: Node) -> Sequence[Tensor]:
    """GatherElements, as one gather from the flat tensor."""
    x, indices = n.input(0), n.input(1)
    places = flat_places(b, x.shape, indices, int(n.get("axis", 0)) % x.rank)
    return [layout_moves.gather(b, layout_moves.flatten(b, x), places, 0)]


def gather_nd(b: Builder, n: Node) -> Sequence[Tensor]:
    """GatherND, as one gather of flat rows."""
    x, indices = n.input(0), n.input(1)
    batch = int(n.get("batch_dims", 0))
    places, depth = _row_places(b, x.shape, indices, batch)
    rows = layout_moves.reshape(b, x, [layout_moves.size(x.shape[: batch + depth]), *x.shape[batch + depth :]])
    return [layout_moves.gather(b, rows, places, 0)]


def _row_places(b: Builder, shape: Sequence[int], indices: Tensor, batch: int) -> tuple[Tensor, int]:
    """Return the flat number of the row that each index tuple names, and the length of a tuple."""
    depth = indices.shape[-1]
    lead = indices.shape[:-1]
    total: Tensor = b.const(np.zeros(lead, np.int32))
    for i in range(depth):
        part = counted(b, layout_moves.index(b, indices, indices.rank - 1, i), shape[batch + i])
        step = layout_moves.size(shape[batch + i + 1 : batch + depth])
        total = arithmetic.add(b, total, arithmetic.mul(b, part, float(step)))
    if batch:
        each = layout_moves.size(shape[batch : batch + depth])
        numbers = np.arange(layout_moves.size(shape[:batch])).reshape(shape[:batch]) * each
        wide = numbers.reshape([*shape[:batch], *[1] * (len(lead) - batch)])
        total = arithmetic.add(b, total, b.const(wide.astype(np.int32)))
    return total, depth


def scatter_elements(b: Builder, n: Node) -> Sequence[Tensor]:
    """ScatterElements with every reduction."""
    x, indices, updates = n.input(0), n.input(1), n.input(2)
    axis = int(n.get("axis", 0)) % x.rank
    places = layout_moves.flatten(b, flat_places(b, x.shape, indices, axis))
    made = _scattered(
        b, layout_moves.flatten(b, x), places, layout_moves.flatten(b, updates), n.text("reduction", "none")
    )
    return [layout_moves.reshape(b, made, x.shape)]


def scatter_nd(b: Builder, n: Node) -> Sequence[Tensor]:
    """ScatterND with every reduction."""
    x, indices, updates = n.input(0), n.input(1), n.input(2)
    places, depth = _row_places(b, x.shape, indices, 0)
    rows = layout_moves.reshape(b, x, [layout_moves.size(x.shape[:depth]), layout_moves.size(x.shape[depth:])])
    count = layout_moves.size(places.shape)
    made = _scattered(
        b,
        rows,
        layout_moves.flatten(b, places),
        layout_moves.reshape(b, updates, [count, rows.shape[1]]),
        n.text("reduction", "none"),
    )
    return [layout_moves.reshape(b, made, x.shape)]


def _scattered(b: Builder, rows: Tensor, places: Tensor, updates: Tensor, reduction: str) -> Tensor:
    """Write or reduce `updates` into `rows` at `places`. rows: [R] or [R, W]; places: int32 [K]."""
    if not places.shape[0]:
        return rows
    kind = rows.dtype
    if reduction == "add" and kind in ("float32", "int32", "int64"):
        return arithmetic.add(b, rows, _summed(b, rows, places, updates))
    if reduction == "none" and (places.data is None or len(set(places.data.tolist())) == places.shape[0]):
        # ONNX leaves the result open where one place is written twice, so the sum of SCATTER_ND is as good as any.
        return _replaced(b, rows, places, updates)
    code = {"add": "ADD", "mul": "MUL", "max": "MAXIMUM", "min": "MINIMUM"}.get(reduction, "")
    made = rows
    for k in range(places.shape[0]):
        hit = arithmetic.binary(
            b, "EQUAL", b.const(np.arange(rows.shape[0], dtype=np.int32)), layout_moves.take(b, places, 0, k, 1)
        )
        hit = layout_moves.reshape(b, hit, [rows.shape[0], *[1] * (rows.rank - 1)])
        entry = layout_moves.take(b, updates, 0, k, 1)
        new = arithmetic.binary(b, code, made, entry) if code else entry
        made = layout_moves.select(b, hit, layout_moves.broadcast_to(b, new, rows.shape), made)
    return made


def _summed(b: Builder, rows: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    where = layout_moves.reshape(b, places, [places.shape[0], 1])
    return b.emit("SCATTER_ND", [where, updates, b.ints(rows.shape)], rows.dtype, rows.shape)


def _replaced(b: Builder, rows: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    where = layout_moves.reshape(b, places, [places.shape[0], 1])
    ones = b.const(np.ones(places.shape[0], np.int32))
    counts = b.emit("SCATTER_ND", [where, ones, b.ints(rows.shape[:1])], "int32", rows.shape[:1])
    hit = arithmetic.binary(b, "GREATER", counts, b.const(0, "int32"))
    hit = layout_moves.reshape(b, hit, [rows.shape[0], *[1] * (rows.rank - 1)])
    put = layout_moves.carried(
        b, "SCATTER_ND", updates, lambda v: b.emit("SCATTER_ND", [where, v, b.ints(rows.shape)], v.dtype, rows.shape)
    )
    return layout_moves.select(b, hit, put, rows)


def one_hot(b: Builder, n: Node) -> Sequence[Tensor]:
    """OneHot: an index outside the depth gives a row of off values."""
    indices, values = n.input(0), n.input(2)
    given = n.array(1)
    rank = indices.rank + 1
    axis = int(n.get("axis", -1)) % rank
    depth = int(given.reshape(-1)[0]) if given is not None else promised(b, n, "a depth")[axis]
    small = indices if indices.dtype.startswith("int") else layout_moves.cast(b, indices, "int64")
    shape = [*indices.shape[:axis], 1, *indices.shape[axis:]]
    spread = layout_moves.reshape(b, counted(b, small, depth), shape)
    places = np.arange(depth, dtype=np.int32).reshape([depth if i == axis else 1 for i in range(rank)])
    hit = arithmetic.binary(b, "EQUAL", spread, b.const(places))
    off, on = layout_moves.index(b, values, 0, 0), layout_moves.index(b, values, 0, 1)
    return [layout_moves.select(b, hit, on, off)]


def top_k(b: Builder, n: Node) -> Sequence[Tensor]:
    """TopK: the kernel finds the largest; the smallest are the largest of the negated."""
    x = n.input(0)
    axis = int(n.get("axis", -1)) % x.rank
    given = n.array(1) if n.opset >= 10 else np.array(n.get("k"))
    count = int(given.reshape(-1)[0]) if given is not None else promised(b, n, "a count")[axis]
    order = [i for i in range(x.rank) if i != axis] + [axis]
    turned = layout_moves.transpose(b, x, order)
    kind = arithmetic.computed_in(b, "TOPK_V2", x.dtype)
    rows = layout_moves.cast(
        b, layout_moves.reshape(b, turned, [layout_moves.size(turned.shape[:-1]), turned.shape[-1]]), kind
    )
    largest = bool(n.get("largest", 1))
    rows = rows if largest else _descending(b, rows)
    shape = [rows.shape[0], count]
    values, places = b.emit_all("TOPK_V2", [rows, b.const(count, "int32")], [(kind, shape), ("int32", shape)])
    values = values if largest else _descending(b, values)
    back = [order.index(i) for i in range(x.rank)]
    wide = [*turned.shape[:-1], count]
    return [
        layout_moves.transpose(b, layout_moves.reshape(b, layout_moves.cast(b, values, x.dtype), wide), back),
        layout_moves.transpose(b, layout_moves.reshape(b, layout_moves.cast(b, places, "int64"), wide), back),
    ]


def _descending(b: Builder, x: Tensor) -> Tensor:
    """Return values in the opposite order: -x of floats, -1 - x of integers, which never overflows."""
    return arithmetic.unary(b, "NEG", x) if x.dtype.startswith("float") else arithmetic.sub(b, -1.0, x)


def trilu(b: Builder, n: Node) -> Sequence[Tensor]:
    """Trilu: the diagonal may be known at run time only."""
    x = n.input(0)
    upper = bool(n.get("upper", 1))
    distance = b.const((np.arange(x.shape[-1])[None, :] - np.arange(x.shape[-2])[:, None]).astype(np.int32))
    if n.given(1):
        diagonal = n.input(1)
        if diagonal.dtype == "int64" and diagonal.data is None:
            diagonal = arithmetic.clamp(b, diagonal, -(2.0**30), 2.0**30)
        diagonal = layout_moves.reshape(b, layout_moves.cast(b, diagonal, "int32"), [1, 1])
    else:
        diagonal = b.const(np.zeros((1, 1), np.int32))
    kept = arithmetic.binary(b, "GREATER_EQUAL" if upper else "LESS_EQUAL", distance, diagonal)
    if not layout_moves.size(x.shape):
        return [x]
    return [layout_moves.select(b, kept, x, b.const(np.zeros((), x.dtype)))]


def eye_like(b: Builder, n: Node) -> Sequence[Tensor]:
    """EyeLike: only the shape of the input counts."""
    from edgefleet_converters.tflite.trace import dtype_name

    x = n.input(0)
    kind = dtype_name(int(n.get("dtype"))) if "dtype" in n.attributes else x.dtype
    return [b.const(np.eye(x.shape[0], x.shape[1], k=int(n.get("k", 0))).astype(kind))]


def non_zero(b: Builder, n: Node) -> Sequence[Tensor]:
    """NonZero, where the model declares how many there are."""
    x = n.input(0)
    shape = promised(b, n, "a number of results")
    places = _true_places(b, _is_true(b, x), shape[1])
    return [layout_moves.transpose(b, places, [1, 0])]


def _is_true(b: Builder, x: Tensor) -> Tensor:
    return x if x.dtype == "bool" else arithmetic.binary(b, "NOT_EQUAL", x, arithmetic.scalar(b, 0, x))


def _true_places(b: Builder, mask: Tensor, count: int) -> Tensor:
    """Return int64 [count, rank] of the first `count` true places."""
    found = b.emit("WHERE", [mask], "int64", [count, mask.rank])
    # WHERE gives an open length; this reshape fixes it to what the model declares.
    return b.emit("RESHAPE", [found, b.ints([count, mask.rank])], "int64", [count, mask.rank])


def compress(b: Builder, n: Node) -> Sequence[Tensor]:
    """Compress, where the condition is constant or the model declares how many entries stay."""
    x, condition = n.input(0), n.input(1)
    if "axis" not in n.attributes:
        x = layout_moves.flatten(b, x)
    axis = int(n.get("axis", 0)) % x.rank
    if condition.data is not None:
        kept = np.flatnonzero(condition.data[: x.shape[axis]])
        return [layout_moves.gather(b, x, b.const(kept.astype(np.int32)), axis)]
    count = promised(b, n, "a number of results")[axis]
    places = layout_moves.reshape(b, _true_places(b, condition, count), [count])
    return [layout_moves.gather(b, x, layout_moves.cast(b, places, "int32"), axis)]


def reverse_sequence(b: Builder, n: Node) -> Sequence[Tensor]:
    """ReverseSequence, as a gather at reversed places."""
    x = n.input(0)
    time, batch = int(n.get("time_axis", 0)), int(n.get("batch_axis", 1))
    lengths = layout_moves.cast(b, n.input(1), "int32")
    order = [batch, time, *(i for i in range(x.rank) if i not in (batch, time))]
    turned = layout_moves.transpose(b, x, order)
    made = layout_moves.gather(b, layout_moves.reshape(b, turned, [turned.shape[0] * turned.shape[1], *turned.shape[2:]]),
                        layout_moves.flatten(b, reversed_places(b, lengths, turned.shape[1])), 0)  # fmt: skip
    return [
        layout_moves.transpose(b, layout_moves.reshape(b, made, turned.shape), [order.index(i) for i in range(x.rank)])
    ]


def reversed_places(b: Builder, lengths: Tensor, steps: int) -> Tensor:
    """Return flat places [B, T] in which the first `lengths` steps of each row are read backwards. lengths: int32 [B]."""
    count = lengths.shape[0]
    line = b.const(np.arange(steps, dtype=np.int32).reshape(1, steps))
    ends = layout_moves.reshape(b, lengths, [count, 1])
    back = arithmetic.sub(b, arithmetic.sub(b, ends, 1.0), line)
    places = layout_moves.select(b, arithmetic.binary(b, "LESS", line, ends), back, line)
    return arithmetic.add(b, places, b.const((np.arange(count, dtype=np.int32) * steps).reshape(count, 1)))


def array_feature_extractor(b: Builder, n: Node) -> Sequence[Tensor]:
    """ai.onnx.ml ArrayFeatureExtractor: entries of the last axis."""
    x, indices = n.input(0), n.input(1)
    made = layout_moves.gather(b, x, layout_moves.flatten(b, counted(b, indices, x.shape[-1])), x.rank - 1)
    return [made if x.rank > 1 else layout_moves.reshape(b, made, [1, *made.shape])]


def tensor_scatter(b: Builder, n: Node) -> Sequence[Tensor]:
    """TensorScatter: `update` goes into the cache from a place that is given for each entry of the batch."""
    cache, update = n.input(0), n.input(1)
    axis = int(n.get("axis", -2)) % cache.rank
    order = [0, axis, *(i for i in range(1, cache.rank) if i != axis)]
    old, new = layout_moves.transpose(b, cache, order), layout_moves.transpose(b, update, order)
    batch, length, steps = old.shape[0], old.shape[1], new.shape[1]
    first = layout_moves.cast(b, n.input(2), "int32") if n.given(2) else b.const(np.zeros(batch, np.int32))
    source = arithmetic.sub(b, b.const(np.arange(length, dtype=np.int32)), layout_moves.reshape(b, first, [batch, 1]))
    if n.text("mode", "linear") == "circular":
        source = arithmetic.binary(b, "FLOOR_MOD", source, b.const(np.int32(length)))
    inside = arithmetic.clamp(b, source, 0.0, float(steps - 1))
    hit = arithmetic.binary(b, "EQUAL", source, inside)
    flat = arithmetic.add(b, inside, b.const((np.arange(batch, dtype=np.int32) * steps).reshape(batch, 1)))
    rows = layout_moves.reshape(b, new, [batch * steps, *new.shape[2:]])
    put = layout_moves.gather(b, rows, flat, 0)
    hit = layout_moves.reshape(b, hit, [batch, length, *[1] * (old.rank - 2)])
    return [
        layout_moves.transpose(b, layout_moves.select(b, hit, put, old), [order.index(i) for i in range(cache.rank)])
    ]


def binarizer(b: Builder, n: Node) -> Sequence[Tensor]:
    """ai.onnx.ml Binarizer: one where the value is above the threshold."""
    x = n.input(0)
    above = arithmetic.binary(b, "GREATER", x, arithmetic.scalar(b, float(n.get("threshold", 0.0)), x))
    return [layout_moves.cast(b, above, x.dtype)]


LOWERINGS: dict[str, Lowering] = {
    "Gather": gather, "GatherElements": gather_elements, "GatherND": gather_nd, "Scatter": scatter_elements,
    "ScatterElements": scatter_elements, "ScatterND": scatter_nd, "OneHot": one_hot, "TopK": top_k, "Trilu": trilu,
    "EyeLike": eye_like, "NonZero": non_zero, "Compress": compress, "ReverseSequence": reverse_sequence,
    "TensorScatter": tensor_scatter,
}  # fmt: skip
