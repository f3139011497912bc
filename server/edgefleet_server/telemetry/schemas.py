"""Bodies of the telemetry feature's routes."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_protocol.messages import CaptureReason
from edgefleet_server.telemetry.model import CaptureView
from edgefleet_server.web.strict_types import Whole


class CaptureFetchIn(BaseModel):
    """Which records a device is asked for: of one model and one reason, or of all."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(default="", max_length=63)
    reason: CaptureReason | Literal[""] = ""
    limit: Annotated[int, Whole(1, 10_000)] = 100


@dataclass(frozen=True)
class CaptureOut(CaptureView):
    """One record. sealed: base64 of what the device sealed (ADR 0030)."""

    sealed: str
