"""Values of the telemetry feature. Those that routes return are public: a field is never renamed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class WindowView:
    """One window of one model. Latencies are milliseconds, within 1 %; None when nothing was counted."""

    model: str
    lane: str
    version: str
    sha256: str
    t0: datetime
    length_s: int
    received_at: datetime
    n: int
    errors: int
    timeouts: int
    nonfinite: int
    crashes: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    classes: Sequence[int]
    worker_rss_bytes: int
    worker_cpu_s: float


@dataclass(frozen=True)
class Latest:
    """The newest message of a device: its own figures, and the newest window of each model and lane."""

    at: datetime
    received_at: datetime
    system: Mapping[str, Any]
    queue_bytes: int
    dropped: int
    windows: Sequence[WindowView]


@dataclass(frozen=True)
class Figures:
    """Sums over windows of one bundle. Latencies are milliseconds, within 1 %; None when nothing was counted."""

    devices: int
    windows: int
    n: int
    errors: int
    timeouts: int
    nonfinite: int
    crashes: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
