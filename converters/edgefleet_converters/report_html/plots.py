"""Plots of a report: candidates by accuracy, size and time, and layers by what int8 does to them. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from markupsafe import Markup

from edgefleet_converters.importance.importance_report import FeatureRow
from edgefleet_converters.report import CandidateRow, LayerRow
from edgefleet_profiles.accuracy_plot import accuracy_plot, element

_MOST_LAYERS: Final = 30
_MOST_FEATURES: Final = 64


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


def importance_rows(importance: Mapping[str, Any]) -> list[tuple[FeatureRow, Markup]]:
    """Return the inputs that a report ranks, each with its bar; none where it is broken: a server's report came from a child."""
    try:
        features = msgspec.convert(importance.get("features", []), list[FeatureRow])
    except msgspec.ValidationError:
        return []
    finite = [one for one in features if math.isfinite(one.value)]
    most = max((one.value for one in finite), default=0.0)
    return [(one, bar(one.value, most, kept=one.low <= 0)) for one in finite[:_MOST_FEATURES]]


def bar(value: float, most: float, *, kept: bool = False) -> Markup:
    """Return a horizontal bar as long as `value` is of `most`."""
    share = 100.0 * value / most if most > 0 else 0.0
    return element(
        "svg", element("rect", x=0, y=0, width=max(0.4, min(100.0, share)), height=8), class_="bar kept" if kept else "bar",
        viewBox="0 0 100 8", preserveAspectRatio="none", aria_hidden="true",
    )  # fmt: skip
