"""What the runner reports installs to."""

from typing import Protocol

from edgefleet_agent.install.records import ModelRecord, Quarantine
from edgefleet_protocol.messages import EventKind


class Reporter(Protocol):
    """Reports installs to the server."""

    def changed(self) -> None:
        """The state is another one; a report is due soon."""
        ...

    def event(self, kind: EventKind, record: ModelRecord, *, code: str = "", reason: str = "") -> None:
        """Something happened once to a model."""
        ...

    def quarantined(self, record: ModelRecord, entry: Quarantine) -> None:
        """A digest will not be tried again by itself."""
        ...
