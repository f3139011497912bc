"""Metrics that compare a candidate's answers with labels or with the source model's answers. Pure.

Each metric gives `value`, the source's own `baseline`, and `drop` = how much worse the candidate is, in the metric's unit.
Cosine is not among them: it stays at 0.9996 while a detector loses every object (docs/explanation/converting.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_converters.check.detection import BOX_NUMBERS, best_scores, detection_f1
from edgefleet_converters.errors import LabelsError, MetricError

Array = npt.NDArray[Any]
Answers = Mapping[str, Array]
"""Output name -> array, first axis = samples, in the model's order."""

WITHIN_RATIO: Final = 0.01
"""Agreement of outputs that are no class scores: share of values within 1 % of the output's range."""
_MAX_CLASSES: Final = 100_000


@dataclass(frozen=True)
class Score:
    """Outcome of a metric. n: samples."""

    name: str
    value: float
    baseline: float
    drop: float
    n: int


def judge(name: str | None, answers: Answers, reference: Answers, labels: Mapping[str, Array]) -> Score:
    """Return the score of `answers`. name: None chooses top1 with integer labels `y`, else agreement.

    reference: the source model's answers. labels: output name ("" = plain `y`) -> array. Raises MetricError, LabelsError.
    """
    chosen = name or default_metric(labels)
    function = METRICS.get(chosen)
    if function is None:
        raise MetricError(
            f"there is no metric {chosen!r}", next_step=f"use one of {', '.join(sorted(METRICS))}, or pkg.mod:func"
        )
    return function(answers, reference, labels)


def is_lost(score: Score, reference: Answers, *, n: int, max_drop: float) -> bool:
    """Return whether the loss on the first samples is certain to be more than `max_drop` on all `n`, whatever the rest show.

    score: of the first samples, without labels. reference: the source's answers to them. Certain only for metrics that are a
    mean of losses of single samples; False for others.
    """
    by_sample = score.name in ("sequence", "mae", "scores") or (
        score.name == "agreement" and all(map(is_class_scores, reference.values()))
    )
    return by_sample and score.drop * score.n > max_drop * n


def default_metric(labels: Mapping[str, Array]) -> str:
    """Return `top1` when there are integer labels, else `agreement`."""
    plain = labels.get("")
    return "top1" if plain is not None and plain.dtype.kind in "iub" and plain.ndim == 1 else "agreement"


def classes_of(output: Array) -> Array:
    """Return one class a sample: arg-max over the last axis; a single score is cut at 0.5; integers are classes already.

    output: [n], [n, 1] or [n, classes], float or int. Raises MetricError for other shapes.
    """
    flat = output.reshape(len(output), -1) if output.ndim != 2 else output
    if output.ndim > 2 and flat.shape[1] != output.shape[-1]:
        raise MetricError(
            f"top1 needs one row of class scores a sample, the output has shape {list(output.shape)}",
            next_step="name another metric with --metric",
        )
    if flat.shape[1] == 1:
        only = flat[:, 0]
        return only.astype(np.int64) if only.dtype.kind in "iub" else (only > 0.5).astype(np.int64)
    best: Array = flat.argmax(axis=1).astype(np.int64)
    return best


def is_class_scores(output: Array) -> bool:
    """Return whether an output looks like one row of class scores a sample."""
    return output.dtype.kind == "f" and output.ndim == 2 and 2 <= output.shape[1] <= _MAX_CLASSES


def _top1(answers: Answers, reference: Answers, labels: Mapping[str, Array]) -> Score:
    name, wanted = _labelled(answers, labels, "top1")
    if wanted.ndim != 1 or wanted.dtype.kind not in "iub":
        raise LabelsError("top1 needs one integer label a sample", next_step="give `y` as a one-dimensional int array")
    width = answers[name].shape[-1] if answers[name].ndim > 1 else 0
    if width > 1 and (int(wanted.min()) < 0 or int(wanted.max()) >= width):
        raise LabelsError(
            f"labels run from {int(wanted.min())} to {int(wanted.max())}, but output {name!r} has {width} classes",
            next_step=f"number the classes from 0 to {width - 1}",
        )
    value = float(np.mean(classes_of(answers[name]) == wanted))
    baseline = float(np.mean(classes_of(reference[name]) == wanted))
    return Score("top1", value, baseline, baseline - value, len(wanted))


def _agreement(answers: Answers, reference: Answers, labels: Mapping[str, Array]) -> Score:
    shares = [_agreement_of(answers[name], wanted) for name, wanted in reference.items()]
    value = min(shares)
    return Score("agreement", value, 1.0, 1.0 - value, len(next(iter(reference.values()))))


def _agreement_of(got: Array, wanted: Array) -> float:
    """Return the share of equal classes, or of values within 1 % of the range for outputs that are no class scores."""
    if is_class_scores(wanted):
        return float(np.mean(got.argmax(axis=1) == wanted.argmax(axis=1)))
    if wanted.dtype.kind != "f" and not _is_quantised(wanted):
        return float(np.mean(got == wanted))
    x, y = wanted.astype(np.float64), got.astype(np.float64)
    spread = max(float(np.ptp(x)), 1e-9)
    return float(np.mean(np.abs(x - y) <= WITHIN_RATIO * spread))


def _is_quantised(array: Array) -> bool:
    return array.dtype.kind in "iu" and array.dtype.itemsize == 1


def _mae(answers: Answers, reference: Answers, labels: Mapping[str, Array]) -> Score:
    if not labels:
        errors = [_mean_difference(answers[name], wanted) for name, wanted in reference.items()]
        worst = max(errors)
        return Score("mae", worst, 0.0, worst, len(next(iter(reference.values()))))
    name, wanted = _labelled(answers, labels, "mae")
    target = wanted.reshape(answers[name].shape) if wanted.size == answers[name].size else None
    if target is None:
        raise LabelsError(
            f"labels have shape {list(wanted.shape)}, output {name!r} has {list(answers[name].shape)}",
            next_step="give one target for each output value",
        )
    value, baseline = _mean_difference(answers[name], target), _mean_difference(reference[name], target)
    return Score("mae", value, baseline, value - baseline, len(wanted))


def _mean_difference(a: Array, b: Array) -> float:
    return float(np.mean(np.abs(a.astype(np.float64) - b.astype(np.float64))))


def _sequence(answers: Answers, reference: Answers, labels: Mapping[str, Array]) -> Score:
    """Share of sequences that are read the same: arg-max over the last axis, repeats joined, class 0 (blank) dropped."""
    if labels:
        name, wanted = _labelled(answers, labels, "sequence")
        truth = [[int(v) for v in row if v >= 0] for row in wanted.reshape(len(wanted), -1)]
        baseline = _same_share(_decoded(reference[name]), truth)
    else:
        name = next((key for key, array in reference.items() if array.ndim == 3), "")
        if not name:
            raise MetricError("sequence needs an output of shape [n, steps, classes]", next_step="name another metric")
        truth, baseline = _decoded(reference[name]), 1.0
    value = _same_share(_decoded(answers[name]), truth)
    return Score("sequence", value, baseline, baseline - value, len(truth))


def _decoded(output: Array) -> list[list[int]]:
    if output.ndim != 3:
        raise MetricError(
            f"sequence needs an output of shape [n, steps, classes], got {list(output.shape)}",
            next_step="name another metric",
        )
    rows = []
    for row in output.argmax(axis=2):
        changed = np.flatnonzero(np.diff(row, prepend=-1))
        rows.append([int(value) for value in row[changed] if value != 0])
    return rows


def _same_share(got: list[list[int]], wanted: list[list[int]]) -> float:
    return sum(a == b for a, b in zip(got, wanted, strict=True)) / max(1, len(wanted))


def _detection(answers: Answers, reference: Answers, labels: Mapping[str, Array]) -> Score:
    """F1 of the candidate's objects against the source's, on the first output of rank 3 (see `detection`)."""
    name = _detector_output(reference, "detection")
    value = detection_f1(answers[name], reference[name])
    return Score("detection", value, 1.0, 1.0 - value, len(reference[name]))


def _scores(answers: Answers, reference: Answers, labels: Mapping[str, Array]) -> Score:
    """Mean difference of each sample's best score, on the first output of rank 3 (see `detection`); 0 … 1, no labels.

    Finer than F1: a score that sinks from 0.9 to 0.3 costs 0.6 here and nothing there.
    """
    name = _detector_output(reference, "scores")
    value = float(np.mean(np.abs(best_scores(answers[name]).max(axis=1) - best_scores(reference[name]).max(axis=1))))
    return Score("scores", value, 0.0, value, len(reference[name]))


def _detector_output(reference: Answers, metric: str) -> str:
    name = next((key for key, array in reference.items() if array.ndim == 3 and array.dtype.kind == "f"), "")
    if not name or min(reference[name].shape[1:]) <= BOX_NUMBERS:
        raise MetricError(
            f"{metric} needs a float output of shape [n, boxes, 4 + classes] or its transpose",
            next_step="name another metric",
        )
    return name


def _labelled(answers: Answers, labels: Mapping[str, Array], metric: str) -> tuple[str, Array]:
    if not labels:
        raise MetricError(f"metric {metric} needs labels", next_step="add an array `y` to the evaluation data")
    if "" in labels:
        return _scored_output(answers), labels[""]
    name = next(iter(labels))
    return name, labels[name]


def _scored_output(answers: Answers) -> str:
    """Return the output that plain `y` is about: the first of class scores, else the first."""
    return next((name for name, array in answers.items() if is_class_scores(array)), next(iter(answers)))


METRICS: Final[dict[str, Callable[[Answers, Answers, Mapping[str, Array]], Score]]] = {
    "top1": _top1,
    "agreement": _agreement,
    "mae": _mae,
    "sequence": _sequence,
    "detection": _detection,
    "scores": _scores,
}
