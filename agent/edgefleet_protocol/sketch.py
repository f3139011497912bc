"""Latency sketch: counts in logarithmic buckets 2 % wide, mergeable by addition, the same code on device and server.

Bucket i holds values in (BASE·GAMMA^(i-1), BASE·GAMMA^i]; a quantile read from it is off by at most 1 % of its value
(Masson and others, "DDSketch", 2019). Values are seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

GAMMA = 1.02
BASE_S = 1e-6
MAX_BUCKET = 1_400
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets of histograms for other systems."""
_LOG_GAMMA = math.log(GAMMA)


def bucket_of(value_s: float) -> int:
    """Return the bucket of a latency in seconds, 0 … MAX_BUCKET. Not finite or negative counts as the last bucket."""
    if not math.isfinite(value_s) or value_s < 0:
        return MAX_BUCKET
    if value_s <= BASE_S:
        return 0
    return min(MAX_BUCKET, math.ceil(math.log(value_s / BASE_S) / _LOG_GAMMA - 1e-9))


def bucket_value_s(bucket: int) -> float:
    """Return the value in seconds that stands for a bucket: its geometric middle."""
    return float(BASE_S if bucket <= 0 else BASE_S * GAMMA ** (bucket - 0.5))


@dataclass(slots=True)
class LatencySketch:
    """A histogram of latencies. `counts` maps bucket to count."""

    counts: dict[int, int] = field(default_factory=dict)

    def add(self, value_s: float) -> None:
        """Count one latency in seconds."""
        bucket = bucket_of(value_s)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def merge(self, other: LatencySketch) -> None:
        """Add all counts of another sketch."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    @property
    def n(self) -> int:
        """Return how many values were counted."""
        return sum(self.counts.values())

    def quantile_s(self, q: float) -> float | None:
        """Return the q-quantile (0 … 1) in seconds, within 1 % of the true one; None when empty."""
        total = self.n
        if total == 0:
            return None
        rank = max(1, math.ceil(q * total))
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return bucket_value_s(bucket)
        raise AssertionError("rank beyond the total")

    def up_to(self, bounds_s: Sequence[float] = BOUNDS_S) -> list[int]:
        """Return how many values there are up to each bound, and in all: each counts as the middle of its bucket, at most 1 % away."""
        counts = [0] * (len(bounds_s) + 1)
        for bucket, count in self.counts.items():
            counts[bisect_left(bounds_s, bucket_value_s(bucket))] += count
        return list(accumulate(counts))

    def packed(self) -> list[int]:
        """Return the wire form: [offset, count, count, …] over consecutive buckets, -k for k empty ones; [] when empty."""
        if not self.counts:
            return []
        buckets = sorted(self.counts)
        wire = [buckets[0]]
        for before, bucket in zip([buckets[0] - 1, *buckets], buckets, strict=False):
            empty = bucket - before - 1
            wire += [0] if empty == 1 else [-empty] if empty else []
            wire.append(self.counts[bucket])
        return wire

    @classmethod
    def unpacked(cls, packed: Iterable[int]) -> LatencySketch:
        """Return the sketch of a wire form. Raises ValueError on buckets out of range."""
        values = list(packed)
        if not values:
            return cls()
        found: dict[int, int] = {}
        bucket = values[0]
        for count in values[1:]:
            if count > 0:
                found[bucket] = count
            bucket += max(1, -count)
            if not 0 < bucket <= MAX_BUCKET + 1:
                raise ValueError("latency sketch out of range")
        if not 0 <= values[0] <= MAX_BUCKET:
            raise ValueError("latency sketch out of range")
        return cls(found)

    @classmethod
    def merged(cls, sketches: Iterable[LatencySketch]) -> LatencySketch:
        """Return the sum of sketches."""
        total = cls()
        for sketch in sketches:
            total.merge(sketch)
        return total
