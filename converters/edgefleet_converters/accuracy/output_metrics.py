"""Metrics of single outputs: the candidate's answers against the source's. Pure.

Each takes (got, wanted), first axis = samples, and returns a `Figure`: a share from 0 to 1 where higher is better, or an error where
lower is better, and the loss of each sample where the figure is a mean over samples. `drop` is the loss in the metric's own unit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_converters.accuracy.output_kinds import ulps

Array = npt.NDArray[Any]

MIN_SCORE: Final = 0.25
"""A box with a lower score is no object, as in `check.detection`."""
_LEAST_SCORE_SPREAD: Final = 0.25
"""Scores from 0 to 1 that hardly vary on the data are taken to vary by this much."""
_STILL_CHANNEL: Final = 0.05
"""A channel that hardly varies is taken to vary by this part of the widest channel's spread."""
_MOST_CHANNELS: Final = 64
_OUTER: Final = (1.0, 99.0)
"""Percentiles between which the source's values are said to spread: a few outliers must not make an error look small."""
_BLANK_SHARE: Final = 0.3
_NEAR_TIE: Final = 0.01
"""A nearest neighbour that is by so little farther away, in cosine, is as near."""


@dataclass(frozen=True)
class Figure:
    """One output's outcome. losses: of single samples, each from 0 to 1, where their mean is `drop`; else None."""

    value: float
    baseline: float
    drop: float
    losses: Array | None = field(default=None, compare=False)


def _share(losses: Array) -> Figure:
    drop = float(losses.mean()) if losses.size else 0.0
    return Figure(1.0 - drop, 1.0, drop, losses)


def agreement(got: Array, wanted: Array) -> Figure:
    """Share of samples whose best class is the same. got, wanted: [n, classes]."""
    return _share((got.argmax(axis=1) != wanted.argmax(axis=1)).astype(np.float64))


def equal(got: Array, wanted: Array) -> Figure:
    """Share of equal whole numbers."""
    return _share(np.asarray((got != wanted).reshape(len(wanted), -1).mean(axis=1), dtype=np.float64))


def edit(got: Array, wanted: Array) -> Figure:
    """One minus the edit distance of what is read over its length. got, wanted: scores [n, steps, classes], or tokens [n, steps].

    Tokens are read up to the padding at their end: what most rows of the source end with.
    Where the first or the last class is the best one in many steps, it is taken as the blank of CTC: repeats are joined and blanks
    dropped. Else every step counts. The loss of a sample is at most 1.
    """
    if wanted.ndim == 2:
        return _apart([(_unpadded(a, wanted), _unpadded(b, wanted)) for a, b in zip(got, wanted, strict=True)])
    mine, theirs = got.argmax(axis=2), wanted.argmax(axis=2)
    blank = _blank(theirs, wanted.shape[2])
    if blank is None:
        return _share(np.asarray((mine != theirs).mean(axis=1), dtype=np.float64))
    return _apart([(_read(a, blank), _read(b, blank)) for a, b in zip(mine, theirs, strict=True)])


def _apart(pairs: list[tuple[list[int], list[int]]]) -> Figure:
    away = np.array([_distance(a, b) for a, b in pairs], dtype=np.float64)
    lengths = np.array([len(b) for _, b in pairs], dtype=np.float64)
    # Each sample by its own length, so that the figure is a mean over samples.
    return _share(np.minimum(1.0, away / np.maximum(lengths, 1.0)))


def _blank(best: Array, classes: int) -> int | None:
    shares = {place: float(np.mean(best == place)) for place in (0, classes - 1)}
    place = max(shares, key=lambda key: shares[key])
    return place if shares[place] >= _BLANK_SHARE and bool((best != place).any()) else None


def _read(row: Array, blank: int) -> list[int]:
    changed = np.flatnonzero(np.diff(row, prepend=-1))
    return [int(value) for value in row[changed] if value != blank]


def _unpadded(row: Array, wanted: Array) -> list[int]:
    """Return the tokens of a row without those at its end that are what most rows of `wanted` end with."""
    ends, counts = np.unique(wanted[:, -1], return_counts=True)
    others = np.flatnonzero(row != ends[counts.argmax()])
    return [int(token) for token in row[: others[-1] + 1 if len(others) else 0]]


def _distance(a: list[int], b: list[int]) -> int:
    """Return the edit distance (Levenshtein) of two short sequences."""
    if a == b:
        return 0
    row = list(range(len(b) + 1))
    for i, mine in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, theirs in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (mine != theirs))
    return row[-1]


def mae_share(got: Array, wanted: Array, *, least: float = 0.0) -> Figure:
    """Mean error of the worst channel, as a share of how far the source's values spread there. least: of a spread."""
    x, y = _channels(wanted.astype(np.float64)), _channels(got.astype(np.float64))
    low, high = np.percentile(x, _OUTER, axis=(0, 2))
    extent = np.ptp(x, axis=(0, 2))
    # Values that are mostly still and at times jump, such as heat maps, spread by their jumps.
    spread = np.maximum(high - low, 0.2 * extent)
    spread = np.maximum(spread, max(_STILL_CHANNEL * float(spread.max(initial=0.0)), least, 1e-12))
    losses = np.abs(x - y).mean(axis=2) / spread
    worst = losses[:, int(losses.mean(axis=0).argmax())]
    value = float(worst.mean())
    return Figure(value, 0.0, value, worst)


def score_error(got: Array, wanted: Array) -> Figure:
    """As `mae_share`, for scores from 0 to 1, which may hardly vary on the data."""
    return mae_share(got, wanted, least=_LEAST_SCORE_SPREAD * (255.0 if wanted.dtype.kind in "iu" else 1.0))


def _channels(values: Array) -> Array:
    """Return [n, channels, values of a channel]: the numbers of a row; of a map its few first or last indices, else one channel."""
    n = len(values)
    if values.ndim <= 2:
        return values.reshape(n, -1, 1)
    if values.shape[1] <= _MOST_CHANNELS and values.shape[1] <= values.shape[-1]:
        return values.reshape(n, values.shape[1], -1)
    if values.shape[-1] <= _MOST_CHANNELS:
        return np.moveaxis(values, -1, 1).reshape(n, values.shape[-1], -1)
    return values.reshape(n, 1, -1)


def iou(got: Array, wanted: Array) -> Figure:
    """Mean over samples of the overlap of what is marked; of maps of classes, of each class that the source or the candidate has.

    Float maps with shares of one along an axis are read as classes, others are cut at half of full scale.
    """
    axis = _class_axis(wanted)
    if axis is not None or wanted.dtype.kind in "iu":
        mine, theirs = (a.argmax(axis=axis) if axis is not None else a for a in (got, wanted))
        return _share(np.array([_class_loss(a, b) for a, b in zip(mine, theirs, strict=True)]))
    a, b = (x.reshape(len(x), -1) if x.dtype.kind == "b" else x.reshape(len(x), -1) > 0.5 for x in (got, wanted))
    union, both = (a | b).sum(axis=1), (a & b).sum(axis=1)
    return _share(np.where(union > 0, 1 - both / np.maximum(union, 1), 0.0))


def _class_axis(wanted: Array) -> int | None:
    if wanted.dtype.kind != "f" or wanted.ndim < 4:
        return None
    axes = [axis for axis in (1, wanted.ndim - 1) if wanted.shape[axis] > 1]
    logs = float(wanted.max()) <= 1e-6 and float(wanted.min()) < 0
    real = np.exp(wanted.astype(np.float64)) if logs else wanted
    return next((axis for axis in axes if bool(np.abs(real.sum(axis=axis) - 1).max() <= 0.02)), None)


def _class_loss(got: Array, wanted: Array) -> float:
    """Return one minus the mean overlap of the classes of one sample; a class without a hundredth of the values does not count."""
    present = [c for c in np.unique(wanted) if np.mean(wanted == c) >= 0.01]
    overlaps = [float(np.sum((got == c) & (wanted == c)) / np.sum((got == c) | (wanted == c))) for c in present]
    return 1 - sum(overlaps) / max(1, len(overlaps))


def objects_found(got: Array, wanted: Array) -> Figure:
    """F1 of (box, class) with a score of at least 0.25. got, wanted: scores [n, boxes, classes], with softmax the first is none."""
    mine, theirs = _objects(got, wanted), _objects(wanted, wanted)
    found, matched = int((mine >= 0).sum() + (theirs >= 0).sum()), int(((mine == theirs) & (mine >= 0)).sum())
    value = 2 * matched / found if found else 1.0
    return Figure(value, 1.0, 1.0 - value)


def _objects(scores: Array, reference: Array) -> Array:
    """Return each box's class, -1 where it holds nothing."""
    none_first = reference.shape[2] > 1 and bool(np.abs(reference.sum(axis=2) - 1).max() <= 0.02)
    best = scores.argmax(axis=2)
    held = scores.max(axis=2) >= MIN_SCORE
    return np.where(held & (best > 0) if none_first else held, best, -1)


def similarity(got: Array, wanted: Array) -> Figure:
    """The smaller of two: the mean cosine to the source's embedding, and the share of samples with the same nearest neighbour.

    What all embeddings have in common is taken away first: else every cosine is near 1.
    """
    x, y = wanted.reshape(len(wanted), -1).astype(np.float64), got.reshape(len(got), -1).astype(np.float64)
    centre = x.mean(axis=0) if len(x) > 1 else np.zeros(x.shape[1])
    x, y = _unit(x - centre), _unit(y - centre)
    cosine = np.clip(1 - (x * y).sum(axis=1), 0.0, 1.0)
    if len(x) < 3:
        return _share(cosine)
    mine, theirs = y @ y.T, x @ x.T
    np.fill_diagonal(mine, -np.inf)
    np.fill_diagonal(theirs, -np.inf)
    place = np.arange(len(x))
    moved = (theirs.max(axis=1) - theirs[place, mine.argmax(axis=1)] > _NEAR_TIE).astype(np.float64)
    return min(_share(cosine), _share(moved), key=lambda figure: figure.value)


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def constant(got: Array, wanted: Array) -> Figure:
    """Largest difference as a share of the constant's magnitude; a few units in the last place are none."""
    scale = max(float(np.abs(wanted).max(initial=0.0)), 1e-30)
    away = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
    away = np.where(away <= ulps(scale), 0.0, away)
    value = float(away.max(initial=0.0)) / scale
    return Figure(value, 0.0, value)


OUTPUT_METRICS: Final[Mapping[str, Callable[[Array, Array], Figure]]] = {
    "agreement": agreement, "equal": equal, "edit": edit, "mae-share": mae_share, "score-error": score_error, "iou": iou,
    "objects": objects_found, "similarity": similarity, "constant": constant,
}  # fmt: skip
"""Those that a kind chooses. `check.metrics` has those that a user can name for a whole model."""
