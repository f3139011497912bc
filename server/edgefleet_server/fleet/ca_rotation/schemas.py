"""Bodies of requests about rotations of the device CA."""

from typing import Annotated

from pydantic import Field

from edgefleet_server.fleet.ca_rotation.model import LONGEST_SPREAD_S, SPREAD_S
from edgefleet_server.fleet.schemas import StrictBody
from edgefleet_server.web.strict_types import Whole

Reason = Annotated[str, Field(max_length=200, description="why, for the audit trail")]


class CaRotationStartIn(StrictBody):
    """How devices are asked. spread_s: over which time they renew, each at its own moment."""

    spread_s: Annotated[int, Whole(0, LONGEST_SPREAD_S)] = SPREAD_S
    reason: Reason = ""


class CaRotationFinishIn(StrictBody):
    """How many devices that are online may be left behind, and why."""

    leave_behind: Annotated[int, Whole(0, 10_000_000)] = 0
    reason: Reason = ""
