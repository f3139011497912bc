"""The agent's clock: the only module of the agent that asks the operating system for the time."""

import time
from datetime import UTC, datetime


class SystemClock:
    """The device's clock (satisfies `edgefleet_protocol.clock.Clock`)."""

    def now(self) -> datetime:
        """Return the current time, aware, UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Return seconds from an arbitrary start that never run backwards."""
        return time.monotonic()
