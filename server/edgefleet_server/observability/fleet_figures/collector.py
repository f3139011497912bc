"""Hands figures of the fleet to Prometheus; they are loaded at most once in some seconds, however often somebody asks."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from edgefleet_protocol.sketch import BOUNDS_S
from edgefleet_server.observability.fleet_figures.figure_table import FIGURES, Figure, Kind
from edgefleet_server.observability.fleet_figures.values import Distribution, FigureValues

KEPT_S: Final = 5.0
_BOUNDS: Final = (*(repr(one) for one in BOUNDS_S), "+Inf")


class FleetCollector(Collector):
    """Collects figures. Thread-safe: a second caller waits for the values of the first."""

    def __init__(self, load: Callable[[], FigureValues], monotonic_s: Callable[[], float]) -> None:
        """Wire what loads the values. Loads nothing."""
        self._load = load
        self._now_s = monotonic_s
        self._lock = threading.Lock()
        self._kept: tuple[float, FigureValues] | None = None

    def describe(self) -> Iterable[Metric]:
        """Return the figures without values: asked when this is registered, before there is a database."""
        return [_family(figure) for figure in FIGURES]

    def collect(self) -> Iterator[Metric]:
        """Return the figures that have values, not older than KEPT_S."""
        values = self._values()
        for figure in FIGURES:
            if figure in values.numbers or figure in values.distributions:
                yield _filled(figure, values)

    def _values(self) -> FigureValues:
        with self._lock:
            now_s = self._now_s()
            if self._kept is None or not 0 <= now_s - self._kept[0] < KEPT_S:
                self._kept = now_s, self._load()
            return self._kept[1]


def _family(figure: Figure) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    match figure.kind:
        case Kind.COUNTER:
            return CounterMetricFamily(figure.name.removesuffix("_total"), figure.text, labels=figure.labels)
        case Kind.GAUGE:
            return GaugeMetricFamily(figure.name, figure.text, labels=figure.labels)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(figure.name, figure.text, labels=figure.labels)


def _filled(figure: Figure, values: FigureValues) -> Metric:
    family = _family(figure)
    if isinstance(family, HistogramMetricFamily):
        for labels, found in sorted(values.distributions[figure].items()):
            family.add_metric(labels, _buckets(found), found.total_s)
    else:
        for labels, value in sorted(values.numbers[figure].items()):
            family.add_metric(labels, value)
    return family


def _buckets(found: Distribution) -> list[tuple[str, float]]:
    return [(bound, float(count)) for bound, count in zip(_BOUNDS, found.counts, strict=True)]
