"""When latency rose: the stretch of time whose 95th percentile stands out most from what was before it. Pure.

Rules:
1. What is compared are logarithms, so that 10 to 20 ms is as much as 100 to 200 ms. The noise is the median difference of neighbours,
   which a rise hardly changes; it is at least what the buckets of a sketch make of it.
2. A rise lasts FEWEST steps or more, has as many before it, is LEAST_RATIO or more, and stands out by STANDS_OUT standard errors: all
   stretches are tried, so one of them always looks a little special.
3. A rise that fell again within the time is one too; it is over then.
"""

import math
import statistics
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from edgefleet_server.telemetry.latency.model import Moment, Rise

FEWEST: Final = 3
LEAST_RATIO: Final = 1.15
STANDS_OUT: Final = 6.0
BUCKET_NOISE: Final = 0.02
NORMAL: Final = 1.4826 / math.sqrt(2)
"""What makes a median of differences a standard deviation."""


def find_rise(moments: Sequence[Moment], step_s: int) -> Rise | None:
    """Return the rise that stands out most, None when there is none."""
    known = [(one.at, one.p95_ms) for one in moments if one.n > 0 and one.p95_ms is not None and one.p95_ms > 0]
    if len(known) < 2 * FEWEST:
        return None
    logs = [math.log(value) for _, value in known]
    found = _stretch(logs, noise_of(logs))
    if found is None:
        return None
    first, last = found
    before = math.exp(statistics.median(logs[:first]))
    after = math.exp(statistics.median(logs[first:last]))
    if after < before * LEAST_RATIO:
        return None
    return Rise(known[first][0], known[last - 1][0] + step_s, before, after, last < len(known))


def noise_of(logs: Sequence[float]) -> float:
    """Return the standard deviation of values around what they should be."""
    steps = [abs(b - a) for a, b in pairwise(logs)]
    return max(BUCKET_NOISE, NORMAL * statistics.median(steps)) if steps else BUCKET_NOISE


def _stretch(logs: Sequence[float], noise: float) -> tuple[int, int] | None:
    """Return the first step of the rise and the one after its last."""
    sums = [0.0, *accumulate(logs)]
    count = len(logs)
    least = math.log(LEAST_RATIO)
    best, found = STANDS_OUT * noise, None
    for first in range(FEWEST, count - FEWEST + 1):
        before = sums[first] / first
        for last in range(first + FEWEST, count + 1):
            length = last - first
            higher = (sums[last] - sums[first]) / length - before
            if higher < least:
                continue
            stands_out = higher * math.sqrt(first * length / last)
            if stands_out > best:
                best, found = stands_out, (first, last)
    return found
