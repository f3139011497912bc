"""What a device's windows say of a period: one number per metric, and whether its answers drifted. Pure.

- A window belongs to the period in which its middle lies. Before the switch those of another release count, after it those of
  the release; of a control device all windows of the release that it serves.
- Windows are added up, never averaged: latency from the merged sketch, ratios from summed counts. So a device is one value,
  whether it sent four windows or sixty.
- Drift is the calibrated chi-square of ADR 0039: the histogram of answered classes after the switch against
  the one before, divided by a design effect (Rao and Scott, first order) that is learnt from blocks as long as the period after,
  so that night and day or a slow stream are no drift. With fewer than ten blocks there is no result.

Source: ADR 0038, 0039; Rao and Scott, "The analysis of categorical data from complex sample surveys", JASA 76 (1981); Wilson and
Hilferty (1931) for the quantile.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.rollout.model import Span
from edgefleet_server.rollout.spec.model import Metric, QualityGate
from edgefleet_server.telemetry.model import PeriodWindow

ACTIVE: Final = "active"
CANDIDATE: Final = "candidate"
MEASURE: Final = "measure"
LEAST_LABELS: Final = 5
"""Of a device in a period: fewer say nothing of it."""
LATE: Final = timedelta(hours=1)
"""So long a device may be silent after its period: then what it sent until then is all."""
MIN_BLOCKS: Final = 10
DRIFT_Z: Final = 3.09
"""One device in a thousand is called drifted by chance, and the share of devices is what counts (`quality.DRIFT_SHARE`)."""
_LEAST_EXPECTED: Final = 5.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What a device showed around a moment. is_whole: it spoke after the end of the period, so that nothing is on its way."""

    before: Mapping[Metric, float]
    after: Mapping[Metric, float]
    drift: float | None
    answers_before: int
    answers_after: int
    is_whole: bool
    is_serving: bool


def read(
    windows: Sequence[PeriodWindow], digest: str, began: datetime, gate: QualityGate, *, is_control: bool
) -> Reading:
    """Return what the windows of one device say of the periods before and after `began`."""
    end = began + gate.after
    labels, windows = [one for one in windows if one.labelled], [one for one in windows if not one.labelled]
    earlier = [one for one in windows if began - gate.before <= _middle(one) < began and one.sha256 != digest]
    later = [one for one in windows if began <= _middle(one) < end and (one.sha256 == digest) is not is_control]
    before, after = _serving(earlier), _serving(later)
    return Reading(
        before=_figures(before, ()) | _accuracy(labels, digest, began - gate.before, began, is_of=False),
        after=_figures(after, [one for one in later if one.shadow is not None])
        | _accuracy(labels, digest, began, end, is_of=not is_control),
        drift=_drift(before, after, began, gate),
        answers_before=sum(one.n for one in before),
        answers_after=sum(one.n for one in after),
        is_whole=any(one.t0 + timedelta(seconds=one.length_s) >= end for one in windows),
        is_serving=any(one.lane == ACTIVE for one in after),
    )


def spans(own: Reading, control: Reading | None, gate: QualityGate) -> dict[Metric, Span]:
    """Return every metric of the gate; of a period with too few answers nothing is known."""

    def seen(reading: Reading | None, metric: Metric, *, is_after: bool) -> float | None:
        if reading is None:
            return None
        values, answers = (
            (reading.after, reading.answers_after) if is_after else (reading.before, reading.answers_before)
        )
        return values.get(metric) if answers >= gate.min_inferences else None

    asked = {one.name for one in gate.metrics if one.name is not Metric.DRIFT}
    return {
        name: Span(
            seen(own, name, is_after=False),
            seen(own, name, is_after=True),
            seen(control, name, is_after=False),
            seen(control, name, is_after=True),
        )
        for name in sorted(asked)
    }


def taken_from(began: datetime, gate: QualityGate) -> datetime:
    """Return when a device's values are taken at the earliest: after its period, and where accuracy is asked for half of the time later
    for which a finished rollout is watched. Labels come when they come: taken at a fixed time, none comes early because it is bad.
    """
    asks_labels = any(one.name is Metric.ACCURACY for one in gate.metrics)
    return began + gate.after + (gate.watch / 2 if asks_labels else timedelta(0))


def is_ready(reading: Reading, began: datetime, gate: QualityGate, now: datetime) -> bool:
    """Return whether a device's period can be taken: it has answers enough, and no window of it is on its way."""
    is_over = now >= taken_from(began, gate) and (reading.is_whole or now >= began + gate.after + LATE)
    return is_over and reading.answers_after >= gate.min_inferences


def _middle(window: PeriodWindow) -> datetime:
    return window.t0 + timedelta(seconds=window.length_s / 2)


def _serving(windows: Sequence[PeriodWindow]) -> list[PeriodWindow]:
    """Return the windows of what serves; where nothing of it does (a shadow), those of the candidate."""
    active = [one for one in windows if one.lane == ACTIVE]
    return active or [one for one in windows if one.lane != MEASURE]


def _accuracy(
    labels: Sequence[PeriodWindow], digest: str, begin: datetime, end: datetime, *, is_of: bool
) -> dict[Metric, float]:
    """Return the share of right answers among the labelled ones of a period, whole hours. is_of: of the release, else of another."""
    mine = [
        one
        for one in labels
        if begin <= _middle(one) < end and (one.sha256 == digest) is is_of and one.lane in {ACTIVE, CANDIDATE}
    ]
    labelled = sum(one.labelled for one in mine)
    return {Metric.ACCURACY: sum(one.right for one in mine) / labelled} if labelled >= LEAST_LABELS else {}


def _figures(windows: Sequence[PeriodWindow], shadows: Sequence[PeriodWindow]) -> dict[Metric, float]:
    figures: dict[Metric, float] = {}
    n = sum(one.n for one in windows)
    timeouts = sum(one.timeouts for one in windows)
    if n + timeouts > 0:
        errors = sum(one.errors for one in windows) + timeouts
        figures[Metric.INFERENCE_ERROR_RATE] = min(1.0, errors / (n + timeouts))
    if n > 0:
        figures[Metric.NONFINITE_RATE] = min(1.0, sum(one.nonfinite for one in windows) / n)
    p95 = LatencySketch.merged(LatencySketch.unpacked(one.latency) for one in windows).quantile_s(0.95)
    if p95 is not None:
        figures[Metric.LATENCY_P95_MS] = 1000 * p95
    metered = [one for one in windows if one.joules_per_answer >= 0 and one.n > 0]
    if metered:
        joules = math.fsum(one.joules_per_answer * one.n for one in metered)
        figures[Metric.JOULES_PER_INFERENCE] = joules / sum(one.n for one in metered)
    shadowed = [one.shadow for one in shadows if one.shadow is not None]
    judged = sum(one.judged for one in shadowed)
    if judged > 0:
        figures[Metric.SHADOW_AGREEMENT] = min(1.0, sum(one.agreed for one in shadowed) / judged)
    return figures


# ---- drift


def _drift(
    before: Sequence[PeriodWindow], after: Sequence[PeriodWindow], began: datetime, gate: QualityGate
) -> float | None:
    blocks: dict[int, list[PeriodWindow]] = {}
    for one in before:
        blocks.setdefault(math.floor((began - _middle(one)) / gate.after), []).append(one)
    known = [counts for block in blocks.values() if sum(counts := _classes(block)) >= gate.min_inferences]
    now = _classes(after)
    if len(known) < MIN_BLOCKS or sum(now) < gate.min_inferences:
        return None
    return drift_of(known, now)


def _classes(windows: Iterable[PeriodWindow]) -> list[int]:
    total: list[int] = []
    for one in windows:
        total += [0] * (len(one.classes) - len(total))
        for index, count in enumerate(one.classes):
            total[index] += count
    return total


def drift_of(blocks: Sequence[Sequence[int]], now: Sequence[int]) -> float | None:
    """Return the PSI of `now` against the sum of `blocks` where the change is beyond chance, else 0.0.

    blocks: counts by class of periods as long as that of `now`. None where there are fewer than two classes to compare.
    """
    width = max(len(now), *(len(block) for block in blocks))
    rows = [_filled(block, width) for block in blocks]
    merged = _merge_rare([[*map(sum, zip(*rows, strict=True))], _filled(now, width), *rows])
    base, new, *parts = merged
    classes = len(base)
    if classes < 2:
        return None
    total, fresh = sum(base), sum(new)
    shares = [count / total for count in base]
    between = math.fsum(
        (part[c] - sum(part) * shares[c]) ** 2 / (sum(part) * shares[c])
        for part in parts
        for c in range(classes)
        if shares[c] > 0
    )
    effect = max(1.0, between / ((len(parts) - 1) * (classes - 1)))
    pooled = [(base[c] + new[c]) / (total + fresh) for c in range(classes)]
    chi2 = math.fsum(
        (counts[c] - size * pooled[c]) ** 2 / (size * pooled[c])
        for counts, size in ((base, total), (new, fresh))
        for c in range(classes)
    )
    if _z_of(chi2 / effect, classes - 1) < DRIFT_Z:
        return 0.0
    half = 0.5  # half an answer more in each class: no logarithm of nothing
    old = [(base[c] + half) / (total + half * classes) for c in range(classes)]
    shadowed = [(new[c] + half) / (fresh + half * classes) for c in range(classes)]
    return math.fsum((b - a) * math.log(b / a) for a, b in zip(old, shadowed, strict=True))


def _filled(counts: Sequence[int], width: int) -> list[int]:
    return [*counts, *([0] * (width - len(counts)))]


def _merge_rare(rows: list[list[int]]) -> list[list[int]]:
    """Return the rows with all classes in one that are too rare in the shorter of the first two for a chi-square."""
    base, new = rows[0], rows[1]
    total, fresh = max(1, sum(base) + sum(new)), min(sum(base), sum(new))
    rare = {c for c in range(len(base)) if fresh * (base[c] + new[c]) / total < _LEAST_EXPECTED}
    kept = [c for c in range(len(base)) if c not in rare]
    if not rare or not any(base[c] + new[c] for c in rare):
        return [[row[c] for c in kept] for row in rows]
    return [[*(row[c] for c in kept), sum(row[c] for c in rare)] for row in rows]


def _z_of(chi2: float, freedom: int) -> float:
    """Return the normal quantile of a chi-square (Wilson and Hilferty)."""
    spread = 2 / (9 * freedom)
    return float(((chi2 / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))
