"""Whether a window is one that a device can have counted, and its latencies as counts of consecutive buckets. Pure.

It is done for each window that a fleet sends, so no object is made for a sketch: lists are summed by the interpreter itself.
"""

import math
from collections.abc import Sequence
from typing import Final

from edgefleet_protocol.comparison import ShadowFigures, check_shadow
from edgefleet_protocol.messages import Window
from edgefleet_protocol.sketch import MAX_BUCKET, bucket_value_s
from edgefleet_server.telemetry.intake.columns import MAX_INT
from edgefleet_server.telemetry.model import rounded_ms
from edgefleet_server.telemetry.plausibility import is_possible

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
    for count in counts:  # gaps would make millions of numbers out of a packet
        if count >= 0:
            found.append(count)
        elif count < -MAX_BUCKET - 1 or len(found) > MAX_BUCKET + 1:
            raise BadWindowError("latency sketch out of range")
        else:
            found += [0] * -count
    return found


def p95_ms(first: int, counts: Sequence[int], total: int) -> float | None:
    """Return the 95th percentile in milliseconds as pages show it; None without counts."""
    if total == 0:
        return None
    rest = total - max(1, math.ceil(0.95 * total))
    for at in range(len(counts) - 1, -1, -1):  # the slowest twentieth is in a few buckets
        rest -= counts[at]
        if rest < 0:
            return _SHOWN_MS[first + at]
    raise AssertionError("rank beyond the total")


def checked(window: Window) -> tuple[int, list[int], int]:
    """Return a window's first bucket, counts from there on, and their sum. Raises BadWindowError, ImpossibleWindowError."""
    first, counts = dense(window.latency)
    total = sum(counts)
    classes, shadow = window.classes, window.shadow
    is_sound = (
        -1 <= window.worker_rss_bytes < MAX_INT
        and math.isfinite(window.worker_cpu_s)
        and (not classes or (len(classes) <= MAX_CLASSES and min(classes) >= 0 and max(classes) < MAX_INT))
        and (shadow is None or _is_shadow(shadow))
    )
    if is_sound and is_possible(window, total):
        return first, counts, total
    counted = (window.n, window.errors, window.timeouts, window.nonfinite, window.crashes, window.length_s)
    if not is_sound or min(counted) < 0 or max(counted) >= MAX_INT or window.length_s >= MAX_LENGTH:
        raise BadWindowError("counts that are none")
    raise ImpossibleWindowError("more than a device can have done")


def _is_shadow(figures: ShadowFigures) -> bool:
    try:
        check_shadow(figures)
    except ValueError:
        return False
    return True
