"""One observation of a model out of what its devices reported. A device is not believed alone where others say otherwise.

- A window counts only under real load: enough answers, hardly an error, figures within bounds.
- A device counts with enough such windows; its figure is the median over them, so that one window moves nothing, and counts in
  a sketch carry no weight.
- The observation is the median over devices, and there is none unless more than half of them lie within a factor of it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, stdev
from typing import Final

MIN_ANSWERS: Final = 10
"""Answers of one window."""
MIN_WINDOWS: Final = 2
"""Windows of one device."""
MAX_ERROR_SHARE: Final = 0.1
LATENCY_MS: Final = (1e-3, 600_000.0)
MEMORY_BYTES: Final = (1_000_000, 2**40)
AGREEMENT: Final = 2.0
"""Devices of one profile are the same board: figures further apart than this factor are not the same thing."""


@dataclass(frozen=True)
class DeviceWindow:
    """One telemetry window of a model on a device. Latencies in ms, None when nothing was counted; memory in bytes, -1 unknown."""

    n: int
    errors: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    memory_bytes: int


@dataclass(frozen=True)
class Observation:
    """What devices of one profile reported of one model. memory_bytes: of the worker process; None when not reported.

    spread: by figure, the standard deviation of its logarithm over devices; a figure that fewer than two reported is not in it.
    """

    devices: int
    windows: int
    answers: int
    latency_p50_ms: float
    latency_p95_ms: float
    memory_bytes: int | None
    spread: Mapping[str, float] = field(default_factory=dict)


def is_loaded(window: DeviceWindow) -> bool:
    """Say whether a window shows the model at work, with figures that can be true."""
    p50, p95 = window.latency_p50_ms, window.latency_p95_ms
    if p50 is None or p95 is None or window.n < MIN_ANSWERS or window.errors > MAX_ERROR_SHARE * window.n:
        return False
    return LATENCY_MS[0] <= p50 <= p95 <= LATENCY_MS[1]


def observe(windows_of: Mapping[str, Sequence[DeviceWindow]]) -> Observation | None:
    """Return the observation of one model, None when too little or too contradictory was reported. windows_of: by device."""
    loaded = {device: [one for one in windows if is_loaded(one)] for device, windows in windows_of.items()}
    counted = {device: windows for device, windows in loaded.items() if len(windows) >= MIN_WINDOWS}
    figures = {
        "latency_p50_ms": [_of_device(windows, lambda one: one.latency_p50_ms) for windows in counted.values()],
        "latency_p95_ms": [_of_device(windows, lambda one: one.latency_p95_ms) for windows in counted.values()],
        "memory_bytes": [_of_device(windows, _memory) for windows in counted.values()],
    }
    p50, p95, memory = (_agreed(one) for one in figures.values())
    if p50 is None or p95 is None:
        return None
    return Observation(
        devices=len(counted), windows=sum(map(len, counted.values())),
        answers=sum(min(one.n, 2**31) for windows in counted.values() for one in windows),
        latency_p50_ms=p50, latency_p95_ms=max(p50, p95), memory_bytes=None if memory is None else round(memory),
        spread=_spreads(figures),
    )  # fmt: skip


def _memory(window: DeviceWindow) -> float | None:
    low, high = MEMORY_BYTES
    return float(window.memory_bytes) if low <= window.memory_bytes <= high else None


def _of_device(windows: Iterable[DeviceWindow], read: Callable[[DeviceWindow], float | None]) -> float | None:
    known = [value for window in windows if (value := read(window)) is not None]
    return median(known) if known else None


def _spreads(figures: Mapping[str, Sequence[float | None]]) -> dict[str, float]:
    logs = {name: [math.log(one) for one in values if one is not None] for name, values in figures.items()}
    return {name: round(stdev(known), 4) for name, known in logs.items() if len(known) > 1}


def _agreed(figures: Sequence[float | None]) -> float | None:
    """Return the median over devices, None when not more than half of them are near it."""
    known = [math.log(figure) for figure in figures if figure is not None]
    if not known:
        return None
    middle = median(known)
    near = sum(abs(one - middle) <= math.log(AGREEMENT) for one in known)
    return math.exp(middle) if 2 * near > len(known) else None
