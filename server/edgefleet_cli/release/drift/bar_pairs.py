"""Histograms before and after as characters, on one scale. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_STEPS = " ▁▂▃▄▅▆▇█"
BAR = 16


def pair(before: Sequence[float], after: Sequence[float]) -> tuple[str, str]:
    """Return two histograms, a character a bin; the highest bar of both is a whole block, and only what is nothing is a gap."""
    highest = max((*before, *after), default=0.0)
    return _line(before, highest), _line(after, highest)


def bar(share: float, highest: float) -> str:
    """Return a share as a bar of at most BAR characters."""
    if highest <= 0 or share <= 0:
        return ""
    return "█" * max(1, round(share / highest * BAR))


def _line(shares: Sequence[float], highest: float) -> str:
    if highest <= 0:
        return ""
    top = len(_STEPS) - 1
    return "".join(_STEPS[0 if share <= 0 else max(1, min(top, round(share / highest * top)))] for share in shares)
