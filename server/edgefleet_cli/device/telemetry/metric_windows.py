"""How a device's telemetry windows are shown: a line of bars for each figure of each model, the newest on the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, Final, NamedTuple

from edgefleet_cli.core.api.device import Window
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.reply import Page, Reply
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.device.telemetry.trends import WIDTH
from edgefleet_cli.render.format import milliseconds, moment, size, text
from edgefleet_cli.render.output import Column, Sheet
from edgefleet_cli.render.sparkline import spark, thinned


def _whole(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, int | float) else "-"


class Figure(NamedTuple):
    """One figure of a window: its name, where it is, and how it is written."""

    name: str
    of: Callable[[Window], float | None]
    show: Callable[[Any], str]


_FIGURES: Final = (
    Figure("answers", lambda w: w.n, _whole),
    Figure("errors", lambda w: w.errors, _whole),
    Figure("not finite", lambda w: w.nonfinite, _whole),
    Figure("p50", lambda w: w.latency_p50_ms, milliseconds),
    Figure("p95", lambda w: w.latency_p95_ms, milliseconds),
    Figure("memory", lambda w: w.worker_rss_bytes, size),
)


class MetricRow(NamedTuple):
    """How one figure of a model and lane went."""

    model: str
    lane: str
    figure: str
    trend: str
    least: str
    most: str
    last: str


METRICS: list[Column[MetricRow]] = [
    Column("model", lambda r: text(r.model), keep=True),
    Column("lane", lambda r: text(r.lane), spare=1),
    Column("figure", lambda r: text(r.figure), keep=True),
    Column("trend", lambda r: text(r.trend), keep=True),
    Column("least", lambda r: text(r.least), right=True),
    Column("most", lambda r: text(r.most), right=True),
    Column("last", lambda r: text(r.last), right=True),
]
WINDOWS: Sheet[Window] = Sheet(
    "figures of this device yet: devices report every 15 minutes, and every minute during a rollout",
    [
        Column("begin", lambda w: moment(w.t0), keep=True),
        Column("model", lambda w: f"{text(w.model)}@{text(w.version)}"),
        Column("lane", lambda w: text(w.lane)),
        Column("answers", lambda w: text(w.n), right=True),
        Column("errors", lambda w: text(w.errors), right=True),
        Column("nonfinite", lambda w: text(w.nonfinite), right=True),
        Column("p50_ms", lambda w: text(w.latency_p50_ms), right=True),
        Column("p95_ms", lambda w: text(w.latency_p95_ms), right=True),
        Column("memory_bytes", lambda w: text(w.worker_rss_bytes), right=True),
    ],
    lambda w: f"{text(w.model)}/{text(w.lane)}/{text(w.t0)}",
)


def windows_since(api: ApiClient, device_id: str, *, limit: int, begin: str | None) -> Page[Window]:
    """Return a device's newest windows as a list, newest first: at most `limit`, and none that came before `begin` (RFC 3339, UTC).

    A cut list names no cursor: it is by the time that it is cut. Raises ApiError.
    """
    path = f"/devices/{part(device_id)}/telemetry"
    if begin is None:
        return api.pages(path, Window, limit=limit)
    found: list[Reply[Window]] = []
    for window in takewhile(lambda one: _is_since(one.value, begin), api.each(path, Window)):
        found.append(window)
        if len(found) == limit:
            break
    return Page.of(found)


def _is_since(window: Window, begin: str) -> bool:
    from datetime import datetime

    return datetime.fromisoformat(window.received_at) >= datetime.fromisoformat(begin)


def metric_rows(windows: Sequence[Window]) -> list[MetricRow]:
    """Return one row a figure of each model and lane, from windows that are newest first."""
    groups: dict[tuple[str, str], list[Window]] = {}
    for window in reversed(windows):
        groups.setdefault((window.model, window.lane), []).append(window)
    return [_row(*key, some, figure) for key, some in sorted(groups.items()) for figure in _FIGURES]


def _row(model: str, lane: str, windows: list[Window], figure: Figure) -> MetricRow:
    values = [None if (value := figure.of(one)) is None else float(value) for one in windows]
    known = [value for value in values if value is not None]
    ends = (min(known), max(known), known[-1]) if known else (None, None, None)
    return MetricRow(model, lane, figure.name, spark(thinned(values, WIDTH)), *(figure.show(one) for one in ends))
