"""How many failed logins one address may have. In memory of this process: with 256-bit secrets nothing can be guessed, so this
only bounds the work and the audit rows that strangers can cause."""

import math
import threading
from collections import OrderedDict, deque
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.access.errors import TooManyLoginsError

MAX_FAILURES: Final = 20
WINDOW_S: Final = 60.0
MAX_ADDRESSES: Final = 4096


class LoginLimiter:
    """Counts failures of the last minute by address; knows the MAX_ADDRESSES that failed most recently. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        """Wire the clock."""
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raise TooManyLoginsError while an address has failed too often."""
        with self._lock:
            failures = self._recent(address)
            if len(failures) < MAX_FAILURES:
                return
            wait_s = max(1, math.ceil(failures[0] + WINDOW_S - self._clock.monotonic_s()))
        raise TooManyLoginsError(
            f"{MAX_FAILURES} logins from this address failed within a minute",
            next_step=f"try again in {wait_s} s",
            retry_after_s=wait_s,
        )

    def note_failure(self, address: str) -> None:
        """Count one failure."""
        with self._lock:
            failures = self._recent(address)
            failures.append(self._clock.monotonic_s())
            self._failures[address] = failures
            self._failures.move_to_end(address)
            while len(self._failures) > MAX_ADDRESSES:
                self._failures.popitem(last=False)

    def _recent(self, address: str) -> deque[float]:
        failures = self._failures.get(address, deque(maxlen=MAX_FAILURES))
        start = self._clock.monotonic_s() - WINDOW_S
        while failures and failures[0] <= start:
            failures.popleft()
        return failures
