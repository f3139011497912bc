"""Charts of accuracy over time with its interval, and of business figures. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from edgefleet_server.dashboard.core.line_chart import Column, Drawing, drawn
from edgefleet_server.telemetry.ground_truth.views import AccuracyLine, BusinessFigure

MOST_CHARTS: Final = 6


@dataclass(frozen=True, slots=True)
class TruthChart:
    """A chart as `chart.html` draws it: seconds since 1970, and a column of figures for each series."""

    id: str
    title: str
    unit: str
    names: Sequence[str]
    data: Sequence[Column]
    marks: Sequence[str] = ()
    is_of_versions: bool = False

    @property
    def begin(self) -> int:
        """Where the axis of time begins."""
        return int(self.data[0][0] or 0)

    @property
    def end(self) -> int:
        """Where the axis of time ends."""
        return int(self.data[0][-1] or 0)

    @property
    def drawing(self) -> Drawing:
        """The chart as it is drawn."""
        return drawn([int(at or 0) for at in self.data[0]], self.data[1:])

    @property
    def newest(self) -> Sequence[float | int | None]:
        """The newest figure of each series."""
        return [next((value for value in reversed(column) if value is not None), None) for column in self.data[1:]]

    @property
    def summary(self) -> Iterator[tuple[str, float, float, float]]:
        """Of each series that has figures: its name, the newest, the least and the largest."""
        for name, column in zip(self.names, self.data[1:], strict=True):
            known = [value for value in column if value is not None]
            if known:
                yield name, known[-1], min(known), max(known)


def accuracy_charts(lines: Sequence[AccuracyLine]) -> list[TruthChart]:
    """Return a chart for each of the lines with the most labels: accuracy between the ends of its interval, or the size of errors."""
    most = sorted(lines, key=lambda one: (-(one.labelled + one.numbers), one.name))[:MOST_CHARTS]
    return [_of_line(number, one) for number, one in enumerate(most) if len(one.points) > 1]


def _of_line(number: int, line: AccuracyLine) -> TruthChart:
    at = [int(point.at.timestamp()) for point in line.points]
    name = line.name or "all"
    if line.accuracy is None:
        errors = [point.error for point in line.points]
        return TruthChart(f"error-{number}", f"{name}: mean size of errors", "", ("error",), [at, errors])
    columns = [[_percent(getattr(point, part)) for point in line.points] for part in ("accuracy", "low", "high")]
    names = ("right", "at least, 95 %", "at most, 95 %")
    return TruthChart(f"accuracy-{number}", f"{name}: right answers", "%", names, [at, *columns])


def figure_charts(figures: Sequence[BusinessFigure]) -> list[TruthChart]:
    """Return a chart for each business figure that was reported in more than one step."""
    return [
        TruthChart(
            f"figure-{number}",
            one.name,
            "",
            ("total",),
            [[int(point.at.timestamp()) for point in one.points], [point.total for point in one.points]],
        )
        for number, one in enumerate(figures[:MOST_CHARTS])
        if len(one.points) > 1
    ]


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)
