"""Line charts of braille: pure rows first, then what the commands print."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_cli.render.braille_canvas import DASHED, BrailleCanvas
from edgefleet_cli.render.braille_chart import GUTTER, Chart, Limit, Line, Run, Sign, chart_rows, time_ticks
from edgefleet_cli.render.width import cut_runs
from tests.cli.conftest import Edgectl
from tests.cli.fleet_stub import NOON, Stub, page
from tests.cli.terminal import Terminal
from tests.cli.test_timelines import STEPS, line, timeline


def plain(rows: list[list[Run]]) -> list[str]:
    """Return rows as text."""
    return ["".join(text for text, _ in row) for row in rows]


def kinds(rows: list[list[Run]]) -> set[str]:
    """Return what the runs of rows are."""
    return {kind for row in rows for _, kind in row}


def ms(value: float) -> str:
    """Return milliseconds."""
    return f"{value:.0f} ms"


def test_dots_are_where_unicode_counts_them() -> None:
    canvas = BrailleCanvas(2, 1)
    for x, y in ((0, 0), (1, 3), (2, 2), (9, 9), (-1, 0)):
        canvas.dot(x, y, "line1")
    assert canvas.row(0) == [("⢁⠄", "line1")]
    assert BrailleCanvas(3, 1).row(0) == [("   ", "")]


def test_a_dash_goes_on_over_the_parts_of_a_line() -> None:
    whole, parts = BrailleCanvas(10, 1), BrailleCanvas(10, 1)
    whole.line((0, 0), (19, 0), "a", DASHED)
    for x in range(19):
        parts.line((x, 0), (x + 1, 0), "a", DASHED)
    assert whole.row(0) == parts.row(0)


def test_a_chart_has_title_values_units_limit_marks_and_times() -> None:
    new, old = Line("1.1.0", [None, 40.0, 44.0, 41.0]), Line("1.0.0", [43.0, 43.0, 43.0, 43.0])
    ticks = time_ticks(NOON, NOON + timedelta(hours=1), UTC)
    chart = Chart("Latency p95", [new, old], ms, ticks, [Limit("objective fast", 47.0)], [Sign(0.25, "▲")])
    rows = chart_rows(chart, 78, 4)
    text = plain(rows)
    assert text[0] == "Latency p95  ━━ 1.1.0 41 ms  ╍╍ 1.0.0 43 ms  ┈┈ objective fast 47 ms"
    assert text[1].index("▲") == GUTTER + round(0.25 * (78 - GUTTER - 1))
    assert text[2].startswith("    47 ms ┤")
    assert text[5].startswith("    39 ms ┤")
    assert text[-1].split() == ["12:00", "12:15", "12:30", "12:45", "13:00"]
    assert {"line1", "line2", "limit", "mark", "frame", "title"} <= kinds(rows)


def test_an_outlier_does_not_flatten_the_rest() -> None:
    values = [10.0, 12.0] * 20
    rows = plain(chart_rows(Chart("p95", [Line("", [*values, 4000.0, *values])], ms), 80))
    assert "↑ up to 4000 ms" in rows[0]
    assert rows[1].strip() == "↑"
    assert "18 ms ┤" in rows[2]


def test_a_limit_far_above_is_named_and_not_drawn() -> None:
    rows = chart_rows(Chart("p95", [Line("", [4.0, 5.0])], ms, limits=[Limit("objective", 80.0)]), 80)
    assert "objective 80 ms, above the chart" in plain(rows)[0]
    assert all(kind != "limit" for row in rows[1:] for _, kind in row)


def test_a_scale_says_no_value_twice() -> None:
    rows = plain(chart_rows(Chart("sent", [Line("", [0.0, 0.6])], "{:.0f} B/s".format), 80))
    assert [row[:GUTTER].strip() for row in rows[1:]] == ["1 B/s ┤", "│", "│", "│", "│", "0 B/s ┤"]


def test_nothing_measured_is_no_chart_and_no_zero() -> None:
    assert chart_rows(Chart("p95", [Line("", [None, None])], ms), 80) == []
    both = plain(chart_rows(Chart("p95", [Line("a", [None]), Line("b", [1.0])], ms), 80))
    assert "a nothing measured" in both[0]


@given(
    st.lists(st.lists(st.none() | st.floats(-1e9, 1e9), min_size=1, max_size=30), min_size=1, max_size=6),
    st.integers(1, 130),
    st.integers(1, 12),
)
def test_no_row_is_wider_than_the_terminal(lines: list[list[float | None]], width: int, height: int) -> None:
    ticks = time_ticks(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 9, tzinfo=UTC), UTC)
    chart = Chart("requests", [Line(f"v{n}", one) for n, one in enumerate(lines)], "{:.3g}/s".format, ticks)
    assert all(len(row) <= max(width, 27) for row in plain(chart_rows(chart, width, height)))


SLO: dict[str, Any] = {
    "name": "fast",
    "model": "digits",
    "indicator": "latency",
    "threshold": 50.0,
    "state": "ok",
    "says": "",
}


def test_charts_on_demand_and_the_table_for_pipes(edgectl: Edgectl, fleet: Stub) -> None:
    fleet.says("GET /models/digits/metrics", timeline())
    fleet.says("GET /slos", page([SLO, SLO | {"name": "whole", "indicator": "availability", "threshold": None}]))
    ran = edgectl("model", "metrics", "digits", "--chart")
    assert ran.code == 0, ran.err
    assert "Latency p95  ━━ 1.1.0 4.00 ms  ╍╍ 1.0.0 20 ms  ┈┈ objective fast 50 ms" in ran.out
    assert "digits@1.1.0 goes back (3 times)" in ran.out
    assert [one for one in ran.out.splitlines() if len(one) > 80] == []
    assert "TREND" in edgectl("model", "metrics", "digits").out
    assert edgectl("model", "metrics", "digits", "--chart", "-o", "json").json == timeline()


def test_a_device_that_says_where_it_throttles_has_that_limit(edgectl: Edgectl, fleet: Stub) -> None:
    said = timeline(
        scope="device", lines=[], marks=[], system={"temperature_celsius": [80.0, 81.0, None, 84.0]},
        limits={"critical_at_celsius": 105.0, "throttles_at_celsius": 83.0},
    )  # fmt: skip
    fleet.says("GET /devices/d-1/metrics", said)
    shown = edgectl("device", "metrics", "d-1", "--chart").out
    assert "Temperature  84 °C  ┈┈ throttles at 83 °C" in shown
    assert "switches off at 105 °C" in shown


def test_a_terminal_gets_charts_unless_it_is_said_otherwise(fleet: Stub) -> None:
    said = timeline(lines=[line("1.0.0", requests=[9] * STEPS, requests_per_s=[1.0] * STEPS)])
    fleet.says("GET /devices/d-1/metrics", said)
    charts, table = (
        Terminal(fleet, "device", "metrics", "d-1"),
        Terminal(fleet, "device", "metrics", "d-1", "--no-chart"),
    )
    assert (charts.end(), table.end()) == (0, 0)
    assert "emperature" in charts.shown
    assert "┤" in charts.shown
    assert "TREND" not in charts.shown
    assert "TREND" in table.shown


@pytest.mark.parametrize("status", [403, 404])
def test_without_objectives_to_read_there_is_no_limit(edgectl: Edgectl, fleet: Stub, status: int) -> None:
    fleet.says("GET /models/digits/metrics", timeline())
    fleet.says("GET /slos", (status, {"title": "Refused", "status": status, "code": "x", "detail": "no", "next": ""}))
    ran = edgectl("model", "metrics", "digits", "--chart")
    assert ran.code == (0 if status == 404 else 4)


def test_runs_are_cut_by_cells_not_by_characters() -> None:
    row = [("東京-1", "bold"), (" 12 devices", "")]
    assert cut_runs(row, 17) == row
    assert cut_runs(row, 10) == [("東京-1", "bold"), (" 12…", "")]
    assert cut_runs(row, 4) == [("東…", "bold")]
