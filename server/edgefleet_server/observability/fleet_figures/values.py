"""Values of figures of one moment. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.observability.fleet_figures import figure_table as table
from edgefleet_server.observability.fleet_figures.figure_table import Figure

Labels = tuple[str, ...]
"""Values of the labels of a figure, in its order."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram: how many values there are up to each of BOUNDS_S and in all, and their sum."""

    counts: Sequence[int]
    total_s: float


@dataclass(slots=True)
class FigureValues:
    """Values by figure and labels. A figure without values has no series."""

    numbers: dict[Figure, dict[Labels, float]] = field(default_factory=dict)
    distributions: dict[Figure, dict[Labels, Distribution]] = field(default_factory=dict)

    def put(self, figure: Figure, value: float, *labels: str) -> None:
        """Set one value."""
        self.numbers.setdefault(figure, {})[labels] = value

    def put_all(self, figure: Figure, values: Iterable[tuple[str | Labels, float]]) -> None:
        """Set values of a figure, with their labels; a text stands for one label."""
        for labels, value in values:
            self.put(figure, value, *((labels,) if isinstance(labels, str) else labels))


class ModelSums(Protocol):
    """What a model did since the beginning."""

    @property
    def n(self) -> int:
        """Answers."""
        ...

    @property
    def errors(self) -> int:
        """Answers that were errors."""
        ...

    @property
    def timeouts(self) -> int:
        """Requests without an answer in time."""
        ...

    @property
    def nonfinite(self) -> int:
        """Answers that were not finite."""
        ...

    @property
    def crashes(self) -> int:
        """Crashes of workers."""
        ...

    @property
    def latency(self) -> LatencySketch:
        """Latencies of the answers."""
        ...

    @property
    def latency_sum_s(self) -> float:
        """Their sum in seconds."""
        ...


BY_RELEASE = (
    *(table.PREDICTIONS, table.ERRORS, table.TIMEOUTS, table.NOT_FINITE, table.CRASHES),
    table.LATENCY,
)
BY_GROUP = (
    *(table.GROUP_PREDICTIONS, table.GROUP_ERRORS, table.GROUP_TIMEOUTS, table.GROUP_NOT_FINITE, table.GROUP_CRASHES),
    table.GROUP_LATENCY,
)


def put_sums(values: FigureValues, figures: Sequence[Figure], labels: Labels, sums: ModelSums) -> None:
    """Set the counters and the histogram of one model. figures: BY_RELEASE or BY_GROUP."""
    counted = (sums.n, sums.errors, sums.timeouts, sums.nonfinite, sums.crashes)
    for figure, value in zip(figures, counted, strict=False):
        values.put(figure, value, *labels)
    values.distributions.setdefault(figures[-1], {})[labels] = Distribution(sums.latency.up_to(), sums.latency_sum_s)
