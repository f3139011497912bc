"""Bodies of the telemetry feature's routes."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Reason = Literal["", "random", "low_confidence", "disagreement", "drift", "flag"]


class CaptureFetchIn(BaseModel):
    """Which records a device is asked for: of one model and one reason, or of all."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(default="", max_length=63)
    reason: Reason = ""
    limit: int = Field(default=100, ge=1, le=10_000)


class CaptureOut(BaseModel):
    """One record. sealed: base64 of what the device sealed (ADR 0030)."""

    id: str
    device: str
    fetch: str
    model: str
    sha256: str
    reason: str
    label: int
    trace_id: str
    taken_at: datetime
    received_at: datetime
    seen: int
    key: str
    bytes: int
    sealed: str
