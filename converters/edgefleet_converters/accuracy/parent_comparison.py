"""A release against the release that it continues: both source models on the same labelled evaluation samples.

Paired: each sample is asked of both, so what makes it hard counts for neither. For classes the interval is that of Agresti and Min
(Statistics in Medicine 24, 2005): half a sample is added to each of the four cells of agreement, so that it holds with few
differences too. For numbers it is Student's. Source: ADR 0142.
"""

from math import sqrt
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet_converters.errors import ConversionError
from edgefleet_converters.evaluation import Evaluation
from edgefleet_converters.importance.measurement import LEAST, judged_output, labelled
from edgefleet_converters.importance.permutation import TOP1, losses_of, metric_of
from edgefleet_converters.job_steps import Answers, JobSteps, ModelFile
from edgefleet_converters.sample_data import SampleSet

Floats = npt.NDArray[np.float64]

MOST: Final = 2000
"""Samples of which both are asked: of so many, two points of accuracy are seen."""
_NORMAL: Final = 1.96
_STUDENT: Final = 2.045
"""Of 29 degrees of freedom, the fewest that there can be."""
_SEED: Final = 0
_KEY: Final = "next to the parent"


class ComparisonRow(msgspec.Struct, frozen=True, kw_only=True):
    """How much better a release is than its parent. why: why they were not compared, "" where they were.

    value, parent: the metric of both, accuracy 0 … 1 for `top1`, the mean error for `mae`. gain: by how much the release is better, in
    the metric's unit, negative = worse; low, high: its interval at 95 %. n of given: labelled samples of which both were asked.
    """

    why: str = ""
    metric: str = ""
    output: str = ""
    value: float = 0.0
    parent: float = 0.0
    gain: float = 0.0
    low: float = 0.0
    high: float = 0.0
    n: int = 0
    given: int = 0


def compared(
    workshop: JobSteps, model: ModelFile, parent: ModelFile, source: Answers, evaluation: Evaluation
) -> ComparisonRow:
    """Return how a model does next to its parent. source: the model's own answers, from which the judged output is known.

    Never raises: a release is not refused because it cannot be compared.
    """
    samples = labelled(evaluation)
    if samples is None:
        return ComparisonRow(why="there is no labelled evaluation data")
    if samples.n < LEAST:
        return ComparisonRow(why=f"the evaluation data has {samples.n} labelled samples; at least {LEAST} are needed")
    judged = judged_output(source, samples, evaluation)
    if judged is None:
        return ComparisonRow(why="the labels are no class numbers, and no values of an output")
    position, truth, metric = judged
    rows = np.sort(np.random.default_rng(_SEED).permutation(samples.n)[:MOST])
    used, truth = samples.take(rows), truth[rows]
    try:
        wanted = {spec.name for spec in workshop.tensors(parent, source.runtime)[0]}
        if not wanted <= used.arrays.keys():
            missing = ", ".join(sorted(wanted - used.arrays.keys()))
            return ComparisonRow(why=f"the parent has inputs that the release has not: {missing}")
        mine = workshop.answers(model, source.runtime, used, key=_KEY)
        asked = SampleSet({name: array for name, array in used.arrays.items() if name in wanted})
        other = workshop.answers(parent, source.runtime, asked, key=_KEY)
    except ConversionError as error:
        return ComparisonRow(why=f"the parent cannot be asked the same: {error.message}")
    name = source.specs[position].name
    if name not in other.outputs or other.outputs[name].shape != mine.outputs[name].shape:
        return ComparisonRow(why=f"the parent has no output {name} of the same shape")
    losses = (losses_of(metric, answers.outputs[name], truth) for answers in (mine, other))
    return row_of(metric, name, *losses, given=samples.n)


def row_of(metric: str, output: str, mine: Floats, parent: Floats, *, given: int) -> ComparisonRow:
    """Return the comparison of the losses of the same samples, [n] each, n at least 2."""
    gains = parent - mine
    if not np.isfinite(gains).all():
        return ComparisonRow(why="an answer of the release or of its parent is no finite number")
    gain, low, high = interval_of(gains, is_class=metric == TOP1)
    return ComparisonRow(
        metric=metric, output=output, value=metric_of(metric, mine), parent=metric_of(metric, parent), gain=gain, low=low,
        high=high, n=len(gains), given=given,
    )  # fmt: skip


def interval_of(gains: Floats, *, is_class: bool) -> tuple[float, float, float]:
    """Return the mean of paired gains, and its interval at 95 %. gains: [n]; is_class: each is -1, 0 or 1."""
    n = len(gains)
    mean = float(gains.mean())
    if not is_class:
        error = _STUDENT * float(gains.std(ddof=1)) / sqrt(n)
        return mean, mean - error, mean + error
    better, worse, whole = float((gains > 0).sum()) + 0.5, float((gains < 0).sum()) + 0.5, n + 2
    centre = (better - worse) / whole
    error = _NORMAL * sqrt(better + worse - (better - worse) ** 2 / whole) / whole
    return mean, max(-1.0, centre - error), min(1.0, centre + error)
