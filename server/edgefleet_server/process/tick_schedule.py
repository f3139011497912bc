"""When the engine's thread ticks next, and whether for news. Pure.

Every few seconds a whole tick; ticks without a pause while the engine is behind, since what is due waits for nothing; and a tick of the
rollouts for news of devices. A round for news is followed by as long without one.
"""

from dataclasses import dataclass, replace
from typing import Final

GATHER_S: Final = 0.1
"""After a wake-up so long is waited for more news: a burst of reports is one tick."""


@dataclass(frozen=True)
class TickSchedule:
    """All in seconds of a clock that only grows. due_s: when the next whole tick is due. heard_s: since when news wait, None: none do.

    news_from_s: none are taken before. round_s: when the round began that the last news began and that has not ended, None: none.
    """

    due_s: float
    heard_s: float | None = None
    news_from_s: float = 0.0
    round_s: float | None = None

    def heard(self, now_s: float) -> "TickSchedule":
        """Return how it goes on once there are news."""
        return self if self.heard_s is not None else replace(self, heard_s=now_s)

    def next(self, now_s: float) -> tuple[float, bool]:
        """Return how long to wait, 0 = not at all, and whether the tick after it is one for news."""
        if self.heard_s is not None:
            from_s = max(self.heard_s + GATHER_S, self.news_from_s)
            if from_s < self.due_s:
                return max(0.0, from_s - now_s), True
        return max(0.0, self.due_s - now_s), False

    def began(self, now_s: float, *, is_woken: bool) -> "TickSchedule":
        """Return how it goes on once a tick has begun: one for news takes all that were heard of."""
        return (
            replace(self, heard_s=None, round_s=now_s if self.round_s is None else self.round_s) if is_woken else self
        )

    def ended(self, now_s: float, every_s: float, *, is_woken: bool, is_behind: bool) -> "TickSchedule":
        """Return how it goes on once a tick has ended; `is_behind`: its round goes on."""
        if is_behind:
            return replace(self, due_s=now_s)
        due_s = self.due_s if is_woken else now_s + every_s
        if self.round_s is None:
            return replace(self, due_s=due_s)
        return replace(self, due_s=due_s, news_from_s=now_s + now_s - self.round_s, round_s=None)
