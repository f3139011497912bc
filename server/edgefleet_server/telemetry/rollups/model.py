"""Values of roll-ups: the steps of time, what a device belongs to, and what one step adds up. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Generic, TypeVar

from edgefleet_protocol.sketch import MAX_BUCKET, LatencySketch, bucket_value_s

EVER: Final = 0
"""The scale of one step that never ends: what was counted since the beginning."""
SCALES: Final = (60, 900, 3_600, 86_400)
"""Lengths of steps in seconds."""
KEPT: Final[Mapping[int, timedelta]] = {
    60: timedelta(days=2),
    900: timedelta(days=31),
    3_600: timedelta(days=400),
    86_400: timedelta(days=1_826),
}
"""For how long the steps of a scale are kept."""


_VALUES_S: Final = [bucket_value_s(bucket) for bucket in range(MAX_BUCKET + 2)]


class Dimension(StrEnum):
    """By what sums may be told apart."""

    MODEL = "model"
    VERSION = "version"
    SHA256 = "sha256"
    LANE = "lane"
    PROFILE = "profile"
    GROUP = "group"
    SITE = "site"


@dataclass(frozen=True, slots=True)
class Cohort:
    """What a device belongs to while it sends. groups: names of fleet groups, sorted."""

    profile: str = ""
    site: str = ""
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sums:
    """What windows counted. joules: of `joules_n` answers."""

    windows: int
    seconds: int
    n: int
    errors: int
    timeouts: int
    nonfinite: int
    crashes: int
    latency: LatencySketch
    classes: tuple[int, ...]
    worker_cpu_s: float
    joules: float
    joules_n: int

    @property
    def latency_sum_s(self) -> float:
        """Return the sum of all counted latencies, read from the sketch."""
        return latency_sum_s(self.latency)

    @property
    def failed(self) -> int:
        """Return how many requests went wrong, in whatever way."""
        return self.errors + self.timeouts + self.nonfinite + self.crashes

    def __add__(self, other: "Sums") -> "Sums":
        """Return the sum of both."""
        latency = LatencySketch.merged([self.latency, other.latency])
        short, long = sorted((self.classes, other.classes), key=len)
        classes = tuple(one + (short[at] if at < len(short) else 0) for at, one in enumerate(long))
        return Sums(
            self.windows + other.windows,
            self.seconds + other.seconds,
            self.n + other.n,
            self.errors + other.errors,
            self.timeouts + other.timeouts,
            self.nonfinite + other.nonfinite,
            self.crashes + other.crashes,
            latency,
            classes,
            self.worker_cpu_s + other.worker_cpu_s,
            self.joules + other.joules,
            self.joules_n + other.joules_n,
        )


@dataclass(frozen=True, slots=True)
class FigureSums:
    """One figure of devices. n: how many messages said it; total, most: of those."""

    n: int
    total: float
    most: float


@dataclass(frozen=True, slots=True)
class SystemSums:
    """What messages said of devices themselves. figures: by name of `SystemFigures`, those that were said at all."""

    messages: int
    figures: Mapping[str, FigureSums]


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """One step. at: its beginning. key: the values of the dimensions that were asked for, in their order."""

    at: datetime
    key: tuple[str, ...]
    sums: T


def latency_sum_s(latency: LatencySketch) -> float:
    """Return the sum of all latencies in a sketch, each taken as the middle of its bucket."""
    return sum(count * _VALUES_S[bucket] for bucket, count in latency.counts.items())
