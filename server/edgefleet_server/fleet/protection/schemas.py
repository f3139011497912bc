"""Bodies of requests about deployment protection rules."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from edgefleet_server.fleet.schemas import StrictBody
from edgefleet_server.web.strict_types import Whole


class ProtectionRuleIn(StrictBody):
    """A rule to make: its name, and a selector of labels, groups, profile and id ("" = every device)."""

    name: str = Field(max_length=128)
    selector: str = Field(max_length=4096)


class BreakGlassIn(StrictBody):
    """Why a rule is set aside for the caller, and for how many minutes."""

    reason: str = Field(max_length=500)
    minutes: Annotated[int, Whole(1, 240)] = 60

    @property
    def lasts(self) -> timedelta:
        """For how long."""
        return timedelta(minutes=self.minutes)
