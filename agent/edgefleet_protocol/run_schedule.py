"""When a batch runs: `schedule.json` of a bundle, and the five fields of cron that a device reads (ADR 0134).

1. `every` is a length (`90s`, `15m`, `6h`, `1d`), which counts from 1970 in UTC, or a cron line on the clock of `tz`.
2. Fields: `*`, numbers, lists, ranges and steps; no names, no `L`, no `#`. Days as in Debian's cron: both must match where one of
   them begins with `*`, else one is enough.
3. Where clocks change, fixed minutes and hours run once: after the gap, or the first time. `*` follows real time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final, Literal

import msgspec

from edgefleet_protocol.errors import EdgefleetError

SCHEDULE_MEMBER: Final = "schedule.json"
MAX_SCHEDULE_BYTES: Final = 4096
LEAST_S: Final = 60
MOST_S: Final = 366 * 86_400
TZ_DEVICE: Final = "device"
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RANGES: Final = (range(60), range(24), range(1, 32), range(1, 13), range(8))
_NAMES: Final = ("minute", "hour", "day of month", "month", "day of week")
_DAYS: Final = 9 * 366
"""Looked ahead at most: from one 29 February to the next there may be eight years."""
_STEP: Final = timedelta(minutes=1)


class ScheduleError(EdgefleetError):
    """A schedule cannot be used."""

    code = "schedule.invalid"


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """`schedule.json`. input, output: folders, or a file as input, in `batch/MODEL/` of the device. keep: as many files of answers.

    missed: what becomes of runs whose time passed: one for all of them, or none.
    """

    v: Literal[1] = 1
    every: str
    tz: str = "UTC"
    input: str = "in"
    output: str = "out"
    missed: Literal["once", "skip"] = "once"
    keep: int = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """Planned times, unix seconds. every_s: their distance, or 0: those of the cron fields on the clock of `place`."""

    every_s: int
    place: tzinfo = UTC
    fields: tuple[frozenset[int], ...] = ()
    is_wild: bool = False
    either_day: bool = False

    def starts(self, after_s: float) -> Iterator[int]:
        """Yield what is planned after a moment, in order."""
        if self.every_s:
            start = (int(after_s) // self.every_s + 1) * self.every_s
            while True:
                yield start
                start += self.every_s
        day = datetime.fromtimestamp(after_s, self.place).date() - timedelta(days=1)
        last, waiting = after_s, set[int]()
        for _ in range(_DAYS):
            # what is planned in an hour that comes twice around midnight may be of another day
            coming = self._of_day(day) if self._is_on(day) else set[int]()
            for start in sorted(waiting):
                if start > last and not (coming and start > min(coming)):
                    last = start
                    yield start
            waiting = coming | {start for start in waiting if start > last}
            day += timedelta(days=1)

    def next_s(self, after_s: float) -> int:
        """Return the first planned time after a moment; one far away where there is none."""
        return next(self.starts(after_s), int(after_s) + MOST_S * 9)

    def _is_on(self, day: date) -> bool:
        _, _, days, months, weekdays = self.fields
        by_month, by_week = day.day in days, bool({day.isoweekday(), day.isoweekday() % 7} & weekdays)
        return day.month in months and (by_month or by_week if self.either_day else by_month and by_week)

    def _of_day(self, day: date) -> set[int]:
        found = set()
        for hour in self.fields[1]:
            for minute in self.fields[0]:
                found |= self._at(datetime.combine(day, time(hour, minute)))
        return found

    def _at(self, clock: datetime) -> set[int]:
        """Return when a clock on the wall shows this time: once, twice or, in a gap, never."""
        found = set()
        for fold in (0, 1) if self.is_wild else (0,):
            at = clock.replace(tzinfo=self.place, fold=fold)
            while at.astimezone(UTC).astimezone(self.place).replace(tzinfo=None) != at.replace(tzinfo=None):
                if self.is_wild:
                    break
                at += _STEP
            else:
                found.add(int(at.timestamp()))
        return found


def read_schedule(body: bytes) -> Schedule:
    """Return the schedule in a `schedule.json`. Its zone is not looked up. Raises ScheduleError."""
    try:
        found = msgspec.json.decode(body, type=Schedule)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ScheduleError(f"schedule.json: {error}", next_step='for example {"every": "15m"}') from error
    for name in (found.input, found.output):
        is_below = name.isprintable() and not name.startswith((".", "/")) and ".." not in name.split("/")
        if not name or not is_below or len(name) > 200:
            raise ScheduleError(f"schedule.json: {name!r} is not a path below the folder of the model")
    if found.input == found.output or not 1 <= found.keep <= 10_000 or len(body) > MAX_SCHEDULE_BYTES:
        raise ScheduleError("schedule.json: input and output must differ, and 1 to 10,000 files can be kept")
    plan_of(found.every)
    return found


def plan_of(every: str, place: tzinfo = UTC, least_s: int = LEAST_S) -> Plan:
    """Return the plan of a length or a cron line. Raises ScheduleError."""
    parts = every.split()
    if len(parts) == len(_RANGES):
        minute, hour, day, _, weekday = parts
        fields = tuple(_field(*what) for what in zip(parts, _RANGES, _NAMES, strict=True))
        is_wild = minute.startswith("*") or hour.startswith("*")
        plan = Plan(0, place, fields, is_wild, not (day.startswith("*") or weekday.startswith("*")))
        if next(plan.starts(0), None) is None:
            raise ScheduleError(f"{every!r}: no day ever matches it")
        return plan
    number, unit = every[:-1], every[-1:]
    if not (number.isascii() and number.isdigit() and unit in _UNITS):
        raise ScheduleError(
            f"{every!r} is neither a length nor five fields of cron",
            next_step='for example 15m, 6h, or "0 6 * * 1-5": minute, hour, day of month, month, day of week',
        )
    every_s = int(number[:9]) * _UNITS[unit]
    if not least_s <= every_s <= MOST_S:
        raise ScheduleError(f"{every!r}: runs are {least_s} s to a year apart")
    return Plan(every_s)


def _field(text: str, whole: range, name: str) -> frozenset[int]:
    found: set[int] = set()
    for term in text.split(","):
        values, slash, step = term.partition("/")
        first, dash, last = values.partition("-")
        low, high = (whole[0], whole[-1]) if values == "*" else (_number(first), _number(last if dash else first))
        if slash and not dash:
            high = whole[-1]
        by = _number(step) if slash else 1
        if low is None or high is None or not by or not whole[0] <= low <= high <= whole[-1]:
            raise ScheduleError(f"{text!r} is no {name} of cron")
        found.update(range(low, high + 1, by))
    return frozenset(found)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else None
