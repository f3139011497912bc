"""Bodies of the routes of contact points."""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_server.alerting.alert_rules.fleet_facts import Severity
from edgefleet_server.alerting.contact_points.model import REPEAT_S
from edgefleet_server.web.strict_types import Whole

Repeat: Final = Whole(0, 30 * 86_400)


class ContactIn(BaseModel):
    """A contact point to make. url: of Apprise, with its secrets: it is never shown again. severity: the least that is sent.

    selector: only alerts about these devices, "" = all alerts. sends_resolved: also when alerts end. repeat_s: a critical alert that
    nobody acknowledged is sent again after so long, 0: never.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=80)
    url: str = Field(min_length=3, max_length=2000)
    severity: Severity = Severity.WARNING
    selector: str = Field(default="", max_length=4096)
    sends_resolved: bool = True
    repeat_s: Annotated[int, Repeat] = REPEAT_S


class ContactChangeIn(BaseModel):
    """What to change of a contact point; what is left out or null stays. url: another one of Apprise, with its secrets."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, min_length=1, max_length=80)
    url: str | None = Field(default=None, min_length=3, max_length=2000)
    severity: Severity | None = None
    selector: str | None = Field(default=None, max_length=4096)
    sends_resolved: bool | None = None
    repeat_s: Annotated[int, Repeat] | None = None

    def changes(self) -> dict[str, Any]:
        """Return the fields that were sent."""
        found = {name: getattr(self, name) for name in self.model_fields_set}
        return {name: value for name, value in found.items() if value is not None}
