"""How a device's figures went over its newest telemetry windows: one line of small bars a model, for requests and latency."""

from __future__ import annotations

from typing import Any

from edgefleet_cli.core.api_client import ApiClient, part
from edgefleet_cli.core.errors import ApiError
from edgefleet_cli.render.format import milliseconds, text
from edgefleet_cli.render.output import Column
from edgefleet_cli.render.sparkline import spark, thinned

Json = dict[str, Any]

WINDOWS = 48
"""Half a day of windows of 15 minutes."""
WIDTH = 24

TRENDS = (
    Column("model", lambda t: text(t.get("model")), keep=True),
    Column("answers", lambda t: text(t.get("answers"))),
    Column("last", lambda t: text(t.get("answers_last")), right=True),
    Column("p95", lambda t: text(t.get("p95"))),
    Column("last", lambda t: text(t.get("p95_last")), right=True),
)


def windows_of(api: ApiClient, device_id: str, limit: int = WINDOWS) -> list[Json]:
    """Return a device's newest telemetry windows, newest first; none where the server has none to tell."""
    try:
        page = api.get(f"/devices/{part(device_id)}/telemetry", limit=limit)
    except ApiError as error:
        if error.status != 404:
            raise
        return []
    return list(page.get("items") or [])


def trends(windows: list[Json]) -> list[Json]:
    """Return one row a model of the active lane, from windows that are newest first: bars, and the newest figures."""
    by_model: dict[str, list[Json]] = {}
    for window in reversed(windows):
        if window.get("lane") == "active":
            by_model.setdefault(str(window.get("model")), []).append(window)
    return [_row(model, some) for model, some in sorted(by_model.items())]


def _row(model: str, windows: list[Json]) -> Json:
    answers = [float(one.get("n") or 0) for one in windows]
    p95 = [one.get("latency_p95_ms") for one in windows]
    newest = next((value for value in reversed(p95) if value is not None), None)
    return {
        "model": model,
        "answers": spark(thinned(answers, WIDTH)),
        "answers_last": int(answers[-1]),
        "p95": spark(thinned(p95, WIDTH)),
        "p95_last": milliseconds(newest),
    }
