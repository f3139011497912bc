"""Values of the telemetry feature. Those that routes return are public: a field is never renamed."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from edgefleet_protocol.comparison import ShadowFigures, delta_quantile, mean_overlap, merge_shadows
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.telemetry_views import AgreementView

RETENTION: Final = timedelta(days=30)
"""How long windows are kept."""


class AnswerKey(NamedTuple):
    """Which answer a captured record or a label is about. device: "" where it names none."""

    model: str
    device: str
    trace_id: str


def rounded_ms(latency_ms: float) -> float:
    """Return a latency to five digits, so that a model of microseconds is shown as exactly as one of seconds."""
    return float(f"{latency_ms:.5g}")


def shown_ms(latency_s: float | None) -> float | None:
    """Return a latency in milliseconds as pages and the API show it, None where there is none."""
    return None if latency_s is None else rounded_ms(latency_s * 1000)


def agreement_of(figures: ShadowFigures) -> AgreementView:
    """Return comparisons with their ratios and quantiles, not rounded."""
    p50, p95 = (delta_quantile(figures.deltas, q) for q in (0.5, 0.95))
    active_p95_s = LatencySketch.unpacked(figures.primary_latency).quantile_s(0.95)
    return AgreementView(
        offered=figures.offered,
        dropped=figures.dropped,
        compared=figures.compared,
        failed=figures.failed,
        judged=figures.judged,
        agreed=figures.agreed,
        agreement=figures.agreed / figures.judged if figures.judged else None,
        delta_p50=p50,
        delta_p95=p95,
        overlap=mean_overlap(figures.overlaps),
        active_p95_ms=None if active_p95_s is None else 1000 * active_p95_s,
    )


def agreement_over(devices: Sequence[ShadowFigures]) -> AgreementView:
    """Return comparisons of several devices: counts as sums, ratios as means and quantiles as medians over devices."""
    each = [agreement_of(one) for one in devices]
    return replace(
        agreement_of(merge_shadows(devices)),
        agreement=_mean([one.agreement for one in each]),
        delta_p50=_median([one.delta_p50 for one in each]),
        delta_p95=_median([one.delta_p95 for one in each]),
        overlap=_mean([one.overlap for one in each]),
        active_p95_ms=_median([one.active_p95_ms for one in each]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return statistics.fmean(known) if known else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return statistics.median(known) if known else None


@dataclass(frozen=True, slots=True)
class PeriodWindow:
    """One window as it adds up with others: counts, the packed latency sketch, counts by class. joules_per_answer: -1 = not reported.

    labelled, right: of an hour of answers instead, how many have a label and how many of them are right.
    """

    device: str
    lane: str
    sha256: str
    t0: datetime
    length_s: int
    n: int
    errors: int
    timeouts: int
    nonfinite: int
    latency: Sequence[int]
    classes: Sequence[int]
    joules_per_answer: float
    shadow: ShadowFigures | None
    labelled: int = 0
    right: int = 0


@dataclass(frozen=True)
class Observed:
    """What devices of a profile reported of a bundle: medians over devices (`edgefleet_profiles.cost.observed`).

    spread: by figure, the standard deviation of its logarithm over devices, where two or more reported it.
    """

    devices: int
    windows: int
    answers: int
    latency_p50_ms: float
    latency_p95_ms: float
    memory_bytes: int | None
    spread: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Performance:
    """One bundle: what was predicted when it was published, what would be today where nobody reported yet, what devices reported.

    predicted, current: `Estimate` as plain data; predicted is None for a bundle of an older server, current where there is an
    observation. error: (predicted - observed) ÷ observed, by figure; within: whether the observed figure lay in the interval.
    """

    profile: str
    predicted: Mapping[str, Any] | None
    current: Mapping[str, Any] | None
    observed: Observed | None
    error: Mapping[str, float]
    within: Mapping[str, bool]


@dataclass(frozen=True)
class CostExample:
    """One model that a cost model rests on. left_out: `{figure: error}` of predicting it from all the others, by ratio."""

    release: str
    observed: Observed
    left_out: Mapping[str, float]


@dataclass(frozen=True)
class CostState:
    """The state of a profile's cost model. basis: fitted, ratio or none; error: of each figure, at `level`."""

    profile: str
    basis: str
    reason: str
    level: float
    models: int
    devices: int
    error: Mapping[str, float]
    examples: Sequence[CostExample]


@dataclass(frozen=True)
class Figures:
    """What windows of one bundle say. Counts are sums of what devices said, for one device to be read by.

    Latencies are medians over devices in milliseconds, within 1 %; failed_share: the mean over devices of their share of answers that were
    errors or not finite; both None when nothing was counted. crashed_devices: how many had a crash.
    """

    devices: int
    windows: int
    n: int
    errors: int
    timeouts: int
    nonfinite: int
    crashes: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    failed_share: float | None = None
    crashed_devices: int = 0


@dataclass(frozen=True)
class PredictionView:
    """One answer of a watched device. labels, scores: its best classes, or its first numbers with the label "".

    hidden: the bundle's privacy policy keeps what the model says on the device.
    """

    model: str
    version: str
    lane: str
    at: datetime
    trace_id: str
    latency_ms: float
    labels: Sequence[str]
    scores: Sequence[float | None]
    nonfinite: bool
    hidden: bool


@dataclass(frozen=True)
class PredictionsView:
    """What a watched device has shown after message `after_id`, oldest first. last_id: to ask from next time.

    until: somebody watches until then, null = nobody does. state: the device's last word, "" = none yet; on, off (its owner does not
    want it) or metered. seen: how many answers there were in all, of which `items` are the newest few.
    """

    items: Sequence[PredictionView]
    last_id: int
    until: datetime | None
    state: str
    seen: int


@dataclass(frozen=True)
class WatchView:
    """A device is watched until then; who goes on looking is given longer. status: whether it is there to hear of it."""

    device: str
    until: datetime
    status: str


@dataclass(frozen=True)
class CaptureFetch:
    """A device asked for its captured records. state: asked, done, or expired (it did not answer in time)."""

    id: str
    device: str
    model: str
    reason: str
    limit: int
    state: str
    received: int
    asked_at: datetime
    until: datetime


@dataclass(frozen=True)
class CaptureView:
    """What is known of one captured record without opening it. seen: how many predictions of its reason and class it stands for.

    label: class index, -1 = none. key: id of the public key it is sealed to. ground_truth: what was right, where it was sent to the
    server by the answer's trace id, else "".
    """

    id: str
    device: str
    fetch: str
    model: str
    sha256: str
    reason: str
    label: int
    trace_id: str
    taken_at: datetime
    received_at: datetime
    seen: int
    key: str
    bytes: int
    ground_truth: str
