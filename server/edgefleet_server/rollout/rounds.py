"""One round over the rollouts that are due: who had a turn in it, and who may have another.

A round may take several ticks. Whoever is due again meanwhile is looked at again.
"""

from collections.abc import Collection
from typing import Final

REST_S: Final = 1.0
"""So long after a look none of the same round follows, also where the plan wants one at once."""


class Round:
    """One round. `is_woken`: devices have reported, so all open rollouts have their turn in it, behind those that are due."""

    def __init__(self) -> None:
        self.is_woken = False
        self.done: set[str] = set()
        self._rests_until_s: dict[str, float] = {}

    def wake(self) -> None:
        """Note that devices have reported just now: all open rollouts have their turn, also those that had one."""
        self.is_woken = True
        self.done.clear()

    def note(self, looked_at: Collection[str], now_s: float) -> None:
        """Note whose turn it was. now_s: of a clock that only grows."""
        self.done.update(looked_at)
        self._rests_until_s.update(dict.fromkeys(looked_at, now_s + REST_S))

    def resting(self, now_s: float) -> set[str]:
        """Return who must not be looked at again yet, due or not."""
        return {one for one, until_s in self._rests_until_s.items() if until_s > now_s}
