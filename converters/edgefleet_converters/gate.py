"""The gate: a candidate is offered only when it was run in every runtime and version that the profile names, and held.

What it must hold in each, in this order: it loads; it runs; inputs and outputs are the source's; no NaN or infinity; the metric is
no worse than the source's by more than `max_drop`; every output follows the source's (`check.likeness`), and a float32 model
gives every answer again. What would be offered is then run a second time (`look_again`) and held against samples that no choice
has seen (`hold_unseen`, ADR 0094). A crash, a hang or a refusal to load
is a rejection with its reason, never an error of the job (docs/explanation/converting.md). There is no way round the gate.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from edgefleet_converters.accuracy.confidence import most_lost, standard_error
from edgefleet_converters.accuracy.output_kinds import METRIC_OF
from edgefleet_converters.check.likeness import contract_breach, unlike
from edgefleet_converters.check.metrics import COUNTED, Score, is_lost, judge, with_long_run
from edgefleet_converters.check.parity import parity, usable_vectors
from edgefleet_converters.check.user_metric import is_user_metric
from edgefleet_converters.errors import (
    AccuracyError,
    DiffersError,
    RefusedError,
    RuntimeUnavailableError,
    TransformError,
)
from edgefleet_converters.evaluation import Evaluation
from edgefleet_converters.job_steps import Answers, JobSteps, ModelFile, Stream, comparable, refuse_nonfinite
from edgefleet_converters.report import MetricRow, OutputRow
from edgefleet_converters.request import Options
from edgefleet_profiles.profile import HardwareProfile, ProfileRuntime, same_version
from edgefleet_protocol.manifest import RuntimeProof

Array = npt.NDArray[Any]

_EPSILON = 1e-9
_BATCH = 3
"""Samples in one run of the second look, where the model takes batches; odd, so that no kernel's block is met by chance."""
_PROBES: Final = 8
"""Samples that a compiled float32 model is held on: a fault of a lowering shows in nearly every answer."""
_ROUNDING: Final = 10.0
"""Times the difference of golden vectors that one of a hundred answers of a deep float32 model may have: the order of its sums."""
_REPORT: Final = "this is a fault of the conversion: report it with the model; an -ort profile may serve it meanwhile"
_LESS: Final = "use --precision auto or fp32, or give more calibration data"
_MORE_ACCURATE = "use --precision auto or fp32, give more calibration data, or allow more loss with --max-drop"
_SHARES = (
    "top1", "agreement", "sequence", "detection", "equal", "edit", "iou", "objects", "similarity", "long-run", "mae-share",
    "score-error", "constant",
)  # fmt: skip
_ERRORS: Final = ("mae", "mae-share", "score-error", "constant", "scores")
"""Metrics of which less is better."""
LONG_RUN: Final = 100
"""Runs of one stream in which the states of a model with a memory are given back …"""
_STREAMS: Final = 4
"""… and how many streams there are at most, one after the other: what is lost hangs on what comes by."""


@dataclass(frozen=True)
class Passed:
    """A candidate that held. answers: in the profile's own runtime."""

    answers: Answers
    metric: MetricRow
    parity: dict[str, dict[str, float]]
    proofs: tuple[RuntimeProof, ...]


@dataclass(frozen=True)
class Judged:
    """What a candidate is held against. source: the model as it was given, reference: its answers."""

    source: ModelFile
    reference: Answers
    evaluation: Evaluation
    options: Options


def runtimes_of(profile: HardwareProfile) -> tuple[ProfileRuntime, ...]:
    """Return every runtime that a profile's bundles must be proved on; the serving one first."""
    return (profile.runtime, *profile.also_verified_on)


def check_runtimes(workshop: JobSteps, profile: HardwareProfile) -> None:
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


def _cure(runtime: str) -> str:
    if runtime == "tflite":
        return "run the converter on Python 3.11 with tflite-runtime 2.14 and numpy < 2, or choose a -litert profile"
    return f"install the runtime {runtime} beside the converter"


def pass_gate(workshop: JobSteps, model: ModelFile, profile: HardwareProfile, judged: Judged, precision: str) -> Passed:
    """Return the proof that a candidate holds. Raises the RefusedError that says why it does not."""
    evaluation, reference = judged.evaluation, judged.reference
    first: Answers | None = None
    worst: Score | None = None
    proofs = []
    for runtime in runtimes_of(profile):
        refuse_hopeless(workshop, model, runtime.name, judged, precision)
        answers = workshop.answers(model, runtime.name, evaluation.samples, key="judging")
        score = _held(workshop, answers, judged, precision)
        score = _held_long(workshop, model, answers, judged, score, precision)
        worst = score if worst is None or score.drop > worst.drop else worst
        first = first or answers
        proofs.append(RuntimeProof(name=runtime.name, version=answers.version))
    assert first is not None
    assert worst is not None
    mine = {name: array[: evaluation.n] for name, array in comparable(first, reference).items()}
    figures = parity(mine, _judging(reference, first, evaluation))
    return Passed(first, metric_row(worst, evaluation), figures, tuple(proofs))


def hold_compiled(workshop: JobSteps, model: ModelFile, runtime: str, judged: Judged) -> None:
    """Raise DiffersError unless a compiled float32 model gives the source's first answers again.

    Done once before any smaller form is made: what int8 loses by rounding would hide a small fault of the compiler. Most answers must
    be as near as golden vectors, and all within `_ROUNDING` of that. runtime: that the model was compiled for. Raises also what
    running raises.
    """
    probes = judged.evaluation.samples.take(np.arange(min(_PROBES, judged.evaluation.samples.n)))
    answers = workshop.answers(model, runtime, probes, key="compiled")
    _refuse_breach(answers, judged.reference, "compiled float32", samples=probes.n)
    refuse_nonfinite(answers, "the compiled float32 model")
    wanted = {name: array[: probes.n] for name, array in _renamed(judged.reference, answers).items()}
    mine = comparable(answers, judged.reference)
    close, same = (len(usable_vectors(mine, wanted, "fp32", slack=slack)) for slack in (_ROUNDING, 1.0))
    if close < probes.n or 2 * same <= probes.n:
        raise DiffersError(
            f"the compiled float32 model does not give the source's answers again in {answers.runtime} {answers.version}: "
            f"{probes.n - same} of {probes.n} samples differ by more than float32 rounds, so no smaller form is made of it",
            next_step=_REPORT,
        )


def hold_unseen(
    workshop: JobSteps, model: ModelFile, passed: Passed, profile: HardwareProfile, judged: Judged, spec_id: str
) -> Passed:
    """Return the proof with the figures on samples that no choice has seen. Their bound counts how many candidates were held
    against them.

    Where samples are counted, one may change in the hold-out, and all samples together must be within `max_drop`. Without a hold-out
    the figures are those of the search, with the bound of as many choices as a search makes. Raises AccuracyError and what running
    raises.
    """
    unseen, options = judged.evaluation.unseen, judged.options
    if unseen is None:
        return replace(passed, metric=msgspec.structs.replace(passed.metric, bound=None))
    looks = workshop.looks.setdefault(profile.name, set())
    looks.add(spec_id)
    reference = workshop.answers(judged.source, judged.reference.runtime, unseen.samples, key="hold-out")
    own = replace(judged, reference=reference, evaluation=unseen)
    worst: Score | None = None
    longest: Score | None = None
    for runtime in runtimes_of(profile):
        answers = workshop.answers(model, runtime.name, unseen.samples, key="hold-out")
        _refuse_breach(answers, reference, "chosen", samples=unseen.n)
        refuse_nonfinite(answers, "the chosen model")
        score = _score(workshop, answers, own)
        worst = score if worst is None or score.drop > worst.drop else worst
        after = _streamed(workshop, model, runtime.name, own, "chosen", key="hold-out-long-run")
        longest = after if longest is None or (after is not None and after.drop > longest.drop) else longest
    assert worst is not None
    seen = passed.metric
    if longest is not None:
        worst = with_long_run(worst, longest, _states(unseen), limit=options.max_drop + _EPSILON)
    row = metric_row(worst, unseen, looks=len(looks))
    together = (seen.n * seen.drop + row.n * row.drop) / (seen.n + row.n)
    alone = max(options.max_drop, 1 / unseen.n) if worst.name in COUNTED else options.max_drop
    counted = worst.name in COUNTED and together > options.max_drop + _EPSILON
    if not worst.drop <= alone + _EPSILON or counted:
        raise AccuracyError(
            f"it passed the search and loses too much on the {unseen.n} samples that no choice had seen: {worst.name} "
            f"{worst.value:.4g}, {worst.drop:.4g} worse than the source, {options.max_drop:g} allowed"
            + (f" ({together:.4g} worse on all {seen.n + row.n} samples)" if counted else ""),
            next_step=_MORE_ACCURATE,
            drop=worst.drop,
            metric=row,
        )
    return replace(passed, metric=row)


def look_again(
    workshop: JobSteps, model: ModelFile, passed: Passed, profile: HardwareProfile, judged: Judged, precision: str
) -> None:
    """Run what would be offered as a device does: with the profile's threads, in batches where it takes them, last sample first.

    This shows answers that depend on threads, on what was asked before or at the same time, or on chance. Where the source itself answers
    otherwise in this way, the candidate is held against that. Raises the RefusedError that says what differs.
    """
    specs = (*passed.answers.inputs, *passed.answers.specs)
    batch = _BATCH if all(spec.shape and isinstance(spec.shape[0], str) for spec in specs) else 1
    for runtime in runtimes_of(profile):
        try:
            _same_again(workshop, model, runtime.name, profile.threads, batch, judged, precision)
        except TransformError:
            if batch == 1 or _runs_in_batches(workshop, judged, batch):
                raise
            _same_again(workshop, model, runtime.name, profile.threads, 1, judged, precision)


def _same_again(
    workshop: JobSteps, model: ModelFile, runtime: str, threads: int, batch: int, judged: Judged, precision: str
) -> None:
    reversed_ = judged.evaluation.reversed
    answers = workshop.answers(model, runtime, reversed_, key="again", threads=threads, batch=batch)
    # Twice the loss: the samples are the same ones, and what this looks for is not subtle.
    options = msgspec.structs.replace(judged.options, max_drop=2 * judged.options.max_drop)
    lenient = replace(judged, options=options)
    try:
        _held(workshop, _turned(answers), lenient, precision)
        return
    except RefusedError as error:
        differs = error
    again = workshop.answers(judged.source, judged.reference.runtime, reversed_, key="again", batch=batch)
    try:
        _held(workshop, _turned(answers), replace(lenient, reference=_turned(again)), precision)
    except RefusedError:
        raise DiffersError(
            f"asked again, {batch} at a time with {threads} threads and in another order: {differs.message}",
            next_step="export the model so that an answer depends on its own input alone",
        ) from differs


def _runs_in_batches(workshop: JobSteps, judged: Judged, batch: int) -> bool:
    """Return whether the source does what it declares: many an export has a batch of one inside."""
    try:
        workshop.answers(judged.source, judged.reference.runtime, judged.evaluation.reversed, key="again", batch=batch)
    except TransformError:
        return False
    return True


def _held(workshop: JobSteps, answers: Answers, judged: Judged, precision: str) -> Score:
    """Return the score of answers that hold. Raises DiffersError, NotFiniteError, AccuracyError."""
    reference, evaluation, options = judged.reference, judged.evaluation, judged.options
    where = f"{answers.runtime} {answers.version}"
    _refuse_breach(answers, reference, precision, samples=evaluation.samples.n)
    refuse_nonfinite(answers, f"the {precision} model")
    score = _score(workshop, answers, judged)
    allowed = evaluation.allowed(score.name, options.max_drop)
    if not score.drop <= allowed + _EPSILON:  # a drop of NaN is no pass
        raise AccuracyError(
            loss_text(score, precision, options, where),
            next_step=_MORE_ACCURATE,
            drop=score.drop,
            metric=metric_row(score, evaluation),
        )
    mine, everything = comparable(answers, reference), _renamed(reference, answers)
    if precision == "fp32":
        same = len(usable_vectors(mine, everything, precision, slack=_ROUNDING))
        if same < evaluation.samples.n:
            count = evaluation.samples.n - same
            raise DiffersError(
                f"the fp32 model does not give the source's answers again in {where}: {count} of {evaluation.samples.n} samples "
                "differ by more than float32 rounds",
                next_step=_REPORT,
            )
    # Of a state the long run judges; of an output that the user ignores nothing does.
    left = {
        name for name, row in zip(everything, evaluation.plan, strict=False) if row.metric in ("ignore", "long-run")
    }
    difference = unlike(mine, {name: array for name, array in everything.items() if name not in left})
    if difference:
        raise DiffersError(f"the {precision} model in {where}: {difference}", next_step=_LESS)
    return score


def _held_long(
    workshop: JobSteps, model: ModelFile, answers: Answers, judged: Judged, score: Score, precision: str
) -> Score:
    """Return the score with that of a long run, for a model with states that are fed back. answers: to single samples, from the
    runtime that the long run is for. Raises AccuracyError and what running raises.
    """
    after = _streamed(workshop, model, answers.runtime, judged, precision, key="long-run")
    if after is None:
        return score
    evaluation, options = judged.evaluation, judged.options
    both = with_long_run(score, after, _states(evaluation), limit=options.max_drop + _EPSILON)
    least = after.drop + standard_error(after.losses)
    if not least <= options.max_drop + _EPSILON:
        within = after.drop <= options.max_drop + _EPSILON
        raise AccuracyError(
            loss_text(after, precision, options, f"{answers.runtime} {answers.version}")
            + f", with its states fed back over {LONG_RUN} runs"
            + (f"; other {after.n} runs may well lose {least:.4g}" if within else ""),
            next_step=_MORE_ACCURATE,
            drop=after.drop,
            metric=metric_row(both, evaluation),
        )
    return both


def _states(evaluation: Evaluation) -> list[str]:
    """Return the outputs that are states, which a long run judges."""
    return [row.name for row in evaluation.plan if row.metric == "long-run"]


def _streamed(
    workshop: JobSteps, model: ModelFile, runtime: str, judged: Judged, precision: str, *, key: str
) -> Score | None:
    """Return the score of streams in which states are fed back, None for a model without a memory. Raises what running raises."""
    evaluation, reference = judged.evaluation, judged.reference
    states = [(position, row.feeds) for position, row in enumerate(evaluation.plan) if row.metric == "long-run"]
    if not states:
        return None
    samples = evaluation.judging
    streams = min(_STREAMS, max(1, round(samples.n / LONG_RUN)))
    stream = Stream(tuple(states), streams * LONG_RUN, LONG_RUN)
    theirs = workshop.answers(judged.source, reference.runtime, samples, key=key, stream=stream)
    mine = workshop.answers(model, runtime, samples, key=key, stream=stream)
    refuse_nonfinite(theirs, "the source model, its states fed back,")
    refuse_nonfinite(mine, f"the {precision} model, its states fed back,")
    plan = tuple(
        msgspec.structs.replace(row, metric=METRIC_OF[row.kind]) if row.metric == "top1" else row
        for row in evaluation.plan
    )
    return judge(plan, comparable(mine, theirs), _renamed(theirs, mine), {})


def _refuse_breach(answers: Answers, reference: Answers, precision: str, *, samples: int) -> None:
    """Raise DiffersError unless inputs and outputs are the source's. samples: so many of the source's were asked."""
    asked = {name: array[:samples] for name, array in reference.outputs.items()}
    breach = contract_breach(
        (answers.inputs, reference.inputs), (answers.specs, reference.specs), (answers.outputs, asked)
    )
    if breach:
        raise DiffersError(
            f"the {precision} model is not the source's any more in {answers.runtime} {answers.version}: {breach}",
            next_step=_REPORT,
        )


def refuse_hopeless(workshop: JobSteps, model: ModelFile, runtime: str, judged: Judged, precision: str) -> None:
    """Raise AccuracyError when the first few samples lose so much that no answer to the rest could make up for it.

    Nothing is run where the metric is no mean over samples that is known without labels. Raises also what running raises.
    """
    reference, evaluation, options = judged.reference, judged.evaluation, judged.options
    first, metric = evaluation.first, options.metric
    if first is None or evaluation.labels or (metric is not None and is_user_metric(metric)):
        return
    answers = workshop.answers(model, runtime, first, key="judging-first")
    _refuse_breach(answers, reference, precision, samples=first.n)
    refuse_nonfinite(answers, f"the {precision} model")
    n = len(next(iter(answers.outputs.values())))
    theirs = {name: array[:n] for name, array in _judging(reference, answers, evaluation).items()}
    score = judge(evaluation.choice(metric), comparable(answers, reference), theirs, {})
    allowed = evaluation.allowed(score.name, options.max_drop)
    if is_lost(score, theirs, n=evaluation.n, max_drop=allowed + _EPSILON):
        raise AccuracyError(
            loss_text(score, precision, options, f"{runtime} {answers.version}") + f", the first of {evaluation.n}",
            next_step=_MORE_ACCURATE,
            drop=score.drop,
            metric=metric_row(score, evaluation),
        )


def metric_row(score: Score, evaluation: Evaluation, *, looks: int = 1) -> MetricRow:
    """Return the score as a row, with 6 significant digits. looks: how often a choice was made on these samples."""
    value, baseline, drop = map(_rounded, (score.value, score.baseline, score.drop))
    measured = not evaluation.is_random
    outputs = [
        OutputRow(
            output=one.output, kind=one.kind, metric=one.metric, value=_rounded(one.value), drop=_rounded(one.drop),
            bound=_bound(one.metric, one.losses, looks) if measured else None,
        )
        for one in score.outputs
    ]  # fmt: skip
    return MetricRow(
        name=score.name, value=value, baseline=baseline, drop=drop, n=score.n, data=evaluation.source,
        is_measured=measured, outputs=outputs, bound=_bound(score.name, score.losses, looks) if measured else None,
    )  # fmt: skip


def _bound(metric: str, losses: Array | None, looks: int) -> float | None:
    """Return the worst value of a metric that the losses of single samples leave possible; None where those are not known."""
    if losses is None:
        return None
    most = most_lost(losses, looks=looks)
    return _rounded(most if metric in _ERRORS else 1 - most)


def _rounded(number: float) -> float:
    return float(f"{number:.6g}")


def loss_text(score: Score, precision: str, options: Options, where: str) -> str:
    """Return in words what a candidate loses: figures of both, the loss and what is allowed."""
    if score.name in _SHARES:
        pair = f"{score.name} {score.value:.2%}, the source has {score.baseline:.2%}"
        loss = f"{100 * score.drop:.2f} points lost, {100 * options.max_drop:g} allowed"
    else:
        pair = f"{score.name} {score.value:.4g}, the source has {score.baseline:.4g}"
        loss = f"{score.drop:.4g} worse, {options.max_drop:g} allowed"
    return f"the {precision} model is not accurate enough: {pair} ({loss}) on {score.n} samples in {where}"


def _score(workshop: JobSteps, answers: Answers, judged: Judged) -> Score:
    reference, evaluation, options = judged.reference, judged.evaluation, judged.options
    mine = {name: array[: evaluation.n] for name, array in comparable(answers, reference).items()}
    theirs = _judging(reference, answers, evaluation)
    if options.metric is not None and is_user_metric(options.metric):
        value, baseline = workshop.user_metric(options.metric, mine, theirs, evaluation.labels)
        return Score(options.metric, value, baseline, baseline - value, evaluation.n)
    return judge(evaluation.choice(options.metric), mine, theirs, evaluation.labels)


def _judging(reference: Answers, answers: Answers, evaluation: Evaluation) -> dict[str, Array]:
    """Return the source's answers to the judging samples, under the candidate's output names and in its order."""
    return {name: array[: evaluation.n] for name, array in _renamed(reference, answers).items()}


def _renamed(reference: Answers, answers: Answers) -> dict[str, Array]:
    by_position = zip(answers.specs, reference.specs, strict=True)
    return {mine.name: reference.outputs[theirs.name] for mine, theirs in by_position}


def _turned(answers: Answers) -> Answers:
    return replace(answers, outputs={name: array[::-1] for name, array in answers.outputs.items()})
