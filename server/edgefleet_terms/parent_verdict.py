"""How a release does next to its parent, as a conversion's report has it, and how that is said (docs/how-to/retrain-a-model.md). Pure.

A report was written by a child process that read a stranger's model: what is of another kind than it should be is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Final

from edgefleet_terms.feature_importance import percent

_TOP1: Final = "top1"


@dataclass(frozen=True, slots=True)
class ParentComparison:
    """What was measured. why: why nothing was, "" where something was.

    value, parent: accuracy 0 … 1 (`top1`) or mean error (`mae`) of both on the same n of given samples. gain: by how much the release
    is better, in the metric's unit, negative = worse; low, high: at 95 %.
    """

    why: str = ""
    metric: str = ""
    value: float = 0.0
    parent: float = 0.0
    gain: float = 0.0
    low: float = 0.0
    high: float = 0.0
    n: int = 0
    given: int = 0

    @property
    def is_measured(self) -> bool:
        """Whether both were asked."""
        return self.n > 0

    @property
    def is_worse(self) -> bool:
        """Whether it is proven that the release is worse."""
        return self.is_measured and self.high < 0

    @property
    def is_better(self) -> bool:
        """Whether it is proven that the release is better."""
        return self.is_measured and self.low > 0


NOT_COMPARED: Final = ParentComparison(
    why="its parent is no single .onnx file or was deleted, or this was not measured yet when it was published"
)


def read_comparison(document: object) -> ParentComparison:
    """Return what a report's `comparison` says; `NOT_COMPARED` for an empty or broken one."""
    if not isinstance(document, Mapping) or not document:
        return NOT_COMPARED
    why, metric = document.get("why"), document.get("metric")
    figures = [_real(document.get(name)) for name in ("value", "parent", "gain", "low", "high")]
    counts = [_count(document.get(name)) for name in ("n", "given")]
    if isinstance(why, str) and why:
        return ParentComparison(why=why[:300])
    if metric not in {_TOP1, "mae"} or None in figures or counts[0] < 1:
        return NOT_COMPARED
    value, parent, gain, low, high = (one or 0.0 for one in figures)
    return ParentComparison("", str(metric), value, parent, gain, low, high, *counts)


def comparison_text(found: ParentComparison) -> str:
    """Return it in a line: `97.2 % right, its parent 75.1 %: 22.1 points better (18.0 to 26.1 at 95 %), on 500 samples`."""
    if not found.is_measured:
        return f"not compared: {found.why}"
    of = f" of {found.given}" if found.given > found.n else ""
    on = f"on {found.n}{of} labelled evaluation samples"
    verdict = "better" if found.gain >= 0 else "worse"
    low, high = (
        sorted((abs(found.low), abs(found.high))) if found.is_better or found.is_worse else (found.low, found.high)
    )
    if found.metric == _TOP1:
        both = f"{percent(found.value)} right, its parent {percent(found.parent)}"
        said, between = f"{abs(100 * found.gain):.1f} points {verdict}", f"{100 * low:.1f} to {100 * high:.1f} at 95 %"
    else:
        both = f"mean error {found.value:.4g}, its parent {found.parent:.4g}"
        said, between = f"{abs(found.gain):.3g} {verdict}", f"{low:.3g} to {high:.3g} at 95 %"
    if not (found.is_better or found.is_worse):
        return f"{both}: no difference is proven ({between}), {on}"
    return f"{both}: {said} ({between}), {on}"


def _real(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
