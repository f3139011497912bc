"""How a device's figures went over its newest telemetry windows: one line of small bars a model, for requests and latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgefleet_cli.core.api.device import Window
from edgefleet_cli.core.errors import ApiError
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import milliseconds, text
from edgefleet_cli.render.output import Column
from edgefleet_cli.render.sparkline import spark, thinned

WINDOWS = 48
"""Half a day of windows of 15 minutes."""
WIDTH = 24


class Trend(NamedTuple):
    """One model: bars of its newest windows, and the newest figures."""

    model: str
    answers: str
    answers_last: int
    p95: str
    p95_last: str


TRENDS: tuple[Column[Trend], ...] = (
    Column("model", lambda t: text(t.model), keep=True),
    Column("answers", lambda t: text(t.answers)),
    Column("last", lambda t: text(t.answers_last), right=True),
    Column("p95", lambda t: text(t.p95)),
    Column("last", lambda t: text(t.p95_last), right=True),
)


def windows_of(api: ApiClient, device_id: str, limit: int = WINDOWS) -> list[Window]:
    """Return a device's newest telemetry windows, newest first; none where the server has none."""
    try:
        return list(api.page(f"/devices/{part(device_id)}/telemetry", Window, limit=limit))
    except ApiError as error:
        if error.status != 404:
            raise
        return []


def trends(windows: Sequence[Window]) -> list[Trend]:
    """Return one row a model of the active lane, from windows that are newest first: bars, and the newest figures."""
    by_model: dict[str, list[Window]] = {}
    for window in reversed(windows):
        if window.lane == "active":
            by_model.setdefault(window.model, []).append(window)
    return [_row(model, some) for model, some in sorted(by_model.items())]


def _row(model: str, windows: list[Window]) -> Trend:
    answers = [float(one.n) for one in windows]
    p95 = [one.latency_p95_ms for one in windows]
    newest = next((value for value in reversed(p95) if value is not None), None)
    return Trend(
        model, spark(thinned(answers, WIDTH)), int(answers[-1]), spark(thinned(p95, WIDTH)), milliseconds(newest)
    )
