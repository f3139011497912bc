"""Plots of a report: candidates by accuracy, size and time, and layers by what int8 does to them. Pure."""

import math
from collections.abc import Sequence
from typing import Final

import msgspec
from markupsafe import Markup

from edgefleet_converters.report import CandidateRow, LayerRow
from edgefleet_profiles.accuracy_plot import accuracy_plot, element

_MOST_LAYERS: Final = 30


def numbered(rows: Sequence[CandidateRow]) -> list[tuple[int, CandidateRow]]:
    """Return the candidates that were tried, with the numbers that table and plot call them by."""
    return list(enumerate((row for row in rows if row.verdict != "not_tried"), 1))


def candidates_plot(
    rows: Sequence[CandidateRow], source: CandidateRow | None, taken: str | None, max_drop: float | None, *,
    by_time: bool = False,
) -> Markup | None:  # fmt: skip
    """Return the plot of the candidates that were tried; None where there is nothing to draw. taken: id of the chosen one."""
    tried = [(index, msgspec.to_builtins(row)) for index, row in numbered(rows)]
    first = None if source is None else msgspec.to_builtins(source)
    return accuracy_plot(tried, first, taken, max_drop, by_time=by_time)


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
    return element(
        "svg", element("rect", x=0, y=0, width=max(0.4, min(100.0, share)), height=8), class_="bar kept" if kept else "bar",
        viewBox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true",
    )  # fmt: skip
