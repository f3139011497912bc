"""Bodies of the telemetry routes."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from edgefleet_server.telemetry.model import Latest, WindowView


class WindowOut(BaseModel):
    """One telemetry window of one model. Latencies are milliseconds, within 1 %."""

    model_config = ConfigDict(from_attributes=True)

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
    classes: list[int]
    worker_rss_bytes: int
    worker_cpu_s: float

    @classmethod
    def of(cls, view: WindowView) -> "WindowOut":
        """Translate."""
        return cls.model_validate(view)


class LatestOut(BaseModel):
    """A device's newest figures: of the device itself, and the newest window of each model and lane."""

    at: datetime
    received_at: datetime
    system: dict[str, Any]
    queue_bytes: int
    dropped: int
    windows: list[WindowOut]


def latest_body(latest: Latest) -> dict[str, Any]:
    """Return the newest figures as plain data."""
    body = LatestOut(
        at=latest.at,
        received_at=latest.received_at,
        system=dict(latest.system),
        queue_bytes=latest.queue_bytes,
        dropped=latest.dropped,
        windows=[WindowOut.of(window) for window in latest.windows],
    )
    return body.model_dump(mode="json")
