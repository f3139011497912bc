"""Plots of a report as inline SVG, drawn by hand: presentation attributes and classes only, no script. Pure.

Accuracy against size, and against time: up is always better, so the axis of an error (MAE) is turned. A line joins the candidates
that none beats in the two figures shown; filled dots are those that none beats in all three. A candidate that lost so much that the others
would be squeezed into a line stands at the bottom with an arrow; its figure is in the table.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from edgefleet_converters.report import CandidateRow, LayerRow, MetricRow
from edgefleet_converters.report_html.number_format import milliseconds, number, shown, size

WIDTH: Final = 420
HEIGHT: Final = 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 20, 42
_MOST_LAYERS: Final = 30


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


def numbered(rows: Sequence[CandidateRow]) -> list[tuple[int, CandidateRow]]:
    """Return the candidates that were tried, with the numbers that table and plot call them by."""
    return list(enumerate((row for row in rows if row.verdict != "not_tried"), 1))


def accuracy_plot(
    rows: Sequence[CandidateRow], source: CandidateRow | None, taken: str | None, max_drop: float | None, *,
    by_time: bool = False,
) -> Markup | None:  # fmt: skip
    """Return the plot of accuracy against size; None when fewer than two points can be drawn. taken: id of the chosen one.

    by_time: against the p50 of this host, of those that were measured.
    """
    metrics = [row.metric for row in rows if row.metric is not None]
    if not metrics:
        return None
    marks = _marks(rows, source, taken, metrics[0], by_time=by_time)
    if len(marks) < 2:
        return None
    sign = -1.0 if _is_error(metrics[0]) else 1.0
    limit = None if max_drop is None else metrics[0].baseline - sign * max_drop
    low, high = _range(
        [sign * mark.value for mark in marks if mark.kind != "cross"], None if limit is None else sign * limit
    )
    across = _Scale(0.0, 1.08 * max(mark.across for mark in marks), _LEFT, WIDTH - _RIGHT)
    up = _Scale(low, high, HEIGHT - _BOTTOM, _TOP)
    parts = [_axes(across, up, sign, metrics[0].name, by_time=by_time)]
    if limit is not None and low <= sign * limit <= high:
        parts.append(_limit_line(up.at(sign * limit)))
    drawn = [
        (mark, across.at(mark.across), up.at(max(sign * mark.value, low)), sign * mark.value < low) for mark in marks
    ]
    parts.append(_front_line([(x, y) for mark, x, y, below in drawn if mark.kind == "dot" and not below]))
    parts.extend(_symbol(*entry) for entry in drawn)
    parts.extend(_labels([(mark.label, x, y) for mark, x, y, _ in drawn]))
    return _element(
        "svg", *parts, class_="plot", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
        aria_label=f"{metrics[0].name} against {'time' if by_time else 'size'} of {len(marks)} models",
    )  # fmt: skip


def layer_rows(layers: Sequence[LayerRow]) -> tuple[list[tuple[LayerRow, Markup]], int]:
    """Return the worst layers, each with the bar of its distance, and how many more there are."""
    finite = [layer for layer in layers if math.isfinite(layer.distance)]
    finite.sort(key=lambda layer: layer.distance, reverse=True)
    most = max((layer.distance for layer in finite), default=0.0)
    shown = finite[:_MOST_LAYERS]
    return [(layer, bar(layer.distance, most, kept=layer.kept)) for layer in shown], len(layers) - len(shown)


def bar(value: float, most: float, *, kept: bool = False) -> Markup:
    """Return a horizontal bar as long as `value` is of `most`."""
    share = 100.0 * value / most if most > 0 else 0.0
    return _element(
        "svg", _element("rect", x=0, y=0, width=max(0.4, min(100.0, share)), height=8), class_="bar kept" if kept else "bar",
        viewBox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true",
    )  # fmt: skip


@dataclass(frozen=True)
class _Scale:
    """A value's place on the picture, linear."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        raw = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _marks(
    rows: Sequence[CandidateRow], source: CandidateRow | None, taken: str | None, metric: MetricRow, *, by_time: bool
) -> list[Mark]:
    marks = []
    place = _across(source, by_time=by_time) if source is not None else None
    if source is not None and place and math.isfinite(metric.baseline):
        marks.append(Mark("source", _title("source", source, metric.baseline), place, metric.baseline, "square"))
    for index, row in numbered(rows):
        place = _across(row, by_time=by_time)
        if place is None or row.metric is None or not math.isfinite(row.metric.value):
            continue
        kind = "dot" if row.verdict == "passed" else "cross"
        title = _title(f"{row.id}, {row.verdict}", row, row.metric.value)
        marks.append(Mark(str(index), title, place, row.metric.value, kind, row.pareto, row.id == taken))
    return marks


def _across(row: CandidateRow, *, by_time: bool) -> float | None:
    place = (row.latency_ms or {}).get("p50") if by_time else row.bytes
    return float(place) if place is not None and math.isfinite(place) else None


def _front_line(points: Sequence[tuple[float, float]]) -> Markup:
    """Return the line through the points that none beats, as steps: what is allowed so much across gets so far up."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not best or y < best[-1][1]:
            best.append((x, y))
    if len(best) < 2:
        return Markup()
    path = f"M{best[0][0]:.2f} {best[0][1]:.2f}" + "".join(f"H{x:.2f}V{y:.2f}" for x, y in best[1:])
    return _element("path", class_="front-line", d=path)


def _title(name: str, row: CandidateRow, value: float) -> str:
    time = (row.latency_ms or {}).get("p50")
    return f"{name}: {size(row.bytes)}, {number(value)}" + (f", {milliseconds(time)}" if time is not None else "")


def _is_error(metric: MetricRow) -> bool:
    """Tell whether a smaller value of the metric is better."""
    return math.isclose(metric.value - metric.baseline, metric.drop, abs_tol=1e-9) and metric.drop > 0


def _range(values: Sequence[float], limit: float | None) -> tuple[float, float]:
    """Return the ends of the vertical axis: all that passed, and the limit, with room below for what was rejected."""
    wanted = [*values, *([] if limit is None else [limit])]
    low, high = min(wanted), max(wanted)
    span = max(high - low, 1e-6 * max(1.0, abs(high)))
    return low - 0.6 * span, high + 0.15 * span


def _axes(across: _Scale, up: _Scale, sign: float, name: str, *, by_time: bool) -> Markup:
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    ticks = up.ticks(5)
    digits = max(0, min(6, 1 - math.floor(math.log10(ticks[1] - ticks[0])))) if len(ticks) > 1 else 4
    parts = []
    for tick in ticks:
        y = up.at(tick)
        parts.append(_element("line", class_="axis", x1=_LEFT, x2=right, y1=y, y2=y))
        parts.append(_element("text", f"{sign * tick + 0.0:.{digits}f}", x=_LEFT - 6, y=y + 4, text_anchor="end"))
    for tick in across.ticks(4):
        x = across.at(tick)
        parts.append(_element("line", class_="axis", x1=x, x2=x, y1=bottom, y2=bottom + 4))
        parts.append(
            _element("text", milliseconds(tick) if by_time else size(tick), x=x, y=bottom + 17, text_anchor="middle")
        )
    parts.append(_element("line", class_="axis", x1=_LEFT, x2=right, y1=bottom, y2=bottom))
    below = "one run on the converting host (p50)" if by_time else "bytes of the model"
    parts.append(_element("text", below, x=right, y=HEIGHT - 8, text_anchor="end"))
    direction = "up is better" if sign > 0 else "an error: up is smaller, and better"
    parts.append(_element("text", f"{name} ({direction})", x=4, y=11))
    return _join(*parts)


def _limit_line(y: float) -> Markup:
    right = WIDTH - _RIGHT
    return _join(
        _element("line", class_="limit", x1=_LEFT, x2=right, y1=y, y2=y),
        _element("text", "allowed loss", class_="limit-text", x=right, y=y + 13, text_anchor="end"),
    )


def _symbol(mark: Mark, x: float, y: float, is_below: bool) -> Markup:
    title = _element("title", mark.title)
    if mark.kind == "square":
        drawing = _element("rect", class_="square", x=x - 4, y=y - 4, width=8, height=8)
    elif is_below:
        drawing = _element("path", class_="cross", d=f"M{x:.2f} {y - 12:.2f}v9m-4 -4l4 4l4 -4")
    elif mark.kind == "cross":
        drawing = _cross(x, y)
    else:
        drawing = _element("circle", class_="dot front" if mark.front else "dot", cx=x, cy=y, r=4.5)
    ring = _element("circle", class_="ring", cx=x, cy=y, r=8.0) if mark.taken else Markup()
    return _element("g", title, ring, drawing)


def _cross(x: float, y: float) -> Markup:
    return _element("path", class_="cross", d=f"M{x - 4:.2f} {y - 4:.2f}l8 8m0 -8l-8 8")


def _labels(points: Sequence[tuple[str, float, float]]) -> list[Markup]:
    """Return the labels, each at the first place next to its point where it covers no point and no other label."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for _, x, y in points]
    written = []
    for label, x, y in points:
        width = 7.0 * len(label)
        around = [(9.0, 4.0), (-9.0 - width, 4.0), (-width / 2, -10.0), (-width / 2, 19.0), (8.0, -8.0), (8.0, 16.0),
                  (-8.0 - width, -8.0), (-8.0 - width, 16.0), (22.0, 4.0), (22.0, -10.0)]  # fmt: skip
        boxes = [(x + dx, y + dy - 10, x + dx + width, y + dy) for dx, dy in around]
        inside = [
            box
            for box in boxes
            if box[0] >= _LEFT and box[2] <= WIDTH - 2 and box[1] >= 0 and box[3] <= HEIGHT - _BOTTOM
        ]
        box = next((box for box in inside if not any(_overlap(box, other) for other in taken)), boxes[0])
        taken.append(box)
        written.append(_element("text", label, class_="label", x=box[0], y=box[3]))
    return written


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _element(tag: str, *children: str, **attributes: str | float) -> Markup:
    """Return an SVG element. A trailing `_` of an attribute's name is dropped, other `_` become `-`; a str child is text."""
    names = (name.removesuffix("_").replace("_", "-") for name in attributes)
    written = [
        Markup(' {}="{}"').format(name, shown(_number(value)))
        for name, value in zip(names, attributes.values(), strict=True)
    ]
    return Markup("<{0}{1}>{2}</{0}>").format(tag, _join(*written), _join(*children))  # format escapes


def _join(*children: str) -> Markup:
    return Markup("").join(child if isinstance(child, Markup) else escape(shown(child)) for child in children)


def _number(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
