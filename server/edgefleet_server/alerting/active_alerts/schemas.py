"""Bodies of the routes of alerts, rules, silences and maintenance windows."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from edgefleet_server.alerting.active_alerts.errors import BadSilenceError
from edgefleet_server.alerting.alert_rules.fleet_facts import Severity
from edgefleet_server.alerting.rules import MAX_MATCHERS
from edgefleet_server.web.strict_types import Whole

YEAR_S = 366 * 86_400


class AckIn(BaseModel):
    """comment: what is being done about the alert."""

    model_config = ConfigDict(extra="forbid")

    comment: str = Field(default="", max_length=500)


class RuleChangeIn(BaseModel):
    """What to change of a rule; null: back to its default. for_s: seconds for which it must be so before the alert fires."""

    model_config = ConfigDict(extra="forbid")

    is_enabled: bool | None = None
    threshold: float | None = Field(default=None, ge=0, le=1e9, allow_inf_nan=False)
    for_s: Annotated[int, Whole(0, 7 * 86_400)] | None = None
    severity: Severity | None = None
    selector: str | None = Field(default=None, max_length=4096)

    def changes(self) -> dict[str, Any]:
        """Return the fields that were sent."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class SilenceIn(BaseModel):
    """A silence to make, `until` a time or for `for_s` seconds from now. matchers: as in Alertmanager, all must hold.

    They match the labels rule, severity, subject, device, site, profile, group, model, key and disk. selector: of devices.
    """

    model_config = ConfigDict(extra="forbid")

    matchers: list[str] = Field(default_factory=list, max_length=MAX_MATCHERS)
    selector: str | None = Field(default=None, max_length=4096)
    until: AwareDatetime | None = None
    for_s: Annotated[int, Whole(1, YEAR_S)] | None = None
    comment: str = Field(default="", max_length=500)

    def end(self, now: datetime) -> datetime:
        """Return when the silence ends. Raises BadSilenceError unless just one of `until` and `for_s` says it."""
        if (self.until is None) == (self.for_s is None):
            raise BadSilenceError("a silence has one end", next_step="give either `until` or `for_s`")
        try:
            return now + timedelta(seconds=self.for_s or 0) if self.until is None else self.until.astimezone(UTC)
        except OverflowError as error:
            raise BadSilenceError(
                "it has to end within a year from now", next_step="give a time in the future"
            ) from error


class MaintenanceWindowIn(BaseModel):
    """A maintenance window to make.

    cron: five fields, on the clock of `tz` (`device`: that of the device's label tz). selector: "" = all devices.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=80)
    cron: str = Field(min_length=9, max_length=120)
    duration_s: Annotated[int, Whole(60, 7 * 86_400)]
    tz: str = Field(default="UTC", min_length=1, max_length=64)
    selector: str = Field(default="", max_length=4096)

    @property
    def duration(self) -> timedelta:
        """The same as a time."""
        return timedelta(seconds=self.duration_s)
