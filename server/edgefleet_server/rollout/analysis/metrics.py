"""What devices' measured values say of a release: counted into facts, and judged metric by metric. Pure.

1. The device is the unit: one value per device and metric, taken once, however many answers it gave.
2. A compared metric is a difference of differences: what changed on the device at its switch, minus what changed on its control
   device over the same hours. What hits both (heat, network, another season) cancels. `non_inferior_rel` compares logs.
3. Values are clipped to four margins: one broken device must not drown the others. Since that hides how bad it is, a metric with
   more than 5 % of its devices beyond is not passed.
4. A metric fails when the evidence that the mean is beyond its threshold suffices, together with that of the other metrics and
   of the failures of installation: the mean of evidences is evidence, so looking at many costs no penalty. It passes when the
   evidence that the mean is within suffices; all must pass, so there each has the whole error probability.
5. Without a value a device counts as the worst in the test that passes, and not at all in the one that fails: values are
   taken a fixed time after the switch, so none comes early because it is bad. Too few values of the stage itself: no data.
6. Drift: when more devices than chance explains answer with other classes than before, control devices among them, then the
   world changed. Then nothing is blamed on the release, and nothing is passed.
7. FAIL before HOLD and NO_DATA, those before PASS.

Source: ADR 0038, 0039.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from edgefleet_server.rollout.analysis.model import DriftFacts, MetricFacts, QualityFacts, QualityVerdict
from edgefleet_server.rollout.bounded_mean import bin_of, bounds, log_average, log_e_above, log_e_below
from edgefleet_server.rollout.failure_ratio import log_e_abort
from edgefleet_server.rollout.model import DeviceQuality, Span
from edgefleet_server.rollout.spec.model import Bound, Control, Metric, OnBreach, QualityGate, QualityMetric

CLIP_MARGINS: Final = 4.0
BINS_A_MARGIN: Final = 20
ROOM_OF_MAX: Final = math.log(2.0)
"""A time or an energy is clipped to the range from half its `max` to twice its `max`."""
CLIPPED_CAP_PCT: Final = 5
OWN_DATA_PCT: Final = 80
"""Share of the stage's own devices that must have values."""
INSTALL_WEIGHT: Final = 0.85
"""Weight of the failures of installation in the evidence against a release; the metrics share the rest."""
DRIFT_SHARE: Final = 0.1
"""Share of devices that may answer otherwise than before without anybody speaking of drift."""

# ---- codes

QUALITY_BREACH: Final = "quality_breach"
QUALITY_HELD: Final = "quality_held"
QUALITY_NO_DATA: Final = "quality_no_data"
QUALITY_MORE: Final = "quality_more_evidence"
QUALITY_ROUGH: Final = "quality_too_rough"
DRIFT_POPULATION: Final = "drift_population"
DRIFT_RELEASE: Final = "drift_release"
QUALITY_PASS: Final = "quality_pass"  # noqa: S105 not a password

MESSAGES: Final = {
    QUALITY_BREACH: "{metric} is {value} on {n} devices, {threshold} {allowed}: evidence {e} ({at} suffices) against the release",
    QUALITY_HELD: "{metric} is {low} {worse}, {threshold} {allowed} (on_breach: hold)",
    QUALITY_NO_DATA: "{metric}: {have} of {of} devices have a value, at least {need} must: no data is no verdict",
    QUALITY_MORE: "{metric} lies between {low} and {high}, {threshold} {allowed}: {n} devices so far, {missing} without a value",
    QUALITY_ROUGH: "{metric} is more than four times its margin on {clipped} of {n} devices, at most {cap} % may be",
    DRIFT_POPULATION: "{control} of {control_of} control devices and {own} of {of} devices with the release answer otherwise "
    "than before: the world changed, so nothing is blamed on the release and nothing passes",
    DRIFT_RELEASE: "{own} of {of} devices answer otherwise than before, {control} of {control_of} control devices do",
    QUALITY_PASS: "{metric} is {high} {better}, {threshold} {allowed} ({n} devices)",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How a metric's values are counted: see `MetricFacts`."""

    low: float
    high: float
    at: float
    step: float


@dataclass(frozen=True, slots=True)
class MetricVerdict:
    """What is known of one metric. value, low, high: mean of the devices' values and what it lies between; None: no device.

    log_fail, log_pass: natural logs of the evidence beyond and within the threshold.
    """

    facts: MetricFacts | DriftFacts
    verdict: QualityVerdict
    code: str
    reason: str
    n: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    log_fail: float = 0.0
    log_pass: float | None = None


@dataclass(frozen=True, slots=True)
class MetricVerdicts:
    """What is known of all metrics. log_fail: evidence of all that may fail a stage, None: none may (now)."""

    metrics: tuple[MetricVerdict, ...]
    log_fail: float | None
    worst: MetricVerdict | None

    @property
    def obstacle(self) -> MetricVerdict | None:
        """What is in the way of passing, first by precedence, a world that changed before all; None when all pass."""
        world = next((one for one in self.metrics if one.code == DRIFT_POPULATION), None)
        if world is not None:
            return world
        order = (QualityVerdict.FAIL, QualityVerdict.HOLD, QualityVerdict.NO_DATA)
        return next((one for verdict in order for one in self.metrics if one.verdict is verdict), None)


def scale_of(metric: QualityMetric) -> Scale:
    """Return how the values of a metric are counted."""
    if metric.bound is Bound.MIN or (metric.bound is Bound.MAX and metric.value < 1 and _is_ratio(metric.name)):
        at = 1.0 - metric.value if metric.bound is Bound.MIN else metric.value
        return Scale(0.0, min(1.0, CLIP_MARGINS * at), at, at / BINS_A_MARGIN)
    if metric.bound is Bound.MAX:
        return Scale(-ROOM_OF_MAX, ROOM_OF_MAX, 0.0, ROOM_OF_MAX / (CLIP_MARGINS * BINS_A_MARGIN))
    margin = math.log1p(metric.value) if metric.bound is Bound.NON_INFERIOR_REL else metric.value
    return Scale(-CLIP_MARGINS * margin, CLIP_MARGINS * margin, margin, margin / BINS_A_MARGIN)


def _is_ratio(name: Metric) -> bool:
    return name in (Metric.INFERENCE_ERROR_RATE, Metric.NONFINITE_RATE, Metric.SHADOW_AGREEMENT)


def value_of(metric: QualityMetric, span: Span, control: Control) -> float | None:
    """Return the value of one device, None where something that it takes is not known."""
    if metric.bound is Bound.MIN:
        return None if span.after is None else 1.0 - span.after
    if metric.bound is Bound.MAX:
        if span.after is None or _is_ratio(metric.name):
            return span.after
        return math.log(span.after / metric.value) if span.after > 0 else -ROOM_OF_MAX
    own = _change(metric, span.before, span.after)
    if control is not Control.HOLDOUT or own is None:
        return own
    other = _change(metric, span.control_before, span.control_after)
    return None if other is None else own - other


def _change(metric: QualityMetric, before: float | None, after: float | None) -> float | None:
    if before is None or after is None:
        return None
    if metric.bound is Bound.NON_INFERIOR_ABS:
        return before - after if metric.name is Metric.ACCURACY else after - before
    return math.log(after / before) if before > 0 and after > 0 else None


# ---- counting


def quality_facts(
    gate: QualityGate, stage: int, expected: Iterable[tuple[str, int]], measured: Sequence[DeviceQuality]
) -> QualityFacts:
    """Return the facts of one cell.

    expected: (device, stage) of the exposed devices of the stratum so far on which the release did not fail; measured: what was
    measured of devices of the stratum, of whichever stage. Who is not expected (taken back, another stage) does not count.
    """
    stages = dict(expected)
    known = [one for one in measured if one.device in stages]
    return QualityFacts(
        control=gate.control,
        expected=len(stages),
        measured=len(known),
        unpaired=sum(gate.control is Control.HOLDOUT and not one.control for one in known),
        own_expected=sum(own == stage for own in stages.values()),
        own_measured=sum(stages[one.device] == stage for one in known),
        metrics=[
            _metric_facts(metric, gate.control, known, len(stages) - len(known))
            for metric in gate.metrics
            if metric.name is not Metric.DRIFT
        ],
        drift=next((_drift_facts(metric, known) for metric in gate.metrics if metric.name is Metric.DRIFT), None),
    )


def _metric_facts(
    metric: QualityMetric, control: Control, known: Sequence[DeviceQuality], unmeasured: int
) -> MetricFacts:
    scale = scale_of(metric)
    counts: Counter[int] = Counter()
    missing, clipped = unmeasured, 0
    for one in known:
        value = value_of(metric, one.spans.get(metric.name, Span()), control)
        if value is not None and math.isfinite(value):
            counts[bin_of(value, scale.low, scale.high, scale.step)] += 1
            clipped += value > scale.high
        elif not _is_excused(metric, control, one):
            missing += 1
    return MetricFacts(
        name=metric.name,
        bound=metric.bound,
        value=metric.value,
        on_breach=metric.on_breach,
        low=scale.low,
        high=scale.high,
        at=scale.at,
        step=scale.step,
        bins=sorted(counts.items()),
        missing=missing,
        clipped=clipped,
    )


def _is_excused(metric: QualityMetric, control: Control, one: DeviceQuality) -> bool:
    """Whether a device need not have a value: nobody was left to compare it with, it serves what others only shadow, or nobody has
    said what was right about its answers: labels are seldom there for all, and what devices without them do is judged by all else.
    """
    if metric.name is Metric.ACCURACY and not _is_labelled(metric, control, one):
        return True
    if metric.name is Metric.SHADOW_AGREEMENT:
        return one.is_serving
    is_compared = metric.bound in (Bound.NON_INFERIOR_REL, Bound.NON_INFERIOR_ABS)
    own = _change(metric, *_own(one.spans.get(metric.name, Span())))
    return is_compared and control is Control.HOLDOUT and not one.control and own is not None


def _is_labelled(metric: QualityMetric, control: Control, one: DeviceQuality) -> bool:
    """Whether all is known that the comparison takes."""
    return value_of(metric, one.spans.get(metric.name, Span()), control) is not None


def _own(span: Span) -> tuple[float | None, float | None]:
    return span.before, span.after


def _drift_facts(metric: QualityMetric, known: Sequence[DeviceQuality]) -> DriftFacts:
    own = [one.drift for one in known if one.drift is not None]
    others = [one.control_drift for one in known if one.control_drift is not None]
    return DriftFacts(
        floor=metric.value,
        on_breach=metric.on_breach,
        judged=len(own),
        drifted=sum(psi >= metric.value for psi in own),
        control_judged=len(others),
        control_drifted=sum(psi >= metric.value for psi in others),
    )


# ---- judging


def flaw_of(facts: QualityFacts) -> str:
    """Return what contradicts itself in the facts, "" when nothing does. Such facts are a bug of the code that counted."""
    drift = facts.drift
    counts = (facts.expected, facts.measured, facts.unpaired, facts.own_expected, facts.own_measured)
    checks = [
        (min(counts) >= 0, "a count of devices with values is negative"),
        (facts.measured <= facts.expected, "more devices have values than should"),
        (facts.own_expected <= facts.expected, "the stage has more devices than the stratum"),
        (
            facts.own_measured <= min(facts.own_expected, facts.measured),
            "more devices of the stage have values than should",
        ),
        (bool(facts.metrics) or drift is not None, "the quality gate has no metric"),
    ]
    for one in facts.metrics:
        n = sum(count for _, count in one.bins)
        is_scale = all(map(math.isfinite, (one.low, one.high, one.step))) and one.step > 0
        last = math.ceil((one.high - one.low) / one.step - 1e-9) if is_scale else 0
        checks += [
            (one.low < one.at < one.high and last > 0, f"the scale of {one.name.value} is none"),
            (all(0 <= index < last and count > 0 for index, count in one.bins), f"a bin of {one.name.value} is none"),
            (one.missing >= 0 and 0 <= one.clipped <= n, f"a count of {one.name.value} is negative or too large"),
            (n <= facts.measured, f"more values of {one.name.value} than devices"),
            (one.missing >= facts.expected - facts.measured, f"devices without {one.name.value} are not counted"),
        ]
    if drift is not None:
        checks += [
            (0 <= drift.drifted <= drift.judged <= facts.measured, "more devices drifted than have values"),
            (0 <= drift.control_drifted <= drift.control_judged <= facts.measured, "more control devices than pairs"),
        ]
    return next((words for holds, words in checks if not holds), "")


def judge(facts: QualityFacts, log_abort: float, log_promote: float) -> MetricVerdicts:
    """Return what is known of each metric; the facts have no flaw. log_abort, log_promote: what evidence must reach (> 0)."""
    drift = None if facts.drift is None else _judge_drift(facts, facts.drift, log_promote, log_abort)
    is_world = drift is not None and drift.code == DRIFT_POPULATION
    metrics = [_judge_metric(facts, one, log_abort, log_promote) for one in facts.metrics]
    everything = (*metrics, *((drift,) if drift is not None else ()))
    may_fail = [one for one in everything if one.facts.on_breach is OnBreach.FAIL]
    if is_world or not may_fail:
        return MetricVerdicts(everything, None, None)
    # weights are the spec's, not the data's: a metric without any device is evidence of 1
    logs = [(1 / len(may_fail), one.log_fail) for one in may_fail]
    return MetricVerdicts(everything, log_average(logs), max(may_fail, key=lambda one: one.log_fail))


def can_fail(facts: QualityFacts) -> bool:
    """Return whether a metric may fail a stage: then the failures of installation have a part of the evidence only."""
    metrics = (*facts.metrics, *((facts.drift,) if facts.drift is not None else ()))
    return any(one.on_breach is OnBreach.FAIL for one in metrics)


def _judge_metric(facts: QualityFacts, one: MetricFacts, log_abort: float, log_promote: float) -> MetricVerdict:
    bins = tuple((index, count) for index, count in one.bins)
    n = sum(count for _, count in bins)
    own_need = math.ceil(facts.own_expected * OWN_DATA_PCT / 100 - 1e-9)
    if n == 0 or facts.own_measured < own_need:
        have, of, need = (
            (n, facts.expected, max(1, own_need)) if n == 0 else (facts.own_measured, facts.own_expected, own_need)
        )
        reason = MESSAGES[QUALITY_NO_DATA].format(metric=one.name.value, have=have, of=of, need=need)
        if n == 0:
            return MetricVerdict(one, QualityVerdict.NO_DATA, QUALITY_NO_DATA, reason, log_fail=0.0)
        no_data = reason
    else:
        no_data = ""
    log_fail = log_e_above(bins, one.low, one.high, one.at, one.step)
    log_pass = log_e_below(bins, one.low, one.high, one.at, one.step, one.missing)
    low, high = bounds(bins, one.low, one.high, one.step, one.missing, log_abort, log_promote)
    value = math.fsum([count * min(one.high, one.low + (index + 0.5) * one.step) for index, count in bins]) / n
    words = {
        "metric": one.name.value,
        "low": text_of_value(one, low),
        "high": text_of_value(one, high),
        "threshold": text_of_value(one, one.at),
        **_ways(one),
        "n": n,
        "missing": one.missing,
        "clipped": one.clipped,
        "cap": CLIPPED_CAP_PCT,
    }
    if log_fail >= log_abort and one.on_breach is OnBreach.HOLD:
        verdict, code = QualityVerdict.HOLD, QUALITY_HELD
    elif no_data:
        verdict, code = QualityVerdict.NO_DATA, QUALITY_NO_DATA
    elif 100 * one.clipped > CLIPPED_CAP_PCT * n:
        verdict, code = QualityVerdict.HOLD, QUALITY_ROUGH
    elif log_pass < log_promote:
        verdict, code = QualityVerdict.HOLD, QUALITY_MORE
    else:
        verdict, code = QualityVerdict.PASS, QUALITY_PASS
    reason = no_data if code == QUALITY_NO_DATA else MESSAGES[code].format(**words)
    return MetricVerdict(one, verdict, code, reason, n, value, low, high, log_fail, log_pass)


def _judge_drift(facts: QualityFacts, drift: DriftFacts, log_hold: float, log_abort: float) -> MetricVerdict:
    """Return what is known of drift. The world is suspected on less evidence (log_hold) than the release is accused."""
    words = {
        "metric": Metric.DRIFT.value,
        "own": drift.drifted,
        "of": drift.judged,
        "control": drift.control_drifted,
        "control_of": drift.control_judged,
    }
    need = max(1, math.ceil(facts.measured * OWN_DATA_PCT / 100 - 1e-9))
    pairs = facts.measured - facts.unpaired
    control_need = max(1, math.ceil(pairs * OWN_DATA_PCT / 100 - 1e-9)) if facts.control is Control.HOLDOUT else 0
    log_own = log_e_abort(drift.drifted, drift.judged, DRIFT_SHARE)
    log_control = log_e_abort(drift.control_drifted, drift.control_judged, DRIFT_SHARE)
    share = drift.drifted / drift.judged if drift.judged else None
    if log_control >= log_hold:
        reason = MESSAGES[DRIFT_POPULATION].format(**words)
        return MetricVerdict(
            drift, QualityVerdict.HOLD, DRIFT_POPULATION, reason, drift.judged, share, log_fail=log_own
        )
    if log_own >= (log_abort if drift.on_breach is OnBreach.FAIL else log_hold):
        reason = MESSAGES[DRIFT_RELEASE].format(**words)
        return MetricVerdict(drift, QualityVerdict.HOLD, DRIFT_RELEASE, reason, drift.judged, share, log_fail=log_own)
    if drift.judged < need or drift.control_judged < control_need:
        is_own = drift.judged < need
        reason = MESSAGES[QUALITY_NO_DATA].format(
            metric=f"drift of {'devices' if is_own else 'control devices'}",
            have=drift.judged if is_own else drift.control_judged,
            of=facts.measured if is_own else pairs,
            need=need if is_own else control_need,
        )
        return MetricVerdict(
            drift, QualityVerdict.NO_DATA, QUALITY_NO_DATA, reason, drift.judged, share, log_fail=log_own
        )
    reason = f"drift: {drift.drifted} of {drift.judged} devices answer otherwise than before"
    return MetricVerdict(drift, QualityVerdict.PASS, QUALITY_PASS, reason, drift.judged, share, log_fail=log_own)


def _ways(one: MetricFacts | DriftFacts) -> dict[str, str]:
    """Return the words for worse and better: with `min`, and of accuracy, less is worse."""
    is_min = isinstance(one, MetricFacts) and (one.bound is Bound.MIN or one.name is Metric.ACCURACY)
    return {
        "worse": "or less" if is_min else "or more",
        "better": "or more" if is_min else "or less",
        "allowed": "asked for" if is_min else "allowed",
    }


def breach_text(one: MetricVerdict, evidence: str, at: str) -> str:
    """Return why a stage fails on a metric, in words."""
    if isinstance(one.facts, DriftFacts) or one.value is None:
        return f"{one.reason}: evidence {evidence} ({at} suffices) against the release"
    return MESSAGES[QUALITY_BREACH].format(
        metric=one.facts.name.value,
        value=text_of_value(one.facts, one.value),
        threshold=text_of_value(one.facts, one.facts.at),
        n=one.n,
        e=evidence,
        at=at,
        **_ways(one.facts),
    )


def text_of_value(one: MetricFacts, value: float) -> str:
    """Return a value of a metric's scale as people read it: +4.2 %, 0.0012, 48.1."""
    shown = shown_value(one, value)
    if one.bound is Bound.NON_INFERIOR_REL:
        return f"{shown:+.3g} %"
    return f"{shown:+.3g}" if one.bound is Bound.NON_INFERIOR_ABS else f"{shown:.4g}"


def shown_value(one: MetricFacts, value: float) -> float:
    """Return a value of a metric's scale in the unit of its bound: percent of change, the difference, or the value itself.

    With `min`, and of accuracy, the scale runs the other way: low and high change places.
    """
    if one.bound is Bound.NON_INFERIOR_REL:
        return 100 * math.expm1(value)
    if one.bound is Bound.MIN:
        return 1.0 - value
    if one.name is Metric.ACCURACY:
        return -value
    if one.bound is Bound.MAX and not _is_ratio(one.name):
        return one.value * math.exp(value)
    return value
