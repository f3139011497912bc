"""A lock that goes to the thread that has waited longest. For the writers of one process on SQLite.

SQLite lets in what asks at the right moment; others ask again after a tenth of a second. An engine that writes one transaction after
the other would keep a person's command out until it gives up.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class FairLock:
    """First come, first served."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._is_taken = False

    @contextmanager
    def mine(self, limit_s: float) -> Iterator[bool]:
        """Wait for one's turn, at most `limit_s`, and hold it for the block; yield whether it came."""
        with self._guard:
            called = threading.Event() if self._is_taken else None
            self._is_taken = True
            if called is not None:
                self._waiting.append(called)
        has_it = called is None or self._wait(called, limit_s)
        try:
            yield has_it
        finally:
            if has_it:
                self._pass_on()

    def _wait(self, called: threading.Event, limit_s: float) -> bool:
        if called.wait(limit_s):
            return True
        with self._guard:
            if called.is_set():  # called just now
                return True
            self._waiting.remove(called)
            return False

    def _pass_on(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._is_taken = False
