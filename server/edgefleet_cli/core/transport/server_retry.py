"""Asking a server again that may be away for a while: following a rollout or the events outlives its restart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.errors import ApiError, BadAnswerError, ServerUnreachableError, UntrustedServerError
from edgefleet_cli.render.output import one_line

T = TypeVar("T")
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 10.0
_BUSY = 429


def is_passing(error: Exception) -> bool:
    """Tell whether the server may answer later; other errors say that the question itself is wrong."""
    if isinstance(error, ApiError):
        return error.status >= 500 or error.status == _BUSY
    return isinstance(error, ServerUnreachableError | BadAnswerError) and not isinstance(error, UntrustedServerError)


class ServerRetry:
    """Asks, and waits longer after each failure in a row; `note` is called once when it begins to wait, and once when that is over.

    give_up_s: how long a server may be away before its error is raised.
    """

    def __init__(self, note: Callable[[str], None], clock: SystemClock, *, give_up_s: float = math.inf) -> None:
        self._note = note
        self._clock = clock
        self._give_up_s = give_up_s
        self._away_since_s: float | None = None
        self._pause_s = FIRST_PAUSE_S

    def ask(self, question: Callable[[], T], *, until_s: float = math.inf) -> T | None:
        """Return the answer; None, after a pause that ends at `until_s` of the clock at the latest, when the server is away.

        Raises what says that the question itself is wrong, such as ApiError for what is not there.
        """
        try:
            answer = question()
        except (ServerUnreachableError, BadAnswerError, ApiError) as error:
            if not is_passing(error):
                raise
            self._wait(error, until_s)
            return None
        if self._away_since_s is not None:
            self._note("the server answers again")
        self._away_since_s, self._pause_s = None, FIRST_PAUSE_S
        return answer

    def _wait(self, error: ServerUnreachableError | BadAnswerError | ApiError, until_s: float) -> None:
        now_s = self._clock.monotonic_s()
        if self._away_since_s is None:
            self._away_since_s = now_s
            self._note(f"{one_line(error.message)}; trying again")
        if now_s - self._away_since_s >= self._give_up_s:
            raise error
        self._clock.sleep(max(0.0, min(self._pause_s, until_s - now_s)))
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
