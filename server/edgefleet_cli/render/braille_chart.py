"""Lines over time as rows of text: a title with the newest values, a scale with units, limits, marks of what happened, times. Pure.

- All charts have the same gutter on the left, so that plots below each other line up.
- Lines differ by colour and by dash: the first is solid, others are dashed or dotted. A limit is dotted over the whole width and named.
- One value far above all others does not flatten the rest: the scale ends below it, `↑` marks it, and the title says how high it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Final

from edgefleet_cli.render.braille_canvas import DASHED, DOTS_Y, DOTTED, SOLID, SPARSE, BrailleCanvas
from edgefleet_cli.render.width import cut_runs

GUTTER: Final = 11
LEAST_WIDTH: Final = GUTTER + 16
HEIGHT: Final = 6
LIMIT: Final = "limit"
FRAME: Final = "frame"
MARK: Final = "mark"
TITLE: Final = "title"
LINES: Final = ("line1", "line2", "line3", "line4", "line5")
_DASHES: Final = (SOLID, DASHED, DOTTED, SPARSE)
_KEYS: Final = ("━━", "╍╍", "┅┅", "┈┈")
"""What stands for the dash of a line in the title."""
_MANY: Final = 12
_FAR: Final = 4.0
"""A greatest value so many times above the 95th percentile of at least `_MANY` values is far above all others."""
_DAY_S: Final = 86_400.0
Run = tuple[str, str]
"""Text and what it is: "", one of `LINES`, LIMIT, FRAME, MARK, TITLE."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its name and a value for each step, None where nothing was measured."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Limit:
    """A value that lines are held against, such as an objective."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Sign:
    """Something that happened: where, as a share of the width, and the character that stands for it."""

    place: float
    sign: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart shows. show: how a value is written, with its unit; ticks: labels below it, by the share of its width."""

    title: str
    lines: Sequence[Line]
    show: Callable[[float], str]
    ticks: Sequence[tuple[float, str]] = ()
    limits: Sequence[Limit] = ()
    signs: Sequence[Sign] = ()


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    greatest: float

    @property
    def is_cut(self) -> bool:
        return self.greatest > self.high

    def share(self, value: float) -> float:
        """Return where a value is, 0 at the bottom, 1 at the top."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def line_key(place: int) -> str:
    """Return what stands for the dash of a line."""
    return _KEYS[place % len(_KEYS)]


def layer_of(place: int) -> str:
    """Return the layer, and so the colour, of a line."""
    return LINES[place % len(LINES)]


def chart_rows(chart: Chart, width: int, height: int = HEIGHT) -> list[list[Run]]:
    """Return a chart as rows of runs, none wider than `width`; no rows where nothing was measured."""
    known = [value for line in chart.lines for value in line.values if value is not None]
    if not known:
        return []
    width = max(width, LEAST_WIDTH)
    scale = _scale(known, chart.limits)
    canvas = _drawn(chart, scale, width - GUTTER, height)
    plot = ([(_label(chart, scale, number, height), FRAME), *canvas.row(number)] for number in range(height))
    return [*_heads(chart, scale, width), *_marks(chart, scale, width), *plot, *_times(chart, width)]


def small_rows(values: Sequence[float | None], columns: int, rows: int) -> list[str]:
    """Return one line without a scale, from 0 up: for a place of few characters. Blank where nothing was measured."""
    known = [value for value in values if value is not None]
    canvas = BrailleCanvas(columns, rows)
    if known:
        chart = Chart("", [Line("", values)], str)
        canvas = _drawn(chart, _scale([0.0, *known], ()), columns, rows)
    return ["".join(text for text, _ in canvas.row(number)) for number in range(rows)]


def time_ticks(begin: datetime, end: datetime, zone: tzinfo | None = None, count: int = 4) -> list[tuple[float, str]]:
    """Return the labels of an axis of time: shares of its width, with the hour, or the day where it is longer than two days."""
    length = end - begin
    form = "%H:%M" if length.total_seconds() <= 2 * _DAY_S else "%d %b"
    ticks = [(place / count, begin + length * place / count) for place in range(count + 1)]
    return [(share, at.astimezone(zone).strftime(form)) for share, at in ticks]


def _scale(known: Sequence[float], limits: Sequence[Limit]) -> _Scale:
    greatest, least = max(known), min(known)
    high = greatest
    usual = sorted(known)[math.ceil(0.95 * len(known)) - 1]
    if len(known) >= _MANY and usual > 0 and greatest > _FAR * usual:
        high = 1.5 * usual
    shown = [one.value for one in limits if one.value <= 2 * high]
    high = max([high, *shown])
    low = min(0.0, least) if least < 0.5 * high or least == high else least - 0.2 * (high - least)
    return _Scale(low, high if high > low else low + 1.0, greatest)


def _drawn(chart: Chart, scale: _Scale, columns: int, rows: int) -> BrailleCanvas:
    canvas = BrailleCanvas(columns, rows)
    bottom = canvas.height - 1

    def height(value: float) -> int:
        return bottom - round(scale.share(value) * bottom)

    for limit in chart.limits:
        if limit.value <= scale.high:
            canvas.line((0, height(limit.value)), (canvas.width - 1, height(limit.value)), LIMIT, SPARSE)
    for place in reversed(range(len(chart.lines))):  # the first line goes over all others
        values = chart.lines[place].values
        wide = (canvas.width - 1) / max(1, len(values) - 1)
        before: tuple[int, int] | None = None
        for step, value in enumerate(values):
            if value is None:
                before = None
                continue
            here = (round(step * wide), height(value))
            if before is None:
                canvas.dot(*here, layer_of(place))
            else:
                canvas.line(before, here, layer_of(place), _DASHES[place % len(_DASHES)])
            before = here
    return canvas


def _heads(chart: Chart, scale: _Scale, width: int) -> Iterator[list[Run]]:
    """Yield the title with the newest value of each line, in as many rows as it takes."""
    words: list[list[Run]] = [[(chart.title, TITLE)]]
    is_one = len(chart.lines) == 1 and not chart.lines[0].name
    for place, line in enumerate(chart.lines):
        last = next((value for value in reversed(line.values) if value is not None), None)
        said = "nothing measured" if last is None else chart.show(last)
        key = [] if is_one else [(f"{line_key(place)} ", layer_of(place)), (f"{line.name} ", "")]
        words.append([*key, (said, TITLE)])
    for limit in chart.limits:
        above = ", above the chart" if limit.value > scale.high else ""
        words.append([("┈┈ ", LIMIT), (f"{limit.name} {chart.show(limit.value)}{above}", LIMIT)])
    if scale.is_cut:
        words.append([(f"↑ up to {chart.show(scale.greatest)}", MARK)])
    row: list[Run] = []
    for word in words:
        length = sum(len(text) for text, _ in word)
        if row and sum(len(text) for text, _ in row) + 2 + length > width:
            yield row
            row = [("  ", "")]
        row += [*([("  ", "")] if row and row != [("  ", "")] else []), *word]
    yield cut_runs(row, width)


def _marks(chart: Chart, scale: _Scale, width: int) -> Iterator[list[Run]]:
    """Yield a row of what happened above the plot, and of values that are above the scale."""
    columns = width - GUTTER
    drawn = [" "] * columns
    for line in chart.lines if scale.is_cut else ():
        for step, value in enumerate(line.values):
            if value is not None and value > scale.high:
                drawn[round(step * (columns - 1) / max(1, len(line.values) - 1))] = "↑"
    for sign in chart.signs:
        if 0 <= sign.place <= 1:
            drawn[round(sign.place * (columns - 1))] = sign.sign
    if any(one != " " for one in drawn):
        yield [(" " * GUTTER, ""), ("".join(drawn).rstrip(), MARK)]


def _label(chart: Chart, scale: _Scale, number: int, height: int) -> str:
    """Return what stands left of a row of the plot: the value at its top, middle and bottom."""
    ends = {0: chart.show(scale.high), height - 1: chart.show(scale.low)}
    said = ends.get(number, "")
    if not said and number == (height - 1) // 2:
        share = 1.0 - (number * DOTS_Y + 1.5) / (height * DOTS_Y - 1)
        middle = chart.show(scale.low + share * (scale.high - scale.low))
        said = "" if middle in ends.values() else middle  # rounded to the same words
    return (f"{said[: GUTTER - 2]} ┤" if said else "│").rjust(GUTTER)


def _times(chart: Chart, width: int) -> Iterator[list[Run]]:
    if not chart.ticks:
        return
    columns = width - GUTTER
    drawn = [" "] * columns
    free = -1
    for share, said in chart.ticks:
        begin = min(max(0, round(share * (columns - 1)) - len(said) // 2), columns - len(said))
        if begin > free:
            drawn[begin : begin + len(said)] = said
            free = begin + len(said)
    yield [("└".rjust(GUTTER), FRAME), ("─" * columns, FRAME)]
    yield [(" " * GUTTER, ""), ("".join(drawn).rstrip(), FRAME)]
