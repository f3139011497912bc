"""Where figures lie on a line of 0 to 100, for pictures that are drawn by the server. Pure.

Evidence is a factor, so its line is logarithmic: 1 says nothing, the threshold is the end. The interval of a metric is drawn
next to what is allowed, in the metric's own unit.
"""

import math
from dataclasses import dataclass
from typing import Final

_ROOM: Final = 0.12
"""Share of the drawn range that is left empty at both ends."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Places on a line of 0 to 100: the ends of what a value lies between, the value, what is allowed, and no change (None: not on it)."""

    low: float
    high: float
    value: float
    threshold: float
    zero: float | None

    @property
    def width(self) -> float:
        """Length of the interval; never so short that it cannot be seen."""
        return round(max(0.6, self.high - self.low), 2)


def evidence_share(e: float, at: float) -> float:
    """Return how far evidence has come, in percent of the way from 1 (nothing) to `at` (enough), by factors. At most 100."""
    if not (e > 1 and at > 1):
        return 0.0
    return round(100 * min(1.0, math.log(e) / math.log(at)), 2)


def interval(
    low: float | None, high: float | None, value: float | None, threshold: float, *, with_zero: bool
) -> Interval | None:
    """Return where a metric lies relative to its threshold, None when there is nothing to be drawn. with_zero: no change is 0."""
    known = [one for one in (low, high, value) if one is not None and math.isfinite(one)]
    if not known or not math.isfinite(threshold):
        return None
    ends = [*known, threshold, *([0.0] if with_zero else [])]
    least, most = min(ends), max(ends)
    room = (most - least) * _ROOM or abs(most) * _ROOM or 1.0
    start, length = least - room, (most - least) + 2 * room

    def place(one: float) -> float:
        return round(100 * (one - start) / length, 2)

    middle = value if value is not None and math.isfinite(value) else known[0]
    return Interval(
        low=place(min(known)),
        high=place(max(known)),
        value=place(middle),
        threshold=place(threshold),
        zero=place(0.0) if with_zero else None,
    )
