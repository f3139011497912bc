"""Readings of the whole database that pages share: kept, and read again where something is new, without a page that waits for it.

Rules:
1. A reading is kept until its stamp changes, at most AGE_S. Reading it again has at most SHARE of one core: what took long rests longer.
2. Where it took longer than `quick_s`, a caller gets what is kept, and one thread reads it again meanwhile.
3. What is older than STALE_S is not shown as what is now: a caller waits for it as for the first reading.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from edgefleet_protocol.clock import Clock

AGE_S: Final = 1.0
SHARE: Final = 0.1
STALE_S: Final = 60.0
QUICK_S: Final = 0.03
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[_Value]):
    value: _Value
    at_s: float
    cost_s: float
    stamp: int


class KeptReadings(Generic[_Key, _Value]):
    """Readings by what they are of. Thread-safe; calls block for the first reading, a stale one, and where reading is quick."""

    def __init__(self, clock: Clock, read: Callable[[_Key], _Value], most: int = 16, quick_s: float = QUICK_S) -> None:
        """Wire the parts. most: readings that are kept. quick_s: how long a caller may wait."""
        self._clock = clock
        self._read = read
        self._most = most
        self._quick_s = quick_s
        self._lock = threading.Lock()
        self._kept: dict[_Key, _Kept[_Value]] = {}
        self._busy: set[_Key] = set()

    def get(self, key: _Key, stamp: int = 0) -> _Value:
        """Return a reading. stamp: changes where something is new."""
        kept = self._kept.get(key)
        if kept is None or self._is_stale(kept):
            with self._lock:  # a caller that comes meanwhile waits for that reading instead of reading, too
                kept = self._kept.get(key)
                if kept is None or self._is_stale(kept):
                    kept = self._renewed(key, stamp)
        elif self._is_old(kept, stamp):
            if kept.cost_s <= self._quick_s:
                kept = self._renewed(key, stamp)
            elif key not in self._busy:
                self._busy.add(key)
                thread = threading.Thread(target=self._renew_meanwhile, args=(key, stamp), daemon=True, name="readings")
                thread.start()
        return kept.value

    def _is_old(self, kept: _Kept[_Value], stamp: int) -> bool:
        age_s = self._clock.monotonic_s() - kept.at_s
        if 0 <= age_s < kept.cost_s * (1 / SHARE - 1):
            return False
        return kept.stamp != stamp or not 0 <= age_s < AGE_S

    def _is_stale(self, kept: _Kept[_Value]) -> bool:
        return not 0 <= self._clock.monotonic_s() - kept.at_s < max(STALE_S, kept.cost_s / SHARE)

    def _renew_meanwhile(self, key: _Key, stamp: int) -> None:
        try:
            self._renewed(key, stamp)
        finally:
            self._busy.discard(key)

    def _renewed(self, key: _Key, stamp: int) -> _Kept[_Value]:
        began_s = self._clock.monotonic_s()
        value = self._read(key)
        at_s = self._clock.monotonic_s()
        kept = _Kept(value, at_s, at_s - began_s, stamp)
        if key not in self._kept and len(self._kept) >= self._most:
            self._kept = {}
        self._kept[key] = kept
        return kept
