"""What people see of the quality gate: each metric's value against its threshold, and what it lies between. Pure.

`reader` shows stages, this the metrics of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgefleet_server.rollout.analysis import stage_gates
from edgefleet_server.rollout.analysis.metrics import shown_value
from edgefleet_server.rollout.analysis.model import DriftFacts, Facts
from edgefleet_server.rollout.spec.model import Metric


@dataclass(frozen=True)
class MetricView:
    """One metric of one stratum. verdict: pass, hold, no_data or fail (`code` and `reason` say which way).

    value: mean of the devices' values; it lies between low and high, each with the confidence of its test (1 - alpha_abort that it
    is not less, 1 - alpha_promote that it is not more; the other way round for a `min`), however often one looks. They and the
    threshold are in the unit of the bound: percent of change for non_inferior_rel. Of drift: share of devices, without bounds.
    """

    name: str
    bound: str
    verdict: str
    code: str
    reason: str
    devices: int
    missing: int
    value: float | None
    low: float | None
    high: float | None
    threshold: float
    unit: str
    confidence_low: float
    confidence_high: float


_UNITS = {
    Metric.LATENCY_P95_MS: "ms",
    Metric.JOULES_PER_INFERENCE: "J",
}


def metric_views(facts: Facts) -> Sequence[MetricView]:
    """Return what is known of each metric of a cell; nothing without a quality gate."""
    judged = stage_gates.judged(facts)
    if judged is None:
        return ()
    views = []
    for one in judged.metrics:
        metric = one.facts
        if isinstance(metric, DriftFacts):
            name, bound, threshold, missing, unit = Metric.DRIFT, "max", metric.floor, 0, "of devices"
            value, low, high = one.value, None, None
        else:
            name, bound, missing = metric.name, metric.bound.value, metric.missing
            threshold = shown_value(metric, metric.at)
            unit = "%" if bound == "non_inferior_rel" else _UNITS.get(name, "")
            value = None if one.value is None else shown_value(metric, one.value)
            ends = [shown_value(metric, end) for end in (one.low, one.high) if end is not None]
            low, high = (min(ends), max(ends)) if ends else (None, None)
        is_min = bound == "min" or name is Metric.ACCURACY
        levels = (1 - facts.alpha_abort, 1 - facts.alpha_promote)
        views.append(
            MetricView(
                name=name.value,
                bound=bound,
                verdict=one.verdict.value,
                code=one.code,
                reason=one.reason,
                devices=one.n,
                missing=missing,
                value=value,
                low=low,
                high=high,
                threshold=threshold,
                unit=unit,
                confidence_low=levels[1] if is_min else levels[0],
                confidence_high=levels[0] if is_min else levels[1],
            )
        )
    return tuple(views)
