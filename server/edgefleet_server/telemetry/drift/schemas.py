"""Bodies of the routes of drift."""

from datetime import datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from edgefleet_server.telemetry.signals.model import Scale

__all__ = ["BaselineIn", "Scale"]


class BaselineIn(BaseModel):
    """A period that is chosen as normal: from `since` to `until`, without that to now."""

    model_config = ConfigDict(extra="forbid")

    since: AwareDatetime = Field(description="beginning of the period")
    until: AwareDatetime | None = Field(default=None, description="end of the period; null: now")

    def period(self) -> tuple[datetime, datetime | None]:
        """Return beginning and end."""
        return self.since, self.until
