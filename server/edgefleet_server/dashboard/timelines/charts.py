"""Charts of a timeline: series as rows of numbers, and as they are drawn, with what happened as marks. Pure.

Rules:
1. All charts of a page have the same axis of time, so that they line up.
2. A line goes on over steps without figures where devices report less often than a step is long (`line_chart`).
3. Of versions the newest is drawn first, in the first colour, solid; older ones in the next colours, the oldest dashed and grey. Where
   something new is compared with something old, the old is dashed and grey. At most MOST_SERIES lines have a place in a chart.
4. A mark of a deploy says its version where the next such text is far enough away.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final

from edgefleet_server.dashboard.core.line_chart import (
    HEIGHT,
    Band,
    Column,
    Drawing,
    Limit,
    ScaleKind,
    drawn,
    newest_of,
    time_place,
)
from edgefleet_server.dashboard.timelines.chart_limits import DISK, NO_LIMITS, Limits, largest, limits_of
from edgefleet_server.telemetry.timelines.model import (
    ClassShares,
    LinesBy,
    Mark,
    MarkKind,
    MetricLine,
    Scope,
    Timeline,
    line_name,
)
from edgefleet_terms.device_figures import SYSTEM_FIGURES, size_unit

DEVICES: Final = ("memory", "temperature", "cpu", "throttled", "disk", "network")
"""Charts of the devices themselves: nothing says which of them run a model."""

TABLE_ROWS: Final = 24

MOST_SERIES: Final = 6

MIB: Final = 1024 * 1024

SPANS: Final[Mapping[str, tuple[timedelta, int]]] = {
    "15m": (timedelta(minutes=15), 16),
    "1h": (timedelta(hours=1), 61),
    "6h": (timedelta(hours=6), 73),
    "24h": (timedelta(days=1), 97),
    "7d": (timedelta(days=7), 169),
    "30d": (timedelta(days=30), 181),
}
"""How long, and in how many steps at most: those of a day are as long as devices wait between two windows."""

DEFAULT_SPAN: Final = "24h"

SIGNS: Final[Mapping[MarkKind, tuple[str, str]]] = {
    MarkKind.DEPLOY: ("◆", "deploy begins"),
    MarkKind.DEPLOYED: ("◇", "deploy ends"),
    MarkKind.PAUSE: ("‖", "pause"),
    MarkKind.ROLLBACK: ("▼", "rollback"),
    MarkKind.ALERT: ("!", "alert"),
    MarkKind.ALERT_OVER: ("✓", "alert over"),
    MarkKind.DRIFT: ("≈", "drift"),
    MarkKind.DRIFT_OVER: ("=", "drift over"),
    MarkKind.OFFLINE: ("○", "offline"),
}
"""How marks are drawn, and what the key says."""

TONES: Final[Mapping[MarkKind, str]] = {MarkKind.ROLLBACK: " b", MarkKind.ALERT: " b", MarkKind.DRIFT: " w"}
SMALL_HEIGHT: Final = 52
LABEL_ROOM: Final = 11.0
"""Percents of the width that the text of a mark takes."""


@dataclass(frozen=True, slots=True)
class ChartMark:
    """A mark on a chart. at: percents from the left; tone: " b" bad, " w" a warning, else "". label: "" where there is no room for it."""

    at: float
    kind: str
    sign: str
    title: str
    tone: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: seconds since 1970 and a column of figures for each series; `rows` are some of them, for readers of a table.

    begin, end: of the axis of time. is_of_versions: its lines are versions, the newest first. is_compared: its lines are something new
    and something old. band: how sure the first line is. scale: which one it is asked to have. step_s: of what is sampled in each step, how
    long one is; 0: it is not.
    """

    id: str
    title: str
    unit: str
    names: Sequence[str]
    data: Sequence[Column]
    begin: int
    end: int
    marks: Sequence[ChartMark] = ()
    is_of_versions: bool = False
    is_compared: bool = False
    limits: Sequence[Limit] = ()
    band: Band | None = None
    scale: ScaleKind = ScaleKind.AUTO
    step_s: int = 0

    @property
    def plain(self) -> dict[str, Any]:
        """The figures as the script reads them when somebody points at the chart."""
        found: dict[str, Any] = {"id": self.id, "unit": self.unit, "names": self.names, "data": self.data}
        found |= {"newest": self.newest, "begin": self.begin, "end": self.end}
        return found | ({"band": [self.band.low, self.band.high]} if self.band else {})

    @property
    def classes(self) -> Sequence[str]:
        """The class of each line in the style sheet."""
        if self.is_compared:
            return ["s1", *["ctl"] * (len(self.names) - 1)]
        last = 4 if self.is_of_versions else MOST_SERIES
        return [f"s{min(n, last)}{' old' if n >= last else ''}" for n in range(1, len(self.names) + 1)]

    @property
    def drawing(self) -> Drawing:
        """The chart as it is drawn."""
        return self._drawn(self.scale, HEIGHT)

    @property
    def small(self) -> Drawing:
        """The chart as it is drawn on a tile, where nothing could say that its scale is logarithmic."""
        return self._drawn(ScaleKind.LINEAR, SMALL_HEIGHT)

    def _drawn(self, kind: ScaleKind, height: int) -> Drawing:
        return drawn(
            [int(at or 0) for at in self.data[0]],
            self.data[1:],
            (self.begin, self.end),
            limits=self.limits,
            band=self.band,
            kind=kind,
            height=height,
            step_s=self.step_s,
        )

    @property
    def newest(self) -> Sequence[float | int | None]:
        """The newest figure of each series, None of one that ended before the newest step."""
        at = [int(one or 0) for one in self.data[0]]
        return [newest_of(at, column) for column in self.data[1:]]

    @property
    def summary(self) -> Iterator[tuple[str, float, float, float]]:
        """Of each series that has figures: its name, the newest, the least and the largest."""
        for name, column in zip(self.names, self.data[1:], strict=True):
            known = [value for value in column if value is not None]
            if known:
                yield name, known[-1], min(known), max(known)

    @property
    def rows(self) -> Sequence[Column]:
        """The newest figures, newest first; steps without any are left out."""
        every = [list(row) for row in zip(*self.data, strict=True)]
        return [row for row in every if any(value is not None for value in row[1:])][: -TABLE_ROWS - 1 : -1]


def charts(timeline: Timeline, limits: Limits = NO_LIMITS, scale: ScaleKind = ScaleKind.AUTO) -> list[Chart]:
    """Return the charts of a timeline: of a device those of each model and lane, else a line for each key; then the devices' own."""
    of_lines = _of_device(timeline) if timeline.scope is Scope.DEVICE else _of_keys(timeline)
    every = [*of_lines, *_of_presence(timeline), *_of_drift(timeline), *_of_system(timeline)]
    return [replace(one, limits=limits_of(limits, timeline, one.id), scale=scale) for one in every]


def points_of(length: timedelta) -> int:
    """Return in how many steps a span of time is cut at most: as many as the shortest of SPANS that is as long."""
    return next((points for known, points in SPANS.values() if known >= length), SPANS["30d"][1])


def fitting(timeline: Timeline) -> str:
    """Return the shortest span that has all figures of the usual one; the usual one where there are none."""
    columns = [*(line.requests for line in timeline.lines), *timeline.system.values()]
    known = [place for column in columns for place, value in enumerate(column) if value is not None]
    if not known:
        return DEFAULT_SPAN
    oldest = timeline.until - max(timeline.since, timeline.at[min(known)])
    return next((span for span, (length, _) in SPANS.items() if length >= oldest), DEFAULT_SPAN)


def key_of(charts: Sequence[Chart]) -> list[tuple[str, str, str]]:
    """Return the kinds of marks that charts have, with their signs and words."""
    kinds = {one.kind for chart in charts for one in chart.marks}
    return [(kind.value, *SIGNS[kind]) for kind in SIGNS if kind.value in kinds]


def _of_device(timeline: Timeline) -> Iterator[Chart]:
    for number, line in enumerate(timeline.lines):
        latency = {"p50": line.p50_ms, "p95": line.p95_ms, "p99": line.p99_ms}
        yield from _chart(timeline, f"latency-{number}", f"{line.key}: latency", "ms", latency)
        counts = {
            "requests": line.requests,
            "errors": line.errors,
            "timeouts": line.timeouts,
            "non-finite": line.nonfinite,
        }
        yield from _chart(timeline, f"requests-{number}", f"{line.key}: requests", "", counts)
        failed = _failed(line)
        if any(failed):
            yield from _chart(timeline, f"failed-{number}", f"{line.key}: failed answers", "%", {"failed": failed})
        yield from _chart(timeline, f"classes-{number}", f"{line.key}: answers by class", "%", _shares(line.classes))


def _of_keys(timeline: Timeline) -> Iterator[Chart]:
    lines = _ordered(timeline)

    def each(read: Callable[[MetricLine], Column]) -> dict[str, Column]:
        return {line_name(line.key, timeline.by): read(line) for line in lines}

    yield from _chart(timeline, "p95", "Latency p95", "ms", each(lambda one: one.p95_ms))
    yield from _chart(timeline, "requests", "Requests a second", "", each(lambda one: one.requests_per_s))
    failed = each(_failed)
    if any(value for column in failed.values() for value in column):
        yield from _chart(timeline, "failed", "Failed answers", "%", failed)
        kinds: tuple[tuple[str, Callable[[MetricLine], Column]], ...] = (
            ("errors", lambda one: one.errors),
            ("timeouts", lambda one: one.timeouts),
            ("non-finite", lambda one: one.nonfinite),
        )
        sums = {name: _sum([read(line) for line in timeline.lines]) for name, read in kinds}
        yield from _chart(timeline, "failures", "Failures by kind", "", sums)
    if any(value for line in lines for value in line.nonfinite):
        yield from _chart(timeline, "nonfinite", "Answers that were not finite", "%", each(_nonfinite))
    yield from _chart(timeline, "p50", "Latency p50", "ms", each(lambda one: one.p50_ms))
    yield from _chart(timeline, "p99", "Latency p99", "ms", each(lambda one: one.p99_ms))
    yield from _chart(timeline, "classes", "Answers by class", "%", _shares(timeline.classes))


def _ordered(timeline: Timeline) -> list[MetricLine]:
    """Return the lines that a chart has a place for: versions by when they were seen first, the newest first, else the busiest first."""

    def first(line: MetricLine) -> int:
        return next((place for place, n in enumerate(line.requests) if n is not None), len(timeline.at))

    def last(line: MetricLine) -> int:
        return max((place for place, n in enumerate(line.requests) if n is not None), default=-1)

    def total(line: MetricLine) -> int:
        return sum(n for n in line.requests if n is not None)

    busiest = sorted(timeline.lines, key=total, reverse=True)[:MOST_SERIES]
    if timeline.by is LinesBy.VERSION:
        return sorted(busiest, key=lambda one: (first(one), last(one), one.key), reverse=True)
    return busiest


def _failed(line: MetricLine) -> Column:
    found: list[float | None] = []
    for n, *bad in zip(line.requests, line.errors, line.timeouts, line.nonfinite, line.crashes, strict=True):
        count = sum(one for one in bad if one is not None)
        found.append(None if n is None else round(100 * min(1.0, count / max(1, n, count)), 4))
    return found


def _nonfinite(line: MetricLine) -> Column:
    both = zip(line.requests, line.nonfinite, strict=True)
    return [None if not n or bad is None else round(100 * min(1.0, bad / n), 4) for n, bad in both]


def _sum(columns: Sequence[Column]) -> Column:
    rows = zip(*columns, strict=True)
    return [None if all(one is None for one in row) else sum(one for one in row if one is not None) for row in rows]


def _shares(classes: Sequence[ClassShares]) -> dict[str, Column]:
    return {"other classes" if one.index < 0 else f"class {one.index}": _scaled(one.share, 0.01) for one in classes}


def _of_drift(timeline: Timeline) -> Iterator[Chart]:
    """Yield the chart of the signals that are farthest from their reference."""
    strongest = sorted(timeline.drift, key=lambda one: -max((p for p in one.psi if p is not None), default=0.0))
    shown = strongest[:MOST_SERIES]
    if shown:
        at = [_seconds(shown[0].since) + n * shown[0].step_s for n in range(len(shown[0].psi))]
        columns = {one.signal: one.psi for one in shown}
        yield from _chart(timeline, "drift", "Drift from the reference", "PSI", columns, at)


def _of_presence(timeline: Timeline) -> Iterator[Chart]:
    """Yield the charts of what the server samples itself: a step without a sample is a gap."""
    title = "Online" if timeline.scope is Scope.DEVICE else "Devices online"
    for chart_id, name, key in (
        ("online", title, "online_ratio"),
        ("drifting", "Devices with drift", "drifting_ratio"),
    ):
        shares = timeline.system.get(key)
        column = [] if shares is None else [None if one is None else 100 * one for one in shares]
        for one in _chart(timeline, chart_id, name, "%", {chart_id: column}):
            yield replace(one, step_s=timeline.step_s)


def _of_system(timeline: Timeline) -> Iterator[Chart]:
    def column(name: str, scale: float = 1.0, *, most: bool = False) -> Column:
        figures = (timeline.system_most if most else timeline.system).get(name)
        return [None] * len(timeline.at) if figures is None else _scaled(figures, scale)

    yield from _of_bytes(
        timeline, "memory", "Memory", ("memory_available_bytes", "workers_rss_bytes", "agent_rss_bytes")
    )
    heat, busy, held = "temperature_celsius", "cpu_ratio", "throttled_ratio"
    if timeline.scope is Scope.DEVICE:
        yield from _chart(timeline, "temperature", "Temperature", "°C", {"temperature": column(heat)})
        yield from _chart(timeline, "cpu", "CPU", "%", {"busy": column(busy, 0.01)})
        yield from _chart(timeline, "throttled", "Throttled clock", "%", {"throttled": column(held, 0.01)})
    else:
        both = {"mean": column(heat), "hottest": column(heat, most=True)}
        yield from _chart(timeline, "temperature", "Temperature", "°C", both)
        both = {"mean": column(busy, 0.01), "busiest": column(busy, 0.01, most=True)}
        yield from _chart(timeline, "cpu", "CPU", "%", both)
        both = {"mean": column(held, 0.01), "most": column(held, 0.01, most=True)}
        yield from _chart(timeline, "throttled", "Throttled clock", "%", both)
    yield from _of_bytes(timeline, "disk", "Free disk", (DISK,))
    yield from _of_bytes(timeline, "network", "Network", ("net_rx_bytes_per_s", "net_tx_bytes_per_s"), per="/s")


def _of_bytes(timeline: Timeline, chart_id: str, title: str, keys: Sequence[str], per: str = "") -> Iterator[Chart]:
    """Yield a chart of figures in bytes, in the unit in which the largest of them is written."""
    unit, length = size_unit(largest(timeline, *keys))
    columns = {
        SYSTEM_FIGURES[key].short: _scaled(timeline.system[key], length) for key in keys if key in timeline.system
    }
    yield from _chart(timeline, chart_id, title, f"{unit}{per}", columns)


def _scaled(figures: Sequence[float | None], scale: float) -> Column:
    return [None if value is None else round(value / scale, 2) for value in figures]


def _chart(
    timeline: Timeline,
    chart_id: str,
    title: str,
    unit: str,
    columns: Mapping[str, Column],
    at: Sequence[int] | None = None,
) -> Iterator[Chart]:
    """Yield a chart of the columns that have figures, none where no column has."""
    known = {name: column for name, column in columns.items() if any(value is not None for value in column)}
    if not known:
        return
    begin, end = (_seconds(one) for one in (timeline.since, timeline.until))
    moments = [_seconds(one) for one in timeline.at] if at is None else at
    kept = [one for one in range(len(moments)) if any(column[one] is not None for column in known.values())]
    axis = (min(begin, _seconds(timeline.at[0])), max(end, _seconds(timeline.at[-1])))
    data: list[Column] = [[column[one] for one in kept] for column in (moments, *known.values())]
    marks = _marks(timeline.marks, timeline.scope, *axis)
    if timeline.scope is Scope.MODEL and at is None and chart_id in DEVICES:
        title = f"{title} of all devices"
    is_of_versions = timeline.by is LinesBy.VERSION and chart_id in {
        "p95",
        "p50",
        "p99",
        "requests",
        "failed",
        "nonfinite",
    }
    yield Chart(chart_id, title, unit, list(known), data, *axis, marks, is_of_versions)


def _marks(marks: Sequence[Mark], scope: Scope, begin: int, end: int) -> list[ChartMark]:
    """Return marks from left to right. The label of a deploy stands right of its end where that is near; no mark stands on a label."""
    shown = sorted((one for one in marks if begin <= _seconds(one.at) <= end), key=lambda one: one.at)
    places = [round(100 * time_place(_seconds(one.at), begin, end), 2) for one in shown]
    found: list[ChartMark] = []
    waiting = ""
    for one, (place, following) in zip(shown, pairwise([*places, 100.0]), strict=True):
        waiting = waiting if one.kind is MarkKind.DEPLOYED else _label(one, scope)
        label = waiting if following - place >= LABEL_ROOM else ""
        waiting = "" if label else waiting
        sign, _ = SIGNS[one.kind]
        more = f" ({one.n} times)" if one.n > 1 else ""
        found.append(ChartMark(place, one.kind.value, sign, f"{one.title}{more}", TONES.get(one.kind, ""), label))
    return found


def _label(mark: Mark, scope: Scope) -> str:
    """Return the version that a deploy brings, of a model where the chart is of one."""
    release, _, version = mark.title.partition(" ")[0].partition("@")
    if mark.kind is not MarkKind.DEPLOY or not version:
        return ""
    return version if scope is Scope.MODEL else f"{release} {version}"


def _seconds(at: datetime) -> int:
    return int(at.timestamp())
