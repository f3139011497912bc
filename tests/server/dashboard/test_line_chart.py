"""Where a chart's scale ends, what stands at its axes, and how breaks and outliers are drawn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.dashboard.core.line_chart import (
    HEADROOM,
    HEIGHT,
    WIDTH,
    Column,
    drawn,
    scale,
    time_ticks,
    value_ticks,
)

STEADY = [4.0, 5.0, 4.5, 5.0, 4.0, 4.5, 5.0, 4.0, 4.5]
NOON = 1_764_072_000


@pytest.mark.parametrize(
    ("columns", "end"),
    [
        ([STEADY], 5.0),
        ([[*STEADY, 14.9]], 14.9),  # not three times the usual: the scale takes it in
        ([[*STEADY, 900.0]], 5.0),
        ([[900.0, *STEADY]], 5.0),
        ([[*STEADY, 900.0, 800.0, 700.0]], 900.0),  # three of twelve are no outliers
        ([STEADY, [*STEADY[:8], 12.0, 900.0]], 12.0),
        ([[4.0, 900.0, 4.0]], 900.0),  # too few to say what is usual
        ([[4.0, 900.0, 4.0, 4.0]], 4.0),
        ([[0, 0, 0, 0, 0, 0, 0, 7]], 7.0),  # a first error is not cut off
        ([[None, 3.0, None]], 3.0),
        ([[-4.0, -2.0]], -2.0),
    ],
)
def test_one_outlier_does_not_flatten_a_chart(columns: list[Column], end: float) -> None:
    assert scale(columns)[1] == pytest.approx(end * HEADROOM if end > 0 else -3.0)


@pytest.mark.parametrize(("columns", "begin"), [([STEADY], 0.0), ([[-8.0, 3.0]], -8.0), ([], 0.0), ([[None]], 0.0)])
def test_a_scale_begins_at_0_unless_something_lies_below(columns: list[Column], begin: float) -> None:
    low, high = scale(columns)
    assert low == begin
    assert high > low


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 5.4, ["0", "2", "4"]),
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0, 0.0432, ["0.00", "0.01", "0.02", "0.03", "0.04"]),
        (0, 2700, ["0", "1\N{NARROW NO-BREAK SPACE}000", "2\N{NARROW NO-BREAK SPACE}000"]),
        (-8, 3.2, ["-5", "0"]),
    ],
)
def test_values_have_round_numbers(low: float, high: float, labels: list[str]) -> None:
    assert [label for _, label in value_ticks(low, high)] == labels


@pytest.mark.parametrize(
    ("span_s", "labels"),
    [
        (0, ["12:00"]),
        (240, ["12:00", "12:01", "12:02", "12:03", "12:04"]),
        (3_600, ["12:00", "12:15", "12:30", "12:45", "13:00"]),
        (86_400, ["12:00", "18:00", "00:00", "06:00", "12:00"]),
        (6 * 86_400, ["11-26", "11-27", "11-28", "11-29", "11-30", "12-01"]),
    ],
)
def test_times_are_round_in_utc(span_s: int, labels: list[str]) -> None:
    assert [label for _, label in time_ticks(NOON, NOON + span_s)] == labels


def test_a_line_breaks_where_a_value_is_missing_and_a_single_one_is_a_dot() -> None:
    times = [NOON + 60 * n for n in (0, 1, 2, 4, 8, 10)]
    made = drawn(times, [[1.0, 2.0, 1.0, None, 1.0, None], [None] * 6], (times[0], times[-1]))
    assert made.lines == ["M0 80.6L100 11.1L200 80.6", ""]
    assert made.dots == ["M800 80.6h0", ""]
    assert made.arrows == []


def test_points_above_the_scale_are_drawn_at_its_edge_with_one_arrow_for_neighbours() -> None:
    column = [*STEADY, *STEADY, 700.0, 900.0]
    made = drawn([NOON + n for n in range(20)], [column], (NOON, NOON + 19))
    [arrow] = made.arrows
    assert (arrow.series, arrow.at, arrow.count, arrow.largest) == (0, 100.0, 2, 900.0)
    assert made.lines[0].endswith(f"L947 0.0L{WIDTH} 0.0")


@given(
    st.lists(st.lists(st.none() | st.floats(-1e6, 1e9), min_size=7, max_size=7), max_size=3),
    st.lists(st.integers(NOON, NOON + 10**7), min_size=7, max_size=7, unique=True),
)
def test_everything_is_drawn_within_the_chart(columns: list[Column], times: list[int]) -> None:
    made = drawn(sorted(times), columns, (min(times), max(times)))
    for path in [*made.lines, *made.dots]:
        for point in path.replace("h0", "").replace("M", "L").split("L")[1:]:
            x, y = map(float, point.split())
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT
    assert all(0 <= one.at <= HEIGHT for one in made.values)
    assert all(0 <= at <= 100 for at in [*(one.at for one in made.times), *(one.at for one in made.arrows)])
