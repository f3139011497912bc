"""What pages read a moment ago: an open page is made again with every event, at most once a second, and not all of it is read again.

Rules:
1. Each user has a name and keys of its own, so that keys of two never clash, and one that asks for much drops nothing of the others.
2. What took long to read is kept longer: reading it takes one part in PATIENCE of the time at most, however large the fleet is.
3. What is kept for too long and took longer than QUICK_S is shown once more, for up to LATE_S, while one thread reads it again.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError

KEPT_S: Final = 15.0
PATIENCE: Final = 50
QUICK_S: Final = 0.1
LATE_S: Final = 60.0
MOST_KEPT: Final = 256
"""Of one user. The oldest goes where there are more: addresses can ask for any window of time."""
_log = logging.getLogger(__name__)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Kept:
    value: Any
    at_s: float
    cost_s: float

    @property
    def lasts_s(self) -> float:
        return max(KEPT_S, PATIENCE * self.cost_s)

    def is_shown(self, now_s: float) -> bool:
        """Whether a page may still show it; what was read quickly is read again instead."""
        late_s = LATE_S if self.cost_s > QUICK_S else 0.0
        return 0 <= now_s - self.at_s < self.lasts_s + late_s


class Readings:
    """Keeps them. Thread-safe: two threads may read the same at once, where nothing of it is kept."""

    def __init__(self, clock: Clock) -> None:
        """Keep nothing yet."""
        self._clock = clock
        self._kept: dict[str, Mapping[Hashable, _Kept]] = {}
        self._busy: set[tuple[str, Hashable]] = set()

    def of(self, user: str, key: Hashable, read: Callable[[], Value]) -> Value:
        """Return what a user read under this key a moment ago, or read it. Raises what `read` raises, and keeps nothing then."""
        now_s = self._clock.monotonic_s()
        kept = self._kept.get(user, {}).get(key)
        if kept is None or not kept.is_shown(now_s):
            return self._read(user, key, read)
        if now_s - kept.at_s >= kept.lasts_s and (user, key) not in self._busy:
            self._busy.add((user, key))
            run = copy_context().run  # `read` may find its parts in the context of the request
            args = (self._read_meanwhile, user, key, read)
            threading.Thread(target=run, args=args, daemon=True, name="readings").start()
        found: Value = kept.value
        return found

    def _read_meanwhile(self, user: str, key: Hashable, read: Callable[[], Any]) -> None:
        try:
            self._read(user, key, read)
        except (SQLAlchemyError, EdgefleetError) as error:  # the page that waits for it will say so
            _log.info("could not be read again", extra={"error": repr(error)})
        finally:
            self._busy.discard((user, key))

    def _read(self, user: str, key: Hashable, read: Callable[[], Value]) -> Value:
        began_s = self._clock.monotonic_s()
        value = read()
        at_s = self._clock.monotonic_s()
        before = self._kept.get(user, {})  # replaced as a whole, so that another thread may read it meanwhile
        kept = {name: one for name, one in before.items() if name != key and one.is_shown(at_s)}
        self._kept[user] = dict(list(kept.items())[1 - MOST_KEPT :]) | {key: _Kept(value, at_s, at_s - began_s)}
        return value
