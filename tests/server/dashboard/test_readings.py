"""What pages read a moment ago is not read again, and is not kept for long."""

import threading
from itertools import count

import pytest

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.dashboard.core.readings import KEPT_S, LATE_S, MOST_KEPT, PATIENCE, Readings
from tests.server.fleet.house import TurnedClock


def test_a_reading_is_kept_for_some_seconds() -> None:
    clock, counted = TurnedClock(), count()
    readings = Readings(clock)
    assert [readings.of(key, lambda: next(counted)) for key in ("a", "a", "b")] == [0, 0, 1]
    clock.turn(seconds=KEPT_S)
    assert readings.of("a", lambda: next(counted)) == 2


def test_what_took_long_to_read_is_kept_longer() -> None:
    clock, counted = TurnedClock(), count()
    readings = Readings(clock)

    def slow() -> int:
        clock.turn(seconds=2)
        return next(counted)

    assert readings.of("a", slow) == 0
    clock.turn(seconds=2 * PATIENCE - 1)
    assert readings.of("a", slow) == 0
    clock.turn(seconds=1)
    assert readings.of("a", slow) == 0, "nobody waits for it: it is read meanwhile"
    for thread in threading.enumerate():
        if thread.name == "readings":
            thread.join()
    assert readings.of("a", slow) == 1
    clock.turn(seconds=2 * PATIENCE + LATE_S)
    assert readings.of("a", slow) == 2, "what is older is not shown"


def test_what_cannot_be_read_again_is_not_shown_for_long() -> None:
    clock = TurnedClock()
    readings = Readings(clock)

    def slow() -> str:
        clock.turn(seconds=2)
        return "first"

    def broken() -> str:
        raise EdgefleetError("gone")

    assert readings.of("a", slow) == "first"
    clock.turn(seconds=2 * PATIENCE)
    assert readings.of("a", broken) == "first"
    for thread in threading.enumerate():
        if thread.name == "readings":
            thread.join()
    clock.turn(seconds=LATE_S)
    with pytest.raises(EdgefleetError):
        readings.of("a", broken)


def test_the_oldest_goes_where_there_are_many_and_an_error_is_not_kept() -> None:
    readings = Readings(TurnedClock())
    for number in range(MOST_KEPT + 1):
        readings.of(number, lambda: "first")
    assert readings.of(MOST_KEPT, lambda: "again") == "first"
    assert readings.of(0, lambda: "again") == "again"
    with pytest.raises(ZeroDivisionError):
        readings.of("x", lambda: 1 / 0)
    assert readings.of("x", lambda: 7) == 7
