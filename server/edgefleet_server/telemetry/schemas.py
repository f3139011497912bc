"""Bodies of the telemetry feature's routes."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_protocol.messages import CaptureReason
from edgefleet_server.bodies import Whole
from edgefleet_server.telemetry.model import CaptureView


class CaptureFetchIn(BaseModel):
    """Which records a device is asked for: of one model and one reason, or of all."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(default="", max_length=63)
    reason: CaptureReason | Literal[""] = ""
    limit: Whole = Field(default=100, ge=1, le=10_000)


@dataclass(frozen=True)
class CaptureOut(CaptureView):
    """One record. sealed: base64 of what the device sealed (ADR 0030)."""

    sealed: str
