"""What the page of one device shows: read from the services; figures over time as uPlot takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from edgefleet_server.dashboard.views import DeviceLine, EventLine, device_line, differences, event_line
from edgefleet_server.fleet.errors import TaskResultMissingError
from edgefleet_server.fleet.model import TaskState, TaskView
from edgefleet_server.fleet.views import DeviceView, release_of
from edgefleet_server.pages import encode_cursor
from edgefleet_server.parts import Parts
from edgefleet_server.rollout.shape import PIN_LABEL
from edgefleet_server.telemetry.model import Latest, PredictionsView
from edgefleet_server.telemetry.series import Line, Series, SystemPoint

PAGE_EVENTS: Final = 20
CHART_POINTS: Final = 720
TABLE_ROWS: Final = 24
LOG_LINES: Final = 60
SHOWN_TASKS: Final = 10
MOST_RELEASES: Final = 30
MIB: Final = 1024 * 1024
SPANS: Final[Mapping[str, timedelta]] = {
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
DEFAULT_SPAN: Final = "24h"
Column = Sequence[float | int | None]


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: seconds since 1970 and a column of figures for each series; `rows` are some of them, for who reads a table."""

    id: str
    title: str
    unit: str
    names: Sequence[str]
    data: Sequence[Column]

    @property
    def plain(self) -> dict[str, Any]:
        """The chart as the script takes it."""
        return {"id": self.id, "title": self.title, "unit": self.unit, "names": self.names, "data": self.data}

    @property
    def rows(self) -> Sequence[Column]:
        """The newest figures, newest first."""
        return [list(row) for row in zip(*self.data, strict=True)][: -TABLE_ROWS - 1 : -1]


@dataclass(frozen=True, slots=True)
class WayBack:
    """What a device can be given back: the release that its other slot holds."""

    model: str
    release: str


@dataclass(frozen=True, slots=True)
class Log:
    """The end of the newest log that the device sent."""

    task: TaskView
    text: str
    lines: int


@dataclass(frozen=True, slots=True)
class DevicePage:
    """One device. differences: in words, why it does not run what it should. pinned: why no rollout touches it, None = they do."""

    device: DeviceView
    line: DeviceLine
    differences: Sequence[str]
    telemetry: Latest | None
    span: str
    spans: Sequence[str]
    charts: Sequence[Chart]
    step_s: int
    tasks: Sequence[TaskView]
    log: Log | None
    ways_back: Sequence[WayBack]
    pinned: str | None
    releases: Sequence[str]
    profiles: Sequence[str]
    events: Sequence[EventLine]
    older: str


class DevicePages:
    """Builds pages. Thread-safe; calls block."""

    def __init__(self, parts: Parts) -> None:
        """Wire the services."""
        self._parts = parts

    def device(self, device_id: str, span: str, before: int | None, *, may_act: bool) -> DevicePage:
        """Return one device; what only an operator may see or choose is left out for others. Raises DeviceUnknownError."""
        parts = self._parts
        device = parts.fleet.reader.device(device_id)
        span = span if span in SPANS else DEFAULT_SPAN
        now = parts.clock.now()
        series = parts.telemetry.series.of_device(device_id, now - SPANS[span], now, CHART_POINTS)
        tasks = parts.fleet.tasks.tasks(device_id)
        events, more = self._events(device_id, before)
        return DevicePage(
            device=device,
            line=device_line(device),
            differences=differences(device),
            telemetry=parts.telemetry.latest(device_id),
            span=span,
            spans=list(SPANS),
            charts=charts(series),
            step_s=series.step_s,
            tasks=tasks[:SHOWN_TASKS],
            log=self._log(device_id, tasks) if may_act else None,
            ways_back=ways_back(device),
            pinned=(device.labels[PIN_LABEL] or "by hand") if PIN_LABEL in device.labels else None,
            releases=self._releases(device) if may_act else (),
            profiles=sorted(one.name for one in parts.registry.profiles()) if may_act else (),
            events=events,
            older=more,
        )

    def predictions(self, device_id: str) -> PredictionsView:
        """Return what a watched device answered last. Raises DeviceUnknownError."""
        return self._parts.watching.look(device_id, 0, "")

    def _events(self, device_id: str, before: int | None) -> tuple[list[EventLine], str]:
        found = self._parts.fleet.reader.newest_events(limit=PAGE_EVENTS + 1, device_id=device_id, before=before)
        shown = found[:PAGE_EVENTS]
        return [event_line(one) for one in shown], encode_cursor(str(shown[-1].id)) if len(found) > PAGE_EVENTS else ""

    def _log(self, device_id: str, tasks: Sequence[TaskView]) -> Log | None:
        newest = next((one for one in tasks if one.kind == "logs" and one.state is TaskState.DONE), None)
        if newest is None or not newest.result_bytes:
            return None
        try:
            _type, data = self._parts.fleet.tasks.result(device_id, newest.id)
        except TaskResultMissingError:  # results are kept for some days, tasks for longer
            return None
        lines = data.decode("utf-8", "replace").splitlines()
        return Log(newest, "\n".join(lines[-LOG_LINES:]), len(lines))

    def _releases(self, device: DeviceView) -> list[str]:
        """Return the releases that have a bundle for the device's profile, newest first."""
        bundles = self._parts.registry.newest_bundles(device.profile, MOST_RELEASES)
        return list(dict.fromkeys(str(one.ref) for one in bundles))


def ways_back(device: DeviceView) -> list[WayBack]:
    """Return what the other slots hold that is not what is wanted."""
    wanted = {one.model: one.release for one in device.desired.models}
    found = [(one.model, release_of(one.previous_target)) for one in device.models if one.previous_target]
    return [WayBack(model, release) for model, release in found if release and release != wanted.get(model)]


def charts(series: Series) -> list[Chart]:
    """Return the charts of a device: latency and requests of each model and lane, then the device's own figures that it told."""
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
    told = {name: figures for name, figures in memory.items() if any(v is not None for v in figures)}
    found = [Chart("memory", "Memory", "MiB", list(told), [at, *told.values()])] if told else []
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
