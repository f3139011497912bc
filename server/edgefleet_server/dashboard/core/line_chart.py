"""Lines over time as SVG: what stands at the axes, the paths, and what lies above the scale. Pure.

Rules:
1. The scale begins at 0, or at the least value where that is negative.
2. It ends at the largest value. An outlier does not stretch it: when the largest value of a series is more than OUTLIER times what nine
   tenths of the series keep within, the scale of that series ends at the latter. A chart ends where the largest of its series does.
3. A point above the scale is drawn at its upper edge, with an arrow that says its value. Neighbours share one arrow.
4. A line goes on over gaps that are at most GAP times as long as usual, for steps may be shorter than the time between two reports. Over
   longer ones it breaks. A value between two breaks is a dot.

The paths are in a space of WIDTH x HEIGHT that is stretched to the width of the page; places on the time axis are percents of it, those
on the other axis pixels.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, pairwise
from typing import Final

from edgefleet_server.dashboard.core.filters import number

WIDTH: Final = 1000
HEIGHT: Final = 150
OUTLIER: Final = 3.0
USUAL_SHARE: Final = 0.9
MOST_VALUES: Final = 5
MOST_TIMES: Final = 6
HEADROOM: Final = 1.08
GAP: Final = 3
FEWEST: Final = 4
"""Of fewer values none is an outlier."""
STEPS_S: Final = (60, 300, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800)

Column = Sequence[float | int | None]


@dataclass(frozen=True, slots=True)
class Tick:
    """A number at an axis. at: pixels from the top, or percents from the left."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Arrow:
    """Points of one series above the scale. at: percents from the left; largest: the largest of them."""

    series: int
    at: float
    count: int
    largest: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart as it is drawn. lines and dots: one SVG path for each series, "" without any."""

    values: Sequence[Tick]
    times: Sequence[Tick]
    lines: Sequence[str]
    dots: Sequence[str]
    arrows: Sequence[Arrow]


def drawn(times: Sequence[int], columns: Sequence[Column], axis: tuple[int, int]) -> Drawing:
    """Return the drawing of series over the same times, in seconds since 1970, ascending; None is a missing value.

    axis: where the axis of time begins and ends.
    """
    low, high = scale(columns)
    first, last = axis
    places = [time_place(one, first, last) for one in times]
    paths = [_paths(places, column, low, high) for column in columns]
    return Drawing(
        values=[Tick(round(_height(one, low, high), 1), label) for one, label in value_ticks(low, high)],
        times=[Tick(round(100 * time_place(at, first, last), 2), label) for at, label in time_ticks(first, last)],
        lines=[line for line, _dots in paths],
        dots=[dots for _line, dots in paths],
        arrows=[one for n, column in enumerate(columns) for one in _arrows(n, places, column, high)],
    )


def scale(columns: Sequence[Column]) -> tuple[float, float]:
    """Return where the scale of these series begins and ends."""
    known = [value for column in columns for value in column if value is not None]
    low, high = min([0.0, *known]), max((_usual_end(column) for column in columns), default=0.0)
    return low, (high * HEADROOM if high > 0 else low + 1.0)


def _usual_end(column: Column) -> float:
    known = sorted(value for value in column if value is not None)
    if len(known) < FEWEST:
        return known[-1] if known else 0.0
    usual = known[min(math.ceil(len(known) * USUAL_SHARE), len(known) - 1) - 1]
    return usual if 0 < usual * OUTLIER < known[-1] else known[-1]


def value_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return round numbers between two values, at most MOST_VALUES and the first, each with its label."""
    rough = (high - low) / MOST_VALUES
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    digits = max(0, -math.floor(math.log10(step)))
    begin, end = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(n * step, number(n * step, digits)) for n in range(begin, end + 1)]


def time_ticks(first: int, last: int) -> list[tuple[int, str]]:
    """Return round moments (UTC) between two, each with its label: days where they are days apart, else hours and minutes."""
    step = next((one for one in STEPS_S if (last - first) / one <= MOST_TIMES), STEPS_S[-1])
    form = "%m-%d" if step >= 86_400 else "%H:%M"
    begin = -(-first // step) * step
    return [(at, f"{datetime.fromtimestamp(at, UTC):{form}}") for at in range(begin, last + 1, step)]


def time_place(at: int, first: int, last: int) -> float:
    """Return a moment as a share of the time axis; a single one stands in the middle."""
    return 0.5 if last <= first else (at - first) / (last - first)


def _height(value: float, low: float, high: float) -> float:
    return HEIGHT * (1 - (min(value, high) - low) / (high - low))


def _reach(places: Sequence[float], column: Column) -> float:
    """Return over how much of the axis the line of a column goes on."""
    known = [at for at, value in zip(places, column, strict=True) if value is not None]
    gaps = [b - a for a, b in pairwise(known)]
    return GAP * statistics.median(gaps) * (1 + 1e-9) if gaps else 0.0


def _paths(places: Sequence[float], column: Column, low: float, high: float) -> tuple[str, str]:
    lines, dots = [], []
    for run in _within(places, column, _reach(places, column)):
        points = [f"{WIDTH * at:.0f} {_height(value, low, high):.1f}" for at, value in run]
        if len(points) > 1:
            lines.append(f"M{'L'.join(points)}")
        else:
            dots.append(f"M{points[0]}h0")
    return "".join(lines), "".join(dots)


def _within(places: Sequence[float], column: Column, reach: float) -> list[list[tuple[float, float]]]:
    """Return the known points, cut where two neighbours are further apart than a line reaches."""
    found: list[list[tuple[float, float]]] = []
    for at, value in zip(places, column, strict=True):
        if value is None:
            continue
        if found and at - found[-1][-1][0] <= reach:
            found[-1].append((at, value))
        else:
            found.append([(at, value)])
    return found


def _arrows(series: int, places: Sequence[float], column: Column, high: float) -> Iterator[Arrow]:
    known = [(place, value) for place, value in zip(places, column, strict=True) if value is not None]
    for is_above, run in groupby(known, key=lambda one: one[1] > high):
        if is_above:
            points = list(run)
            place, largest = max(points, key=lambda one: one[1])
            yield Arrow(series, round(100 * place, 2), len(points), largest)
