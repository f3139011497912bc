"""What the first pages show of the whole fleet, read before a person asks for it: after the start of a server, and then now and then.

Readings of a large fleet take a second (`db.read_cache`); templates and the description of the API, which a process makes once, take as
long. Each process that serves pages keeps its own.

Rules:
1. While somebody looks at pages, and for WATCHED_S after that, they are read again every EVERY_S.
2. A fleet of LARGE is read every EVERY_S also while nobody looks: the next person is not to wait for a reading of all its devices.
3. A smaller one is not read while nobody looks: the first page then reads what it needs by itself, which takes no longer than the page.
"""

import logging
from collections.abc import Callable
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError

AFTER_S: Final = 5.0
"""A server that starts has other things to do first."""
EVERY_S: Final = 30.0
"""Sooner than what is kept is stale."""
WATCHED_S: Final = 60.0
LARGE: Final = 10_000
_log = logging.getLogger(__name__)


class FirstLook:
    """Looks at these pages now and then, as a person would. For one thread."""

    def __init__(self, look: Callable[[], int], visits: Callable[[], int], clock: Clock) -> None:
        """Wire the parts. visits: returns how many requests for pages there were.

        look: reads what they show, and returns how many devices there are.
        """
        self._look = look
        self._visits = visits
        self._clock = clock
        self._due_s = clock.monotonic_s() + AFTER_S
        self._seen = 0
        self._seen_s = self._due_s
        self._devices: int | None = None

    def renew(self) -> None:
        """Look where that is due. Called each second; blocks while it reads."""
        now_s, visits = self._clock.monotonic_s(), self._visits()
        if visits != self._seen:
            self._seen, self._seen_s = visits, now_s
        if now_s < self._due_s or not self._is_needed(now_s):
            return
        self._due_s = now_s + EVERY_S
        try:
            self._devices = self._look()
        except (SQLAlchemyError, EdgefleetError) as error:
            _log.warning("the first pages could not be read ahead", extra={"error": repr(error)})

    def _is_needed(self, now_s: float) -> bool:
        return self._devices is None or self._devices >= LARGE or 0 <= now_s - self._seen_s < WATCHED_S
