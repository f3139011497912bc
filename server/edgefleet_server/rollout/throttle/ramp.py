"""How many devices of a stage may be offered the release now: the exponential ramp. Pure.

1. A stage's first minute begins with its first offer and has the rate `start`. The rate is of all strata of the stage together,
   and joiners and repeated offers count like any other.
2. A minute at rate r: by its second s, at most floor(r·s/60) + 1 devices are offered the release, and never more than r in it.
   So offers are spread over the minute, and a server that was away does not catch up beyond the minute's rate.
3. A minute ends with the first look at least 60 s after it began; the next begins with that look.
4. The next minute's rate is min(max, floor(rate x factor)), but at least one more than before, if in the minute that ended
   devices were offered the release, none of the stage failed, and factor is above 1. Else it stays: a minute in which nothing
   was offered proves nothing, and one with a failure is no reason to hurry. A failure is one that counts as evidence, or one
   after which the device is offered the release again (`device.retries`).

AWS IoT Jobs has the same exponential rate, which new members of a group bypass: here nobody does.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from edgefleet_server.rollout.model import RampWindow
from edgefleet_server.rollout.spec.model import Rate

MINUTE: Final = timedelta(minutes=1)


def minute_at(rate: Rate, stage: int, known: RampWindow | None, now: datetime) -> RampWindow:
    """Return the minute that a look at `now` falls in. known: the last one, None before the first offer."""
    if known is None:
        return RampWindow(stage, now, rate.start)
    if now - known.began_at < MINUTE:
        return known
    return RampWindow(stage, now, next_rate(rate, known))


def next_rate(rate: Rate, ended: RampWindow) -> int:
    """Return the rate after a minute that ended."""
    if ended.offered == 0 or ended.failed > 0 or rate.factor <= 1:
        return min(ended.per_min, rate.max)
    return min(rate.max, max(int(ended.per_min * rate.factor), ended.per_min + 1))


def room(minute: RampWindow, now: datetime) -> int:
    """Return how many more devices may be offered the release now."""
    passed_s = max(0.0, (now - minute.began_at).total_seconds())
    allowed = min(minute.per_min, int(minute.per_min * passed_s / MINUTE.total_seconds()) + 1)
    return max(0, allowed - minute.offered)


def room_at(minute: RampWindow) -> datetime:
    """Return when the minute, or the one after it, has room for one more device."""
    if minute.offered >= minute.per_min:
        return minute.began_at + MINUTE
    return minute.began_at + MINUTE * minute.offered / minute.per_min


def counted(minute: RampWindow, *, offered: int = 0, failed: int = 0) -> RampWindow:
    """Return the minute with more devices offered, or failed."""
    return replace(minute, offered=minute.offered + offered, failed=minute.failed + failed)
