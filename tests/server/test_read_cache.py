"""Readings that pages share: when they are read again, and that nobody waits for what takes long."""

import threading
from datetime import UTC, datetime
from itertools import count

from edgefleet_server.db.read_cache import QUICK_S, STALE_S, KeptReadings
from tests.support.servers import HandClock

START = datetime(2026, 11, 25, 12, tzinfo=UTC)


def test_a_reading_is_kept_until_its_stamp_changes_or_it_is_old() -> None:
    clock, numbers = HandClock(START), count(1)
    kept = KeptReadings[str, int](clock, lambda _: next(numbers))
    assert [kept.get("a", 1), kept.get("a", 1), kept.get("b", 1), kept.get("a", 2)] == [1, 1, 2, 3]
    clock.turn(seconds=1)
    assert kept.get("a", 2) == 4


def test_nobody_waits_for_a_reading_that_takes_long() -> None:
    clock, done = HandClock(START), threading.Event()
    read: list[int] = []

    def slowly(_: str) -> int:
        clock.turn(seconds=2 * QUICK_S)
        read.append(1)
        if len(read) > 1:
            done.set()
        return len(read)

    kept = KeptReadings[str, int](clock, slowly)
    assert kept.get("a", 1) == 1
    assert kept.get("a", 2) == 1
    assert len(read) == 1  # it rests: reading may take a tenth of a core
    clock.turn(seconds=1)
    assert kept.get("a", 2) == 1
    assert done.wait(10)
    for _ in range(1000):
        if kept.get("a", 2) == 2:
            break
    assert len(read) == 2


def test_what_is_stale_is_not_shown_as_what_is_now() -> None:
    clock, numbers = HandClock(START), count(1)

    def slowly(_: str) -> int:
        clock.turn(seconds=2 * QUICK_S)
        return next(numbers)

    kept = KeptReadings[str, int](clock, slowly)
    assert kept.get("a", 1) == 1
    clock.turn(seconds=STALE_S)
    assert kept.get("a", 1) == 2


def test_only_so_many_are_kept() -> None:
    read: list[int] = []

    def reading(key: int) -> int:
        read.append(key)
        return key

    kept = KeptReadings[int, int](HandClock(START), reading, most=2)
    assert [kept.get(n) for n in (1, 2, 3, 1)] == [1, 2, 3, 1]
    assert read == [1, 2, 3, 1]
