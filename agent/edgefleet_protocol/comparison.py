"""Figures of a shadow: how a candidate answered the same inputs as what serves. Pure sums, the same code on device and server.

1. Everything adds up: two windows' figures merged say the same as one window over both.
2. Deltas are counted in half-octave buckets (factor √2) from 1e-6 on, so a quantile is within 19 % of the true one.
3. Overlaps are counted in tenths of the intersection over union, 0 … 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from edgefleet_protocol.sketch import LatencySketch

DELTA_BASE = 1e-6
MAX_DELTA_BUCKET = 80
"""Bucket of 1e6 and all above, and of what is no number."""

IOU_BUCKETS = 10


class ShadowFigures(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """Comparison of one candidate with what serves, over one window.

    offered: inputs that the serving worker had for it; dropped: of those, not taken because eight waited already. compared: answered
    by both; failed: the candidate gave no answer. judged, agreed: samples whose first choice could be compared, and was the same.
    deltas: how far the scores lie apart, `packed_deltas`. overlaps: boxes by tenths of IoU, unmatched ones in the first.
    primary_latency: packed sketch of what serves, on the compared inputs only. kept: disagreements kept on the device now.
    """

    offered: int = 0
    dropped: int = 0
    compared: int = 0
    failed: int = 0
    judged: int = 0
    agreed: int = 0
    deltas: list[int] = []
    overlaps: list[int] = []
    primary_latency: list[int] = []
    kept: int = 0


def delta_bucket(value: float) -> int:
    """Return the bucket of a score delta, 0 … MAX_DELTA_BUCKET."""
    if not math.isfinite(value):
        return MAX_DELTA_BUCKET
    if value <= DELTA_BASE:
        return 0
    return min(MAX_DELTA_BUCKET, math.ceil(2 * math.log2(value / DELTA_BASE) - 1e-9))


def delta_value(bucket: int) -> float:
    """Return the delta that stands for a bucket: its geometric middle, 0 for the first."""
    return 0.0 if bucket <= 0 else float(DELTA_BASE * 2 ** ((bucket - 0.5) / 2))


def iou_bucket(value: float) -> int:
    """Return the tenth in which an intersection over union (0 … 1) lies."""
    return min(IOU_BUCKETS - 1, max(0, int(value * IOU_BUCKETS)))


def pack_counts(counts: dict[int, int]) -> list[int]:
    """Return [first bucket, count, count, …]; [] when empty."""
    if not counts:
        return []
    low, high = min(counts), max(counts)
    return [low, *(counts.get(i, 0) for i in range(low, high + 1))]


def unpack_counts(packed: Sequence[int], highest: int = MAX_DELTA_BUCKET) -> dict[int, int]:
    """Return the counts by bucket. Raises ValueError for buckets out of range or counts below 0."""
    if not packed:
        return {}
    low, counts = packed[0], packed[1:]
    if low < 0 or low + len(counts) - 1 > highest or any(count < 0 for count in counts):
        raise ValueError("counts out of range")
    return {low + i: count for i, count in enumerate(counts) if count}


def delta_quantile(packed: Sequence[int], q: float) -> float | None:
    """Return the q-quantile of the deltas; None when there are none. Raises ValueError."""
    counts = unpack_counts(packed)
    total = sum(counts.values())
    if total == 0:
        return None
    rank, seen = max(1, math.ceil(q * total)), 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            return delta_value(bucket)
    raise AssertionError("rank beyond the total")


def mean_overlap(overlaps: Sequence[int]) -> float | None:
    """Return the mean intersection over union, from the middles of its tenths; None without boxes."""
    total = sum(overlaps)
    if total == 0:
        return None
    return sum(count * (i + 0.5) / IOU_BUCKETS for i, count in enumerate(overlaps)) / total


def merge_shadows(figures: Iterable[ShadowFigures]) -> ShadowFigures:
    """Return the figures that stand for all of these; `kept` is the newest. Raises ValueError when a list is none of ours."""
    total = ShadowFigures()
    for one in figures:
        total = _sum(total, one)
    return total


def check_shadow(figures: ShadowFigures) -> None:
    """Raise ValueError unless every count and list can be what a device counts."""
    counts = (
        figures.offered,
        figures.dropped,
        figures.compared,
        figures.failed,
        figures.judged,
        figures.agreed,
        figures.kept,
    )
    if not all(0 <= count < 2**62 for count in (*counts, *figures.overlaps)) or len(figures.overlaps) > IOU_BUCKETS:
        raise ValueError("shadow figures out of range")
    if figures.agreed > figures.judged:
        raise ValueError("more samples agreed than were judged")
    unpack_counts(figures.deltas)
    LatencySketch.unpacked(figures.primary_latency)


def _sum(a: ShadowFigures, b: ShadowFigures) -> ShadowFigures:
    deltas = unpack_counts(a.deltas)
    for bucket, count in unpack_counts(b.deltas).items():
        deltas[bucket] = deltas.get(bucket, 0) + count
    size = max(len(a.overlaps), len(b.overlaps))
    overlaps = [sum(x[i] for x in (a.overlaps, b.overlaps) if i < len(x)) for i in range(size)]
    sketches = (LatencySketch.unpacked(a.primary_latency), LatencySketch.unpacked(b.primary_latency))
    return ShadowFigures(
        offered=a.offered + b.offered,
        dropped=a.dropped + b.dropped,
        compared=a.compared + b.compared,
        failed=a.failed + b.failed,
        judged=a.judged + b.judged,
        agreed=a.agreed + b.agreed,
        deltas=pack_counts(deltas),
        overlaps=overlaps,
        primary_latency=LatencySketch.merged(sketches).packed(),
        kept=b.kept,
    )
