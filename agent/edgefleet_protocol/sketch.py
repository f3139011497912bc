"""Latency sketch: counts in logarithmic buckets 2 % wide, mergeable by addition, the same code on device and server.

Bucket i holds values in (BASE·GAMMA^(i-1), BASE·GAMMA^i]; a quantile read from it is off by at most 1 % of its value
(Masson and others, "DDSketch", 2019). Values are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

GAMMA = 1.02
BASE_S = 1e-6
MAX_BUCKET = 1_400
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

    def packed(self) -> list[int]:
        """Return the wire form: [offset, count, count, …] over consecutive buckets; [] when empty."""
        if not self.counts:
            return []
        low, high = min(self.counts), max(self.counts)
        return [low, *(self.counts.get(i, 0) for i in range(low, high + 1))]

    @classmethod
    def unpacked(cls, packed: Iterable[int]) -> LatencySketch:
        """Return the sketch of a wire form. Raises ValueError on negative numbers or buckets out of range."""
        values = list(packed)
        if not values:
            return cls()
        low, counts = values[0], values[1:]
        if low < 0 or low + len(counts) - 1 > MAX_BUCKET or any(c < 0 for c in counts):
            raise ValueError("latency sketch out of range")
        return cls({low + i: count for i, count in enumerate(counts) if count})

    @classmethod
    def merged(cls, sketches: Iterable[LatencySketch]) -> LatencySketch:
        """Return the sum of sketches."""
        total = cls()
        for sketch in sketches:
            total.merge(sketch)
        return total
