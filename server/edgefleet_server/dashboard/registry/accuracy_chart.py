"""Charts of accuracy over time with its interval, and of business figures. Pure."""

from collections.abc import Sequence
from typing import Final

from edgefleet_server.dashboard.core.line_chart import Band, Limit, ScaleKind
from edgefleet_server.dashboard.timelines.charts import Chart
from edgefleet_server.objectives.model import Indicator, Slo
from edgefleet_server.telemetry.ground_truth.views import AccuracyLine, BusinessFigure

MOST_CHARTS: Final = 6


def accuracy_charts(
    lines: Sequence[AccuracyLine], objectives: Sequence[Slo] = (), scale: ScaleKind = ScaleKind.AUTO
) -> list[Chart]:
    """Return a chart for each of the lines with the most labels: accuracy within its interval of 95 %, or the size of errors.

    objectives: of the model.
    """
    limits = [
        Limit("objective", round(100 * one.target, 6))
        for one in objectives
        if one.indicator is Indicator.ACCURACY and not one.where
    ]
    most = sorted(lines, key=lambda one: (-(one.labelled + one.numbers), one.name))[:MOST_CHARTS]
    return [_of_line(number, one, limits, scale) for number, one in enumerate(most) if len(one.points) > 1]


def _of_line(number: int, line: AccuracyLine, limits: Sequence[Limit], scale: ScaleKind) -> Chart:
    at = [int(point.at.timestamp()) for point in line.points]
    name = line.name or "all"
    if line.accuracy is None:
        errors = [point.error for point in line.points]
        return Chart(
            f"error-{number}", f"{name}: mean size of errors", "", ("error",), [at, errors], at[0], at[-1], scale=scale
        )
    right, low, high = (
        [_percent(getattr(point, part)) for point in line.points] for part in ("accuracy", "low", "high")
    )
    return Chart(
        f"accuracy-{number}",
        f"{name}: right answers",
        "%",
        ("right",),
        [at, right],
        at[0],
        at[-1],
        limits=limits,
        band=Band(low, high),
        scale=scale,
    )


def figure_charts(figures: Sequence[BusinessFigure], scale: ScaleKind = ScaleKind.AUTO) -> list[Chart]:
    """Return a chart for each business figure that was reported in more than one step."""
    return [_of_figure(number, one, scale) for number, one in enumerate(figures[:MOST_CHARTS]) if len(one.points) > 1]


def _of_figure(number: int, figure: BusinessFigure, scale: ScaleKind) -> Chart:
    at = [int(point.at.timestamp()) for point in figure.points]
    totals = [point.total for point in figure.points]
    return Chart(f"figure-{number}", figure.name, "", ("total",), [at, totals], at[0], at[-1], scale=scale)


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)
