"""Rules that need no statistics: failures that are enough at any size, or in a small stratum. Pure.

Every failure is the word of a device. So these rules say which failures are serious enough to act on; others are asked first
(`confirmation`).
Source: docs/explanation/rollouts.md; ADR 0012, 0087.
"""

from collections.abc import Mapping
from typing import Final

from edgefleet_server.rollout.analysis.model import SMALL_STRATUM, Counts
from edgefleet_server.rollout.model import GUARD_CLASSES, LOST, SMALL_CLASSES

MAX_LOST: Final = 2
FEW_EXPOSED: Final = 10

GUARD_CLASS: Final = "guard_class"
GUARD_LOST: Final = "guard_lost"
SMALL_CLASS: Final = "small_class"
SMALL_TWO: Final = "small_two"


def plain_rule(failures: Mapping[str, int], counts: Counts, population: int) -> tuple[str, dict[str, object]] | None:
    """Return the code of the first rule that these failures break, and the words of its message; None: they break none.

    failures: by class; counts, population: of the stratum.
    """
    for kind in GUARD_CLASSES:
        if failures.get(kind, 0) > 0:
            return GUARD_CLASS, {"which": kind.value}
    lost = failures.get(LOST, 0)
    if lost > MAX_LOST:
        return GUARD_LOST, {"lost": lost, "max_lost": MAX_LOST}
    if population >= SMALL_STRATUM:
        return None
    for kind in SMALL_CLASSES:
        if failures.get(kind, 0) > 0:
            return SMALL_CLASS, {"which": kind.value, "small": SMALL_STRATUM}
    if sum(failures.values()) >= 2 and counts.exposed < FEW_EXPOSED:
        return SMALL_TWO, {"few": FEW_EXPOSED, "small": SMALL_STRATUM}
    return None
