"""What pages read a moment ago: an open page is made again with every event, at most once a second, and not all of it is read again."""

from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar

from edgefleet_protocol.clock import Clock

KEPT_S: Final = 15.0
MOST_KEPT: Final = 256
"""The oldest goes where there are more: addresses can ask for any window of time."""

Value = TypeVar("Value")


class Readings:
    """Keeps them. Thread-safe: two threads may read the same at once."""

    def __init__(self, clock: Clock) -> None:
        """Keep nothing yet."""
        self._clock = clock
        self._kept: dict[Hashable, tuple[float, Any]] = {}

    def of(self, key: Hashable, read: Callable[[], Value]) -> Value:
        """Return what was read under this key less than KEPT_S ago, or read it. Raises what `read` raises, and keeps nothing then."""
        now_s = self._clock.monotonic_s()
        kept = {name: one for name, one in self._kept.items() if 0 <= now_s - one[0] < KEPT_S}
        if key not in kept:
            kept = dict(list(kept.items())[1 - MOST_KEPT :])
            kept[key] = (now_s, read())
        self._kept = kept
        found: Value = kept[key][1]
        return found
