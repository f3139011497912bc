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


# ---- evidence on a line of factors, in words


GAUGE_LOW: Final = 0.1
GAUGE_ROOM: Final = 2.5
"""The line ends at so many times what is enough, so that what has passed it can be seen."""


@dataclass(frozen=True, slots=True)
class EvidenceGauge:
    """Evidence on a line from 0.1 to beyond what is enough. at: where it stands; enough: where it is enough; ticks: (place, label)."""

    value: float
    limit: float
    at: float
    enough: float
    ticks: tuple[tuple[float, str], ...]
    is_reached: bool

    @property
    def words(self) -> str:
        """For example `0.6 of 100 to stop`."""
        value = (
            "less than 0.1"
            if 0 < self.value < GAUGE_LOW
            else f"{self.value:.0f}"
            if self.value >= 10
            else f"{self.value:.1f}"
        )
        value = "more than 1000" if self.value > 1000 else value
        return f"{value} of {self.limit:.0f}{', reached' if self.is_reached else ' to stop'}"


def evidence_gauge(value: float, limit: float) -> EvidenceGauge:
    """Return where evidence stands on its line, by factors."""
    low, high = math.log10(GAUGE_LOW), math.log10(max(limit, 1.0) * GAUGE_ROOM)

    def place(one: float) -> float:
        log = low if one <= 0 or math.isnan(one) else math.log10(min(one, limit * GAUGE_ROOM))
        return round(100 * min(1.0, max(0.0, (log - low) / (high - low))), 2)

    powers = [10.0**n for n in range(6) if 10.0**n < limit * 0.5]
    return EvidenceGauge(
        value=value,
        limit=limit,
        at=place(value),
        enough=place(limit),
        ticks=tuple((place(one), f"{one:.0f}") for one in powers),
        is_reached=value >= limit,
    )
