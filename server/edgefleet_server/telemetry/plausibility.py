"""Whether a telemetry window counts what a device can have done, and figures of a fleet that no single device decides. Pure.

A device may say what it likes of itself, within what is physically possible; in a figure of many devices it has one part of them.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from edgefleet_protocol.messages import Window
from edgefleet_protocol.sketch import LatencySketch

MAX_ANSWERS_PER_S: Final = 100_000
"""More than any device answers: the smallest models take 10 µs, and a window is of one worker."""
MAX_CRASHES_PER_S: Final = 1
"""A worker that crashes is not started again sooner."""
SLACK_S: Final = 60
"""Lengths are whole seconds and workers report late."""
MAX_LENGTH_S: Final = 400 * 86_400
"""An outbox adds up windows of a year at most."""


def is_possible(window: Window, latencies: int) -> bool:
    """Return whether a device can have counted this in the time that the window lasted. Errors and odd answers are answers.

    latencies: how many its sketch counts.
    """
    if not 0 <= window.length_s <= MAX_LENGTH_S:
        return False
    most = (window.length_s + SLACK_S) * MAX_ANSWERS_PER_S
    return (
        0 <= window.n <= most
        and 0 <= window.errors <= window.n
        and 0 <= window.nonfinite <= window.n
        and 0 <= window.timeouts <= most
        and 0 <= window.crashes <= (window.length_s + SLACK_S) * MAX_CRASHES_PER_S
        and latencies <= window.n
    )


@dataclass(slots=True)
class DeviceSums:
    """What one device counted of a bundle in several windows."""

    n: int = 0
    errors: int = 0
    timeouts: int = 0
    nonfinite: int = 0
    crashes: int = 0
    latency: LatencySketch = field(default_factory=LatencySketch)

    @property
    def failed_share(self) -> float | None:
        """The share of its answers that were errors or not finite; None without answers."""
        return min(1.0, (self.errors + self.nonfinite) / self.n) if self.n else None


def mean_failed_share(devices: Iterable[DeviceSums]) -> float | None:
    """Return the mean over devices: each moves it by at most its part of them. None when nobody answered."""
    shares = [share for one in devices if (share := one.failed_share) is not None]
    return statistics.fmean(shares) if shares else None


def mean_error_rate(devices: Iterable[DeviceSums]) -> float | None:
    """Return the mean over devices of their share of requests that ended in an error or timed out; None without requests."""
    shares = [min(1.0, (one.errors + one.timeouts) / asked) for one in devices if (asked := one.n + one.timeouts)]
    return statistics.fmean(shares) if shares else None


def median_latency_s(devices: Iterable[DeviceSums], q: float) -> float | None:
    """Return the median over devices of their q-quantiles in seconds; None when nobody counted any."""
    values = [value for one in devices if (value := one.latency.quantile_s(q)) is not None]
    return statistics.median(values) if values else None
