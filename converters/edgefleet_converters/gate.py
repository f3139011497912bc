"""The gate: a candidate is offered only when it was run in every runtime and version that the profile names, and held.

What it must hold, in this order: it loads; it runs; no NaN or infinity; the metric is no worse than the source's by more than
`max_drop`. A crash, a hang or a refusal to load is a rejection with its reason, never an error of the job (design decision
24). There is no way round the gate.
"""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgefleet_converters.check.metrics import Score, is_lost, judge
from edgefleet_converters.check.parity import parity
from edgefleet_converters.check.user_metric import is_user_metric
from edgefleet_converters.errors import AccuracyError, RuntimeUnavailableError
from edgefleet_converters.evaluation import Evaluation
from edgefleet_converters.report import MetricRow
from edgefleet_converters.request import Options
from edgefleet_converters.workshop import Answers, ModelFile, Workshop, refuse_nonfinite
from edgefleet_protocol.manifest import RuntimeProof
from edgefleet_protocol.profile import HardwareProfile, ProfileRuntime

Array = npt.NDArray[Any]

_EPSILON = 1e-9
_MORE_ACCURATE = "use --precision auto or fp32, give more calibration data, or allow more loss with --max-drop"
_SHOWN_AS_SHARE = ("top1", "agreement", "sequence", "detection")


@dataclass(frozen=True)
class Passed:
    """A candidate that held. answers: in the profile's own runtime."""

    answers: Answers
    metric: MetricRow
    parity: dict[str, dict[str, float]]
    proofs: tuple[RuntimeProof, ...]


def runtimes_of(profile: HardwareProfile) -> tuple[ProfileRuntime, ...]:
    """Return every runtime that a profile's bundles must be proved on; the serving one first."""
    return (profile.runtime, *profile.also_verified_on)


def check_runtimes(workshop: Workshop, profile: HardwareProfile) -> None:
    """Raise RuntimeUnavailableError unless each runtime of the profile is here in the version it names."""
    for wanted in runtimes_of(profile):
        try:
            here = workshop.runtime_version(wanted.name)
        except RuntimeUnavailableError as error:
            raise RuntimeUnavailableError(
                f"profile {profile.name} is proved on {wanted.name} {wanted.version}, which cannot be run here: "
                f"{error.message}",
                next_step=_cure(wanted.name),
            ) from error
        if not same_version(wanted.version, here):
            raise RuntimeUnavailableError(
                f"profile {profile.name} is proved on {wanted.name} {wanted.version}; here is {here}, and nothing is offered "
                "for a version in which it was not run",
                next_step=f"install {wanted.name} {wanted.version} beside the converter, or change the profile's version",
            )


def same_version(wanted: str, here: str) -> bool:
    """Return whether version `here` is the wanted one: `1.32` means any 1.32.x."""
    return here == wanted or here.startswith(wanted + ".")


def _cure(runtime: str) -> str:
    if runtime == "tflite":
        return "run the converter on Python 3.11 with tflite-runtime 2.14 and numpy < 2, or choose a -litert profile"
    return f"install the runtime {runtime} beside the converter"


def pass_gate(
    workshop: Workshop, model: ModelFile, profile: HardwareProfile, evaluation: Evaluation, reference: Answers,
    options: Options, precision: str,
) -> Passed:  # fmt: skip
    """Return the proof that a candidate holds. Raises the RefusedError that says why it does not."""
    first: Answers | None = None
    worst: Score | None = None
    proofs = []
    for runtime in runtimes_of(profile):
        _refuse_hopeless(workshop, model, runtime.name, evaluation, reference, options, precision)
        answers = workshop.answers(model, runtime.name, evaluation.samples, key="judging")
        refuse_nonfinite(answers, f"the {precision} model")
        score = _score(workshop, answers, reference, evaluation, options)
        if not score.drop <= options.max_drop + _EPSILON:  # a drop of NaN is no pass
            raise AccuracyError(
                loss_text(score, precision, options, f"{runtime.name} {answers.version}"),
                next_step=_MORE_ACCURATE,
                drop=score.drop,
                metric=metric_row(score, evaluation),
            )
        worst = score if worst is None or score.drop > worst.drop else worst
        first = first or answers
        proofs.append(RuntimeProof(name=runtime.name, version=answers.version))
    assert first is not None
    assert worst is not None
    judged = {name: array[: evaluation.n] for name, array in first.outputs.items()}
    figures = parity(judged, _judging(reference, first, evaluation))
    return Passed(first, metric_row(worst, evaluation), figures, tuple(proofs))


def _refuse_hopeless(
    workshop: Workshop, model: ModelFile, runtime: str, evaluation: Evaluation, reference: Answers, options: Options,
    precision: str,
) -> None:  # fmt: skip
    """Raise AccuracyError when the first few samples lose so much that no answer to the rest could make up for it."""
    first, metric = evaluation.first, options.metric
    if first is None or evaluation.labels or (metric is not None and is_user_metric(metric)):
        return
    answers = workshop.answers(model, runtime, first, key="judging-first")
    refuse_nonfinite(answers, f"the {precision} model")
    n = len(next(iter(answers.outputs.values())))
    theirs = {name: array[:n] for name, array in _judging(reference, answers, evaluation).items()}
    score = judge(metric, answers.outputs, theirs, {})
    if is_lost(score, theirs, n=evaluation.n, max_drop=options.max_drop + _EPSILON):
        raise AccuracyError(
            loss_text(score, precision, options, f"{runtime} {answers.version}") + f", the first of {evaluation.n}",
            next_step=_MORE_ACCURATE,
            drop=score.drop,
            metric=metric_row(score, evaluation),
        )


def metric_row(score: Score, evaluation: Evaluation) -> MetricRow:
    """Return the score as a row, with 6 significant digits."""
    value, baseline, drop = (float(f"{number:.6g}") for number in (score.value, score.baseline, score.drop))
    return MetricRow(name=score.name, value=value, baseline=baseline, drop=drop, n=score.n, data=evaluation.source)


def loss_text(score: Score, precision: str, options: Options, where: str) -> str:
    """Return in words what a candidate loses: figures of both, the loss and what is allowed."""
    if score.name in _SHOWN_AS_SHARE:
        pair = f"{score.name} {score.value:.2%}, the source has {score.baseline:.2%}"
        loss = f"{100 * score.drop:.2f} points lost, {100 * options.max_drop:g} allowed"
    else:
        pair = f"{score.name} {score.value:.4g}, the source has {score.baseline:.4g}"
        loss = f"{score.drop:.4g} worse, {options.max_drop:g} allowed"
    return f"the {precision} model is not accurate enough: {pair} ({loss}) on {score.n} samples in {where}"


def _score(workshop: Workshop, answers: Answers, reference: Answers, evaluation: Evaluation, options: Options) -> Score:
    mine = {name: array[: evaluation.n] for name, array in answers.outputs.items()}
    theirs = _judging(reference, answers, evaluation)
    if options.metric is not None and is_user_metric(options.metric):
        value, baseline = workshop.user_metric(options.metric, mine, theirs, evaluation.labels)
        return Score(options.metric, value, baseline, baseline - value, evaluation.n)
    return judge(options.metric, mine, theirs, evaluation.labels)


def _judging(reference: Answers, answers: Answers, evaluation: Evaluation) -> dict[str, Array]:
    """Return the source's answers to the judging samples, under the candidate's output names and in its order."""
    by_position = zip(answers.specs, reference.specs, strict=True)
    return {mine.name: reference.outputs[theirs.name][: evaluation.n] for mine, theirs in by_position}
