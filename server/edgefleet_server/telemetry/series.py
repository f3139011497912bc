"""Telemetry over time, for charts: of one device in at most so many points, and the newest trend of many devices.

Rules:
1. A span is cut into equal steps; windows that were received in the same step are added up: counts by addition, latencies by merging
   their sketches, so that a quantile of a step is one of all its requests and not a mean of quantiles.
2. A step without windows has no point: a line breaks where nothing was reported.
3. Figures of the device (memory, temperature, CPU) are means over a step, of the messages that could tell them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.db.database import Database
from edgefleet_server.telemetry import store
from edgefleet_server.telemetry.model import shown_ms
from edgefleet_server.telemetry.tables import TelemetryWindow

MOST_POINTS: Final = 1_500
TREND_WINDOWS: Final = 24
SYSTEM: Final = ("memory_available_bytes", "workers_rss_bytes", "agent_rss_bytes", "temperature_celsius", "cpu_ratio")


@dataclass(frozen=True, slots=True)
class Point:
    """One model and lane in one step. at: its beginning; latencies are milliseconds within 1 %, None when nothing was counted."""

    at: datetime
    n: int
    errors: int
    nonfinite: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    worker_rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class Line:
    """The points of one model and lane, oldest first."""

    model: str
    lane: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class SystemPoint:
    """The device itself in one step; figures that nobody could tell are left out."""

    at: datetime
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Series:
    """A device over a span of time, in steps of `step_s` seconds."""

    since: datetime
    until: datetime
    step_s: int
    lines: Sequence[Line]
    system: Sequence[SystemPoint]


@dataclass(frozen=True, slots=True)
class Trend:
    """The 95th percentile of latency of a model's newest windows in ms, oldest first; None where a window counted nothing."""

    model: str
    p95_ms: Sequence[float | None]

    @property
    def newest(self) -> float | None:
        """The newest that was counted."""
        return next((one for one in reversed(self.p95_ms) if one is not None), None)


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """One window of real requests in a few figures. bad: errors, timeouts and crashes. p95_ms: None where nothing was counted."""

    id: int
    device: str
    model: str
    version: str
    at: datetime
    n: int
    bad: int
    nonfinite: int
    p95_ms: float | None


@dataclass(slots=True)
class _Step:
    n: int = 0
    errors: int = 0
    nonfinite: int = 0
    rss: int = -1
    sketch: LatencySketch = field(default_factory=LatencySketch)

    def add(self, row: TelemetryWindow) -> None:
        self.n += row.n
        self.errors += row.errors
        self.nonfinite += row.nonfinite
        self.rss = max(self.rss, row.worker_rss_bytes)
        self.sketch.merge(LatencySketch.unpacked(msgspec.msgpack.decode(row.latency, type=list[int])))

    def point(self, at: datetime) -> Point:
        p50, p95, p99 = (self.sketch.quantile_s(q) for q in (0.5, 0.95, 0.99))
        rss = self.rss if self.rss >= 0 else None
        return Point(at, self.n, self.errors, self.nonfinite, shown_ms(p50), shown_ms(p95), shown_ms(p99), rss)


class SeriesReader:
    """Reads telemetry over time. Thread-safe; calls block."""

    def __init__(self, db: Database) -> None:
        """Wire the database."""
        self._db = db

    def of_device(self, device_id: str, since: datetime, until: datetime, points: int = MOST_POINTS) -> Series:
        """Return a device over a span of time in at most `points` points a line."""
        step_s = step_of(since, until, points)
        with self._db.read() as session:
            lines = _lines(store.windows_between(session, device_id, since, until), since, step_s)
            system = _system(store.batches_between(session, device_id, since, until), since, step_s)
        return Series(since, until, step_s, lines, system)

    def position(self) -> int:
        """Return the id of the newest window, 0 without one."""
        with self._db.read() as session:
            return store.newest_window_id(session)

    def after(self, position: int, settled: datetime, limit: int) -> list[WindowFigures]:
        """Return windows after an id, oldest first, until the first that was received after `settled`: following so loses none."""
        found: list[WindowFigures] = []
        with self._db.read() as session:
            for key, device, model, version, at, n, errors, timeouts, nonfinite, crashes, p95 in store.windows_after(
                session, position, limit
            ):
                if at > settled:
                    break
                bad = errors + timeouts + crashes
                found.append(WindowFigures(key, device, model, version, at, n, bad, nonfinite, p95))
        return found

    def trends(self, devices: Sequence[str]) -> dict[str, list[Trend]]:
        """Return the newest trend of each model of each of these devices, in order of model; devices without any are left out."""
        found: dict[str, dict[str, list[float | None]]] = {}
        if devices:
            with self._db.read() as session:
                for device, model, p95 in store.trend_rows(session, devices, windows=TREND_WINDOWS):
                    found.setdefault(device, {}).setdefault(model, []).append(p95)
        return {
            device: [Trend(model, tuple(reversed(figures))) for model, figures in sorted(models.items())]
            for device, models in found.items()
        }


def step_of(since: datetime, until: datetime, points: int) -> int:
    """Return the length of a step in whole seconds, so that a span has at most `points` of them."""
    span_s = max(1.0, (until - since).total_seconds())
    return max(1, -int(-span_s // max(1, min(points, MOST_POINTS) - 1)))


def _lines(rows: Iterable[TelemetryWindow], since: datetime, step_s: int) -> list[Line]:
    found: dict[tuple[str, str], dict[int, _Step]] = {}
    for row in rows:
        steps = found.setdefault((row.model, row.lane), {})
        steps.setdefault(_number(row.received_at, since, step_s), _Step()).add(row)
    return [
        Line(model, lane, [step.point(_begin(number, since, step_s)) for number, step in sorted(steps.items())])
        for (model, lane), steps in sorted(found.items())
    ]


def _system(rows: Iterable[Any], since: datetime, step_s: int) -> list[SystemPoint]:
    found: dict[int, dict[str, list[float]]] = {}
    for received_at, system in rows:
        step = found.setdefault(_number(received_at, since, step_s), {})
        for name in SYSTEM:
            value = system.get(name)
            if isinstance(value, int | float):
                step.setdefault(name, []).append(float(value))
    return [
        SystemPoint(
            _begin(number, since, step_s), {name: sum(values) / len(values) for name, values in figures.items()}
        )
        for number, figures in sorted(found.items())
    ]


def _number(at: datetime, since: datetime, step_s: int) -> int:
    return int((at - since).total_seconds() // step_s)


def _begin(number: int, since: datetime, step_s: int) -> datetime:
    return datetime.fromtimestamp(int(since.timestamp()) + number * step_s, UTC)
