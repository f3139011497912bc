"""Refused requests of callers without a valid token: the first one of a minute is an audit row, the others are counted by address.

Anybody can cause them, as many as the network carries, so a row each would fill the disk and hide the rows that matter. Counts are
kept in memory until their minute is over and then become one row: `refused_requests`, with the addresses that sent most.
"""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from edgefleet_protocol.clock import Clock

WINDOW_S: Final = 60.0
MAX_ADDRESSES: Final = 1000
OTHERS: Final = "others"
ACTION: Final = "refused_requests"
ANONYMOUS: Final = "unknown"
_SHOWN: Final = 5
_UNAUTHORIZED: Final = 401

Record = Callable[[str, str, str, int, str], None]
"""actor, action, object, status, request id"""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused request. status: what it was answered with."""

    address: str
    action: str
    object: str
    status: int
    request_id: str


class RefusalBook:
    """Counts refusals and writes them. Thread-safe; calls block for one row at most."""

    def __init__(self, clock: Clock, record: Record) -> None:
        """Wire the parts. record: appends an audit row."""
        self._clock = clock
        self._record = record
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._next_s = float("-inf")
        self._count: Callable[[], None] = lambda: None

    def on_refusal(self, count: Callable[[], None]) -> None:
        """Call `count` for each refusal: the metric."""
        self._count = count

    def note(self, refusal: Refusal) -> None:
        """Write the first refusal of a minute, count the others."""
        self._count()
        self.write_due()
        with self._lock:
            now_s = self._clock.monotonic_s()
            is_first = now_s >= self._next_s
            if is_first:
                self._next_s = now_s + WINDOW_S
            else:
                is_known = refusal.address in self._counts or len(self._counts) < MAX_ADDRESSES
                self._counts[refusal.address if is_known else OTHERS] += 1
        if is_first:
            self._record(ANONYMOUS, refusal.action, refusal.object, refusal.status, refusal.request_id)

    def write_due(self, *, is_last: bool = False) -> None:
        """Write the counts of a minute that is over; is_last: of the present one too, before the process ends."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            if not self._counts or (now_s < self._next_s and not is_last):
                return
            counts, self._counts = self._counts, Counter()
            self._next_s = now_s + WINDOW_S
        self._record(ANONYMOUS, ACTION, _summary(counts), _UNAUTHORIZED, "")


def _summary(counts: Counter[str]) -> str:
    most = counts.most_common(_SHOWN)
    shown = ", ".join(f"{address or 'no address'}: {n}" for address, n in most)
    rest = f", and {len(counts) - len(most)} more addresses" if len(counts) > len(most) else ""
    return f"{counts.total()} more within a minute: {shown}{rest}"
