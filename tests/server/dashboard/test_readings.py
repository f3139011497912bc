"""What pages read a moment ago is not read again, and is not kept for long."""

from itertools import count

import pytest

from edgefleet_server.dashboard.core.readings import KEPT_S, MOST_KEPT, PATIENCE, Readings
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
    assert readings.of("a", slow) == 1


def test_the_oldest_goes_where_there_are_many_and_an_error_is_not_kept() -> None:
    readings = Readings(TurnedClock())
    for number in range(MOST_KEPT + 1):
        readings.of(number, lambda: "first")
    assert readings.of(MOST_KEPT, lambda: "again") == "first"
    assert readings.of(0, lambda: "again") == "again"
    with pytest.raises(ZeroDivisionError):
        readings.of("x", lambda: 1 / 0)
    assert readings.of("x", lambda: 7) == 7
