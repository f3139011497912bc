"""What a clock is. Rules take `now` as an argument; shells hold a Clock. No implementation lives here."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Wall and monotonic time of one process."""

    def now(self) -> datetime:
        """Return the current time, aware, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that never go back; only differences mean something."""
        ...
