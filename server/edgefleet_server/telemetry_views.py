"""The newest figures of a device, as its view and the routes of telemetry show them: below the fleet and telemetry, so that both use them.

Fields are public and never renamed. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class AgreementView:
    """Figures of shadows, of one window or of many. What each means is said at `ShadowView`, which the API shows."""

    offered: int
    dropped: int
    compared: int
    failed: int
    judged: int
    agreed: int
    agreement: float | None
    delta_p50: float | None
    delta_p95: float | None
    overlap: float | None
    active_p95_ms: float | None


@dataclass(frozen=True)
class ShadowView(AgreementView):
    """How a candidate compares with what serves, on the same inputs. agreement: agreed ÷ judged, None where nothing was judged.

    Deltas are of scores, within 19 %; overlap is the mean intersection over union of boxes. kept: disagreements on the device now.
    """

    active_p50_ms: float | None
    kept: int


@dataclass(frozen=True)
class WindowView:
    """One window of one model. Latencies are milliseconds, within 1 %; None when nothing was counted.

    joules_per_answer: of a measurement, None where the board cannot tell.
    """

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
    shadow: ShadowView | None = None
    joules_per_answer: float | None = None


@dataclass(frozen=True)
class Latest:
    """The newest message of a device: its own figures, and the newest window of each model and lane."""

    at: datetime
    received_at: datetime
    system: Mapping[str, Any]
    queue_bytes: int
    dropped: int
    windows: Sequence[WindowView]
    missing: int = 0
    """Messages between those that are kept that never came: lost, dropped by the device, or still waiting there."""
