"""Whether a window is one that a device can have counted, and its latencies as counts of consecutive buckets. Pure.

It is done for each window that a fleet sends, so no object is made for a sketch: lists are added and searched by the interpreter itself.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from edgefleet_protocol.comparison import check_shadow
from edgefleet_protocol.messages import Window
from edgefleet_protocol.sketch import MAX_BUCKET, bucket_value_s
from edgefleet_server.telemetry.model import rounded_ms
from edgefleet_server.telemetry.plausibility import is_possible

MAX_INT: Final = 2**62
MAX_CLASSES: Final = 4096
MAX_LENGTH: Final = 2**31
_SHOWN_MS: Final = [rounded_ms(bucket_value_s(bucket) * 1000) for bucket in range(MAX_BUCKET + 2)]


class BadWindowError(ValueError):
    """A window that says nothing: a sketch that is none, a count or length that is none."""


class ImpossibleWindowError(ValueError):
    """A window that counts more than a device can have done."""


def dense(packed: Sequence[int]) -> tuple[int, list[int]]:
    """Return the first bucket of a sketch's wire form, and the counts from there on. Raises BadWindowError."""
    if not packed:
        return 0, []
    first, counts = packed[0], list(packed[1:])
    if counts and min(counts) < 0:
        counts = _without_gaps(counts)
    # also one bucket beyond the last: what was read as a sketch before is read as one now
    if not 0 <= first <= MAX_BUCKET or first + len(counts) > MAX_BUCKET + 1:
        raise BadWindowError("latency sketch out of range")
    return first, counts


def _without_gaps(counts: Sequence[int]) -> list[int]:
    found: list[int] = []
    for count in counts:
        if count >= 0:
            found.append(count)
        elif count < -MAX_BUCKET - 1:
            raise BadWindowError("latency sketch out of range")
        else:
            found += [0] * -count
    return found


def p95_ms(first: int, counts: Sequence[int], total: int) -> float | None:
    """Return the 95th percentile in milliseconds as pages show it; None without counts."""
    if total == 0:
        return None
    return _SHOWN_MS[first + bisect_left(list(accumulate(counts)), max(1, math.ceil(0.95 * total)))]


def checked(window: Window) -> tuple[int, list[int], int]:
    """Return a window's first bucket, counts from there on, and their sum. Raises BadWindowError, ImpossibleWindowError."""
    first, counts = dense(window.latency)
    classes = window.classes
    least = min(window.n, window.errors, window.timeouts, window.nonfinite, window.crashes, window.length_s)
    most = max(window.n, window.errors, window.timeouts, window.nonfinite, window.crashes)
    if (
        least < 0
        or most >= MAX_INT
        or window.length_s >= MAX_LENGTH
        or len(classes) > MAX_CLASSES
        or (classes and not 0 <= min(classes) <= max(classes) < MAX_INT)
        or not -1 <= window.worker_rss_bytes < MAX_INT
        or not math.isfinite(window.worker_cpu_s)
    ):
        raise BadWindowError("counts that are none")
    if window.shadow is not None:
        try:
            check_shadow(window.shadow)
        except ValueError as error:
            raise BadWindowError(str(error)) from error
    total = sum(counts)
    if not is_possible(window, total):
        raise ImpossibleWindowError("more than a device can have done")
    return first, counts, total
