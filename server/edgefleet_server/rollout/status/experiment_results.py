"""What a release showed as a candidate: compared with the active version on the same devices, over the same hours. Pure.

- shadow: both answered the same inputs, so counts of the comparison add up over the windows of a device; of devices, ratios are means and
  quantiles medians, so that each has one part of them.
- split: each answered its share of the requests of a device. The device is the unit: one difference each, whatever its traffic,
  since requests of one device are no independent draws.
- The interval of a mean of devices comes from the test of the quality gate (`quality`), so it may be looked at as often as one
  likes. Margins are those of the spec's gate where it has one, else of `USUAL`, which only say how values are clipped.

Source: ADR 0055.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.comparison import merge_shadows
from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.rollout.analysis.metrics import quality_facts
from edgefleet_server.rollout.analysis.model import Counts, Facts
from edgefleet_server.rollout.model import DeviceQuality, Span
from edgefleet_server.rollout.spec.model import Bound, Control, Metric, Mode, OnBreach, QualityGate, QualityMetric, Spec
from edgefleet_server.rollout.status.metric_views import MetricView, metric_views
from edgefleet_server.telemetry.model import PeriodWindow, agreement_of, agreement_over
from edgefleet_server.telemetry.plausibility import DeviceSums, mean_error_rate, median_latency_s
from edgefleet_server.telemetry_views import AgreementView

ACTIVE: Final = "active"
CANDIDATE: Final = "candidate"
USUAL: Final = {
    Metric.LATENCY_P95_MS: (Bound.NON_INFERIOR_REL, 0.25),
    Metric.INFERENCE_ERROR_RATE: (Bound.NON_INFERIOR_ABS, 0.05),
    Metric.SHADOW_AGREEMENT: (Bound.MIN, 0.9),
}
"""Margins where the spec has none of its own: wide, since values are clipped to four of them, and judged by none."""


@dataclass(frozen=True)
class ArmView:
    """What answered. Counts are sums over devices.

    error_rate: of requests, the mean over devices; time-outs are errors. Latencies are medians over devices in milliseconds.
    """

    lane: str
    devices: int
    answers: int
    errors: int
    nonfinite: int
    error_rate: float | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None


@dataclass(frozen=True)
class StratumResult:
    """One stratum. devices: with windows of the candidate; metrics: the candidate against what serves, device by device.

    asked: names of the metrics of which the spec asks something; of the others a threshold means nothing.
    """

    stratum: str
    devices: int
    active: ArmView
    candidate: ArmView
    shadow: AgreementView | None
    metrics: Sequence[MetricView]
    asked: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Hours:
    """When stages of a mode were open in a stratum. end: None while one is."""

    begin: datetime
    end: datetime | None


def results(
    spec: Spec,
    mode: Mode,
    hours: Mapping[ProfileName, Hours],
    strata: Mapping[DeviceId, ProfileName],
    digests: Mapping[ProfileName, str],
    windows: Mapping[str, Sequence[PeriodWindow]],
) -> list[StratumResult]:
    """Return what each stratum showed. strata: of the devices; digests: of the release's bundles, by stratum; windows: by device."""
    found = []
    for stratum in sorted(hours):
        digest, span = digests.get(stratum, ""), hours[stratum]
        pairs = {
            device: pair
            for device, own in strata.items()
            if own == stratum and (pair := _pair(windows.get(device, ()), digest, span))[1]
        }
        found.append(_result(spec, mode, stratum, pairs))
    return found


Pair = tuple[list[PeriodWindow], list[PeriodWindow]]
"""Windows of what serves and of the candidate, of one device over the same time."""


def _pair(windows: Iterable[PeriodWindow], digest: str, hours: Hours) -> Pair:
    """Return a device's windows while its candidate ran; those of what serves from the candidate's first window to its last."""
    mine = [one for one in windows if hours.begin <= _middle(one) and (hours.end is None or _middle(one) <= hours.end)]
    candidate = [one for one in mine if one.lane == CANDIDATE and one.sha256 == digest]
    if not candidate:
        return [], []
    begin = min(one.t0 for one in candidate)
    end = max(one.t0 + timedelta(seconds=one.length_s) for one in candidate)
    active = [one for one in mine if one.lane == ACTIVE and one.sha256 != digest and begin <= _middle(one) <= end]
    return active, candidate


def _middle(window: PeriodWindow) -> datetime:
    return window.t0 + timedelta(seconds=window.length_s / 2)


def _result(spec: Spec, mode: Mode, stratum: ProfileName, pairs: Mapping[DeviceId, Pair]) -> StratumResult:
    shadows = ([one.shadow for one in candidate if one.shadow is not None] for _, candidate in pairs.values())
    agreed = [merge_shadows(some) for some in shadows if some]
    return StratumResult(
        stratum=stratum,
        devices=len(pairs),
        active=_arm(ACTIVE, [active for active, _ in pairs.values() if active]),
        candidate=_arm(CANDIDATE, [candidate for _, candidate in pairs.values()]),
        shadow=agreement_over(agreed) if mode is Mode.SHADOW and agreed else None,
        metrics=_metrics(spec, mode, stratum, pairs),
        asked=[name.value for name in _asked(spec)],
    )


def _arm(lane: str, devices: Sequence[Sequence[PeriodWindow]]) -> ArmView:
    """Return the figures of a lane: counts as sums, the rate as mean and latencies as medians over devices."""
    each = [_device_sums(windows) for windows in devices]
    return ArmView(
        lane=lane,
        devices=len(devices),
        answers=sum(one.n for one in each),
        errors=sum(one.errors + one.timeouts for one in each),
        nonfinite=sum(one.nonfinite for one in each),
        error_rate=mean_error_rate(each),
        latency_p50_ms=_ms(median_latency_s(each, 0.5)),
        latency_p95_ms=_ms(median_latency_s(each, 0.95)),
    )


def _device_sums(windows: Sequence[PeriodWindow]) -> DeviceSums:
    return DeviceSums(
        n=sum(one.n for one in windows),
        errors=sum(one.errors for one in windows),
        timeouts=sum(one.timeouts for one in windows),
        nonfinite=sum(one.nonfinite for one in windows),
        latency=LatencySketch.merged(LatencySketch.unpacked(one.latency) for one in windows),
    )


# ---- device by device


def _metrics(spec: Spec, mode: Mode, stratum: ProfileName, pairs: Mapping[DeviceId, Pair]) -> Sequence[MetricView]:
    """Return what the devices' values lie between, by the test of the quality gate. Devices with too few answers have no value."""
    gate = _gate_of(spec, mode)
    at = min((one.t0 for _, candidate in pairs.values() for one in candidate), default=None)
    if at is None:
        return ()
    measured = [
        DeviceQuality(device, stratum, 0, "", at, at, spans=_spans(active, candidate, mode, gate.min_inferences))
        for device, (active, candidate) in sorted(pairs.items())
    ]
    facts = Facts(
        stage=0,
        stratum=stratum,
        population=len(measured),
        counts=Counts(members=len(measured), exposed=len(measured)),
        alpha_abort=spec.gates.install.alpha_abort,
        alpha_promote=spec.gates.install.alpha_promote,
        quality=quality_facts(gate, 0, [(one.device, 0) for one in measured], measured),
    )
    return metric_views(facts)


def _asked(spec: Spec) -> dict[Metric, float]:
    """Return the margins of the spec's own gate, of metrics that it bounds as they are bounded here."""
    metrics = spec.gates.quality.metrics if spec.gates.quality is not None else ()
    return {one.name: one.value for one in metrics if one.name in USUAL and one.bound is USUAL[one.name][0]}


def _gate_of(spec: Spec, mode: Mode) -> QualityGate:
    """Return a gate that compares both versions of one device: `before` of a span is what serves, `after` the candidate."""
    asked = _asked(spec)
    names = [Metric.LATENCY_P95_MS, Metric.SHADOW_AGREEMENT if mode is Mode.SHADOW else Metric.INFERENCE_ERROR_RATE]
    metrics = []
    for name in names:
        bound, value = USUAL[name]
        metrics.append(QualityMetric(name, bound, asked.get(name, value), OnBreach.HOLD))
    least = (
        spec.gates.quality.min_inferences if spec.gates.quality is not None else QualityGate(metrics=()).min_inferences
    )
    return QualityGate(metrics=tuple(metrics), control=Control.PREVIOUS, min_inferences=least)


def _spans(
    active: Sequence[PeriodWindow], candidate: Sequence[PeriodWindow], mode: Mode, least: int
) -> dict[Metric, Span]:
    new = _arm(CANDIDATE, [candidate])
    if mode is Mode.SHADOW:
        agreed = agreement_of(merge_shadows(one.shadow for one in candidate if one.shadow is not None))
        if agreed.judged < least:
            return {}
        latency = Span(before=agreed.active_p95_ms, after=new.latency_p95_ms)
        return {Metric.SHADOW_AGREEMENT: Span(after=agreed.agreement), Metric.LATENCY_P95_MS: latency}
    old = _arm(ACTIVE, [active])
    if min(old.answers, new.answers) < least:
        return {}
    return {
        Metric.INFERENCE_ERROR_RATE: Span(before=old.error_rate, after=new.error_rate),
        Metric.LATENCY_P95_MS: Span(before=old.latency_p95_ms, after=new.latency_p95_ms),
    }


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else 1000 * value_s
