"""When batches run: the cron lines that a device reads are those of the server's, and `schedule.json` is refused where it is wrong."""

import json
import random
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSimError

from edgefleet_protocol.run_schedule import ScheduleError, plan_of, read_schedule
from edgefleet_server.rollout.spec.maintenance_windows import next_start

ZONES: list[tzinfo] = [
    UTC,
    *map(ZoneInfo, ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Beirut")),
]
CHANGES = [
    datetime(2026, 3, 28, 20, tzinfo=UTC),
    datetime(2026, 10, 24, 20, tzinfo=UTC),
    datetime(2026, 3, 8, 3, tzinfo=UTC),
    datetime(2026, 11, 1, 3, tzinfo=UTC),
    datetime(2026, 4, 4, 12, tzinfo=UTC),
    datetime(2026, 2, 27, 12, tzinfo=UTC),
]
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def field(rng: random.Random, low: int, high: int) -> str:
    first = rng.randint(low, high)
    many = ",".join(str(rng.randint(low, high)) for _ in range(3))
    forms = [
        "*",
        "*",
        "*",
        f"*/{rng.randint(1, high)}",
        str(first),
        f"{first}-{rng.randint(first, high)}",
        f"{first}/7",
    ]
    return rng.choice([*forms, f"{first}-{high}/2", many, f"{low},{first}-{high}"])


def test_planned_times_are_those_that_the_server_reads_from_the_same_line() -> None:
    rng, judged = random.Random(25), 0
    for _ in range(400):
        line = " ".join(field(rng, *one) for one in RANGES)
        place, after = rng.choice(ZONES), rng.choice(CHANGES) + timedelta(minutes=rng.randint(0, 700))
        try:
            wanted = next_start(line, place, after)
        except CronSimError:
            wanted = None
        if wanted is None:
            with pytest.raises(ScheduleError):
                plan_of(line, place)
            continue
        judged += 1
        assert plan_of(line, place).next_s(after.timestamp()) == wanted.timestamp(), (line, place, after)
    assert judged > 350


@pytest.mark.parametrize("line", ["30 2 * * *", "*/20 1-3 * * *", "0 0-5 * * *", "15 * * * 0"])
@pytest.mark.parametrize("place", ZONES)
def test_a_row_of_planned_times_over_a_change_of_clocks_is_the_servers(line: str, place: tzinfo) -> None:
    for after in CHANGES:
        wanted, at = [], after
        for _ in range(12):
            found = next_start(line, place, at)
            assert found is not None
            wanted.append(int(found.timestamp()))
            at = found
        assert list(islice(plan_of(line, place).starts(after.timestamp()), 12)) == wanted


def test_lengths_count_from_1970() -> None:
    assert list(islice(plan_of("15m").starts(899), 3)) == [900, 1800, 2700]
    assert plan_of("15m").next_s(900) == 1800
    assert plan_of("2d").next_s(0) == 2 * 86_400
    assert plan_of("5s", least_s=1).next_s(3) == 5


@pytest.mark.parametrize(
    "every",
    ["", "15", "m", "-5m", "1.5h", "59s", "400d", "² m", "*/0 * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *",
     "* * * * 8", "5-1 * * * *", "* * * * MON", "* * L * *", "0 0 30 2 *", "* * * * * *", ", * * * *", "1,, * * * *", "1//2 * * * *"],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(every: str) -> None:
    with pytest.raises(ScheduleError):
        plan_of(every)


def test_a_schedule_is_read_with_its_defaults_and_ignores_what_is_new() -> None:
    found = read_schedule(b'{"every": "0 6 * * 1-5", "tz": "device", "later": 1}')
    assert (found.tz, found.input, found.output, found.missed, found.keep) == ("device", "in", "out", "once", 100)


@pytest.mark.parametrize(
    "wrong",
    [{"every": "soon"}, {}, {"every": "1h", "v": 2}, {"every": "1h", "input": "../x"}, {"every": "1h", "input": "/etc"},
     {"every": "1h", "output": "in"}, {"every": "1h", "keep": 0}, {"every": "1h", "missed": "all"}, {"every": "1h", "output": ".x"},
     {"every": "1h", "input": "in\0"}],
)  # fmt: skip
def test_a_schedule_that_leaves_its_folder_or_says_nothing_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ScheduleError):
        read_schedule(json.dumps(wrong).encode())
