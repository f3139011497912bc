"""Metrics that compare a candidate's answers with labels or with the source model's answers. Pure.

Each metric gives `value`, the source's own `baseline`, and `drop` = how much worse the candidate is, in the metric's unit.
A plan (`accuracy.output_kinds`) gives each output the metric of its kind, and the output that loses most decides; a name that the
user gave is one metric for the whole model.
Plain cosine is not among them: it stays at 0.9996 while a detector loses every object (docs/explanation/converting.md).
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet_converters.accuracy.output_kinds import CLASS_NUMBERS, CLASS_SCORES, STATE, Plan
from edgefleet_converters.accuracy.output_metrics import OUTPUT_METRICS, Figure
from edgefleet_converters.check.detection import BOX_NUMBERS, best_scores, detection_f1
from edgefleet_converters.errors import LabelsError, MetricError

Array = npt.NDArray[Any]
Answers = Mapping[str, Array]
"""Output name -> array, first axis = samples, in the model's order."""

WITHIN_RATIO: Final = 0.01
"""Agreement of outputs that are no class scores: share of values within 1 % of the output's range."""
_MAX_CLASSES: Final = 100_000


@dataclass(frozen=True)
class OutputScore:
    """Outcome of one output. kind: of `accuracy.output_kinds`; losses: of single samples, where the drop is their mean."""

    output: str
    kind: str
    metric: str
    value: float
    baseline: float
    drop: float
    losses: Array | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Score:
    """Outcome of a metric, of a plan the outcome of the output that loses most. n: samples; outputs: each of a plan."""

    name: str
    value: float
    baseline: float
    drop: float
    n: int
    outputs: tuple[OutputScore, ...] = ()
    losses: Array | None = field(default=None, compare=False)


Choice = str | Plan | None
"""How a model is judged: one metric by name, or a plan; None: `default_metric`."""


def judge(choice: Choice, answers: Answers, reference: Answers, labels: Mapping[str, Array]) -> Score:
    """Return the score of `answers`. choice: None chooses top1 with integer labels `y`, else agreement.

    reference: the source model's answers. labels: output name ("" = plain `y`) -> array. Raises MetricError, LabelsError.
    """
    if isinstance(choice, tuple):
        return _judge_plan(choice, answers, reference, labels)
    chosen = choice or default_metric(labels)
    function = METRICS.get(chosen)
    if function is None:
        if chosen in OUTPUT_METRICS:
            named = [_named_output(chosen, name, answers, reference) for name in reference]
            return _worst_of(tuple(named), len(next(iter(reference.values()))))
        raise MetricError(f"there is no metric {chosen!r}", next_step=f"use one of {', '.join(NAMED)}, or pkg.mod:func")
    return function(answers, reference, labels)


def judged_in(plan: Plan) -> bool:
    """Return whether a plan judges any output by itself."""
    return any(row.metric not in _UNJUDGED for row in plan)


def with_labels(plan: Plan, labels: Mapping[str, Array], reference: Answers) -> Plan:
    """Return the plan with top1 where integer labels say what is right."""
    names = list(reference)
    whole = {key for key, array in labels.items() if array.dtype.kind in "iub" and array.ndim == 1}
    named = {row.name for row in plan if row.name in whole}
    if "" in whole:
        free = [row for row in plan if not row.given and row.metric not in _UNJUDGED]
        scores = [row for row in free if row.kind == CLASS_SCORES] or [
            row for row, name in zip(plan, names, strict=True) if row in free and is_class_scores(reference[name])
        ]
        named |= {row.name for row in [*(scores or free)[:1], *(row for row in free if row.kind == CLASS_NUMBERS)]}
    replace = msgspec.structs.replace
    kinds = {row.name: CLASS_NUMBERS if row.kind == CLASS_NUMBERS else CLASS_SCORES for row in plan}
    return tuple(
        replace(row, metric="top1", kind=kinds[row.name]) if row.name in named and not row.given else row
        for row in plan
    )


def with_named(plan: Plan, metric: str | None, metrics: Mapping[str, str]) -> Plan:
    """Return the plan with the metrics that the user named for single outputs. metric: for all others, None = of their kind.

    Raises MetricError.
    """
    known = {row.name for row in plan}
    if metric is not None and metric not in NAMED:
        raise MetricError(
            f"the metric {metric!r} cannot be that of all other outputs",
            next_step=f"use one of {', '.join(NAMED)}, or name a metric for single outputs only",
        )
    for output, name in metrics.items():
        if output not in known:
            raise MetricError(
                f"a metric is named for {output!r}, and the model has no such output",
                next_step=f"name one of its outputs: {', '.join(sorted(known))}",
            )
        if name not in (*NAMED, IGNORE):
            raise MetricError(
                f"there is no metric {name!r} for the output {output!r}",
                next_step=f"use one of {', '.join((*NAMED, IGNORE))}",
            )
    others = {} if metric is None else {row.name: metric for row in plan if row.metric not in _UNJUDGED}
    replace, wanted = msgspec.structs.replace, others | dict(metrics)
    found = tuple(replace(row, metric=wanted[row.name], given=True) if row.name in wanted else row for row in plan)
    if metrics and not judged_in(found):
        raise MetricError("every output of the model is ignored", next_step="name a metric for one output at least")
    return found


def _judge_plan(plan: Plan, answers: Answers, reference: Answers, labels: Mapping[str, Array]) -> Score:
    found = []
    for row, name in zip(plan, reference, strict=True):
        if row.metric in _UNJUDGED:
            continue
        got, wanted = answers[name], reference[name]
        mine = {"": labels[row.name]} if row.name in labels else {key: a for key, a in labels.items() if key == ""}
        if (row.metric in OUTPUT_METRICS and row.metric not in METRICS) or (row.metric, row.kind) == _BY_CLASS:
            figure = OUTPUT_METRICS[row.metric](got, wanted)
        else:
            figure = _figure(METRICS[row.metric]({name: got}, {name: wanted}, mine if row.metric in _LABELLED else {}))
        found.append(
            OutputScore(row.name, row.kind, row.metric, figure.value, figure.baseline, figure.drop, figure.losses)
        )
    return _worst_of(tuple(found), len(next(iter(reference.values()))))


def with_long_run(score: Score, after: Score, states: list[str], *, limit: float) -> Score:
    """Return the score of single runs joined with that of a long run, in which the states were fed back.

    The worse of them leads. A long run that loses more than `limit` always does: what may change of a few counted samples says nothing
    of it.
    """
    value = 1 - after.drop
    rows = tuple(OutputScore(name, STATE, "long-run", value, 1.0, after.drop) for name in states)
    if after.drop <= min(score.drop, limit):
        return dataclasses.replace(score, outputs=score.outputs + rows)
    return Score("long-run", value, 1.0, after.drop, after.n, score.outputs + rows)


def _named_output(metric: str, name: str, answers: Answers, reference: Answers) -> OutputScore:
    figure = OUTPUT_METRICS[metric](answers[name], reference[name])
    return OutputScore(name, "", metric, figure.value, figure.baseline, figure.drop, figure.losses)


def _figure(score: Score) -> Figure:
    return Figure(score.value, score.baseline, score.drop, score.losses)


def _worst_of(outputs: tuple[OutputScore, ...], n: int) -> Score:
    if not outputs:
        raise MetricError(
            "no output of the model is judged", next_step="name a metric for one with --metric OUTPUT=NAME"
        )
    # NaN is worse than all: it must not hide behind another output.
    worst = max(outputs, key=lambda one: one.drop if one.drop == one.drop else float("inf"))
    return Score(worst.metric, worst.value, worst.baseline, worst.drop, n, outputs, worst.losses)


def is_lost(score: Score, reference: Answers, *, n: int, max_drop: float) -> bool:
    """Return whether the loss on the first samples is certain to be more than `max_drop` on all `n`, whatever the rest show.

    score: of the first samples, without labels. reference: the source's answers to them. Certain only for metrics that are a
    mean of losses of single samples; False for others.
    """
    if score.outputs:
        return any(one.drop * score.n > max_drop * n for one in score.outputs if one.metric in _SUMMED)
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
    right = classes_of(answers[name]) == wanted
    value, baseline = float(np.mean(right)), float(np.mean(classes_of(reference[name]) == wanted))
    return Score("top1", value, baseline, baseline - value, len(wanted), losses=(~right).astype(np.float64))


def _agreement(answers: Answers, reference: Answers, labels: Mapping[str, Array]) -> Score:
    shares = {name: _agreement_of(answers[name], wanted) for name, wanted in reference.items()}
    name = min(shares, key=lambda key: shares[key])
    value, n = shares[name], len(reference[name])
    losses = (
        OUTPUT_METRICS["agreement"](answers[name], reference[name]).losses if is_class_scores(reference[name]) else None
    )
    return Score("agreement", value, 1.0, 1.0 - value, n, losses=losses)


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
    wrong = [float(a != b) for a, b in zip(_decoded(answers[name]), truth, strict=True)]
    value = 1 - sum(wrong) / max(1, len(truth))
    return Score("sequence", value, baseline, baseline - value, len(truth), losses=np.array(wrong))


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
NAMED: Final = tuple(sorted({*METRICS, *OUTPUT_METRICS} - {"constant", "objects", "score-error"}))
"""Metrics that a user can name, for the model or for one output."""
IGNORE: Final = "ignore"
_UNJUDGED: Final = (IGNORE, "long-run")
"""The long run of states is another run of the model (`gate`)."""
_LABELLED: Final = ("top1", "mae", "sequence")
_BY_CLASS: Final = ("agreement", CLASS_SCORES)
COUNTED: Final = ("top1", "agreement", "sequence")
"""Metrics that count samples: one of n is the least that can be lost."""
_SUMMED: Final = ("agreement", "equal", "edit", "iou", "sequence", "mae", "scores")
