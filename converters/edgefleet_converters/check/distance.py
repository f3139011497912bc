"""How far two models' answers lie apart, on a scale without steps. Pure.

A metric such as agreement moves in steps of one sample, so with a few samples it cannot say which of two nodes hurts more.
These distances can; they order nodes (`sensitivity`) and never decide what is offered. Each looks only at the numbers that
its metric looks at:

* top1, agreement, sequence and edit on class scores: the scores of the source's two best classes;
* detection, scores: the best score of each class in each sample;
* mae and all else: every value.

The mean difference is divided by the range of the source's own numbers, so outputs of any unit can be added. `magnified` makes a
metric with steps tell more of few samples.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_converters.check.detection import best_scores
from edgefleet_converters.check.metrics import is_class_scores

Array = npt.NDArray[Any]

MAGNIFIED: Final = 2.0
_FEWEST: Final = 32


def distance(metric: str, answers: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    """Return the sum over outputs of the mean difference, in ranges of each output; infinity where an answer is not finite.

    metric: a name of `metrics.METRICS`; others are treated as agreement. answers, reference: first axis = samples.
    """
    total = 0.0
    for name, wanted in reference.items():
        got = answers[name]
        if wanted.dtype.kind != "f":
            total += float(np.mean(got != wanted))
            continue
        x, y = _looked_at(metric, wanted.astype(np.float64), got.astype(np.float64))
        if not bool(np.isfinite(y).all()):
            return float("inf")
        total += float(np.mean(np.abs(x - y))) / max(float(np.ptp(x)), 1e-9)
    return total


def magnified(metric: str, answers: Mapping[str, Array], reference: Mapping[str, Array]) -> dict[str, Array]:
    """Return the answers with `MAGNIFIED` times their error where the metric counts samples that change, else as they are.

    A few dozen samples cannot show a loss of 1 %; how many of them change under a larger error can: the share that does
    grows about as the error.
    """
    return {
        name: wanted + MAGNIFIED * (answers[name] - wanted) if _counts_changes(metric, wanted) else answers[name]
        for name, wanted in reference.items()
    }


def allowed_loss(metric: str, reference: Mapping[str, Array], *, max_drop: float, margin: float) -> float:
    """Return how much of the metric may be lost on the samples of `reference`, seen with `magnified` errors.

    max_drop: what the gate will allow on other samples; a search allows the part `margin` of it. Where classes of samples are
    counted, one of n is the least that can be seen, and with its error magnified it tells of a loss of 1 / (n · MAGNIFIED): so
    one may change wherever the gate would let that pass. Of 64 one is often a near tie of two classes (ADR 0066). Of fewer than
    `_FEWEST` none may: one tells too little of the others.
    """
    allowed = margin * max_drop
    n = min(map(len, reference.values()), default=0)
    counts = metric == "agreement" and all(map(is_class_scores, reference.values()))
    return max(allowed, 1 / n) if counts and n >= _FEWEST and 1 / n <= MAGNIFIED * max_drop else allowed


def _counts_changes(metric: str, output: Array) -> bool:
    if output.dtype.kind != "f":
        return False
    return (metric in ("sequence", "edit", "detection") and output.ndim == 3) or (
        metric == "agreement" and is_class_scores(output)
    )


def _looked_at(metric: str, wanted: Array, got: Array) -> tuple[Array, Array]:
    if metric in ("detection", "scores") and wanted.ndim == 3:
        return best_scores(wanted), best_scores(got)
    if (metric in ("sequence", "edit") and wanted.ndim == 3) or (
        metric in ("top1", "agreement") and is_class_scores(wanted)
    ):
        best = _two_best(wanted)
        return np.take_along_axis(wanted, best, axis=-1), np.take_along_axis(got, best, axis=-1)
    return wanted, got


def _two_best(scores: Array) -> Array:
    """Return the places of the highest two of the last axis, the earlier of equal ones first; one where there is only one.

    A recogniser has 6,625 scores a step: to sort them took as long as the runs that made them.
    """
    first: Array = scores.argmax(axis=-1)[..., None]
    if scores.shape[-1] == 1:
        return first
    rest = scores.copy()
    np.put_along_axis(rest, first, -np.inf, axis=-1)
    return np.concatenate([first, rest.argmax(axis=-1)[..., None]], axis=-1)
