"""Find the candidate to offer for one profile.

Of all that pass, the one with the best worth is chosen: bytes and expected time, counted and not measured (`candidate_worth`), so the
choice is the same on every run. The most promising one is tried first, and what cannot beat the best found is not made. With
`Options.explore` that is tried too, once the choice is made: for the report's table alone.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from edgefleet_converters import errors
from edgefleet_converters.candidate_worth import Best, Scale, in_order, is_beaten, not_small
from edgefleet_converters.check.budget import over_arena, over_memory, over_size
from edgefleet_converters.check.compat import check_io_types, check_precision_rule
from edgefleet_converters.check.operators import check_nodes, quantised_form
from edgefleet_converters.evaluation import Evaluation
from edgefleet_converters.gate import Judged, Passed, hold_unseen, look_again, pass_gate, refuse_hopeless
from edgefleet_converters.job_steps import Answers, JobSteps, Measured, ModelFile
from edgefleet_converters.layer_search import Found, resolved, rows_of
from edgefleet_converters.pack import Golden, choose_golden
from edgefleet_converters.recipe import AS_GIVEN, CandidateSpec, Recipe, unmeasured
from edgefleet_converters.report import CandidateRow, MetricRow, ProfileReport, with_front
from edgefleet_converters.request import Options
from edgefleet_converters.search_budget import EXPLORED, SearchBudget, SearchEndedError, is_plain
from edgefleet_converters.search_refusal import Rejected, rejected
from edgefleet_converters.tflite.quantize.candidate_recipe import WEIGHTED
from edgefleet_profiles.profile import HardwareProfile

CandidateListener = Callable[[CandidateRow, str], None]
"""Hears each row, and the id of the best candidate so far, empty while none passed."""
_Tried = tuple[ModelFile, Passed] | errors.ConversionError
_PREFERRED_RATIO, _LESS_MEMORY = 1.1, "use a smaller model, or a profile with more memory"
_WORTH_RATIO = {"fp32": 0.5, "fp16": 0.9}
"""Precision of the source -> part of it that a mixed model may have: float16 is half of float32 and loses nothing."""
_ATTEMPTS = 3
"""So many times a search's result is offered to the gate, each time with twice as many layers left out."""


@dataclass(frozen=True)
class Subject:
    """What the search works on: the model as it was given and simplified, the data, the source's answers, the user's choices."""

    source: ModelFile
    base: ModelFile
    evaluation: Evaluation
    reference: Answers
    profile: HardwareProfile
    recipe: Recipe
    options: Options

    @property
    def judged(self) -> Judged:
        """What its candidates are held against."""
        return Judged(self.source, self.reference, self.evaluation, self.options)


@dataclass(frozen=True)
class Chosen:
    """The candidate to offer."""

    spec: CandidateSpec
    file: ModelFile
    passed: Passed
    golden: Golden
    measured: Measured


def search(workshop: JobSteps, subject: Subject, report: ProfileReport, listener: CandidateListener) -> Chosen:
    """Return the chosen candidate; every one that was looked at has a row in `report`.

    Raises the RefusedError of the most telling rejection when nothing passes.
    """
    try:
        return _search(workshop, subject, report, listener)
    finally:
        if report.candidates:
            report.fp32 = _fp32_figures(workshop, subject)
        report.candidates = with_front(report.candidates)


@dataclass
class _State:
    """What a search has come to: the best so far, and what was rejected."""

    best: tuple[Best, Chosen] | None = None
    rejected: Rejected = field(default_factory=Rejected)


def _search(workshop: JobSteps, subject: Subject, report: ProfileReport, listener: CandidateListener) -> Chosen:
    state, scale = _State(), _scale(workshop, subject)
    budget = workshop.search_budget(subject.options.budget_s, subject.source.bytes)
    wanted = in_order(_wanted(subject), scale)
    falls_back = any(map(is_plain, wanted))
    later, left = [], []
    for spec in wanted:
        if is_beaten(spec, scale, state.best[0] if state.best else None):
            later.append(spec)
            continue
        # Until something passed, what a search falls back on takes the time that it needs.
        limit = budget if state.best or (falls_back and not is_plain(spec)) else None
        try:
            if limit is not None and limit.ended():
                raise SearchEndedError
            with workshop.sandbox.ending_with(limit):
                _look_at(workshop, subject, scale, spec, state, report, listener)
        except SearchEndedError:
            left.append(spec)
    while state.best is None and left:
        _look_at(workshop, subject, scale, left.pop(0), state, report, listener)
    if state.best is None:
        raise state.rejected.telling(subject.profile)
    chosen = state.best[1]
    if left:
        count = f"{len(left)} candidate{'s' if len(left) != 1 else ''}"
        report.search_ended = f"{budget.ended() or 'the search ended'}: {count} not tried"
        report.candidates.extend(_rows_of(left, report.search_ended))
    if subject.options.explore:
        later = _explore(workshop, subject, later, report, lambda row, _: listener(row, chosen.spec.id), budget)
        if later and not report.search_ended:
            report.search_ended = f"{EXPLORED}{budget.ended()}: {len(later)} more not tried"
    reason = f"{chosen.spec.id} passed with {chosen.file.bytes} bytes, and this would be larger or slower"
    report.candidates.extend(_rows_of(later, reason))
    return _own_format(workshop, subject, chosen, report, listener)


def _look_at(
    workshop: JobSteps, subject: Subject, scale: Scale, spec: CandidateSpec, state: _State, report: ProfileReport,
    listener: CandidateListener,
) -> None:  # fmt: skip
    """Try one candidate. Raises SearchEndedError where the steps inside are limited."""
    for own, row, tried in _attempts(workshop, subject, spec, report):
        shown = row
        if isinstance(tried, errors.ConversionError):
            state.rejected.add(own, tried)
        else:
            try:
                state.best = _better(workshop, subject, scale, own, *tried, state.best)
            except errors.ConversionError as error:
                state.rejected.accurate.append(error)
                shown = rejected(row, error)
        report.candidates.append(shown)
        listener(shown, state.best[1].spec.id if state.best else "")


def _scale(workshop: JobSteps, subject: Subject) -> Scale:
    with workshop.stage("quantize"):
        work = workshop.work(subject.base, _kind(subject.base), subject.evaluation.samples, subject.reference.inputs)
    # A source of float16 is half of what float32 would be.
    size = subject.base.bytes * (2 if subject.base.facts.get("precision") == "fp16" else 1)
    return Scale(size, work, subject.profile.runtime.name, has_float16="fp16" in subject.profile.features)


def _better(
    workshop: JobSteps, subject: Subject, scale: Scale, spec: CandidateSpec, file: ModelFile, passed: Passed,
    best: tuple[Best, Chosen] | None,
) -> tuple[Best, Chosen] | None:  # fmt: skip
    """Return a candidate that passed when it is worth clearly more than the best so far, else that. Raises as `_finish`."""
    with workshop.stage("quantize"):
        work = workshop.work(file, _kind(file), subject.evaluation.samples, passed.answers.inputs)
    worth = scale.made(spec, file.bytes, work)
    if best is not None and not best[0].is_better(worth):
        return best
    return Best(spec, worth), _finish(workshop, subject, spec, file, passed)


def _kind(file: ModelFile) -> str:
    return "tflite" if file.path.suffix == ".tflite" else "onnx"


def _explore(
    workshop: JobSteps, subject: Subject, specs: list[CandidateSpec], report: ProfileReport, listener: CandidateListener,
    budget: SearchBudget,
) -> list[CandidateSpec]:  # fmt: skip
    """Add the rows of candidates that cannot be chosen any more; return those for which no time was left."""
    layers, left = report.layers, list(specs)
    with contextlib.suppress(SearchEndedError), workshop.sandbox.ending_with(budget):
        while left and not budget.ended():
            spec = left[0]
            try:
                rows = [row for _, row, _ in _attempts(workshop, subject, spec, report)]
            except errors.SourceError as error:  # a user's metric that fails here must not take the choice back
                rows = [rejected(CandidateRow(id=spec.id, precision=spec.precision), error)]
            for row in rows:
                report.candidates.append(row)
                listener(row, "")
            left.pop(0)
    report.layers = layers or report.layers
    return left


def _attempts(
    workshop: JobSteps, subject: Subject, spec: CandidateSpec, report: ProfileReport
) -> Iterator[tuple[CandidateSpec, CandidateRow, _Tried]]:
    """Yield what became of a candidate: one row, or for method mixed up to `_ATTEMPTS`, ending with the first that passes."""
    if spec.method != "mixed":
        lost = _lost_by_weights(workshop, subject, spec)
        if lost is not None:
            reason = (
                f"not made, because its weights in int8 lose too much before anything else is rounded: {lost.message}"
            )
            row = rejected(CandidateRow(id=spec.id, precision=spec.precision), lost)
            yield spec, msgspec.structs.replace(row, reason=reason), lost
            return
        yield (spec, *_try(workshop, subject, spec))
        return
    calibration = subject.evaluation.calibration
    assert calibration is not None
    options = subject.options
    try:
        with workshop.stage("sensitivity"):
            found: Found | None = workshop.sensitivity(
                subject.base, spec, calibration, subject.reference.inputs,
                metric=msgspec.to_builtins(subject.evaluation.choice(options.metric)),
                max_drop=options.max_drop, max_bytes=_worth_bytes(subject),
            )  # fmt: skip
    except errors.ConversionError as error:
        row = rejected(CandidateRow(id=spec.id, precision=spec.precision), error)
        yield spec, row, error
        return
    for number in range(1, _ATTEMPTS + 1):
        if found is None:
            return
        report.layers = rows_of(found)
        own = resolved(spec, found)
        if number > 1:
            own = msgspec.structs.replace(own, id=f"{spec.id}-{number}")
        row, tried = _try(workshop, subject, own, searched=True)
        yield own, msgspec.structs.replace(row, left_out=found.out + found.half), tried
        if not isinstance(tried, errors.AccuracyError):
            return
        found = found.further()


def _lost_by_weights(workshop: JobSteps, subject: Subject, spec: CandidateSpec) -> errors.AccuracyError | None:
    """Return the loss that makes it needless to calibrate and make a static candidate of a compiled file; None = try it.

    The form with the same int8 weights next to float32 values is made without calibration, once for all of them. Where its first
    answers lose more than is allowed on all samples, a form that rounds each value besides could hold by chance alone. A caller that
    asks for int8 by name, or whose profile or recipe has nothing else, gets each form tried.
    """
    options, profile = subject.options, subject.profile
    is_free = options.precision == "auto" and profile.quant.mode == "allowed"
    if not is_free or not _is_compiled(subject) or not _rounds_all(spec) or all(map(_rounds_all, _wanted(subject))):
        return None
    alone = CandidateSpec(
        id="int8-weights-alone", precision="int8-weights", method="weights", weight_bits=8, per_channel=spec.per_channel
    )
    try:
        with workshop.stage("quantize"):
            file = workshop.candidate(subject.base, alone, None, subject.reference.inputs)
        with workshop.stage("gate"):
            refuse_hopeless(workshop, file, profile.runtime.name, subject.judged, alone.precision)
    except errors.AccuracyError as error:
        return error
    except errors.SourceError:
        raise
    except errors.ConversionError:
        return None  # a model without weights, or one that does not run so: that says nothing of the others
    return None


def _rounds_all(spec: CandidateSpec) -> bool:
    """Say whether a candidate stores the weights of all products in 8 bits as they are, and their results too."""
    eased = spec.exclude or spec.head_float or spec.equalise or spec.correct_bias or spec.weight_bits
    some = bool(spec.op_types) and not set(WEIGHTED) <= set(spec.op_types)
    return spec.method == "static" and spec.act_dtype == "int8" and not eased and not some


def _wanted(subject: Subject) -> list[CandidateSpec]:
    """Return the candidates that the options and the profile allow. Raises PrecisionError when none is left."""
    precision, profile, mode = subject.options.precision, subject.profile, subject.profile.quant.mode
    if precision != "auto":
        check_precision_rule(profile, precision)
    specs = [spec for spec in subject.recipe.candidates if precision in ("auto", spec.precision)]
    if mode == "forbidden":
        specs = [spec for spec in specs if spec.precision in ("fp32", "fp16")]
    if mode == "required":
        specs = [spec for spec in specs if spec.precision in ("int8", "dynamic") and not spec.weight_bits]
    if _is_quantised(subject):
        specs = _as_given(subject)
    elif subject.evaluation.is_random and precision == "auto":
        specs = unmeasured(specs, profile)
    present, sampled = set(subject.base.facts["operators"]), ("static", "mixed")
    specs = [spec for spec in specs if not spec.op_types or present & set(spec.op_types)]
    specs = [spec for spec in specs if "LSTM" in present or "LSTM" not in spec.op_types]
    usable = [spec for spec in specs if spec.method not in sampled or subject.evaluation.calibration is not None]
    if usable:
        return usable
    if any(spec.method in sampled for spec in specs):
        others = mode == "allowed" and any(spec.precision == "dynamic" for spec in subject.recipe.candidates)
        raise errors.PrecisionError(
            "an int8 model needs calibration data, and none was given",
            next_step="give samples with --calibration" + (", or use --precision dynamic" if others else ""),
        )
    raise errors.PrecisionError(
        f"the recipe has no candidate of precision {precision} for profile {profile.name}",
        next_step="choose another precision or recipe",
    )


def _is_quantised(subject: Subject) -> bool:
    """Say whether somebody quantised the model already. A compiled file has other operators than its ONNX source."""
    return bool(_given_form(subject))


def _given_form(subject: Subject) -> str:
    model = subject.source if _is_compiled(subject) else subject.base
    return quantised_form(model.facts["operators"])


def _is_compiled(subject: Subject) -> bool:
    return "compiled_from" in subject.base.facts


def _given_spec(subject: Subject) -> CandidateSpec:
    """Return the one candidate of a quantised model: int8, weights of 4 bits, or the form in which a compiled file computes it."""
    if _is_compiled(subject) and not subject.base.facts["is_carried"]:
        return msgspec.structs.replace(AS_GIVEN, precision=subject.base.facts["precision"])
    return msgspec.structs.replace(AS_GIVEN, precision=_given_form(subject))


def _as_given(subject: Subject) -> list[CandidateSpec]:
    """Return the one candidate of a model that somebody trained or quantised in int8 already: another rounding would only lose.

    Raises PrecisionError.
    """
    precision, profile, given = subject.options.precision, subject.profile, _given_spec(subject)
    if profile.quant.mode == "forbidden" and given.precision not in ("fp32", "fp16"):
        raise errors.PrecisionError(
            f"the model is quantised already, and profile {profile.name} forbids quantised models (quant.mode)",
            next_step="publish the float model",
        )
    if precision not in ("auto", given.precision):
        raise errors.PrecisionError(
            f"the model is quantised already and is served as it is; {precision} was asked for",
            next_step=f"use --precision auto or {given.precision}, or publish the float model",
        )
    return [given]


def _try(
    workshop: JobSteps, subject: Subject, spec: CandidateSpec, *, searched: bool = False
) -> tuple[CandidateRow, _Tried]:
    """Make one candidate, hold it against size and gate, measure it, and return its row with the proof or the rejection.

    searched: whether a search chose which layers it leaves out.
    """
    row = CandidateRow(id=spec.id, precision=spec.precision)
    replace = msgspec.structs.replace
    try:
        with workshop.stage("quantize"):
            file = workshop.candidate(subject.base, spec, subject.evaluation.calibration, subject.reference.inputs)
        row = replace(row, bytes=file.bytes)
        if spec.precision == "fp16" and spec.method != "none" and file.bytes >= subject.base.bytes:
            raise errors.TransformError(
                f"with float16 weights the model has {file.bytes} bytes, no less than the {subject.base.bytes} of float32",
                next_step="use --precision fp32: what this model stores is not float32 weights",
            )
        if searched:
            _check_worth(subject, spec, file)
        _check_small(subject, spec, file)
        too_large = over_size(subject.profile, file.bytes)
        if too_large:
            raise errors.OverBudgetError(
                f"the {spec.precision} model has {too_large}",
                next_step="use a smaller model, or int8 with calibration data",
                needed_bytes=file.bytes,
            )
        check_nodes(subject.profile, file.facts)
        with workshop.stage("gate"):
            passed = pass_gate(workshop, file, subject.profile, subject.judged, spec.precision)
        check_io_types(subject.profile, passed.answers.inputs, passed.answers.specs)
        row = _measured(row, _measure(workshop, subject, file))
    except errors.SourceError:
        raise
    except errors.ConversionError as error:
        figures = error.metric if isinstance(error, errors.AccuracyError) else None
        metric = figures if isinstance(figures, MetricRow) else None
        return rejected(row, error, metric), error
    return replace(row, verdict="passed", metric=passed.metric, parity=passed.parity), (file, passed)


def _check_small(subject: Subject, spec: CandidateSpec, file: ModelFile) -> None:
    """Raise TransformError for a model that does not earn its precision's name. Where int8 is required, size is not why."""
    if spec.method == "none" or subject.profile.quant.mode == "required":
        return
    why = not_small(spec.precision, file.bytes, subject.base.bytes)
    if why:
        raise errors.TransformError(
            why, next_step="use --precision auto or fp32: this model has little to make smaller"
        )


def _check_worth(subject: Subject, spec: CandidateSpec, file: ModelFile) -> None:
    """Raise when a search left so much in float that the name of the precision, or the effort, is not earned."""
    precision = subject.options.precision
    if precision not in ("auto", spec.precision):
        raise errors.PrecisionError(
            f"only the weights can be {precision}; with {precision} activations too much is lost",
            next_step=f"use --precision {spec.precision} or auto",
        )
    if file.bytes > _worth_bytes(subject):
        raise errors.TransformError(
            f"so many layers must stay float that the {spec.precision} model has {file.bytes} of {subject.base.bytes} bytes",
            next_step="use --precision fp16, which is as small",
        )


def _worth_bytes(subject: Subject) -> int:
    """Return how large a mixed model may be."""
    ratio = _WORTH_RATIO.get(subject.base.facts.get("precision", "fp32"), _WORTH_RATIO["fp32"])
    return int(ratio * subject.base.bytes)


def _measure(workshop: JobSteps, subject: Subject, file: ModelFile) -> Measured:
    with workshop.stage("measure"):
        return workshop.measure(
            file, subject.profile.runtime.name, subject.evaluation.samples, threads=subject.profile.threads
        )


def _measured(row: CandidateRow, measured: Measured) -> CandidateRow:
    p50, p95 = measured.latency_ms
    return msgspec.structs.replace(
        row, latency_ms={"p50": round(p50, 4), "p95": round(p95, 4)}, peak_rss_bytes=measured.peak_rss_bytes,
        cold_start_ms=round(measured.cold_start_ms, 2),
    )  # fmt: skip


def _fp32_figures(workshop: JobSteps, subject: Subject) -> CandidateRow | None:
    """Return the simplified source's figures, for comparison; None where it cannot be measured."""
    given = _given_spec(subject).precision if _is_quantised(subject) else subject.base.facts.get("precision", "fp32")
    row = CandidateRow(id="source", precision=given, bytes=subject.base.bytes)
    try:
        return _measured(row, _measure(workshop, subject, subject.base))
    except errors.ConversionError:
        return None


def _finish(workshop: JobSteps, subject: Subject, spec: CandidateSpec, file: ModelFile, passed: Passed) -> Chosen:
    """Look again, choose golden vectors and measure. Raises DiffersError, GoldenError, OverBudgetError and what running can raise."""
    with workshop.stage("gate"):
        look_again(workshop, file, passed, subject.profile, subject.judged, spec.precision)
    golden = choose_golden(passed.answers, subject.reference, subject.evaluation, subject.recipe, spec.precision)
    measured = _measure(workshop, subject, file)
    for over, needed_bytes in ((over_memory, measured.peak_rss_bytes), (over_arena, measured.arena_bytes)):
        if too_much := over(subject.profile, needed_bytes):
            raise errors.OverBudgetError(too_much, next_step=_LESS_MEMORY, needed_bytes=needed_bytes)
    with workshop.stage("gate"):
        passed = hold_unseen(workshop, file, passed, subject.profile, subject.judged, spec.id)
    return Chosen(spec, file, passed, golden, measured)


def _own_format(
    workshop: JobSteps, subject: Subject, chosen: Chosen, report: ProfileReport, listener: CandidateListener
) -> Chosen:
    """Return the chosen model as `.ort` where the profile takes it, it is small and quick enough, and it holds; else as it is.

    Listed behind onnx it must be smaller. Listed first, which says that loading without optimising is worth more than bytes, it
    may be larger by `_PREFERRED_RATIO`.
    """
    if "ort" not in subject.profile.formats_allowed:
        return chosen
    row = CandidateRow(id=f"{chosen.spec.id}.ort", precision=chosen.spec.precision)
    replace = msgspec.structs.replace
    try:
        with workshop.stage("quantize"):
            file = workshop.ort_format(chosen.file)
        row = replace(row, bytes=file.bytes)
        is_first = subject.profile.formats_allowed[0] == "ort"
        largest = int((_PREFERRED_RATIO if is_first else 1) * chosen.file.bytes)
        if file.facts["slow"] or file.bytes >= largest:
            slower, size = ", ".join(file.facts["slow"]), f"it has {file.bytes} bytes, {chosen.file.bytes} as .onnx"
            why = f"{slower} would run slower" if slower else size
            raise errors.TransformError(f"the .onnx file is kept: {why}", next_step="use the .onnx file")
        too_large = over_size(subject.profile, file.bytes)
        if too_large:
            why = f"the .onnx file is kept: the .ort file has {too_large}"
            raise errors.OverBudgetError(why, needed_bytes=file.bytes)
        with workshop.stage("gate"):
            passed = pass_gate(workshop, file, subject.profile, subject.judged, chosen.spec.precision)
        better = _finish(workshop, subject, chosen.spec, file, passed)
        row = replace(_measured(row, better.measured), verdict="passed", metric=passed.metric, parity=passed.parity)
    except errors.SourceError:
        raise
    except errors.ConversionError as error:
        row, better = rejected(row, error), chosen
    report.candidates.append(row)
    listener(row, better.spec.id)
    return better


def _rows_of(specs: list[CandidateSpec], reason: str) -> Iterator[CandidateRow]:
    """Yield the rows of candidates that were not tried."""
    for spec in specs:
        yield CandidateRow(id=spec.id, precision=spec.precision, verdict="not_tried", reason=reason)
