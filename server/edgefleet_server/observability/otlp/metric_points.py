"""Figures of Prometheus as points of OpenTelemetry, under the same names: counters are cumulative sums, without the ending `_total`."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric as Family
from prometheus_client.samples import Sample

_CREATED: Final = "_created"
Labels = tuple[tuple[str, str], ...]


def metrics_of(registry: CollectorRegistry, start_ns: int, now_ns: int) -> list[Metric]:
    """Return all figures of a registry that have values. start_ns: since when counters count, 0 = not known."""
    found = []
    for family in registry.collect():
        points = _points(family, start_ns, now_ns)
        if points.data_points:
            found.append(
                Metric(name=family.name, description=family.documentation, unit=_unit(family.name), data=points)
            )
    return found


def _points(family: Family, start_ns: int, now_ns: int) -> Sum | Gauge | Histogram:
    samples = [one for one in family.samples if not one.name.endswith(_CREATED)]
    if family.type == "histogram":
        return Histogram(_histograms(samples, start_ns, now_ns), AggregationTemporality.CUMULATIVE)
    is_counter = family.type == "counter"
    first_ns = start_ns if is_counter else now_ns
    points = [NumberDataPoint(dict(one.labels), first_ns, now_ns, one.value) for one in samples]
    return Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True) if is_counter else Gauge(points)


def _histograms(samples: Iterable[Sample], start_ns: int, now_ns: int) -> list[HistogramDataPoint]:
    buckets: dict[Labels, dict[float, float]] = {}
    sums: dict[Labels, float] = {}
    for one in samples:
        labels = tuple(sorted((key, value) for key, value in one.labels.items() if key != "le"))
        if one.name.endswith("_bucket"):
            buckets.setdefault(labels, {})[float(one.labels["le"])] = one.value
        elif one.name.endswith("_sum"):
            sums[labels] = one.value
    return [_histogram(labels, found, sums.get(labels, 0.0), start_ns, now_ns) for labels, found in buckets.items()]


def _histogram(
    labels: Labels, buckets: dict[float, float], total: float, start_ns: int, now_ns: int
) -> HistogramDataPoint:
    bounds = sorted(buckets)
    running = [0.0, *(buckets[bound] for bound in bounds)]
    counts = [int(after - before) for before, after in pairwise(running)]
    return HistogramDataPoint(
        attributes=dict(labels), start_time_unix_nano=start_ns, time_unix_nano=now_ns, count=sum(counts), sum=total,
        bucket_counts=counts, explicit_bounds=bounds[:-1], min=float("nan"), max=float("nan"),
    )  # fmt: skip


def _unit(name: str) -> str:
    return {"seconds": "s", "bytes": "By", "ratio": "1"}.get(name.rpartition("_")[2], "")
