"""Lines over time as SVG: what stands at the axes, the paths, the limits, and what lies above the scale. Pure.

Rules:
1. The scale begins at 0, or at the least value where that is negative.
2. It ends at the largest value, or at 0 where all are below. An outlier does not stretch it: when the largest value of a series is more
   than OUTLIER times what nine tenths of the series keep within, the scale of that series ends at the latter. A chart ends where the
   largest of its series does.
3. A point above the scale is drawn at its upper edge, with an arrow that says its value. Neighbours share one arrow.
4. A line goes on over gaps that are at most GAP times as long as usual, for steps may be shorter than the time between two reports. Over
   longer ones it breaks. A value between two breaks is a dot. What is sampled in every step breaks at each step without a sample.
5. A limit is within the scale when it is at most NEAR times the largest value; a farther one is above the scale, and only named.
6. The scale is logarithmic where all values are above 0 and more than DECADES lie between what nine tenths of the values keep within
   on either side: one outlier does not make it so. A chart can be asked for either scale; values of 0 or less leave it linear.

The paths are in a space of WIDTH x HEIGHT that is stretched to the width of the page; places on the time axis are percents of it, those
on the other axis pixels.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
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
NEAR: Final = 2.0
DECADES: Final = 2.0
LOG_ROOM: Final = 1.2
"""A logarithmic scale goes on so many times beyond its least and its largest value."""
FEW_TIMES: Final = 6.0
FINE_DECADES: Final = 2.5
LEAST: Final = 1e-9
"""Less is 0."""
SMALLEST: Final = 1e-300
"""No step is smaller: floats end near it."""
FEWEST: Final = 4
"""Of fewer values none is an outlier."""
STEPS_S: Final = (1, 5, 15, 60, 300, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800)

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


class ScaleKind(StrEnum):
    """Which scale a chart is asked to have."""

    AUTO = "auto"
    LOG = "log"
    LINEAR = "linear"


@dataclass(frozen=True, slots=True)
class Limit:
    """A value that a figure should not pass. name: what sets it, as it stands before the value: "objective"."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class LimitLine:
    """A limit as it is drawn. at: pixels from the top, None where it is beyond the scale."""

    name: str
    value: float
    at: float | None


@dataclass(frozen=True, slots=True)
class Band:
    """How sure a series is: between which values it lies at each of its moments."""

    low: Column
    high: Column


@dataclass(frozen=True, slots=True)
class Scale:
    """From which value to which a chart goes, over so many pixels."""

    low: float
    high: float
    is_log: bool = False
    height: int = HEIGHT

    def at(self, value: float) -> float:
        """Return how many pixels below the top a value is; what lies beyond the scale is at its edge."""
        kept = min(max(value, self.low), self.high)
        if self.is_log:
            return self.height * (1 - math.log(kept / self.low) / math.log(self.high / self.low))
        return self.height * (1 - (kept - self.low) / (self.high - self.low))

    def ticks(self) -> list[Tick]:
        """Return round numbers with their places."""
        every = log_ticks(self.low, self.high) if self.is_log else value_ticks(self.low, self.high)
        return [Tick(round(self.at(one), 1), label) for one, label in every]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart as it is drawn. lines and dots: one SVG path for each series, "" without any.

    area: the ground below the first series, "" where the scale has no 0. band: how sure the first series is. can_log: whether a
    logarithmic scale would show all values.
    """

    values: Sequence[Tick]
    times: Sequence[Tick]
    lines: Sequence[str]
    dots: Sequence[str]
    arrows: Sequence[Arrow]
    area: str = ""
    band: str = ""
    limits: Sequence[LimitLine] = ()
    is_log: bool = False
    can_log: bool = False


def drawn(  # noqa: PLR0913  # a chart is what these say
    times: Sequence[int],
    columns: Sequence[Column],
    axis: tuple[int, int],
    *,
    limits: Sequence[Limit] = (),
    band: Band | None = None,
    kind: ScaleKind = ScaleKind.AUTO,
    height: int = HEIGHT,
    step_s: int = 0,
) -> Drawing:
    """Return the drawing of series over the same times, in seconds since 1970, ascending; None is a missing value.

    axis: where the axis of time begins and ends. step_s: how long a step is of what is sampled in each; 0: it is not.
    """
    measured = [*columns, *((band.low, band.high) if band else ())]
    used = scale_of(measured, limits, kind, height)
    first, last = axis
    places = [time_place(one, first, last) for one in times]
    reach = step_s / max(1, last - first) * (1 + 1e-9) if step_s else None
    paths = [_paths(places, column, used, reach) for column in columns]
    return Drawing(
        values=used.ticks(),
        times=[Tick(round(100 * time_place(at, first, last), 2), label) for at, label in time_ticks(first, last)],
        lines=[line for line, _dots in paths],
        dots=[dots for _line, dots in paths],
        arrows=[one for n, column in enumerate(columns) for one in _arrows(n, places, column, used.high)],
        area=_area(places, columns[0], used, reach) if columns and not used.is_log and used.low == 0 else "",
        band=_band(places, band, used) if band else "",
        limits=[_limit_line(one, used) for one in limits],
        is_log=used.is_log,
        can_log=_is_positive(measured),
    )


def scale_of(
    columns: Sequence[Column], limits: Sequence[Limit] = (), kind: ScaleKind = ScaleKind.AUTO, height: int = HEIGHT
) -> Scale:
    """Return the scale of these series: the kind that is asked for where their values allow it."""
    is_wide = kind is ScaleKind.LOG or (kind is ScaleKind.AUTO and decades(columns) > DECADES)
    if is_wide and _is_positive(columns):
        return Scale(*log_scale(columns, limits), is_log=True, height=height)
    return Scale(*scale(columns, limits), height=height)


def scale(columns: Sequence[Column], limits: Sequence[Limit] = ()) -> tuple[float, float]:
    """Return where the linear scale of these series begins and ends."""
    known = _known(columns)
    low, high = min([0.0, *known]), max((_usual_end(column) for column in columns), default=0.0)
    near = [one.value for one in limits if one.value > 0 and (one.value <= NEAR * high or not any(known))]
    high = max([high, *near])
    if high > 0:
        return low, high * HEADROOM
    return (low, 0.0) if low <= -LEAST else (0.0, 1.0)


def log_scale(columns: Sequence[Column], limits: Sequence[Limit] = ()) -> tuple[float, float]:
    """Return where the logarithmic scale of series begins and ends, all of whose values are above 0."""
    known = _known(columns)
    low, high = min(known), max(known)
    near = [one.value for one in limits if low / NEAR <= one.value <= high * NEAR]
    return min([low, *near]) / LOG_ROOM, max([high, *near]) * LOG_ROOM


def decades(columns: Sequence[Column]) -> float:
    """Return how many powers of ten lie between the values that nine tenths keep within on either side; 0 where one is not above 0."""
    if not _is_positive(columns):
        return 0.0
    ends = [_usual_ends(known) for column in columns if (known := sorted(_known([column])))]
    return math.log10(max(high for _low, high in ends) / min(low for low, _high in ends))


def _usual_ends(known: Sequence[float]) -> tuple[float, float]:
    """Return what nine tenths of sorted values keep within on either side."""
    count = len(known)
    if count < FEWEST:
        return known[0], known[-1]
    place = min(math.ceil(count * USUAL_SHARE), count - 1) - 1
    return known[count - 1 - place], known[place]


def _known(columns: Sequence[Column]) -> list[float]:
    return [value for column in columns for value in column if value is not None]


def _is_positive(columns: Sequence[Column]) -> bool:
    known = _known(columns)
    return bool(known) and min(known) >= LEAST


def _limit_line(limit: Limit, used: Scale) -> LimitLine:
    is_within = used.low <= limit.value <= used.high
    return LimitLine(limit.name, limit.value, round(used.at(limit.value), 1) if is_within else None)


def _usual_end(column: Column) -> float:
    known = sorted(_known([column]))
    if not known:
        return 0.0
    usual = _usual_ends(known)[1]
    return usual if 0 < usual * OUTLIER < known[-1] else known[-1]


def log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return round numbers between two values above 0: 1, 2 and 5 of each power of ten, or every so many powers where they are many."""
    if high < FEW_TIMES * low:
        return value_ticks(low, high)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if math.log10(high / low) <= FINE_DECADES else (1,)
    every = -(-(last - first) // MOST_VALUES)
    return [
        (factor * 10.0**power, number(factor * 10.0**power, max(0, -power)))
        for power in range(first, last + 1, every)
        for factor in factors
        if low <= factor * 10.0**power <= high
    ]


def value_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return round numbers between two values, at most MOST_VALUES and the first, each with its label."""
    rough = max((high - low) / MOST_VALUES, SMALLEST)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    digits = max(0, -math.floor(math.log10(step)))
    begin, end = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(n * step, number(n * step, digits)) for n in range(begin, end + 1)]


def time_ticks(first: int, last: int) -> list[tuple[int, str]]:
    """Return round moments (UTC) between two, each with its label: days where they are days apart, seconds where less than a minute."""
    step = next((one for one in STEPS_S if (last - first) / one <= MOST_TIMES), STEPS_S[-1])
    form = "%m-%d" if step >= 86_400 else "%H:%M" if step >= 60 or first == last else "%H:%M:%S"
    begin = -(-first // step) * step
    return [(at, f"{datetime.fromtimestamp(at, UTC):{form}}") for at in range(begin, last + 1, step)]


def time_place(at: int, first: int, last: int) -> float:
    """Return a moment as a share of the time axis; a single one stands in the middle."""
    return 0.5 if last <= first else (at - first) / (last - first)


def newest_of(times: Sequence[int], column: Column) -> float | int | None:
    """Return the newest value of a series; None where its line ended before the newest of the times."""
    known = [(at, value) for at, value in zip(times, column, strict=True) if value is not None]
    if not known:
        return None
    at, value = known[-1]
    return value if times[-1] - at <= _reach(times, column) else None


def _reach(places: Sequence[float], column: Column) -> float:
    """Return over how much of the axis the line of a column goes on."""
    known = [at for at, value in zip(places, column, strict=True) if value is not None]
    gaps = [b - a for a, b in pairwise(known)]
    return GAP * statistics.median(gaps) * (1 + 1e-9) if gaps else 0.0


def _paths(places: Sequence[float], column: Column, used: Scale, reach: float | None) -> tuple[str, str]:
    lines, dots = [], []
    for run in _within(places, column, _reach(places, column) if reach is None else reach):
        points = [_point(at, value, used) for at, value in run]
        if len(points) > 1:
            lines.append(f"M{'L'.join(points)}")
        else:
            dots.append(f"M{points[0]}h0")
    return "".join(lines), "".join(dots)


def _point(at: float, value: float, used: Scale) -> str:
    return f"{WIDTH * at:.0f} {used.at(value):.1f}"


def _area(places: Sequence[float], column: Column, used: Scale, reach: float | None) -> str:
    """Return the ground between a line and 0, a piece for each of its pieces."""
    found = []
    for run in _within(places, column, _reach(places, column) if reach is None else reach):
        if len(run) > 1:
            points = "L".join(_point(at, value, used) for at, value in run)
            begin, end = (WIDTH * run[place][0] for place in (0, -1))
            found.append(f"M{points}L{end:.0f} {used.height}L{begin:.0f} {used.height}Z")
    return "".join(found)


def _band(places: Sequence[float], band: Band, used: Scale) -> str:
    """Return the ground between two lines, a piece for each run of moments at which both are known."""
    both = [
        None if low is None or high is None else (min(low, high), max(low, high))
        for low, high in zip(band.low, band.high, strict=True)
    ]
    reach = _reach(places, [None if one is None else one[0] for one in both])
    ends = dict(zip(places, both, strict=True))
    found = []
    for run in _within(places, [None if one is None else one[1] for one in both], reach):
        if len(run) > 1:
            upper = [_point(at, high, used) for at, high in run]
            lower = [_point(at, one[0], used) for at, _high in reversed(run) if (one := ends[at]) is not None]
            found.append(f"M{'L'.join([*upper, *lower])}Z")
    return "".join(found)


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
