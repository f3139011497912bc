"""Values that are made rather than moved: ranges, windows, cumulative tables. Source: the ONNX operator pages."""

import itertools
from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import arithmetic, layout_moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Array, Tensor
from edgefleet_converters.tflite.lower.shapes import promised
from edgefleet_converters.tflite.node import Lowering, Node


def range_(b: Builder, n: Node) -> Sequence[Tensor]:
    """Range with bounds known at run time only, as long as the model declares: start + i · step."""
    start, step = n.input(0), n.input(2)
    (count,) = promised(b, n, "bounds")
    line = b.const(np.arange(count), start.dtype)
    return [arithmetic.add(b, arithmetic.mul(b, line, step), start)]


def mel_weights(b: Builder, n: Node) -> Sequence[Tensor]:
    """MelWeightMatrix, computed at compile time only: none of its inputs changes from run to run in practice."""
    b.not_compiled("MelWeightMatrix with values known only at run time")


def tf_idf(b: Builder, n: Node) -> Sequence[Tensor]:
    """TfIdfVectorizer of numbers: each n-gram of the pool is compared at every place and skip."""
    x = n.input(0)
    pool = n.get("pool_int64s")
    if pool is None:
        b.lacks("string tensors")
    rows = x if x.rank == 2 else layout_moves.reshape(b, x, [1, *x.shape])
    starts, columns = list(n.get("ngram_counts")), list(n.get("ngram_indexes"))
    width = max(columns) + 1
    total = b.const(np.zeros((rows.shape[0], width), np.float32))
    used = 0
    for k, start in enumerate(starts, 1):
        end = starts[k] if k < len(starts) else len(pool)
        grams = np.array(pool[start:end]).reshape(-1, k)
        own, used = columns[used : used + len(grams)], used + len(grams)
        if not len(grams) or not int(n.get("min_gram_length")) <= k <= int(n.get("max_gram_length")):
            continue
        for skip in range(int(n.get("max_skip_count")) + 1 if k > 1 else 1):
            total = arithmetic.add(b, total, _matches(b, rows, grams.astype(x.dtype), own, skip, width))
    made = _weighted(b, total, n, columns, width)
    return [made if x.rank == 2 else layout_moves.reshape(b, made, [width])]


def _matches(b: Builder, rows: Tensor, grams: Array, columns: Sequence[int], skip: int, width: int) -> Tensor:
    """Return [N, width]: how often each n-gram occurs with `skip` entries left out between its parts."""
    count, k = grams.shape
    places = rows.shape[1] - (k - 1) * (skip + 1)
    if places <= 0:
        return b.const(np.zeros((rows.shape[0], width), np.float32))
    at = np.arange(places)[:, None] + np.arange(k) * (skip + 1)
    seen = layout_moves.gather(b, rows, b.const(at.astype(np.int32)), 1)
    total: Tensor | None = None
    for part in range(k):
        entry = layout_moves.reshape(b, layout_moves.take(b, seen, 2, part, 1), [rows.shape[0], places, 1])
        hit = arithmetic.binary(b, "EQUAL", entry, b.const(grams[:, part].reshape(1, 1, count)))
        total = hit if total is None else arithmetic.binary(b, "LOGICAL_AND", total, hit)
    assert total is not None
    found = arithmetic.reduce(b, "SUM", layout_moves.cast(b, total, "float32"), [1], keep=False)
    placing = np.zeros((count, width), np.float32)
    placing[np.arange(count), list(columns)] = 1
    return arithmetic.matmul(b, found, b.const(placing))


def _weighted(b: Builder, counts: Tensor, n: Node, columns: Sequence[int], width: int) -> Tensor:
    mode = n.text("mode", "TF")
    if mode == "TF":
        return counts
    weights = np.ones(width, np.float32)
    weights[list(columns)] = n.get("weights", [1.0] * len(columns))
    if mode == "IDF":
        there = arithmetic.binary(b, "GREATER", counts, arithmetic.scalar(b, 0.0, counts))
        counts = layout_moves.cast(b, there, "float32")
    return arithmetic.mul(b, counts, b.const(weights))


def col2im(b: Builder, n: Node) -> Sequence[Tensor]:
    """Col2Im: columns are added back at their places. A block known only at run time must be the only one that fits the shapes."""
    x = n.input(0)
    image = n.array(1)
    sizes = [int(v) for v in image] if image is not None else list(promised(b, n, "an image")[2:])
    rank = len(sizes)
    strides, dilations = list(n.get("strides", [1] * rank)), list(n.get("dilations", [1] * rank))
    pads = list(n.get("pads", [0] * (2 * rank)))
    padded = [size + pads[i] + pads[i + rank] for i, size in enumerate(sizes)]
    given = n.array(2)
    if given is not None:
        block = [int(v) for v in given]
    else:
        channels = promised(b, n, "a block")[1]
        block = _only_block(b, x, channels, padded, strides, dilations)
    counts = [(p - d * (k - 1) - 1) // s + 1 for p, d, k, s in zip(padded, dilations, block, strides, strict=True)]
    place = np.zeros([*block, *counts], np.int64)
    for axis in range(rank):
        line = np.arange(block[axis])[:, None] * dilations[axis] + np.arange(counts[axis]) * strides[axis]
        shape = [1] * (2 * rank)
        shape[axis], shape[axis + rank] = block[axis], counts[axis]
        place = place + (line * int(np.prod(padded[axis + 1 :]))).reshape(shape)
    each, total = layout_moves.size(block), layout_moves.size(padded)
    planes = x.shape[0] * (x.shape[1] // each)
    turned = layout_moves.transpose(b, layout_moves.reshape(b, x, [planes, each * layout_moves.size(counts)]), [1, 0])
    where = b.const(place.reshape(-1, 1).astype(np.int32))
    summed = b.emit("SCATTER_ND", [where, turned, b.ints([total, planes])], x.dtype, [total, planes])
    made = layout_moves.reshape(b, layout_moves.transpose(b, summed, [1, 0]), [x.shape[0], x.shape[1] // each, *padded])
    return [layout_moves.pad(b, made, [0, 0, *(-p for p in pads[:rank])], [0, 0, *(-p for p in pads[rank:])])]


def _only_block(
    b: Builder, x: Tensor, channels: int, padded: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Return the block that fits the declared shapes. Raises OperatorNotCompiledError when there is more than one."""
    fits = []
    for block in itertools.product(*(range(1, p + 1) for p in padded)):
        counts = [(p - d * (k - 1) - 1) // s + 1 for p, d, k, s in zip(padded, dilations, block, strides, strict=True)]
        if (
            min(counts) > 0
            and layout_moves.size(block) * channels == x.shape[1]
            and layout_moves.size(counts) == x.shape[2]
        ):
            fits.append(list(block))
    if len(fits) != 1:
        b.not_compiled("Col2Im with a block known only at run time")
    return fits[0]


LOWERINGS: dict[str, Lowering] = {
    "Col2Im": col2im,
    "Range": range_,
    "MelWeightMatrix": mel_weights,
    "TfIdfVectorizer": tf_idf,
}
