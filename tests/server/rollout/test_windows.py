"""Windows: open for their whole length and no longer, on the wall clock of their zone, also where the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.rollout.spec.maintenance_windows import Window, cron_flaw, next_start, opening, zone

NIGHT = Window("0 1 * * *", timedelta(hours=4))
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "America/Sao_Paulo",
    "Africa/Cairo",
)


def at(text: str, tz: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz)).astimezone(UTC)


@pytest.mark.parametrize(
    ("now", "tz", "is_open", "until"),
    [
        ("2026-11-25T00:00", "UTC", False, "2026-11-25T01:00"),
        ("2026-11-25T01:00", "UTC", True, "2026-11-25T05:00"),
        ("2026-11-25T04:59", "UTC", True, "2026-11-25T05:00"),
        ("2026-11-25T05:00", "UTC", False, "2026-11-26T01:00"),
        ("2026-11-25T00:00", "Europe/Berlin", True, "2026-11-25T04:00"),
        ("2026-11-25T00:00", "Asia/Kolkata", False, "2026-11-25T19:30"),
    ],
)
def test_a_window_of_the_device(now: str, tz: str, is_open: bool, until: str) -> None:
    found = opening([NIGHT], tz, at(now))
    assert (found.is_open, found.until) == (is_open, at(until))


def test_a_start_that_the_clock_skips_is_when_the_hour_is_over() -> None:
    spring = Window("30 2 * * *", timedelta(hours=1))
    found = opening([spring], "Europe/Berlin", at("2026-03-29T00:59:00"))
    assert (found.is_open, found.until) == (False, at("2026-03-29T01:00"))
    assert opening([spring], "Europe/Berlin", at("2026-03-29T01:59")).is_open
    assert not opening([spring], "Europe/Berlin", at("2026-03-29T02:00")).is_open


def test_a_start_in_the_hour_that_comes_twice_is_once() -> None:
    autumn = Window("30 2 * * *", timedelta(minutes=10))
    openings = [opening([autumn], "Europe/Berlin", at("2026-10-25T00:00") + timedelta(minutes=m)) for m in range(180)]
    assert [place for place, one in enumerate(openings) if one.is_open] == list(range(30, 40))


def test_any_open_window_will_do_and_the_next_one_is_told() -> None:
    both = [NIGHT, Window("0 13 * * SUN", timedelta(hours=2), "UTC")]
    assert opening(both, "Europe/Berlin", at("2026-11-29T14:00")).is_open
    assert opening(both, "Europe/Berlin", at("2026-11-29T12:00")).until == at("2026-11-29T13:00")
    assert opening(both, "nowhere", at("2026-11-29T12:00")).until == at("2026-11-29T13:00")


@pytest.mark.parametrize("tz", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe", "x" * 300])
def test_a_device_without_a_time_zone_is_in_no_window_of_its_own(tz: str) -> None:
    found = opening([NIGHT], tz, at("2026-11-25T02:00"))
    assert (found.is_open, found.is_unknown) == (False, True)
    assert opening([], tz, at("2026-11-25T02:00")).is_open


@pytest.mark.parametrize(
    "expression", ["0 1 * * *", "*/7 0-5 1,15 * MON-FRI", "0 0 L * *", "0 3 * * SUN#2", "59 23 31 12 *"]
)
def test_cron_expressions_that_work(expression: str) -> None:
    assert cron_flaw(expression) == ""


@pytest.mark.parametrize(
    "expression", ["", "* * * *", "* * * * * *", "@daily", "61 * * * *", "0 0 30 2 *", "a b c d e", "0 1 * * * # x"]
)
def test_cron_expressions_that_do_not(expression: str) -> None:
    assert cron_flaw(expression)


@given(
    st.sampled_from(ZONES),
    st.sampled_from(["0 1 * * *", "30 2 * * *", "15 * * * *", "0 */6 * * *", "45 1 * * SUN", "*/20 2 * * *"]),
    st.integers(1, 26 * 60),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 1)),
)
def test_open_exactly_from_each_start_for_the_duration(tz: str, cron: str, minutes: int, naive: datetime) -> None:
    """Against the plain series of starts from 16 days before: where a look begins must not matter, whatever the clocks do."""
    now, duration = naive.replace(tzinfo=UTC), timedelta(minutes=minutes)
    place = zone(tz)
    assert place is not None
    starts: list[datetime] = []
    for local in CronSim(cron, (now - timedelta(days=16)).astimezone(place)):
        starts.append(local.astimezone(UTC))
        if starts[-1] > now:
            break
    expected = any(start <= now < start + duration for start in starts)
    found = opening([Window(cron, duration)], tz, now)
    assert found.is_open is expected
    assert next_start(cron, place, now) == starts[-1]
    assert found.until is not None
    if expected:
        assert now < found.until <= now + duration
    else:
        assert found.until == starts[-1]
        assert opening([Window(cron, duration)], tz, found.until).is_open, "what is told is when it opens"
