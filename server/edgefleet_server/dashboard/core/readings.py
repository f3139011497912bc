"""What pages read a moment ago: an open page is made again with every event, at most once a second, and not all of it is read again.

What took long to read is kept longer: reading it takes one part in PATIENCE of the time at most, however large the fleet is.
"""

from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar

from edgefleet_protocol.clock import Clock

KEPT_S: Final = 15.0
PATIENCE: Final = 50
MOST_KEPT: Final = 256
"""The oldest goes where there are more: addresses can ask for any window of time."""

Value = TypeVar("Value")


class Readings:
    """Keeps them. Thread-safe: two threads may read the same at once."""

    def __init__(self, clock: Clock) -> None:
        """Keep nothing yet."""
        self._clock = clock
        self._kept: dict[Hashable, tuple[float, float, Any]] = {}
        """By key: when it was read, for how long it is kept, and what was read."""

    def of(self, key: Hashable, read: Callable[[], Value]) -> Value:
        """Return what was read under this key a moment ago, or read it. Raises what `read` raises, and keeps nothing then."""
        now_s = self._clock.monotonic_s()
        kept = {name: one for name, one in self._kept.items() if 0 <= now_s - one[0] < one[1]}
        if key not in kept:
            kept = dict(list(kept.items())[1 - MOST_KEPT :])
            value = read()
            at_s = self._clock.monotonic_s()
            kept[key] = (at_s, max(KEPT_S, PATIENCE * (at_s - now_s)), value)
        self._kept = kept
        found: Value = kept[key][2]
        return found
