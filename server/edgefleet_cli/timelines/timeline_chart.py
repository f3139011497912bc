"""Figures over time as line charts: which are drawn together, their limits, and what happened meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, tzinfo
from functools import partial
from typing import Final

from edgefleet_cli.core import api
from edgefleet_cli.render.braille_chart import Chart, Limit, Line, Sign, time_ticks
from edgefleet_cli.timelines.timeline_table import FIGURES, MARKS, SYSTEM, Values, line_name
from edgefleet_protocol.heat_limits import WORDS
from edgefleet_terms.device_figures import figure_name, figure_text

MOST_LINES: Final = 5
P95: Final = "p95_ms"
LEFT_TO_THE_TABLE: Final = ("p50_ms", "p99_ms")
"""Percentiles that the chart of p95 stands for."""
LATENCY: Final = "latency"
TEMPERATURE: Final = "temperature_celsius"
LOUD: Final = frozenset({"deploy", "deployed", "pause", "rollback", "alert", "drift"})


def timeline_charts(
    found: api.device.Timeline, objectives: Sequence[api.alert.Slo] = (), zone: tzinfo | None = None
) -> Iterator[Chart]:
    """Yield a chart for each figure that was measured: of the lines with most requests, the newest version first, then of the devices.

    objectives: those of the model that is shown; zone: of the times below a chart, None: where edgectl runs.
    """
    begin, end = datetime.fromisoformat(found.since), datetime.fromisoformat(found.until)
    ticks, signs = time_ticks(begin, end, zone), list(_signs(found, begin, end))
    lines = shown_lines(found)
    for figure in FIGURES:
        if figure.key in LEFT_TO_THE_TABLE:
            continue
        drawn = [Line(line_name(found, line.key), floats(figure.of(line))) for line in lines]
        is_empty = not any(value is not None for line in drawn for value in line.values)
        if is_empty or (figure.is_quiet and not any(any(line.values) for line in drawn)):
            continue
        limits = list(latency_limits(objectives)) if figure.key == P95 else []
        yield Chart(figure_name(figure.key), drawn, figure.show, ticks, limits, signs)
    for key in SYSTEM:
        values = floats(found.system.get(key, ()))
        if any(value is not None for value in values):
            limits = _heat_limits(found) if key == TEMPERATURE else []
            yield Chart(figure_name(key), [Line("", values)], partial(figure_text, key), ticks, limits, signs)


def shown_lines(found: api.device.Timeline) -> list[api.device.MetricLine]:
    """Return the lines with most requests, at most `MOST_LINES`; versions in their order downwards, so that the newest is solid."""
    kept = sorted(found.lines, key=lambda line: -sum(value or 0 for value in line.requests))[:MOST_LINES]
    return sorted(kept, key=_version, reverse=True) if found.by == "version" else kept


def latency_limits(objectives: Sequence[api.alert.Slo]) -> Iterator[Limit]:
    """Yield the thresholds of latency objectives, once each."""
    for value in sorted(
        {one.threshold for one in objectives if one.indicator == LATENCY and one.threshold is not None}
    ):
        names = [one.name for one in objectives if one.threshold == value]
        yield Limit(f"objective {names[0]}", value)


def _heat_limits(found: api.device.Timeline) -> list[Limit]:
    return [Limit(words, found.limits[key]) for key, words in WORDS.items() if key in found.limits]


def floats(values: Values) -> list[float | None]:
    """Return figures as numbers with a fraction."""
    return [None if value is None else float(value) for value in values]


def _version(line: api.device.MetricLine) -> list[tuple[int, str]]:
    parts = line.key.replace("-", ".").replace("+", ".").split(".")
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _signs(found: api.device.Timeline, begin: datetime, end: datetime) -> Iterator[Sign]:
    length_s = (end - begin).total_seconds()
    for mark in found.marks if length_s > 0 else ():
        if mark.kind in LOUD:
            share = (datetime.fromisoformat(mark.at) - begin).total_seconds() / length_s
            yield Sign(share, MARKS.get(mark.kind, "?"))
