"""What a task costs, sample by sample: lower is better. Pure.

Each takes the answers, the source's answers and the truth (empty: the source's answers are the truth) and returns the cost of
each sample. A candidate's loss is the mean of its cost less the source's, so its standard error follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from bench.zoo.entry import Array

from edgefleet_converters.check.detection import best_scores, detection_f1

Answers = Mapping[str, Array]
Cost = Callable[[Answers, Answers, Answers], Any]


def loss(metric: str, got: Answers, source: Answers, truth: Answers) -> tuple[float, float]:
    """Return by how much the answers are worse than the source's, and the standard error of that mean."""
    cost = METRICS[metric]
    each = cost(got, source, truth) - cost(source, source, truth)
    if not np.isfinite(each).all():
        return float("inf"), 0.0
    return float(each.mean()), float(each.std() / max(1.0, len(each)) ** 0.5)


def _pair(got: Answers, source: Answers, truth: Answers) -> tuple[Array, Array]:
    """Return the output that counts and what it should be: that of the label's name, else the first."""
    key = next(iter(truth), "")
    name = key.removeprefix("y").removeprefix(".") or next(iter(source))
    wanted = truth[key] if key else source[name]
    return got[name], wanted


def _classes(output: Array) -> Any:
    flat = output.reshape(len(output), -1)
    if flat.dtype.kind in "iub":
        return flat[:, 0]
    return (flat[:, 0] > 0.5).astype(np.int64) if flat.shape[1] == 1 else flat.argmax(axis=1)


def _top1(got: Answers, source: Answers, truth: Answers) -> Any:
    output, wanted = _pair(got, source, truth)
    return (_classes(output) != (wanted if truth else _classes(wanted))).astype(np.float64)


def _tags(got: Answers, source: Answers, truth: Answers) -> Any:
    """Share of a sequence's places that have another class; places of -1 do not count."""
    output, wanted = _pair(got, source, truth)
    named = wanted if truth else wanted.argmax(-1)
    counted = named >= 0
    wrong = (output.argmax(-1).reshape(named.shape) != named) & counted
    return wrong.sum(1) / np.maximum(1, counted.sum(1))


def _edits(got: Answers, source: Answers, truth: Answers) -> Any:
    """Edit distance as a share of the length: arg-max of each step, repeats and class 0 kept."""
    output, wanted = _pair(got, source, truth)
    rows = wanted if truth else wanted.argmax(-1)
    return np.array([_distance(list(a), list(b)) for a, b in zip(output.argmax(-1), rows, strict=True)])


def _read(got: Answers, source: Answers, truth: Answers) -> Any:
    """Edit distance as a share of the length, after repeats are joined and class 0 (blank) is dropped."""
    output, wanted = _pair(got, source, truth)
    rows = [[v for v in row if v >= 0] for row in wanted.tolist()] if truth else [_joined(row) for row in wanted]
    return np.array([_distance(_joined(a), b) for a, b in zip(output, rows, strict=True)])


def _joined(row: Array) -> list[int]:
    best = row.argmax(-1)
    return [int(v) for v in best[np.flatnonzero(np.diff(best, prepend=-1))] if v]


def _distance(a: list[int], b: list[int]) -> float:
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1] / max(1, len(b))


def _spread(got: Answers, source: Answers, truth: Answers) -> Any:
    """Mean error of each value as a share of its own range (5th to 95th percentile over the samples)."""
    output, wanted = _pair(got, source, truth)
    flat, target = (
        output.reshape(len(output), -1).astype(np.float64),
        wanted.reshape(len(wanted), -1).astype(np.float64),
    )
    low, high = np.percentile(target, (5, 95), axis=0)
    wide = max(float(np.percentile(target, 95) - np.percentile(target, 5)), 1e-9)
    ranges = np.maximum(high - low, 1e-9) if target.shape[1] <= 16 else np.full(target.shape[1], wide)
    return (np.abs(flat - target) / ranges).mean(axis=1)


def _iou(got: Answers, source: Answers, truth: Answers) -> Any:
    """1 - intersection over union of what lies above 0.5."""
    output, wanted = _pair(got, source, truth)
    one, other = output.reshape(len(output), -1) > 0.5, wanted.reshape(len(wanted), -1) > 0.5
    union = (one | other).sum(1)
    return 1 - np.where(union == 0, 1.0, (one & other).sum(1) / np.maximum(1, union))


def _objects(got: Answers, source: Answers, truth: Answers) -> Any:
    """1 - F1 of the objects of each sample: class and place (IoU >= 0.5) agree. Boxes and scores in one output or in two."""
    output = np.concatenate(list(got.values()), -1)
    wanted = next(iter(truth.values())) if truth else np.concatenate(list(source.values()), -1)
    return np.array([1 - detection_f1(output[i : i + 1], wanted[i : i + 1]) for i in range(len(output))])


def _scores(got: Answers, source: Answers, truth: Answers) -> Any:
    """Difference of the best score, for detectors that answer with one tensor of boxes and scores."""
    output, wanted = _pair(got, source, truth)
    return np.abs(best_scores(output).max(axis=1) - best_scores(wanted).max(axis=1))


def _neighbours(got: Answers, source: Answers, truth: Answers) -> Any:
    """Share of the ten nearest neighbours of a sample that are others than the source's."""
    output, wanted = _pair(got, source, truth)
    count = min(10, len(output) - 1)
    mine, theirs = (_nearest(array.reshape(len(array), -1), count) for array in (output, wanted))
    return np.array([1 - len(set(a) & set(b)) / count for a, b in zip(mine.tolist(), theirs.tolist(), strict=True)])


def _nearest(rows: Array, count: int) -> Any:
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -2)
    return np.argsort(-likeness, axis=1, kind="stable")[:, :count]


def _probability(got: Answers, source: Answers, truth: Answers) -> Any:
    """Difference of a probability, or of a map of them; the outputs' mean."""
    output, wanted = _pair(got, source, truth)
    return np.abs(output.reshape(len(output), -1).astype(np.float64) - wanted.reshape(len(wanted), -1)).mean(axis=1)


def _points(got: Answers, source: Answers, truth: Answers) -> Any:
    """Share of points further than 2 pixels from their place. Output: coordinates [n, points, 2] or maps [n, points, h, w]."""
    output, wanted = _pair(got, source, truth)
    mine, theirs = _places(output), _places(wanted)
    return (np.linalg.norm(mine - theirs.reshape(mine.shape), axis=-1) > 2).mean(axis=1)


def _places(output: Array) -> Any:
    if output.ndim < 4:
        return output.reshape(len(output), -1, 2).astype(np.float64)
    best = output.reshape(*output.shape[:2], -1).argmax(-1)
    scale = 32 / output.shape[-1]
    return np.stack([(best % output.shape[-1] + 0.5) * scale, (best // output.shape[-1] + 0.5) * scale], -1)


METRICS: dict[str, Cost] = {
    "top1": _top1, "tags": _tags, "edits": _edits, "read": _read, "spread": _spread, "iou": _iou, "objects": _objects,
    "scores": _scores, "neighbours": _neighbours, "probability": _probability, "points": _points,
}  # fmt: skip
