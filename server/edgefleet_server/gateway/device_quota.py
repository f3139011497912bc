"""What one device may send, have stored and be sent. Pure: budgets that refill evenly, and counts of a day.

A budget is kept as what was spent and not yet earned back, so a device that was quiet for long owes nothing and need not be remembered,
and a budget that grows counts at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import IntEnum, StrEnum
from typing import Final

BURST_S: Final = 120.0
"""A device may send what `Limits` allow in so many seconds at once."""
OFFERED_TIMES: Final = 4
"""How often an hour a device may pull all that it was offered in that hour."""
HOUR_S: Final = 3600.0


class Reason(StrEnum):
    """Why something of a device was dropped. Public, in events and figures: never renamed."""

    RATE = "rate"
    """It sent more messages or bytes than a device may."""
    QUEUE = "queue"
    """Too much of it was waiting to be stored."""
    DAY = "day"
    """It had its share of what is stored of a device in a day."""
    IMPOSSIBLE = "impossible"
    """A telemetry window counts what no device can have done."""
    DOWNLINK = "downlink"
    """It asked for more blocks or metadata than a device may."""


class Stored(IntEnum):
    """What is stored of a device without end, and therefore counted by day: a place in `Counts`."""

    EVENTS = 0
    WINDOWS = 1
    CAPTURES = 2


Counts = tuple[int, int, int]
"""Of events, windows and captured records."""


@dataclass(frozen=True, slots=True)
class Budget:
    """burst: what may be spent at once; per_s: how much of that is earned back in a second."""

    burst: float
    per_s: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What of a budget was spent and not earned back, at a moment in monotonic seconds."""

    amount: float = 0.0
    at_s: float = 0.0


NOTHING: Final = Spent()
UPLINK: Final = Budget(burst=BURST_S, per_s=1.0)
"""Of what a device sends, in seconds (`Limits.cost_s`): it earns one each second, and holds those of two minutes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one device may do. daily: how many of each kind are stored in a UTC day; hourly_downlink: bytes on top of its offers."""

    messages_per_s: float
    bytes_per_s: float
    daily: Counts
    daily_bytes: int
    hourly_downlink: int

    def cost_s(self, size: int) -> float:
        """Return what a message of so many bytes costs of UPLINK: the time in which a device earns one message, or so many bytes."""
        return max(1 / self.messages_per_s, size / self.bytes_per_s)

    def downlink(self, offered_bytes: int, *, is_block: bool) -> Budget:
        """Return the budget of bytes sent to a device that was offered so many. Blocks leave half of the rest to metadata."""
        own = self.hourly_downlink / 2 if is_block else self.hourly_downlink
        burst = own + OFFERED_TIMES * offered_bytes
        return Budget(burst, burst / HOUR_S)


@dataclass(frozen=True, slots=True)
class Served:
    """What a device was sent. offers: each blob that it was offered while it owed something, its length, and when it was last offered.

    A server that offers one version after another pays for each of them itself: a device cannot make itself an offer.
    """

    spent: Spent = NOTHING
    offers: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def offered_bytes(self) -> int:
        """Return the length of all of them."""
        return sum(length for length, _ in self.offers.values())

    def offered(self, blobs: Mapping[str, int], spent: Spent, now_s: float) -> "Served":
        """Return this with blobs (their lengths) that are offered now, without those whose offer is older than an hour.

        spent: now, by the budget so far: what an old offer allowed is earned back with that offer.
        """
        lately = {name: one for name, one in self.offers.items() if now_s - one[1] < HOUR_S}
        return Served(spent, lately | {name: (length, now_s) for name, length in blobs.items()})


@dataclass(frozen=True, slots=True)
class Day:
    """What was stored of a device in a UTC day."""

    day: date
    counts: Counts = (0, 0, 0)
    bytes: int = 0


def owed(spent: Spent, budget: Budget, now_s: float) -> float:
    """Return what is not yet earned back. A clock that goes back earns nothing."""
    left = spent.amount if now_s <= spent.at_s else spent.amount - budget.per_s * (now_s - spent.at_s)
    return max(0.0, left)


def spend(spent: Spent, budget: Budget, cost: float, now_s: float) -> Spent | None:
    """Return what is spent after one more cost, or None when the budget does not allow it."""
    amount = owed(spent, budget, now_s) + cost
    return Spent(amount, now_s) if amount <= budget.burst else None


def stored(day: Day, limits: Limits, kind: Stored, n: int, size: int) -> Day | None:
    """Return the day with n more of a kind in `size` bytes, or None when the day's share does not allow them."""
    events, windows, captures = day.counts
    if day.counts[kind] + n > limits.daily[kind] or day.bytes + size > limits.daily_bytes:
        return None
    if kind is Stored.EVENTS:
        counts = events + n, windows, captures
    elif kind is Stored.WINDOWS:
        counts = events, windows + n, captures
    else:
        counts = events, windows, captures + n
    return Day(day.day, counts, day.bytes + size)
