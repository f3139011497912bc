"""A histogram before and after, as coordinates of a drawing: new as bars, old as an outline. Pure.

Across, the drawing is 1000 wide and stretches with the page; down, it is HEIGHT high. Strokes do not scale, texts are given in percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 1000.0
HEIGHT: Final = 100.0
GAP: Final = 6.0
MOST_TICKS: Final = 7
LARGE: Final = 0.25
"""An effect (PSI) that is a lot."""


@dataclass(frozen=True, slots=True)
class HistogramBar:
    """A bin's share now."""

    x: float
    y: float
    width: float
    height: float
    name: str
    share: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A word under the drawing; at: percent of its width."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """The drawing. outline: the path of the shares before; most: the largest share, which is as high as the drawing."""

    bars: Sequence[HistogramBar]
    outline: str
    ticks: Sequence[Tick]
    most: float


def histogram(names: Sequence[str], before: Sequence[float], after: Sequence[float]) -> Histogram:
    """Return the drawing of two histograms with the same bins; the last bin, of missing values, is left out while it is empty."""
    has_missing = bool(names) and names[-1] == "missing" and max((*before[-1:], *after[-1:]), default=0.0) > 0
    n = len(names) if has_missing or not names or names[-1] != "missing" else len(names) - 1
    most = max((*before[:n], *after[:n]), default=0.0) or 1.0
    step = WIDTH / max(1, n)
    bars = [
        HistogramBar(
            x=_rounded(index * step + GAP / 2),
            y=_rounded(HEIGHT * (1 - share / most)),
            width=_rounded(step - GAP),
            height=_rounded(HEIGHT * share / most),
            name=names[index],
            share=share,
        )
        for index, share in enumerate(after[:n])
    ]
    return Histogram(bars, _outline(before[:n], step, most), _ticks(names[:n], n), most)


def trend(values: Sequence[float | None]) -> str:
    """Return the path of effects over time, 72 wide and 18 high; it breaks where nothing is known. "" for fewer than two.

    The top is LARGE or the largest, so that noise stays at the bottom.
    """
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    top, step, path, is_down = max(LARGE, *known), 72 / (len(values) - 1), "", False
    for index, value in enumerate(values):
        if value is not None:
            path += f"{'L' if is_down else 'M'}{_rounded(index * step):g} {round(17 - 16 * value / top, 1):g}"
        is_down = value is not None
    return path


def _outline(shares: Sequence[float], step: float, most: float) -> str:
    if not shares:
        return ""
    parts = [f"M0 {HEIGHT:.0f}"]
    for index, share in enumerate(shares):
        y = _rounded(HEIGHT * (1 - share / most))
        parts.append(f"L{_rounded(index * step):g} {y:g}L{_rounded((index + 1) * step):g} {y:g}")
    parts.append(f"L{WIDTH:.0f} {HEIGHT:.0f}")
    return "".join(parts)


def _ticks(names: Sequence[str], n: int) -> list[Tick]:
    """Return what stands under the bins: where they are spans of numbers the edges between them, else each bin's name."""
    inner = [(index, name.partition(" … ")[0]) for index, name in enumerate(names) if " … " in name]
    if inner:
        last = [(index, name.removeprefix("≥ ")) for index, name in enumerate(names) if name.startswith("≥ ")]
        found = [Tick(_rounded(100 * index / n), label) for index, label in (*inner, *last)]
    else:
        found = [Tick(_rounded(100 * (index + 0.5) / n), name) for index, name in enumerate(names)]
    every = -(-len(found) // MOST_TICKS)
    return found[::every] if every > 1 else found


def _rounded(value: float) -> float:
    return round(value, 2)
