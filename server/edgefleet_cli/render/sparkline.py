"""Small pictures of characters: a line of bars for values over time, a bar for shares. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_STEPS = "▁▂▃▄▅▆▇█"
_GAP = " "
BAR_WIDTH = 10


def spark(values: Sequence[float | None]) -> str:
    """Return one character a value, the lowest as the lowest bar; a gap where there is no value.

    Values that are all alike are drawn in the middle; zero is always the lowest bar.
    """
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    return "".join(_GAP if value is None else _STEPS[_step(value, low, high)] for value in values)


def _step(value: float, low: float, high: float) -> int:
    if high <= low:
        return 0 if value == 0 else len(_STEPS) // 2
    return min(len(_STEPS) - 1, int((value - low) / (high - low) * len(_STEPS)))


def bar(parts: Sequence[tuple[str, int]], total: int, width: int = BAR_WIDTH) -> str:
    """Return a bar of `width` characters in which each part has its share of `total`; the rest is dots.

    A part that is not nothing has at least one character, and only what is whole fills the bar.
    """
    if total <= 0:
        return ""
    drawn = ""
    for mark, count in parts:
        share = min(width - len(drawn), max(1, count * width // total)) if count > 0 else 0
        drawn += mark * share
    return drawn + "·" * (width - len(drawn))


def thinned(values: Sequence[float | None], most: int) -> list[float | None]:
    """Return at most `most` values: the mean of neighbours, so that a short line stands for a long time."""
    if len(values) <= most:
        return list(values)
    means: list[float | None] = []
    for at in range(most):
        some = [v for v in values[at * len(values) // most : (at + 1) * len(values) // most] if v is not None]
        means.append(sum(some) / len(some) if some else None)
    return means
