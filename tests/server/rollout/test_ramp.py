"""The ramp: never faster than it says, whoever looks when; faster only after a minute in which something went and nothing failed."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.rollout.admission import MINUTE, counted, minute_at, next_rate, room, room_at
from edgefleet_server.rollout.model import RampWindow
from edgefleet_server.rollout.spec.model import Rate

START = datetime(2026, 11, 25, tzinfo=UTC)
RATES = st.builds(
    lambda start, factor, more: Rate(start, factor, start + more),
    st.integers(1, 300),
    st.floats(1, 10),
    st.integers(0, 3000),
)


def minute(per_min: int, offered: int = 0, failed: int = 0) -> RampWindow:
    return RampWindow(0, START, per_min, offered, failed)


@pytest.mark.parametrize(
    ("rate", "ended", "then"),
    [
        (Rate(50, 2, 2000), minute(50, 50), 100),
        (Rate(50, 2, 2000), minute(50, 1), 100),
        (Rate(50, 2, 2000), minute(50, 0), 50),
        (Rate(50, 2, 2000), minute(50, 50, failed=1), 50),
        (Rate(50, 2, 2000), minute(1600, 1600), 2000),
        (Rate(1, 1.1, 2000), minute(1, 1), 2),
        (Rate(50, 1, 2000), minute(50, 50), 50),
        (Rate(50, 1.5, 60), minute(50, 50), 60),
    ],
    ids=["good", "one offer", "nothing offered", "one failed", "the most", "at least one more", "constant", "capped"],
)
def test_the_rate_of_the_next_minute(rate: Rate, ended: RampWindow, then: int) -> None:
    assert next_rate(rate, ended) == then


@pytest.mark.parametrize(
    ("second", "offered", "left"), [(0, 0, 1), (0, 1, 0), (30, 0, 16), (59, 0, 30), (59, 30, 0), (3600, 0, 30)]
)
def test_offers_are_spread_over_the_minute(second: int, offered: int, left: int) -> None:
    assert room(minute(30, offered), START + timedelta(seconds=second)) == left


def test_a_server_that_was_away_for_an_hour_gained_one_step_only() -> None:
    rate = Rate(50, 2, 2000)
    found = minute_at(rate, 0, minute(50, 50), START + timedelta(hours=1))
    assert (found.per_min, found.offered, found.began_at) == (100, 0, START + timedelta(hours=1))


@given(
    RATES,
    st.lists(st.tuples(st.integers(0, 90_000), st.integers(0, 400), st.booleans()), min_size=1, max_size=60),
)
def test_no_look_offers_more_than_the_rate(rate: Rate, looks: list[tuple[int, int, bool]]) -> None:
    """looks: milliseconds since the last one, devices that would like to be offered the release, and whether one has failed."""
    now, known = START, None
    ended: list[RampWindow] = []
    offers: list[datetime] = []
    for waited_ms, wanted, has_failed in looks:
        now += timedelta(milliseconds=waited_ms)
        if known is not None and has_failed:
            known = counted(known, failed=1)
        found = minute_at(rate, 0, known, now)
        if known is not None and found.began_at != known.began_at:
            ended.append(known)
        taken = min(wanted, room(found, now))
        offers += [now] * taken
        if taken or known is not None:
            known = counted(found, offered=taken)
    all_minutes = [*ended, *([known] if known else [])]
    assert sum(one.offered for one in all_minutes) == len(offers)
    for one in all_minutes:
        assert one.offered <= one.per_min <= rate.max
        own = [at for at in offers if one.began_at <= at < one.began_at + MINUTE]
        for place, at in enumerate(own, 1):
            assert place <= one.per_min * (at - one.began_at) / MINUTE + 1
    for before, after in itertools.pairwise(all_minutes):
        may_grow = before.offered > 0 and before.failed == 0
        bound = max(before.per_min * rate.factor, before.per_min + 1) if may_grow else before.per_min
        assert before.per_min <= after.per_min <= bound
        assert after.began_at - before.began_at >= MINUTE


@given(st.integers(1, 3000), st.integers(0, 3000), st.integers(0, 59))
def test_what_is_told_of_the_next_turn_is_true(per_min: int, offered: int, second: int) -> None:
    one, now = minute(per_min, min(offered, per_min)), START + timedelta(seconds=second)
    if room(one, now):
        return
    at = room_at(one)
    assert at > now - timedelta(milliseconds=1)
    later = minute_at(Rate(per_min, 1, per_min), 0, one, at + timedelta(milliseconds=1))
    assert room(later, at + timedelta(milliseconds=1)) >= 1
