"""What the first pages show of the whole fleet, read before a person asks for it: after the start of a server, and while nobody looks.

Readings of a large fleet take a second (`db.read_cache`); templates and the description of the API, which a process makes once, take as
long. Each process that serves pages keeps its own.
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
_log = logging.getLogger(__name__)


class FirstLook:
    """Looks at these pages now and then, as a person would. For one thread."""

    def __init__(self, look: Callable[[], None], clock: Clock) -> None:
        """Wire the parts. look: reads what they show."""
        self._look = look
        self._clock = clock
        self._due_s = clock.monotonic_s() + AFTER_S

    def renew(self) -> None:
        """Look where that is due. Called each second; blocks while it reads."""
        now_s = self._clock.monotonic_s()
        if now_s < self._due_s:
            return
        self._due_s = now_s + EVERY_S
        try:
            self._look()
        except (SQLAlchemyError, EdgefleetError) as error:
            _log.warning("the first pages could not be read ahead", extra={"error": repr(error)})
