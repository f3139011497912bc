"""What can be behind a rise: how each cause is read from a moment, and how much of a change matters. Pure.

`matters` returns 1 for the least change that can plausibly be felt, more for more, 0 for none. A model that runs near the limit of its
board feels less than that, an idle one more: whether it moved together with latency is judged apart from it (`rules`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from edgefleet_server.telemetry.latency.model import CauseKind, Moment

MIB: Final = 1024 * 1024
THROTTLED: Final = 0.05
WARM: Final = 65.0
WARMER: Final = 8.0
MORE_REQUESTS: Final = 1.3
BUSIER: Final = 0.15
MUCH_MEMORY: Final = 512 * MIB
LITTLE_MEMORY: Final = 128 * MIB
LITTLE_DISK: Final = 256 * MIB
MORE_CANDIDATE: Final = 0.1
MORE_WORK: Final = 1.4
SOME_WORK: Final = 0.05
OTHER_MIX: Final = 0.15
NEW_SHARE: Final = 0.3


@dataclass(frozen=True, slots=True)
class Context:
    """What a moment is compared with. version: the one that came; mix: shares of classes before."""

    version: str = ""
    mix: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Indicator:
    """One cause. weight: how readily it makes answers slow, 0 … 1."""

    kind: CauseKind
    unit: str
    weight: float
    read: Callable[[Moment, Context], float | None]
    matters: Callable[[float, float], float]


def figure(name: str) -> Callable[[Moment, Context], float | None]:
    """Return what reads a figure of that name."""
    return lambda moment, _context: moment.figures.get(name)


def mix_of(moments: Sequence[Moment]) -> list[float]:
    """Return the shares of classes over some moments; [] where nothing was counted."""
    longest = max((len(one.classes) for one in moments), default=0)
    sums = [sum(one.classes[k] for one in moments if k < len(one.classes)) for k in range(longest)]
    total = sum(sums)
    return [one / total for one in sums] if total else []


def _distance(moment: Moment, context: Context) -> float | None:
    """Return how far a mix of classes is from what it was: the share of answers that would have to be others."""
    mix = mix_of([moment])
    if not mix or not context.mix:
        return None
    longest = max(len(mix), len(context.mix))
    pairs = ((one[k] if k < len(one) else 0.0 for one in (mix, context.mix)) for k in range(longest))
    return sum(abs(a - b) for a, b in pairs) / 2


def _share(moment: Moment, context: Context) -> float | None:
    total = sum(one.n for one in moment.versions.values())
    if not total or not context.version:
        return None
    mine = moment.versions.get(context.version)
    return 0.0 if mine is None else mine.n / total


def _steps(least: float) -> Callable[[float, float], float]:
    return lambda before, after: max(0.0, after - before) / least


def _ratio(least: float) -> Callable[[float, float], float]:
    def matters(before: float, after: float) -> float:
        return math.log(after / before) / math.log(least) if before > 0 and after > before else 0.0

    return matters


def _others(before: float, after: float) -> float:
    """Return what weighs other work: from none to some is as much as four times as much."""
    return (
        math.log(after / max(before, after / 4)) / math.log(MORE_WORK) if after >= SOME_WORK and after > before else 0.0
    )


def _heat(before: float, after: float) -> float:
    return max(0.0, after - before) / WARMER if after >= WARM else 0.0


def _lack(little: float, much: float) -> Callable[[float, float], float]:
    """Return what weighs a loss: halved to less than `little` is 2, halved to less than `much` 1, to what is plenty 0."""

    def matters(before: float, after: float) -> float:
        if after >= much or before <= after:
            return 0.0
        return math.log2(before / max(after, 1.0)) * (2.0 if after < little else 1.0)

    return matters


HEAT: Final = Indicator(CauseKind.THROTTLING, "celsius", 0.6, figure("temperature_celsius"), _heat)
"""Stands in for throttling where a device cannot say that."""
INDICATORS: Final = (
    Indicator(CauseKind.RELEASE, "share", 1.0, _share, _steps(NEW_SHARE)),
    Indicator(CauseKind.THROTTLING, "share", 1.0, figure("throttled_ratio"), _steps(THROTTLED)),
    Indicator(CauseKind.LOAD, "per_s", 0.9, figure("requests_per_s"), _ratio(MORE_REQUESTS)),
    Indicator(CauseKind.CANDIDATE, "share", 0.85, figure("candidate_share"), _steps(MORE_CANDIDATE)),
    Indicator(CauseKind.OTHER_MODELS, "per_s", 0.85, figure("other_per_s"), _others),
    Indicator(CauseKind.MEMORY, "bytes", 0.8, figure("memory_available_bytes"), _lack(LITTLE_MEMORY, MUCH_MEMORY)),
    Indicator(CauseKind.PROCESSOR, "share", 0.7, figure("cpu_ratio"), _steps(BUSIER)),
    Indicator(CauseKind.INPUTS, "share", 0.6, _distance, _steps(OTHER_MIX)),
    Indicator(CauseKind.DISK, "bytes", 0.5, figure("disk_free_bytes"), _lack(LITTLE_DISK, 2 * LITTLE_DISK)),
)
"""In the order in which equals are listed. `other_per_s`: requests of other models on the same devices; `candidate_share`: those of
candidates of the model for each of its own."""
