"""The picture of what a search found: accuracy against bytes and against time, as inline SVG. Pure.

Presentation attributes and classes only, no script and no style: the page that shows it has the style sheet. Up is always better, so
the axis of an error (MAE) is turned. A line joins the candidates that none beats in the two figures shown; filled dots are those that
none beats in all three. A candidate that lost so much that the others would be squeezed into a line stands at the bottom with an arrow;
its figure is in the table.

Rows are candidates of a report as plain data. A report is written by a child process from a model of unknown origin, so what is not
of the kind it should be is left out, and every text is escaped.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from markupsafe import Markup, escape

from edgefleet_profiles.metric_words import SHARES, figure_text
from edgefleet_profiles.number_format import milliseconds, number, shown, size

WIDTH: Final = 420
HEIGHT: Final = 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 20, 42
_FRONT: Final = "on the front: none is better in loss, bytes and time; the line: in the two figures shown"
MOST_LETTERS: Final = 24
_MOST: Final = 1e15
"""Figures above it are no bytes, milliseconds or accuracies: they are not drawn."""


@dataclass(frozen=True)
class Mark:
    """One point of the plot. label: its number in the table, `source` for the source. across: bytes, or milliseconds."""

    label: str
    title: str
    across: float
    value: float
    kind: str
    front: bool = False
    taken: bool = False


def accuracy_plot(
    rows: Sequence[tuple[int, Mapping[str, Any]]], source: Mapping[str, Any] | None, taken: str | None,
    max_drop: float | None, *, by_time: bool = False, is_named: bool = False,
) -> Markup | None:  # fmt: skip
    """Return the plot of accuracy against size; None when fewer than two points can be drawn, or nothing but random input judged them.

    rows: candidates that were tried, with the numbers that the table calls them by; taken: id of the chosen one. by_time: against
    the p50 of the converting host, of those that were measured. is_named: points are labelled with the names of candidates.
    """
    metrics = [row["metric"] for _, row in rows if _is_judged(row.get("metric"))]
    if not metrics:
        return None
    baseline, name = float(metrics[0]["baseline"]), str(metrics[0].get("name", ""))
    marks = _marks(rows, source, taken, baseline, by_time=by_time, is_named=is_named)
    if len(marks) < 2:
        return None
    sign = -1.0 if any(map(_is_error, metrics)) else 1.0
    limit = None if max_drop is None else baseline - sign * max_drop
    sound = [mark for mark in marks if mark.kind != "cross"] or marks
    low, high = _range([sign * mark.value for mark in sound], None if limit is None else sign * limit)
    across = _Scale(0.0, 1.08 * max(mark.across for mark in marks) or 1.0, _LEFT, WIDTH - _RIGHT)
    up = _Scale(low, high, HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(across, up, sign, name, by_time=by_time)]
    if limit is not None and low <= sign * limit <= high:
        parts.append(
            _limit_line(up.at(sign * limit), f"refused {'below' if sign > 0 else 'above'} {_score(limit, name)}")
        )
    drawn = [
        (mark, across.at(mark.across), up.at(max(sign * mark.value, low)), sign * mark.value < low) for mark in marks
    ]
    parts.append(_front_line([(x, y) for mark, x, y, below in drawn if mark.kind == "dot" and not below]))
    parts.extend(_symbol(*entry) for entry in sorted(drawn, key=lambda one: (one[0].front, one[0].taken)))
    parts.extend(_labels([(mark, x, y - 8 if below else y) for mark, x, y, below in drawn]))
    return element(
        "svg", *parts, class_="front-plot", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
        aria_label=f"{name} against {'time' if by_time else 'size'} of {len(marks)} models",
    )  # fmt: skip


def keys() -> list[tuple[Markup, str]]:
    """Return the symbols of the plots, each with what it means."""
    symbols = (
        (element("circle", class_="dot front", cx=8, cy=7, r=4.5), _FRONT),
        (element("circle", class_="dot", cx=8, cy=7, r=4.5), "passed"),
        (_cross(8.0, 7.0), "rejected"),
        (element("rect", class_="square", x=4, y=3, width=8, height=8), "the source"),
        (element("circle", class_="ring", cx=8, cy=7, r=6), "taken"),
    )  # fmt: skip
    frame = {"class_": "front-key", "viewBox": "0 0 16 14", "aria_hidden": "true"}
    return [(element("svg", symbol, **frame), text) for symbol, text in symbols]


def drawable(value: object) -> float | None:
    """Return a number that can be drawn, None of anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= _MOST else None


def element(tag: str, *children: str, **attributes: str | float) -> Markup:
    """Return an SVG element. A trailing `_` of an attribute's name is dropped, other `_` become `-`; a str child is text."""
    names = (name.removesuffix("_").replace("_", "-") for name in attributes)
    written = [
        Markup(' {}="{}"').format(name, shown(_number(value)))
        for name, value in zip(names, attributes.values(), strict=True)
    ]
    return Markup("<{0}{1}>{2}</{0}>").format(tag, _join(*written), _join(*children))  # format escapes


@dataclass(frozen=True)
class _Scale:
    """A value's place on the picture, linear."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int, unit: int = 1000) -> list[float]:
        """Return round values between the ends. unit: what is round in multiples of it, 1000 or 1024."""
        raw = (self.high - self.low) / about
        large = float(unit) ** math.floor(math.log(max(self.high, 1.0), unit))
        power = large * 10.0 ** math.floor(math.log10(raw / large))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _marks(
    rows: Sequence[tuple[int, Mapping[str, Any]]], source: Mapping[str, Any] | None, taken: str | None, baseline: float, *,
    by_time: bool, is_named: bool,
) -> list[Mark]:  # fmt: skip
    marks = []
    place = _across(source, by_time=by_time) if source is not None else None
    if source is not None and place:
        marks.append(Mark("source", _title("source", source, baseline), place, baseline, "square"))
    for index, row in rows:
        place, metric = _across(row, by_time=by_time), row.get("metric")
        if place is None or not _is_judged(metric):
            continue
        kind, value = "dot" if row.get("verdict") == "passed" else "cross", float(metric["value"])
        title = _title(f"{row.get('id')}, {row.get('verdict')}", row, value)
        is_taken = taken is not None and row.get("id") == taken
        label = str(row.get("id") or index)[:MOST_LETTERS] if is_named else str(index)
        marks.append(Mark(label, title, place, value, kind, row.get("pareto") is True, is_taken))
    return marks


def _is_judged(metric: object) -> TypeGuard[Mapping[str, Any]]:
    """Tell whether there is a metric that was measured, with figures that can be drawn."""
    if not isinstance(metric, Mapping) or metric.get("is_measured") is False:
        return False
    return all(drawable(metric.get(name)) is not None for name in ("value", "baseline"))


def _p50_ms(row: Mapping[str, Any]) -> float | None:
    latency = row.get("latency_ms")
    return drawable(latency.get("p50")) if isinstance(latency, Mapping) else None


def _across(row: Mapping[str, Any], *, by_time: bool) -> float | None:
    place = _p50_ms(row) if by_time else drawable(row.get("bytes"))
    return place if place is not None and place >= 0 else None


def _front_line(points: Sequence[tuple[float, float]]) -> Markup:
    """Return the line through the points that none beats, as steps: what is allowed so much across gets so far up."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not best or y < best[-1][1]:
            best.append((x, y))
    if len(best) < 2:
        return Markup()
    path = f"M{best[0][0]:.2f} {best[0][1]:.2f}" + "".join(f"H{x:.2f}V{y:.2f}" for x, y in best[1:])
    return element("path", class_="front-line", d=path)


def _title(name: str, row: Mapping[str, Any], value: float) -> str:
    time, length = _p50_ms(row), drawable(row.get("bytes"))
    parts = ["" if length is None else size(length), number(value), "" if time is None else milliseconds(time)]
    return f"{name}: {', '.join(part for part in parts if part)}"


def _is_error(metric: Mapping[str, Any]) -> bool:
    """Tell whether a smaller value of the metric is better."""
    drop = drawable(metric.get("drop")) or 0.0
    return math.isclose(metric["value"] - metric["baseline"], drop, abs_tol=1e-9) and drop > 0


def _range(values: Sequence[float], limit: float | None) -> tuple[float, float]:
    """Return the ends of the vertical axis: all that passed, and the limit, with room below for what was rejected."""
    wanted = [*values, *([] if limit is None else [limit])]
    low, high = min(wanted), max(wanted)
    span = max(high - low, 1e-6 * max(1.0, abs(high)))
    return low - 0.6 * span, high + 0.25 * span


def _axes(across: _Scale, up: _Scale, sign: float, name: str, *, by_time: bool) -> Markup:
    """Return both axes. by_time: time runs across, else bytes do."""
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    ticks = up.ticks(5)
    digits = max(0, min(6, 1 - math.floor(math.log10(ticks[1] - ticks[0])))) if len(ticks) > 1 else 4
    parts = []
    for tick in ticks:
        y = up.at(tick)
        parts.append(element("line", class_="axis", x1=_LEFT, x2=right, y1=y, y2=y))
        parts.append(element("text", _score(sign * tick + 0.0, name, digits), x=_LEFT - 6, y=y + 4, text_anchor="end"))
    for tick in across.ticks(4, 1000 if by_time else 1024):
        x = across.at(tick)
        parts.append(element("line", class_="axis", x1=x, x2=x, y1=bottom, y2=bottom + 4))
        parts.append(
            element(
                "text",
                milliseconds(tick) if by_time else size(tick),
                x=x,
                y=bottom + 17,
                text_anchor="middle",
            )
        )
    parts.append(element("line", class_="axis", x1=_LEFT, x2=right, y1=bottom, y2=bottom))
    below = "one run on the converting host (p50)" if by_time else "bytes of the model"
    parts.append(element("text", below, x=right, y=HEIGHT - 8, text_anchor="end"))
    direction = "up is better" if sign > 0 else "an error: up is smaller, and better"
    parts.append(element("text", f"{name} ({direction})", x=4, y=11))
    return _join(*parts)


def _score(value: float, metric: str, digits: int | None = None) -> str:
    """Return a value of a metric, a share in percent. digits: after the point of the value, None for as many as it is worth."""
    if digits is None:
        return figure_text(metric, value)
    return f"{100 * value:.{max(0, digits - 3)}f} %" if metric in SHARES else f"{value:.{digits}f}"


def _limit_line(y: float, words: str) -> Markup:
    right = WIDTH - _RIGHT
    return _join(
        element("line", class_="limit", x1=_LEFT, x2=right, y1=y, y2=y),
        element("text", words, class_="limit-text", x=right, y=y + 13, text_anchor="end"),
    )


def _symbol(mark: Mark, x: float, y: float, is_below: bool) -> Markup:
    title = element("title", mark.title)
    if mark.kind == "square":
        drawing = element("rect", class_="square", x=x - 4, y=y - 4, width=8, height=8)
    elif is_below:
        drawing = element("path", class_="cross", d=f"M{x:.2f} {y - 12:.2f}v9m-4 -4l4 4l4 -4")
    elif mark.kind == "cross":
        drawing = _cross(x, y)
    else:
        drawing = element("circle", class_="dot front" if mark.front else "dot", cx=x, cy=y, r=4.5)
    ring = element("circle", class_="ring", cx=x, cy=y, r=8.0) if mark.taken else Markup()
    return element("g", title, ring, drawing)


def _cross(x: float, y: float) -> Markup:
    return element("path", class_="cross", d=f"M{x - 4:.2f} {y - 4:.2f}l8 8m0 -8l-8 8")


def _labels(points: Sequence[tuple[Mark, float, float]]) -> list[Markup]:
    """Return the labels, each at the first place next to its point where it covers no point and no other label.

    In a crowd some points have none: the chosen one, the source and the front come first.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for _, x, y in points]
    written = []
    for mark, x, y in sorted(points, key=lambda one: (not one[0].taken, one[0].kind != "square", not one[0].front)):
        label, width = mark.label, 7.0 * len(mark.label)
        around = [(11.0, 4.0), (-11.0 - width, 4.0), (-width / 2, -10.0), (-width / 2, 19.0), (8.0, -8.0), (8.0, 16.0),
                  (-8.0 - width, -8.0), (-8.0 - width, 16.0), (22.0, 4.0), (22.0, -10.0)]  # fmt: skip
        boxes = [(x + dx, y + dy - 10, x + dx + width, y + dy) for dx, dy in around]
        inside = [
            box
            for box in boxes
            if box[0] >= _LEFT and box[2] <= WIDTH - 2 and box[1] >= 0 and box[3] <= HEIGHT - _BOTTOM
        ]
        box = next((box for box in inside if not any(_overlap(box, other) for other in taken)), None)
        if box is None:
            continue
        taken.append((box[0] - 3, box[1], box[2] + 3, box[3]))
        is_left = box[2] < x  # written from its point on: the letters may be wider than they were taken for
        place = {"x": box[2], "text_anchor": "end"} if is_left else {"x": box[0]}
        written.append(element("text", label, class_="label", y=box[3], **place))
    return written


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _join(*children: str) -> Markup:
    return Markup("").join(child if isinstance(child, Markup) else escape(shown(child)) for child in children)


def _number(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
