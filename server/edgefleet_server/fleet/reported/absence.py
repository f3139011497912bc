"""How long a device is usually away, learned from its own absences. Pure.

Each absence of a minute or more is counted in one of 16 bins, each twice as long as the one before (1 to 2 minutes, 2 to 4, …, 23 days
and more). At 64 absences all counts are halved, so that what a device did long ago fades. A habit is the upper edge of the bin in which
19 of 20 absences end. Two absences are needed for one.
Source: docs/operate/alerts.md.
"""

from collections.abc import Sequence
from typing import Final

FIRST_S: Final = 60.0
BINS: Final = 16
HALVED_AT: Final = 64
NEEDED: Final = 2
SHARE: Final = 0.95


def with_absence(bins: Sequence[int], length_s: float) -> list[int]:
    """Return the counts with one absence more; a short one changes nothing."""
    counts = [*bins[:BINS], *([0] * (BINS - len(bins)))]
    if length_s < FIRST_S:
        return counts
    index = 0
    while index < BINS - 1 and length_s >= FIRST_S * 2 ** (index + 1):
        index += 1
    if sum(counts) >= HALVED_AT:
        counts = [one // 2 for one in counts]
    counts[index] += 1
    return counts


def habit_s(bins: Sequence[int]) -> float | None:
    """Return within what time 19 of 20 absences ended, None while there were too few."""
    total = sum(bins)
    if total < NEEDED:
        return None
    seen = 0
    for index, count in enumerate(bins):
        seen += count
        if seen >= SHARE * total:
            return FIRST_S * float(2 ** (index + 1))
    return None
