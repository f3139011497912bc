"""Where a chart's scale ends, what stands at its axes, and how breaks and outliers are drawn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.dashboard.core.line_chart import (
    HEADROOM,
    HEIGHT,
    LOG_ROOM,
    WIDTH,
    Band,
    Column,
    Limit,
    ScaleKind,
    decades,
    drawn,
    log_ticks,
    scale,
    scale_of,
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
    ],
)
def test_one_outlier_does_not_flatten_a_chart(columns: list[Column], end: float) -> None:
    assert scale(columns)[1] == pytest.approx(end * HEADROOM)


@pytest.mark.parametrize("frost", [[-4.0, -2.0], [-24.0, -18.5, -21.0, -5.0, -22.0], [-3.0, 0.0], [-1e18, -1.0]])
def test_figures_below_0_are_all_within_the_scale(frost: list[float]) -> None:
    made = drawn([NOON + n for n in range(len(frost))], [frost], (NOON, NOON + len(frost) - 1))
    assert scale([frost]) == (min(frost), 0.0)
    assert made.arrows == []


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
        (3, ["12:00:00", "12:00:01", "12:00:02", "12:00:03"]),
        (50, ["12:00:00", "12:00:15", "12:00:30", "12:00:45"]),
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


def test_what_is_sampled_in_every_step_has_no_line_over_a_gap() -> None:
    times, values = [NOON + 60 * n for n in (0, 1, 2, 4, 5)], [1.0, 1.0, 1.0, 1.0, 1.0]
    usual = drawn(times, [values], (NOON, NOON + 300))
    sampled = drawn(times, [values], (NOON, NOON + 300), step_s=60)
    assert (usual.lines[0].count("M"), sampled.lines[0].count("M")) == (1, 2)
    assert (usual.area.count("M"), sampled.area.count("M")) == (1, 2)


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


@pytest.mark.parametrize(
    ("columns", "is_log"),
    [
        ([STEADY], False),
        ([[*STEADY, 900.0]], False),  # one outlier is clipped: a log scale would flatten the rest
        ([[0.01, *STEADY]], False),
        ([[1.0, 2.0, 9.0, 40.0, 90.0, 300.0, 800.0, 900.0]], True),
        ([[8000.0] * 9, [50.0] * 9], True),
        ([[800.0] * 9, [8.0] * 9], False),  # two decades, and no more
        ([[8000.0] * 9, [50.0] * 8 + [0.0]], False),  # 0 has no place on a log scale
        ([[8000.0] * 9, [-50.0] * 9], False),
        ([[1.0, 900.0]], True),
        ([[None] * 9], False),
        ([], False),
    ],
)
def test_a_scale_is_logarithmic_where_values_lie_far_apart(columns: list[Column], is_log: bool) -> None:
    assert (decades(columns) > 2) is is_log
    assert scale_of(columns).is_log is is_log
    assert scale_of(columns, kind=ScaleKind.LINEAR).is_log is False


def test_a_log_scale_can_be_asked_for_where_all_values_are_above_0() -> None:
    asked = scale_of([STEADY], kind=ScaleKind.LOG)
    assert (asked.is_log, asked.low, asked.high) == (True, 4.0 / LOG_ROOM, 5.0 * LOG_ROOM)
    assert scale_of([[*STEADY, 0.0]], kind=ScaleKind.LOG).is_log is False
    assert [drawn([NOON], [[value]], (NOON, NOON)).can_log for value in (1.0, 0.0)] == [True, False]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.8, 90, ["1", "2", "5", "10", "20", "50"]),
        (40, 9600, ["100", "1\N{NARROW NO-BREAK SPACE}000"]),
        (0.04, 1.2, ["0.1", "1"]),
        (1e-3, 1e7, ["0.001", "0.1", "10"]),
    ],
)
def test_a_log_scale_has_round_numbers(low: float, high: float, labels: list[str]) -> None:
    found = [label for _, label in log_ticks(low, high)]
    assert set(labels) <= set(found)
    assert 1 <= len(found) <= 9


@pytest.mark.parametrize(
    ("values", "limit", "end"),
    [
        (STEADY, 8.0, 8.0),  # near: the scale takes it in
        (STEADY, 10.0, 10.0),
        (STEADY, 10.1, 5.0),  # too far: it is named, and above the scale
        (STEADY, 3.0, 5.0),
        ([0.0] * 9, 1.0, 1.0),  # nothing failed: the limit says how far away that is
        ([*STEADY, 900.0], 9.0, 9.0),
    ],
)
def test_a_scale_takes_in_a_limit_that_is_near(values: list[float], limit: float, end: float) -> None:
    assert scale([values], [Limit("objective", limit)])[1] == pytest.approx(end * HEADROOM)
    (line,) = drawn([*range(len(values))], [values], (0, 9), limits=[Limit("objective", limit)]).limits
    assert (line.at is None) is (limit > end * HEADROOM)
    assert (line.name, line.value) == ("objective", limit)


def test_a_limit_stands_where_its_value_does() -> None:
    made = drawn([0, 1], [[10.0, 20.0]], (0, 1), limits=[Limit("limit", 10.0)])
    assert made.lines == [f"M0 {made.limits[0].at}L{WIDTH} 11.1"]
    wide = drawn([0, 1], [[1.0, 1000.0]], (0, 1), limits=[Limit("limit", 1000.0)])
    assert (wide.is_log, wide.lines[0].split()[-1]) == (True, f"{wide.limits[0].at}")


def test_the_area_ends_at_0_and_breaks_with_the_line() -> None:
    times = [60 * n for n in range(9)]
    made = drawn(times, [[1.0, 1.0, 1.0, None, None, None, None, 1.0, 1.0]], (0, 480))
    assert made.area == "M0 11.1L125 11.1L250 11.1L250 150L0 150ZM875 11.1L1000 11.1L1000 150L875 150Z"
    assert drawn(times, [[-1.0] * 9], (0, 480)).area == ""
    assert drawn(times, [[1.0] * 9], (0, 480), kind=ScaleKind.LOG).area == ""


def test_a_band_lies_between_its_lines_whichever_is_which() -> None:
    band = Band([1.0, 3.0, None], [3.0, 1.0, 2.0])
    made = drawn([0, 1, 2], [[2.0, 2.0, 2.0]], (0, 2), band=band)
    assert made.band == "M0 11.1L500 11.1L500 103.7L0 103.7Z"
    assert scale_of([[2.0], [9.0]]).high == pytest.approx(9 * HEADROOM)


KINDS = st.sampled_from(ScaleKind)
VALUES = st.lists(st.none() | st.floats(1e-6, 1e9) | st.just(0.0), min_size=7, max_size=7)


@given(
    st.lists(VALUES, min_size=1, max_size=3),
    KINDS,
    st.lists(st.floats(1e-3, 1e6), max_size=2),
    st.sampled_from((52, HEIGHT)),
)
def test_whatever_the_scale_all_is_within_it(
    columns: list[Column], kind: ScaleKind, limits: list[float], height: int
) -> None:
    wanted = [Limit("limit", one) for one in limits]
    made = drawn(
        [*range(7)], columns, (0, 6), limits=wanted, kind=kind, height=height, band=Band(columns[0], columns[-1])
    )
    assert made.is_log <= made.can_log
    assert len(made.limits) == len(limits)
    places = [*(one.at for one in made.values), *(one.at for one in made.limits if one.at is not None)]
    points = [
        point
        for path in (*made.lines, *made.dots, made.area, made.band)
        for point in path.replace("h0", "").replace("Z", "").replace("M", "L").split("L")
    ]
    heights = [*places, *(float(point.split()[1]) for point in points if point)]
    assert all(0 <= one <= height for one in heights)
    for line in made.limits:
        used = scale_of([*columns, columns[0], columns[-1]], wanted, kind, height)
        assert (line.at is not None) is (used.low <= line.value <= used.high)
