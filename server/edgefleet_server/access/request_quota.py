"""How many requests a minute one operator token has. In memory of this process: it keeps a broken script from starving the others.

A token bucket: it holds the requests of one minute and refills evenly, so a burst of a whole minute's requests is fine.
"""

import math
import threading
from dataclasses import dataclass
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.access.errors import TooManyRequestsError

MINUTE_S: Final = 60.0
MAX_TOKENS: Final = 4096


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a token has left: of `limit` requests a minute `remaining` at once, all again in `reset_s` seconds."""

    limit: int
    remaining: int
    reset_s: int


class Throttle:
    """Counts the requests of each token. Thread-safe."""

    def __init__(self, clock: Clock, per_minute: int) -> None:
        """Wire the clock. per_minute: 0 = no limit."""
        self._clock = clock
        self.limit = per_minute
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, token_id: str) -> Allowance | None:
        """Take one request of a token; return what is left, None without a limit. Raises TooManyRequestsError."""
        if self.limit <= 0:
            return None
        now_s, rate = self._clock.monotonic_s(), self.limit / MINUTE_S
        with self._lock:
            left, at_s = self._buckets.get(token_id, (float(self.limit), now_s))
            left = min(float(self.limit), left + (now_s - at_s) * rate)
            is_enough = left >= 1
            left -= is_enough
            if len(self._buckets) >= MAX_TOKENS and token_id not in self._buckets:
                self._forget_full(now_s, rate)
            self._buckets[token_id] = (left, now_s)
        if not is_enough:
            wait_s = max(1, math.ceil((1 - left) / rate))
            raise TooManyRequestsError(
                f"this token has sent more than {self.limit} requests within a minute",
                next_step=f"try again in {wait_s} s; an admin can raise `rate_limit_per_min` of the server",
                retry_after_s=wait_s,
            )
        return Allowance(self.limit, int(left), math.ceil((self.limit - left) / rate))

    def _forget_full(self, now_s: float, rate: float) -> None:
        """Forget tokens that have all their requests again; of the others those that were quiet longest."""
        kept = {k: v for k, v in self._buckets.items() if v[0] + (now_s - v[1]) * rate < self.limit}
        newest = sorted(kept.items(), key=lambda item: item[1][1])[-MAX_TOKENS // 2 :]
        self._buckets = dict(newest)
