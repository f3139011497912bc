"""How a device's telemetry windows are shown: a line of bars for each figure of each model, the newest on the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, Final

from edgefleet_cli.core.api_client import ApiClient, part
from edgefleet_cli.device.telemetry.trends import WIDTH
from edgefleet_cli.render.format import milliseconds, moment, size, text
from edgefleet_cli.render.output import Column, Sheet
from edgefleet_cli.render.sparkline import spark, thinned

Json = dict[str, Any]


def _whole(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, int | float) else "-"


_FIGURES: Final[Sequence[tuple[str, str, Callable[[Any], str]]]] = (
    ("answers", "n", _whole),
    ("errors", "errors", _whole),
    ("not finite", "nonfinite", _whole),
    ("p50", "latency_p50_ms", milliseconds),
    ("p95", "latency_p95_ms", milliseconds),
    ("memory", "worker_rss_bytes", size),
)

METRICS = [
    Column("model", lambda r: text(r.get("model")), keep=True),
    Column("lane", lambda r: text(r.get("lane")), spare=1),
    Column("figure", lambda r: text(r.get("figure")), keep=True),
    Column("trend", lambda r: text(r.get("trend")), keep=True),
    Column("least", lambda r: text(r.get("least")), right=True),
    Column("most", lambda r: text(r.get("most")), right=True),
    Column("last", lambda r: text(r.get("last")), right=True),
]
WINDOWS = Sheet(
    "telemetry windows of this device yet",
    [
        Column("begin", lambda w: moment(w.get("t0")), keep=True),
        Column("model", lambda w: f"{text(w.get('model'))}@{text(w.get('version'))}"),
        Column("lane", lambda w: text(w.get("lane"))),
        Column("answers", lambda w: text(w.get("n")), right=True),
        Column("errors", lambda w: text(w.get("errors")), right=True),
        Column("nonfinite", lambda w: text(w.get("nonfinite")), right=True),
        Column("p50_ms", lambda w: text(w.get("latency_p50_ms")), right=True),
        Column("p95_ms", lambda w: text(w.get("latency_p95_ms")), right=True),
        Column("memory_bytes", lambda w: text(w.get("worker_rss_bytes")), right=True),
    ],
    lambda w: f"{text(w.get('model'))}/{text(w.get('lane'))}/{text(w.get('t0'))}",
)


def windows_since(api: ApiClient, device_id: str, *, limit: int, begin: str | None) -> Json:
    """Return a device's newest windows as a list, newest first: at most `limit`, and none that came before `begin` (RFC 3339, UTC).

    A cut list names no cursor: it is by the time that it is cut. Raises ApiError.
    """
    path = f"/devices/{part(device_id)}/telemetry"
    if begin is None:
        return api.pages(path, limit=limit)
    found: list[Json] = []
    for window in takewhile(lambda one: _is_since(one, begin), api.each(path)):
        found.append(window)
        if len(found) == limit:
            break
    return {"items": found, "next_cursor": None, "total": len(found)}


def _is_since(window: Json, begin: str) -> bool:
    from datetime import datetime

    return datetime.fromisoformat(str(window.get("received_at"))) >= datetime.fromisoformat(begin)


def metric_rows(windows: Sequence[Json]) -> list[Json]:
    """Return one row a figure of each model and lane, from windows that are newest first."""
    groups: dict[tuple[str, str], list[Json]] = {}
    for window in reversed(windows):
        groups.setdefault((str(window.get("model")), str(window.get("lane"))), []).append(window)
    return [_row(key, some, figure) for key, some in sorted(groups.items()) for figure in _FIGURES]


def _row(key: tuple[str, str], windows: list[Json], figure: tuple[str, str, Callable[[Any], str]]) -> Json:
    name, field, show = figure
    values = [float(value) if isinstance(value := one.get(field), int | float) else None for one in windows]
    known = [value for value in values if value is not None]
    ends = (min(known), max(known), known[-1]) if known else (None, None, None)
    least, most, last = (show(one) for one in ends)
    trend = spark(thinned(values, WIDTH))
    return {"model": key[0], "lane": key[1], "figure": name, "trend": trend, "least": least, "most": most, "last": last}
