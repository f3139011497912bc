"""Bodies of the routes of contact points."""

from pydantic import BaseModel, ConfigDict, Field

from edgefleet_server.alerting.alert_rules.fleet_facts import Severity


class ContactIn(BaseModel):
    """A contact point to make. url: of Apprise, with its secrets: it is never shown again. severity: the least that is sent.

    selector: only alerts about these devices, "" = all alerts. sends_resolved: also when alerts end.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=80)
    url: str = Field(min_length=3, max_length=2000)
    severity: Severity = Severity.WARNING
    selector: str = Field(default="", max_length=4096)
    sends_resolved: bool = True
