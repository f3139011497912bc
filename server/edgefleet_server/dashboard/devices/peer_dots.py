"""How the latency of a device compares with that of devices that run the same bundle: dots on a line. Pure.

The same bundle is the same version on the same hardware profile. The axis is logarithmic where one dot would flatten the others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from edgefleet_terms.device_figures import figure_text

FEWEST: Final = 2
"""Others: a median of one is another device, no comparison."""
WIDE: Final = 10.0
"""How many times the least the largest may be on an even axis."""
APART: Final = 1.5
"""How many times the median is worth a colour."""
EDGE: Final = 4.0
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
TICKS: Final = 4


@dataclass(frozen=True, slots=True)
class Dot:
    """One device. at: percent from the left."""

    at: float
    title: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A number on the axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class PeerDots:
    """A device among those with its bundle. is_apart: it is much slower than their median."""

    model: str
    own_ms: float
    median_ms: float
    others: int
    dots: Sequence[Dot]
    own: Dot
    ticks: Sequence[Tick]
    is_apart: bool

    @property
    def label(self) -> str:
        """All of it in words, for screen readers."""
        return f"{self.others} other devices, from {self.dots[0].title} to {self.dots[-1].title}; this one {self.own.title}"


def peer_dots(model: str, own_ms: float | None, others: Mapping[str, float]) -> PeerDots | None:
    """Return the comparison; None where too little was measured. others: p95 by device."""
    known = sorted(value for value in others.values() if value > 0)
    if own_ms is None or own_ms <= 0 or len(known) < FEWEST:
        return None
    least, most = min(known[0], own_ms), max(known[-1], own_ms)
    is_log = most / least > WIDE

    def place(value: float) -> float:
        if most == least:
            return 50.0
        low, high, at = (math.log(one) if is_log else one for one in (least, most, value))
        return round(EDGE + (100 - 2 * EDGE) * (at - low) / (high - low), 2)

    middle = median(known)
    return PeerDots(
        model=model,
        own_ms=own_ms,
        median_ms=middle,
        others=len(known),
        dots=[Dot(place(one), figure_text("p95_ms", one)) for one in known],
        own=Dot(place(own_ms), figure_text("p95_ms", own_ms)),
        ticks=[Tick(place(one), f"{one:g}") for one in _ticks(least, most, is_log=is_log)],
        is_apart=own_ms >= APART * middle,
    )


def _ticks(least: float, most: float, *, is_log: bool) -> list[float]:
    if is_log:
        powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
        return [10.0**one for one in powers if least <= 10.0**one <= most]
    width = most - least
    if width <= 0:
        return [least]
    size = 10 ** math.floor(math.log10(width / TICKS))
    step = next(size * one for one in _STEPS if width / (size * one) <= TICKS)
    first = math.ceil(least / step)
    return [round(n * step, 6) for n in range(first, math.floor(most / step) + 1)]
