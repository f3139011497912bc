"""Whether a maintenance window is open, and when the next one begins. Pure but for the time zone database.

- A window begins at each time that its cron expression names on the wall clock of its time zone, and lasts `duration` of real
  time, also where the clocks change meanwhile. Between two changes of the clocks that is what people expect.
- Where the clock skips a start (spring), it begins when the skipped hour is over; where the hour comes twice (autumn), a start
  at a fixed hour begins once, the first time. That is what Debian's cron does, and cronsim, which follows it (ADR 0037).
- Five fields: minute hour day-of-month month day-of-week. `L`, `#`, lists, ranges and steps as in cron. No seconds, no @daily.
- A device's time zone is its label `tz`. One without it, or with one that nobody knows, is in no window, and says so.

Source: docs/reference/rollout-spec.md; ADR 0037.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from edgefleet_server.rollout.spec import fields
from edgefleet_server.rollout.spec.parts import Advice, ExpectedError, Kind, part, shown

TZ_DEVICE: Final = "device"
MAX_WINDOW: Final = timedelta(days=7)
_LOOK_BACK: Final = timedelta(hours=3)
"""The iteration begins so long before what is asked for: a beginning in an hour that comes twice must not matter."""
_FIELDS: Final = 5
_SAMPLE: Final = datetime(2026, 1, 1, tzinfo=UTC)


def _cron(value: Any) -> str:
    expression = fields.text(value)
    if flaw := cron_flaw(expression):
        raise ValueError(f"{shown(value)} is no cron expression: {flaw}")
    return " ".join(expression.split())


def _tz(value: Any) -> str:
    name = fields.text(value)
    if name != TZ_DEVICE and zone(name) is None:
        raise ExpectedError("device, UTC or a time zone such as Europe/Berlin")
    return name


@part("WindowIn")
class Window:
    """When devices may be offered the release: from each start that `cron` names, for `duration`, on the clock of `tz`."""

    cron: Annotated[str, Kind(_cron, {"type": "string"}), Advice('write for example "0 1 * * *": each night at one')]
    duration: Annotated[timedelta, fields.duration(positive=True, most=MAX_WINDOW), Advice("write for example 4h")]
    tz: Annotated[str, Kind(_tz, {"type": "string"})] = TZ_DEVICE


@dataclass(frozen=True, slots=True)
class Opening:
    """How windows stand at a moment. until: when the open one closes, or the next one opens; None: never.

    window: the one that is open, or opens next. is_unknown: no window has a time zone that is known.
    """

    is_open: bool
    until: datetime | None = None
    window: Window | None = None
    is_unknown: bool = False


@lru_cache(maxsize=1024)
def zone(name: str) -> tzinfo | None:
    """Return a time zone by its IANA name, None when nobody knows it."""
    if name == "UTC":
        return UTC
    if not name or name.startswith("/") or ".." in name:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def cron_flaw(expression: str) -> str:
    """Return what is wrong with a cron expression, "" when nothing is."""
    if len(expression.split()) != _FIELDS:
        return "it has not five fields: minute, hour, day of month, month, day of week"
    try:
        next(CronSim(expression, _SAMPLE))
    except CronSimError as error:
        return str(error).lower()
    except StopIteration:
        return "no day ever matches it"
    return ""


def opening(windows: Sequence[Window], tz: str, now: datetime) -> Opening:
    """Return how these windows stand for a device whose label `tz` is `tz`. Any open one will do. No windows: always open."""
    if not windows:
        return Opening(is_open=True)
    known = [(one, place) for one in windows if (place := _zone_of(one, tz)) is not None]
    if not known:
        return Opening(is_open=False, is_unknown=True)
    closes = [(start + one.duration, one) for one, place in known if (start := _last_start(one, place, now))]
    if closes:
        until, window = max(closes, key=lambda close: close[0])
        return Opening(is_open=True, until=until, window=window)
    opens = [(start, one) for one, place in known if (start := next_start(one.cron, place, now))]
    if not opens:
        return Opening(is_open=False)
    until, window = min(opens, key=lambda start: start[0])
    return Opening(is_open=False, until=until, window=window)


def next_start(cron: str, place: tzinfo, after: datetime) -> datetime | None:
    """Return the first start after a moment, in UTC; None when there is none in fifty years."""
    # the plain arithmetic of local times would ignore changes of the clocks: go back in UTC first
    for start in CronSim(cron, (after - _LOOK_BACK).astimezone(place)):
        at: datetime = start.astimezone(UTC)
        if at > after:
            return at
    return None


def _last_start(window: Window, place: tzinfo, now: datetime) -> datetime | None:
    """Return a start whose window is open at `now`: the first one after `now - duration`. None when none is."""
    start = next_start(window.cron, place, now - window.duration)
    if start is None or start > now:
        return None
    return start


def _zone_of(window: Window, tz: str) -> tzinfo | None:
    return zone(tz if window.tz == TZ_DEVICE else window.tz)
