"""Totals of windows and of system figures, and their stored form. Pure.

A total is never changed, so one may stand in several places; many are added at once, which is quicker than one by one. What windows count
is integers, times and energies whole microseconds and microjoules: they add up exactly in any order. Figures of the system are floats,
whose sums may differ in their last digits by the order.
"""

from collections.abc import Sequence
from itertools import zip_longest
from operator import add, attrgetter
from typing import Any, Final, Protocol, Self

import msgspec

from edgefleet_protocol.messages import SystemFigures
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.telemetry.rollups.model import FigureSums, Sums, SystemSums

COUNTS: Final = 10
"""windows, seconds, n, errors, timeouts, nonfinite, crashes, worker CPU in µs, energy in µJ, answers with a figure of it."""
MICRO: Final = 1_000_000
MOST: Final = 2**62
"""No count grows beyond it: only a device that lies for months gets there, and MessagePack ends at 64 bits."""
FIGURES: Final = (
    *("cpu_ratio", "agent_rss_bytes", "workers_rss_bytes", "memory_available_bytes", "disk_free_bytes", "load_1m"),
    *("temperature_celsius", "net_rx_bytes", "net_tx_bytes", "throttled_ratio"),
)
LARGEST: Final = (1.05, 2**40, 2**42, 2**42, 2**50, 1e6, 200.0, 2**50, 2**50, 1.0)
"""What each of FIGURES may be: more cannot be, and counts for nothing, or one device would decide the mean of a fleet.

Counters of idle time may run back a little, so a processor may seem more than busy.
"""
_figures: Final = attrgetter(*FIGURES)
_ENCODER: Final = msgspec.msgpack.Encoder()
_encode = _ENCODER.encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode


class Total(Protocol):
    """What one step of one series holds."""

    @classmethod
    def summed(cls, totals: Sequence[Self]) -> Self:
        """Return the sum of at least one."""
        ...

    @classmethod
    def unpacked(cls, stored: Sequence[Any]) -> Self:
        """Return what was stored."""
        ...

    def packed(self) -> list[Any]:
        """Return what is stored."""
        ...


class WindowTotal:
    """Of windows. latency: counts of consecutive buckets from `first` on."""

    __slots__ = ("classes", "counts", "first", "latency")

    def __init__(self, counts: Sequence[int], classes: Sequence[int], first: int, latency: Sequence[int]) -> None:
        self.counts = counts
        self.classes = classes
        self.first = first
        self.latency = latency

    @classmethod
    def summed(cls, totals: Sequence["WindowTotal"]) -> "WindowTotal":
        """Return the sum of at least one."""
        if len(totals) == 1:
            return totals[0]
        if len(totals) == 2:  # a row and what is added to it: half the time of the general way
            return _pair(*totals)
        counts = list(map(sum, zip(*[one.counts for one in totals], strict=True)))
        classes = list(map(sum, zip_longest(*[one.classes for one in totals], fillvalue=0)))
        sketches = [(one.first, one.latency) for one in totals if one.latency]
        if not sketches:
            return cls(counts, classes, 0, [])
        first = min([at for at, _ in sketches])
        aligned = [latency if at == first else [*([0] * (at - first)), *latency] for at, latency in sketches]
        return cls(counts, classes, first, list(map(sum, zip_longest(*aligned, fillvalue=0))))

    def packed(self) -> list[Any]:
        """Return what is stored."""
        return [self.counts, self.classes, self.first, self.latency]

    @classmethod
    def unpacked(cls, stored: Sequence[Any]) -> "WindowTotal":
        """Return what was stored."""
        return cls(*stored)

    def sums(self) -> Sums:
        """Return it as readers take it."""
        windows, seconds, n, errors, timeouts, nonfinite, crashes, cpu, joules, joules_n = self.counts
        latency = LatencySketch({self.first + at: count for at, count in enumerate(self.latency) if count})
        return Sums(
            windows, seconds, n, errors, timeouts, nonfinite, crashes, latency,
            tuple(self.classes), cpu / MICRO, joules / MICRO, joules_n,
        )  # fmt: skip


def _pair(one: WindowTotal, other: WindowTotal) -> WindowTotal:
    counts, classes = list(map(add, one.counts, other.counts)), _longest(one.classes, other.classes)
    if not one.latency or not other.latency:
        known = one if one.latency else other
        return WindowTotal(counts, classes, known.first if known.latency else 0, known.latency)
    low, high = (one, other) if one.first <= other.first else (other, one)
    gap = high.first - low.first
    below, both = low.latency[:gap], low.latency[gap:]
    latency = [*below, *([0] * (gap - len(below))), *_longest(both, high.latency)]
    return WindowTotal(counts, classes, low.first, latency)


def _longest(one: Sequence[int], other: Sequence[int]) -> list[int]:
    short, long = (one, other) if len(one) < len(other) else (other, one)
    return [*map(add, long, short), *long[len(short) :]]


class SystemTotal:
    """Of messages. said, total, most: of each of FIGURES how many said it, the sum, the most; floats, since a device may say anything."""

    __slots__ = ("messages", "most", "said", "total")

    def __init__(self, messages: int, said: Sequence[int], total: Sequence[float], most: Sequence[float]) -> None:
        self.messages = messages
        self.said = said
        self.total = total
        self.most = most

    @classmethod
    def of(cls, messages: Sequence[SystemFigures]) -> "SystemTotal":
        """Return that of messages."""
        columns = zip(*[_figures(one) for one in messages], strict=True)
        known = [
            [float(one) for one in column if 0 <= one <= most] for column, most in zip(columns, LARGEST, strict=True)
        ]
        return cls(
            len(messages),
            [len(one) for one in known],
            [sum(one) for one in known],
            [max(one, default=0.0) for one in known],
        )

    @classmethod
    def summed(cls, totals: Sequence["SystemTotal"]) -> "SystemTotal":
        """Return the sum of at least one."""
        if len(totals) == 1:
            return totals[0]
        said, total, most = ([getattr(one, name) for one in totals] for name in ("said", "total", "most"))
        return cls(
            sum(one.messages for one in totals),
            list(map(sum, zip(*said, strict=True))),
            list(map(sum, zip(*total, strict=True))),
            list(map(max, zip(*most, strict=True))),
        )

    def packed(self) -> list[Any]:
        """Return what is stored."""
        return [self.messages, self.said, self.total, self.most]

    @classmethod
    def unpacked(cls, stored: Sequence[Any]) -> "SystemTotal":
        """Return what was stored."""
        return cls(*stored)

    def sums(self) -> SystemSums:
        """Return it as readers take it."""
        named = zip(FIGURES, self.said, self.total, self.most, strict=True)
        return SystemSums(self.messages, {name: FigureSums(n, total, most) for name, n, total, most in named if n})


class Served(msgspec.Struct, array_like=True, frozen=True):
    """The counts that say how long and how much was served: the first three of COUNTS."""

    windows: int
    seconds: int
    n: int


class _Head(msgspec.Struct, array_like=True, frozen=True):
    """The beginning of a stored `WindowTotal`; what follows is skipped."""

    counts: Served


_head: Final = msgspec.msgpack.Decoder(_Head).decode


def served(data: bytes) -> Served:
    """Return those counts of a stored total of windows, without making objects of the rest: a tenth of the time of `loaded`."""
    return _head(data).counts


def stored(total: Total) -> bytes:
    """Return a total as bytes."""
    return _bytes(total.packed())


def stored_block(parts: Sequence[Sequence[Any]]) -> bytes:
    """Return packed totals with their places as bytes."""
    return _bytes(list(parts))


def loaded(data: bytes) -> list[Any]:
    """Return what was stored: of one total, or of a block [place, total]."""
    return _decode(data)


def _bytes(packed: list[Any]) -> bytes:
    try:
        return _encode(packed)
    except OverflowError:
        return _encode(_bounded(packed))


def _bounded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_bounded(one) for one in value]
    return min(value, MOST)
