"""Does a worker's resident memory grow without end? Pure: readings in, a reason or "" out (docs/explanation/on-the-device.md).

1. A reading now and then, `MAX_READINGS` at most: when it is full every second one goes, so that it always spans the whole trial.
2. Growth is a leak only when each quarter of the span lies wholly above the quarter before: caches and arenas rise and then rest.
3. And only when it is more than noise (`MIN_GROWTH_BYTES` within ten minutes, a quarter of that over longer), steeper than
   `MIN_SLOPE_BYTES_H`, and would pass the limit within a day.
4. Above the limit itself there is nothing to project.
"""

import itertools
from dataclasses import dataclass

MIB = 1024 * 1024
MAX_READINGS = 64
MIN_READINGS = 12
MIN_GROWTH_BYTES = 4 * MIB
LONG_SPAN_S = 600
MIN_SLOPE_BYTES_H = MIB
HORIZON_S = 86_400


@dataclass(frozen=True, slots=True)
class Resident:
    """Readings of one worker process, oldest first. pid: whose; every: one of so many readings is kept. at: (seconds, bytes)."""

    pid: int = 0
    at: tuple[tuple[int, int], ...] = ()
    every: int = 1
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Memory:
    """What a worker may have. limit_bytes: as declared or set, so that being above it is a fault by itself; 0 = none.

    spare_bytes: what the device has beyond its reserve, the limit where there is none; -1 = unknown.
    """

    limit_bytes: int
    spare_bytes: int


def read(known: Resident, pid: int, now_s: int, rss_bytes: int) -> Resident:
    """Return the readings with one more; another process begins again, and what cannot be read (0 or less) is left out."""
    if rss_bytes <= 0:
        return known
    if pid != known.pid:
        known = Resident(pid)
    if known.skipped + 1 < known.every:
        return Resident(pid, known.at, known.every, known.skipped + 1)
    at = (*known.at, (now_s, rss_bytes))
    if len(at) > MAX_READINGS:
        return Resident(pid, at[::2], known.every * 2)
    return Resident(pid, at, known.every)


def leak(known: Resident, memory: Memory, *, min_span_s: float) -> str:
    """Return why the growth may not go on, "" when it may. min_span_s: readings over less time say nothing about a slope."""
    if not known.at or (not memory.limit_bytes and memory.spare_bytes < 0):
        return ""
    began_s, _ = known.at[0]
    now_s, now_bytes = known.at[-1]
    limit_bytes = memory.limit_bytes or now_bytes + memory.spare_bytes
    if now_bytes > limit_bytes:
        return f"the worker has {now_bytes / MIB:.1f} MiB resident; its limit is {limit_bytes / MIB:.1f} MiB"
    span_s = now_s - began_s
    if len(known.at) < MIN_READINGS or span_s < max(1.0, min_span_s):
        return ""
    quarter = len(known.at) // 4
    bands = [[size for _, size in known.at[i * quarter : (i + 1) * quarter]] for i in range(4)]
    growth = max(bands[3]) - min(bands[0])
    slope = growth / span_s
    is_rising = all(min(later) > max(sooner) for sooner, later in itertools.pairwise(bands))
    is_much = growth >= (MIN_GROWTH_BYTES if span_s < LONG_SPAN_S else MIN_GROWTH_BYTES // 4)
    if not is_rising or not is_much or slope * 3600 < MIN_SLOPE_BYTES_H or now_bytes + slope * HORIZON_S <= limit_bytes:
        return ""
    hours = max(0.0, limit_bytes - now_bytes) / slope / 3600
    return (
        f"resident memory rose by {growth / MIB:.1f} MiB in {span_s} s to {now_bytes / MIB:.1f} MiB without resting; "
        f"the limit of {limit_bytes / MIB:.1f} MiB would be passed in {hours:.1f} h"
    )
