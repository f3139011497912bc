"""How the outcome of a metric is said in words: of each output its kind, its figure and what so many samples prove. Pure."""

from collections.abc import Mapping
from typing import Any, Final

COUNTED: Final = frozenset({"top1", "agreement", "sequence"})
"""Metrics that say how many of the samples are right, so that chance makes of them what it makes of counts."""

_ERRORS: Final = frozenset(("mae", "mae-share", "score-error", "constant", "scores"))
"""Metrics of which less is better."""
SHARES: Final = frozenset(
    (
        "top1",
        "agreement",
        "sequence",
        "detection",
        "equal",
        "edit",
        "iou",
        "objects",
        "similarity",
        "long-run",
        "mae-share",
    )
)
"""Metrics that are written in percent."""
_CALLED: Final[Mapping[str, str]] = {
    "mae-share": "mean error", "score-error": "mean error of scores", "edit": "read alike", "long-run": "over 100 runs",
}  # fmt: skip
_OF: Final[Mapping[str, str]] = {"mae-share": " of its range", "constant": " of its size"}


def judged_as(metric: Any) -> list[str]:
    """Return a line for each judged output: `scores: class scores, agreement 99.4 % (at least 98.6 % at 95 %, 400 samples)`.

    metric: of a bundle's report, as plain data; nothing is said of one that was not measured.
    """
    if not isinstance(metric, Mapping) or metric.get("is_measured") is False:
        return []
    return [_output_text(row, metric.get("n")) for row in metric.get("outputs") or [] if isinstance(row, Mapping)]


def bound_text(metric: Any) -> str:
    """Return `at least 98.6 % at 95 %, 400 samples`; "" where nothing can be said."""
    if not isinstance(metric, Mapping) or metric.get("is_measured") is False or metric.get("bound") is None:
        return ""
    name = str(metric.get("name", ""))
    limit = "at most" if name in _ERRORS else "at least"
    return f"{limit} {figure_text(name, metric['bound'])} at 95 %, {metric.get('n')} samples"


def figure_text(metric: str, value: Any) -> str:
    """Return a metric's value: a share with one decimal, else four digits."""
    if not isinstance(value, int | float):
        return "-"
    return f"{100 * value:.1f} %" if metric in SHARES else f"{value:.4g}"


def _output_text(row: Mapping[str, Any], n: Any) -> str:
    metric = str(row.get("metric", ""))
    kind = f"{row['kind']}, " if row.get("kind") else ""
    sure = bound_text({"name": metric, "bound": row.get("bound"), "n": n}) or f"{n} samples"
    shown = f"{_CALLED.get(metric, metric)} {figure_text(metric, row.get('value'))}{_OF.get(metric, '')}"
    return f"{row.get('output', '')}: {kind}{shown} ({sure})"
