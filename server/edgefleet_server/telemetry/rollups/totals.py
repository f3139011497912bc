"""Totals of windows and of system figures: integers that add up exactly in any order, and their stored form. Pure.

A total is never changed; `plus` makes another, so one may stand in several places. Times and energies are whole microseconds and
microjoules: sums of floats would depend on the order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any, Final, Protocol, Self

import msgspec

from edgefleet_protocol.messages import SystemFigures
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.telemetry.rollups.model import FigureSums, Sums, SystemSums, latency_sum_s

COUNTS: Final = 10
"""windows, seconds, n, errors, timeouts, nonfinite, crashes, worker CPU in µs, energy in µJ, answers with a figure of it."""
MICRO: Final = 1_000_000
MOST: Final = 2**62
"""No count grows beyond it: only a device that lies for months gets there, and MessagePack ends at 64 bits."""
FIGURES: Final = (
    *("cpu_ratio", "agent_rss_bytes", "workers_rss_bytes", "memory_available_bytes", "disk_free_bytes", "load_1m"),
    *("temperature_celsius", "net_rx_bytes", "net_tx_bytes", "throttled_ratio"),
)
_ENCODER: Final = msgspec.msgpack.Encoder()
_encode = _ENCODER.encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode


class Total(Protocol):
    """What one step of one series holds."""

    def plus(self, other: Any) -> Self:
        """Return the sum of both."""
        ...

    def packed(self) -> list[Any]:
        """Return what is stored."""
        ...


class WindowTotal:
    """Of windows. latency: counts of consecutive buckets from `first` on."""

    __slots__ = ("classes", "counts", "first", "latency")

    def __init__(self, counts: list[int], classes: Sequence[int], first: int, latency: list[int]) -> None:
        self.counts = counts
        self.classes = classes
        self.first = first
        self.latency = latency

    def plus(self, other: "WindowTotal") -> "WindowTotal":
        """Return the sum of both."""
        first, latency = _joined(self.first, self.latency, other.first, other.latency)
        return WindowTotal(
            list(map(add, self.counts, other.counts)), _by_position(self.classes, other.classes), first, latency
        )

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
            windows, seconds, n, errors, timeouts, nonfinite, crashes, latency, latency_sum_s(latency),
            tuple(self.classes), cpu / MICRO, joules / MICRO, joules_n,
        )  # fmt: skip


def _joined(first: int, mine: list[int], other_first: int, theirs: list[int]) -> tuple[int, list[int]]:
    if not theirs:
        return first, mine
    if not mine:
        return other_first, theirs
    if len(mine) < len(theirs):
        first, mine, other_first, theirs = other_first, theirs, first, mine
    if other_first < first:
        mine, first = [0] * (first - other_first) + mine, other_first
    else:
        mine = mine[:]
    at = other_first - first
    end = at + len(theirs)
    if end > len(mine):
        mine.extend([0] * (end - len(mine)))
    mine[at:end] = map(add, mine[at:end], theirs)
    return first, mine


def _by_position(mine: Sequence[int], theirs: Sequence[int]) -> Sequence[int]:
    if len(mine) < len(theirs):
        mine, theirs = theirs, mine
    return mine if not theirs else [*map(add, mine, theirs), *mine[len(theirs) :]]


@dataclass(frozen=True, slots=True)
class SystemTotal:
    """Of messages. figures: of each of FIGURES how many said it, the sum, the most; floats, since a device may say what it likes."""

    messages: int
    figures: list[list[float]]

    @classmethod
    def of(cls, system: SystemFigures) -> "SystemTotal":
        """Return that of one message."""
        said = (float(getattr(system, name)) for name in FIGURES)
        return cls(1, [[1.0, one, one] if 0 <= one < MOST else [0.0, 0.0, 0.0] for one in said])

    def plus(self, other: "SystemTotal") -> "SystemTotal":
        """Return the sum of both."""
        pairs = zip(self.figures, other.figures, strict=True)
        return SystemTotal(
            self.messages + other.messages,
            [[a[0] + b[0], a[1] + b[1], max(a[2], b[2])] for a, b in pairs],
        )

    def packed(self) -> list[Any]:
        """Return what is stored."""
        return [self.messages, self.figures]

    @classmethod
    def unpacked(cls, stored: Sequence[Any]) -> "SystemTotal":
        """Return what was stored."""
        return cls(*stored)

    def sums(self) -> SystemSums:
        """Return it as readers take it."""
        named = zip(FIGURES, self.figures, strict=True)
        return SystemSums(
            self.messages, {name: FigureSums(int(n), total, most) for name, (n, total, most) in named if n}
        )


def stored(total: Total) -> bytes:
    """Return a total as bytes."""
    return _bytes(total.packed())


def stored_block(parts: Iterable[tuple[int, Total]]) -> bytes:
    """Return totals with their places as bytes."""
    return _bytes([[place, total.packed()] for place, total in parts])


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
