"""The error budget of an objective: exact counts of good and of all events, summed over a rolling window. Pure.

The budget of a window is the share of its events that may be bad. What is left of it is 1 - bad / (allowed · total): 1 with no bad event,
0 when just as many were bad as may be, below 0 when more were. Source: Google, "The Site Reliability Workbook", chapter 2.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from edgefleet_protocol.sketch import BASE_S, GAMMA, LatencySketch, bucket_of


@dataclass(frozen=True, slots=True)
class Counts:
    """Events: how many were good, of how many."""

    good: int = 0
    total: int = 0

    @property
    def bad(self) -> int:
        """Return how many were not good."""
        return self.total - self.good

    def __add__(self, other: "Counts") -> "Counts":
        """Return the sum of both."""
        return Counts(self.good + other.good, self.total + other.total)


@dataclass(frozen=True, slots=True)
class CountStep:
    """Events of one step of time. at: its beginning."""

    at: datetime
    counts: Counts


def summed(steps: Iterable[CountStep], since: datetime, until: datetime) -> Counts:
    """Return the events of the steps that began in a span of time."""
    good = total = 0
    for step in steps:
        if since <= step.at < until:
            good += step.counts.good
            total += step.counts.total
    return Counts(good, total)


def left_of(counts: Counts, allowed: float) -> float | None:
    """Return the part of the budget that is left, None without events."""
    return None if counts.total == 0 else 1.0 - counts.bad / (allowed * counts.total)


def largest_uses(by_value: Mapping[str, Counts], most: int) -> list[tuple[str, Counts, float]]:
    """Return the values with the most bad events, and which share of all bad ones each had; those without any are left out."""
    bad = sum(one.bad for one in by_value.values())
    found = sorted(((name, one) for name, one in by_value.items() if one.bad), key=lambda one: (-one[1].bad, one[0]))
    return [(name, one, one.bad / bad) for name, one in found[:most]]


def history(
    steps: Sequence[CountStep], allowed: float, window: timedelta, ends: Sequence[datetime]
) -> list[tuple[datetime, float | None, Counts]]:
    """Return at each of some moments, oldest first, what was left then, and the events since the moment before.

    steps: oldest first; each lies wholly before or after a moment.
    """
    found: list[tuple[datetime, float | None, Counts]] = []
    inside, head, tail = Counts(), 0, 0
    for end in ends:
        fresh = Counts()
        while head < len(steps) and steps[head].at < end:
            fresh += steps[head].counts
            head += 1
        inside += fresh
        while tail < head and steps[tail].at < end - window:
            gone = steps[tail].counts
            inside = Counts(inside.good - gone.good, inside.total - gone.total)
            tail += 1
        found.append((end, left_of(inside, allowed), fresh))
    return found


def edge_s(threshold_s: float) -> float:
    """Return the edge of a sketch's bucket that is nearest to a threshold: latencies are counted up to there, exactly.

    It is at most 1 % away, half of a bucket's width.
    """
    upper = bucket_of(threshold_s)
    edges = [BASE_S * GAMMA**bucket for bucket in (upper - 1, upper) if bucket >= 0]
    return float(min(edges, key=lambda edge: abs(edge / threshold_s - 1)))


def within(latency: LatencySketch, threshold_s: float) -> Counts:
    """Return how many latencies are at most a threshold, which is taken as `edge_s` of it."""
    last = bucket_of(edge_s(threshold_s))
    good = sum(count for bucket, count in latency.counts.items() if bucket <= last)
    return Counts(good, latency.n)
