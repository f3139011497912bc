"""How fast a budget burns, by pairs of windows: both too fast means that it goes on now and is not small. Pure.

- Pairs and factors are those of Google, "The Site Reliability Workbook", chapter 5 ("Multiwindow, Multi-Burn-Rate Alerts"): 14.4 over 1 h
  and 5 min, 6 over 6 h and 30 min wake a person; 3 over 1 d and 2 h, 1 over 3 d and 6 h can wait for the day.
- Devices report every so often, and a report counts where it began. A short window is at least two reports long, a long one at least as
  long as its short one (`adapted`): in 5 minutes nothing is heard of devices that report every 15.
- Few events: one failure of ten requests is a burn of 10 at a target of 99 %. A pair burns only if LEAST_BAD events or more failed in its
  long window, and if the chance to see so many with a bad share as large as allowed is at most CHANCE by Chernoff's bound.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from edgefleet_server.objectives.error_budget import Counts

MINUTE: Final = 60
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
LEAST_BAD: Final = 2
CHANCE: Final = 1e-3
CLEARS_AT: Final = 0.8
"""An alert ends at four fifths of the factor."""
REPORTS: Final = 2


@dataclass(frozen=True, slots=True)
class BurnPair:
    """Two windows and the burn from which on both are too fast. is_fast: a person should look at once."""

    long_s: int
    short_s: int
    factor: float
    is_fast: bool


PAIRS: Final = (
    BurnPair(HOUR, 5 * MINUTE, 14.4, is_fast=True),
    BurnPair(6 * HOUR, 30 * MINUTE, 6.0, is_fast=True),
    BurnPair(DAY, 2 * HOUR, 3.0, is_fast=False),
    BurnPair(3 * DAY, 6 * HOUR, 1.0, is_fast=False),
)


class BurnState(StrEnum):
    """What a pair says. Public, never renamed. FEW: too fast, by too few events to say so."""

    CALM = "calm"
    NEAR = "near"
    BURNING = "burning"
    FEW = "few"


def adapted(pair: BurnPair, report_s: float) -> BurnPair:
    """Return a pair whose windows are long enough for devices that report every `report_s` seconds."""
    short = max(pair.short_s, math.ceil(REPORTS * report_s / MINUTE) * MINUTE)
    return replace(pair, short_s=short, long_s=max(pair.long_s, short))


def burn_of(counts: Counts, allowed: float) -> float | None:
    """Return how many times too many events were bad; 1: the budget lasts just as long as its window. None without events."""
    return None if counts.total == 0 else counts.bad / (allowed * counts.total)


def is_chance(counts: Counts, allowed: float) -> bool:
    """Return whether so many bad events may be chance where `allowed` of them are bad: by Chernoff's bound, never too sure."""
    n, share = counts.total, counts.bad / max(counts.total, 1)
    if counts.bad < LEAST_BAD or share <= allowed:
        return True
    divergence = share * math.log(share / allowed)
    if share < 1:
        divergence += (1 - share) * math.log((1 - share) / (1 - allowed))
    return n * divergence < -math.log(CHANCE)


def judged(pair: BurnPair, long: Counts, short: Counts, allowed: float) -> BurnState:
    """Return what a pair says of the events of its windows."""
    burns = [burn for one in (long, short) if (burn := burn_of(one, allowed)) is not None]
    if len(burns) < 2 or min(burns) < CLEARS_AT * pair.factor:
        return BurnState.CALM
    if is_chance(long, allowed):
        return BurnState.FEW
    return BurnState.BURNING if min(burns) >= pair.factor else BurnState.NEAR
