"""Charts of one device's telemetry: series as rows of numbers, and as they are drawn. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from edgefleet_server.dashboard.core.line_chart import Column, Drawing, drawn
from edgefleet_server.telemetry.series import Line, Series, SystemPoint

CHART_POINTS: Final = 720

TABLE_ROWS: Final = 24

MIB: Final = 1024 * 1024

SPANS: Final[Mapping[str, timedelta]] = {
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}

DEFAULT_SPAN: Final = "24h"


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: seconds since 1970 and a column of figures for each series; `rows` are some of them, for readers of a table."""

    id: str
    title: str
    unit: str
    names: Sequence[str]
    data: Sequence[Column]

    @property
    def plain(self) -> dict[str, Any]:
        """The figures as the script reads them when somebody points at the chart."""
        return {"id": self.id, "title": self.title, "unit": self.unit, "names": self.names, "data": self.data}

    @property
    def drawing(self) -> Drawing:
        """The chart as it is drawn."""
        return drawn([int(at or 0) for at in self.data[0]], self.data[1:])

    @property
    def summary(self) -> Iterator[tuple[str, float, float, float]]:
        """Of each series that has figures: its name, the newest, the least and the largest."""
        for name, column in zip(self.names, self.data[1:], strict=True):
            known = [value for value in column if value is not None]
            if known:
                yield name, known[-1], min(known), max(known)

    @property
    def rows(self) -> Sequence[Column]:
        """The newest figures, newest first."""
        return [list(row) for row in zip(*self.data, strict=True)][: -TABLE_ROWS - 1 : -1]


def charts(series: Series) -> list[Chart]:
    """Return the charts of a device: latency and requests of each model and lane, then the device's own figures."""
    made: list[Chart] = []
    for number, line in enumerate(series.lines):
        made += _of_line(number, line)
    return made + _of_system(series.system)


def _of_line(number: int, line: Line) -> list[Chart]:
    at = [_seconds(point.at) for point in line.points]
    name = line.model if line.lane == "active" else f"{line.model}, {line.lane}"
    points = line.points
    latency = [[p.p50_ms for p in points], [p.p95_ms for p in points], [p.p99_ms for p in points]]
    counts: list[Column] = [[p.n for p in points], [p.errors for p in points], [p.nonfinite for p in points]]
    return [
        Chart(f"latency-{number}", f"{name}: latency", "ms", ("p50", "p95", "p99"), [at, *latency]),
        Chart(f"requests-{number}", f"{name}: requests", "", ("requests", "errors", "non-finite"), [at, *counts]),
    ]


def _of_system(points: Sequence[SystemPoint]) -> list[Chart]:
    at = [_seconds(point.at) for point in points]

    def column(name: str, scale: float = 1.0) -> Column:
        return [None if (v := point.figures.get(name)) is None else round(v / scale, 2) for point in points]

    memory = {
        "free": column("memory_available_bytes", MIB),
        "workers": column("workers_rss_bytes", MIB),
        "agent": column("agent_rss_bytes", MIB),
    }
    reported = {name: figures for name, figures in memory.items() if any(v is not None for v in figures)}
    found = [Chart("memory", "Memory", "MiB", list(reported), [at, *reported.values()])] if reported else []
    for chart_id, title, unit, name, scale in (
        ("temperature", "Temperature", "°C", "temperature_celsius", 1.0),
        ("cpu", "CPU", "%", "cpu_ratio", 0.01),
    ):
        figures = column(name, scale)
        if any(value is not None for value in figures):
            found.append(Chart(chart_id, title, unit, (title.lower() if unit != "%" else "busy",), [at, figures]))
    return found


def _seconds(at: datetime) -> int:
    return int(at.timestamp())
