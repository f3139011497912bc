"""Figures over time as CSV: a row for each step and line, and figures of devices in rows of their own. Pure."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Final

from edgefleet_server.telemetry.timelines.model import MetricLine, Timeline, line_name

FIGURES: Final = (
    *("requests", "requests_per_s", "errors", "timeouts", "nonfinite", "crashes", "p50_ms", "p95_ms", "p99_ms"),
)
SYSTEM: Final = (
    *("memory_available_bytes", "workers_rss_bytes", "agent_rss_bytes", "disk_free_bytes", "cpu_ratio", "load_1m"),
    *("temperature_celsius", "throttled_ratio", "net_rx_bytes_per_s", "net_tx_bytes_per_s"),
    *("online_ratio", "drifting_ratio"),
)
COLUMNS: Final = ("at", "line", *FIGURES, *SYSTEM)
DEVICES: Final = "devices"
"""The line of figures that are of devices and not of a model."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def csv_lines(timeline: Timeline) -> Iterator[str]:
    """Yield the lines of the file, the names of the columns first. Steps without figures are left out."""
    yield _line(COLUMNS)
    for line in timeline.lines:
        yield from _of_line(timeline, line)
    for place, at in enumerate(timeline.at):
        values = [timeline.system.get(name, ())[place : place + 1] for name in SYSTEM]
        if any(one and one[0] is not None for one in values):
            cells = [_text(one[0]) if one else "" for one in values]
            yield _line([at.isoformat(), DEVICES, *[""] * len(FIGURES), *cells])


def _of_line(timeline: Timeline, line: MetricLine) -> Iterator[str]:
    for place, at in enumerate(timeline.at):
        if line.requests[place] is not None:
            values = [getattr(line, name)[place] for name in FIGURES]
            yield _line(
                [at.isoformat(), _safe(line_name(line.key, timeline.by)), *map(_text, values), *[""] * len(SYSTEM)]
            )


def _text(value: float | None) -> str:
    return "" if value is None else f"{value}"


def _safe(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _line(cells: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()
