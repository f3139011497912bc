"""Charts of accuracy over time with its interval, and of business figures. Pure."""

from collections.abc import Sequence
from typing import Final

from edgefleet_server.dashboard.timelines.charts import Chart
from edgefleet_server.telemetry.ground_truth.views import AccuracyLine, BusinessFigure

MOST_CHARTS: Final = 6


def accuracy_charts(lines: Sequence[AccuracyLine]) -> list[Chart]:
    """Return a chart for each of the lines with the most labels: accuracy between the ends of its interval, or the size of errors."""
    most = sorted(lines, key=lambda one: (-(one.labelled + one.numbers), one.name))[:MOST_CHARTS]
    return [_of_line(number, one) for number, one in enumerate(most) if len(one.points) > 1]


def _of_line(number: int, line: AccuracyLine) -> Chart:
    at = [int(point.at.timestamp()) for point in line.points]
    name = line.name or "all"
    if line.accuracy is None:
        errors = [point.error for point in line.points]
        return Chart(f"error-{number}", f"{name}: mean size of errors", "", ("error",), [at, errors], at[0], at[-1])
    columns = [[_percent(getattr(point, part)) for point in line.points] for part in ("accuracy", "low", "high")]
    names = ("right", "at least, 95 %", "at most, 95 %")
    return Chart(f"accuracy-{number}", f"{name}: right answers", "%", names, [at, *columns], at[0], at[-1])


def figure_charts(figures: Sequence[BusinessFigure]) -> list[Chart]:
    """Return a chart for each business figure that was reported in more than one step."""
    return [_of_figure(number, one) for number, one in enumerate(figures[:MOST_CHARTS]) if len(one.points) > 1]


def _of_figure(number: int, figure: BusinessFigure) -> Chart:
    at = [int(point.at.timestamp()) for point in figure.points]
    totals = [point.total for point in figure.points]
    return Chart(f"figure-{number}", figure.name, "", ("total",), [at, totals], at[0], at[-1])


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)
