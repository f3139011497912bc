"""Values that are made rather than moved: ranges, windows, cumulative tables. Source: the ONNX operator pages."""

from collections.abc import Sequence

import numpy as np

from edgefleet_converters.tflite import maths, moves
from edgefleet_converters.tflite.builder import Builder
from edgefleet_converters.tflite.ir import Array, Tensor
from edgefleet_converters.tflite.lower.shapes import promised
from edgefleet_converters.tflite.node import Lowering, Node


def range_(b: Builder, n: Node) -> Sequence[Tensor]:
    """Range with bounds known at run time only, as long as the model declares: start + i · step."""
    start, step = n.input(0), n.input(2)
    (count,) = promised(b, n, "bounds")
    line = b.const(np.arange(count), start.dtype)
    return [maths.add(b, maths.mul(b, line, step), start)]


def mel_weights(b: Builder, n: Node) -> Sequence[Tensor]:
    """MelWeightMatrix, computed at compile time only: none of its inputs changes from run to run in practice."""
    b.not_compiled("MelWeightMatrix with values known only at run time")


def tf_idf(b: Builder, n: Node) -> Sequence[Tensor]:
    """TfIdfVectorizer of numbers: each n-gram of the pool is compared at every place and skip."""
    x = n.input(0)
    pool = n.get("pool_int64s")
    if pool is None:
        b.lacks("string tensors")
    rows = x if x.rank == 2 else moves.reshape(b, x, [1, *x.shape])
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
            total = maths.add(b, total, _matches(b, rows, grams.astype(x.dtype), own, skip, width))
    made = _weighted(b, total, n, columns, width)
    return [made if x.rank == 2 else moves.reshape(b, made, [width])]


def _matches(b: Builder, rows: Tensor, grams: Array, columns: Sequence[int], skip: int, width: int) -> Tensor:
    """Return [N, width]: how often each n-gram occurs with `skip` entries left out between its parts."""
    count, k = grams.shape
    places = rows.shape[1] - (k - 1) * (skip + 1)
    if places <= 0:
        return b.const(np.zeros((rows.shape[0], width), np.float32))
    at = np.arange(places)[:, None] + np.arange(k) * (skip + 1)
    seen = moves.gather(b, rows, b.const(at.astype(np.int32)), 1)
    total: Tensor | None = None
    for part in range(k):
        entry = moves.reshape(b, moves.take(b, seen, 2, part, 1), [rows.shape[0], places, 1])
        hit = maths.binary(b, "EQUAL", entry, b.const(grams[:, part].reshape(1, 1, count)))
        total = hit if total is None else maths.binary(b, "LOGICAL_AND", total, hit)
    assert total is not None
    found = maths.reduce(b, "SUM", moves.cast(b, total, "float32"), [1], keep=False)
    placing = np.zeros((count, width), np.float32)
    placing[np.arange(count), list(columns)] = 1
    return maths.matmul(b, found, b.const(placing))


def _weighted(b: Builder, counts: Tensor, n: Node, columns: Sequence[int], width: int) -> Tensor:
    mode = n.text("mode", "TF")
    if mode == "TF":
        return counts
    weights = np.ones(width, np.float32)
    weights[list(columns)] = n.get("weights", [1.0] * len(columns))
    if mode == "IDF":
        there = maths.binary(b, "GREATER", counts, maths.scalar(b, 0.0, counts))
        counts = moves.cast(b, there, "float32")
    return maths.mul(b, counts, b.const(weights))


LOWERINGS: dict[str, Lowering] = {"Range": range_, "MelWeightMatrix": mel_weights, "TfIdfVectorizer": tf_idf}
