"""Bodies of requests about devices that ask to come back."""

from typing import Annotated

from pydantic import Field

from edgefleet_server.fleet.schemas import StrictBody

Devices = Annotated[list[Annotated[str, Field(max_length=63)]], Field(min_length=1, max_length=500)]


class ReadmissionsIn(StrictBody):
    """Devices that may come back."""

    devices: Devices


class ReadmissionRefusalIn(StrictBody):
    """Devices that may not come back, and why; the device logs it."""

    devices: Devices
    reason: str = Field(default="", max_length=500)
