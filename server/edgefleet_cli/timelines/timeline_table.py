"""Figures over time as lines of bars for eyes, and as rows for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

from edgefleet_cli.core import api
from edgefleet_cli.render.format import counted, duration, milliseconds, moment, text
from edgefleet_cli.render.output import Column, Output, Sheet
from edgefleet_cli.render.sparkline import spark, thinned
from edgefleet_terms.device_figures import MODEL_FIGURES, figure_name, figure_text

WIDTH: Final = 24
MOST_MARKS: Final = 12
SHORTER: Final = (timedelta(minutes=15), timedelta(hours=1), timedelta(hours=6))
"""Spans below the usual one."""
DEVICES: Final = "devices"
MARKS: Final = {
    "deploy": "▲",
    "deployed": "●",
    "pause": "‖",
    "rollback": "▼",
    "alert": "!",
    "alert_over": "·",
    "drift": "~",
    "drift_over": "·",
    "offline": "○",
}
Values = Sequence[float | int | None]


def _plain(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else "-"


def _rate(value: Any) -> str:
    if not isinstance(value, int | float):
        return "-"
    return f"{value:.3g}/s" if value < 999.5 else f"{_plain(value)}/s"


def _known(key: str, value: Any) -> str:
    return figure_text(key, value) or "-"


class Figure(NamedTuple):
    """One figure: its key in the table of names, where it is, how it is written, whether it is left out where it is never but 0."""

    key: str
    of: Callable[[api.device.MetricLine], Values]
    show: Callable[[Any], str]
    is_quiet: bool = False

    @property
    def name(self) -> str:
        """Return its name next to others."""
        return MODEL_FIGURES[self.key].short


FIGURES: Final = (
    Figure("requests", lambda line: line.requests_per_s, _rate),
    Figure("errors", lambda line: line.errors, _plain, is_quiet=True),
    Figure("timeouts", lambda line: line.timeouts, _plain, is_quiet=True),
    Figure("nonfinite", lambda line: line.nonfinite, _plain, is_quiet=True),
    Figure("crashes", lambda line: line.crashes, _plain, is_quiet=True),
    Figure("p50_ms", lambda line: line.p50_ms, milliseconds),
    Figure("p95_ms", lambda line: line.p95_ms, milliseconds),
    Figure("p99_ms", lambda line: line.p99_ms, milliseconds),
)
SYSTEM: Final[Sequence[str]] = (
    *("online_ratio", "drifting_ratio"),
    *("memory_available_bytes", "workers_rss_bytes", "agent_rss_bytes", "disk_free_bytes", "cpu_ratio", "load_1m"),
    *("temperature_celsius", "throttled_ratio", "net_rx_bytes_per_s", "net_tx_bytes_per_s"),
)


class TrendRow(NamedTuple):
    """How one figure of a line went."""

    line: str
    figure: str
    trend: str
    least: str
    most: str
    last: str


TRENDS: Final[list[Column[TrendRow]]] = [
    Column("line", lambda r: text(r.line)),
    Column("figure", lambda r: text(r.figure), keep=True),
    Column("trend", lambda r: r.trend, keep=True),
    Column("least", lambda r: text(r.least), right=True),
    Column("most", lambda r: text(r.most), right=True),
    Column("last", lambda r: text(r.last), right=True),
]


class StepRow(NamedTuple):
    """One step of one line."""

    at: str
    line: str
    values: dict[str, Any]


_STEP_FIGURES: Final = (
    *("requests", "requests_per_s", "errors", "timeouts", "nonfinite", "crashes", "p50_ms", "p95_ms", "p99_ms"),
)


def _cell(name: str) -> Callable[[StepRow], str]:
    return lambda row: "" if row.values.get(name) is None else f"{row.values[name]}"


STEPS: Final[Sheet[StepRow]] = Sheet(
    "figures in this time: devices report every 15 minutes, and every minute during a rollout",
    [
        Column("at", lambda r: r.at, keep=True),
        Column("line", lambda r: r.line),
        *(Column(name, _cell(name), right=True) for name in (*_STEP_FIGURES, *SYSTEM)),
    ],
    lambda r: f"{r.line}/{r.at}",
)


def line_name(found: api.device.Timeline, key: str) -> str:
    """Return how a line is named; "" is the key of all together, or of what belongs to none."""
    return key or ("all" if found.by == "none" else f"no {found.by}")


def steps_of(found: api.device.Timeline) -> Iterator[StepRow]:
    """Yield a row for each step and line that has figures, then those of the devices themselves."""
    for line in found.lines:
        for place, at in enumerate(found.at):
            if line.requests[place] is not None:
                yield StepRow(
                    at, line_name(found, line.key), {name: getattr(line, name)[place] for name in _STEP_FIGURES}
                )
    for place, at in enumerate(found.at):
        values = {name: found.system[name][place] for name in SYSTEM if name in found.system}
        if any(value is not None for value in values.values()):
            yield StepRow(at, DEVICES, values)


def later_beginning(found: api.device.Timeline) -> str | None:
    """Return when a shorter span begins that has all figures, by the server's clock; None where it takes this one.

    A young fleet is then not one bar at the right edge.
    """
    columns = [*(line.requests for line in found.lines), *found.system.values()]
    known = [place for column in columns for place, value in enumerate(column) if value is not None]
    if not known:
        return None
    first = max(found.since, found.at[min(known)], key=datetime.fromisoformat)
    until = datetime.fromisoformat(found.until)
    length = next((span for span in SHORTER if span >= until - datetime.fromisoformat(first)), None)
    return None if length is None else (until - length).isoformat()


def show_timeline(out: Output, found: api.device.Timeline) -> None:
    """Write how figures went for eyes: what happened above them, on the same axis of time."""
    show_span(out, found)
    out.table(list(_rows(found)), TRENDS)
    show_marks(out, found)


def show_span(out: Output, found: api.device.Timeline) -> None:
    """Write which time is shown, and in which steps."""
    out.prose(f"{moment(found.since)} to {moment(found.until)}, steps of {duration(found.step_s)}")


def show_marks(out: Output, found: api.device.Timeline) -> None:
    """Write what happened in a time, if anything, the newest last."""
    if found.marks:
        out.heading("What happened")
        for mark in found.marks[-MOST_MARKS:]:
            more = f" ({mark.n} times)" if mark.n > 1 else ""
            out.prose(f"{MARKS.get(mark.kind, '?')} {moment(mark.at)}  {text(mark.title)}{more}")
        if len(found.marks) > MOST_MARKS:
            out.note(f"{counted(len(found.marks) - MOST_MARKS, 'older mark')}; -o json lists all")


def _rows(found: api.device.Timeline) -> Iterator[TrendRow]:
    if found.marks:
        yield TrendRow("", "marks", _marks(found), "", "", "")
    for line in found.lines:
        for figure in FIGURES:
            values = figure.of(line)
            if not figure.is_quiet or any(values):
                yield _row(line_name(found, line.key), figure.name, values, figure.show)
    for name in SYSTEM:
        values = found.system.get(name, ())
        if any(value is not None for value in values):
            yield _row(DEVICES, figure_name(name), values, partial(_known, name))


def _row(line: str, name: str, values: Values, show: Callable[[Any], str]) -> TrendRow:
    known = [float(value) for value in values if value is not None]
    ends = (min(known), max(known), known[-1]) if known else (None, None, None)
    thin = thinned([None if value is None else float(value) for value in values], WIDTH)
    return TrendRow(line, name, spark(thin), *(show(one) for one in ends))


def _marks(found: api.device.Timeline) -> str:
    """Return a line of marks over the same time as the bars, the worst of each place."""
    from datetime import datetime

    count = len(found.at)
    width = min(WIDTH, count)
    drawn = [" "] * width
    begin = datetime.fromisoformat(found.at[0]).timestamp()
    order = list(MARKS)
    for mark in sorted(found.marks, key=lambda one: _worth(one.kind, order)):
        place = int((datetime.fromisoformat(mark.at).timestamp() - begin) // found.step_s * width // count)
        if 0 <= place < width:
            drawn[place] = MARKS.get(mark.kind, "?")
    return "".join(drawn)


def _worth(kind: str, order: list[str]) -> int:
    worth = {"alert_over": 0, "drift_over": 0, "deployed": 1, "pause": 2, "drift": 3, "deploy": 4, "alert": 5}
    return worth.get(kind, 6 if kind in order else 0)
