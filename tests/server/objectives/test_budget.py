"""Budgets and how fast they burn: tables of the workbook's figures, and what holds for all counts."""

import datetime as dt
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.objectives.burn_rate import (
    DAY,
    HOUR,
    MINUTE,
    PAIRS,
    BurnPair,
    adapted,
    burn_of,
    is_chance,
    judged,
)
from edgefleet_server.objectives.error_budget import Counts, CountStep, edge_s, history, left_of, summed, within

START = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
counts = st.builds(lambda good, bad: Counts(good, good + bad), st.integers(0, 10**7), st.integers(0, 10**5))
steps = st.lists(counts, max_size=60).map(
    lambda found: [CountStep(START + dt.timedelta(hours=at), one) for at, one in enumerate(found)]
)
targets = st.sampled_from([0.9, 0.99, 0.999, 0.9999])


@pytest.mark.parametrize(
    ("good", "total", "allowed", "left"),
    [
        (1000, 1000, 0.01, 1.0),
        (995, 1000, 0.01, 0.5),
        (990, 1000, 0.01, 0.0),
        (980, 1000, 0.01, -1.0),
        (0, 0, 0.01, None),
    ],
)
def test_what_is_left(good: int, total: int, allowed: float, left: float | None) -> None:
    found = left_of(Counts(good, total), allowed)
    assert found == left if left is None else found == pytest.approx(left)


def test_the_pairs_are_those_of_the_workbook() -> None:
    assert [(one.long_s, one.short_s, one.factor) for one in PAIRS] == [
        (HOUR, 5 * MINUTE, 14.4),
        (6 * HOUR, 30 * MINUTE, 6.0),
        (DAY, 2 * HOUR, 3.0),
        (3 * DAY, 6 * HOUR, 1.0),
    ]
    # what each has used of the budget of 30 days when it fires: table 5-8
    used = [one.factor * one.long_s / (30 * DAY) for one in PAIRS]
    assert used == pytest.approx([0.02, 0.05, 0.1, 0.1])


FAST = PAIRS[0]


@pytest.mark.parametrize(
    ("long", "short", "state"),
    [
        (Counts(850, 1000), Counts(70, 100), "burning"),  # 15 and 30 times
        (Counts(850, 1000), Counts(100, 100), "calm"),  # it is over
        (Counts(990, 1000), Counts(70, 100), "calm"),  # it has only begun, and is small
        (Counts(880, 1000), Counts(88, 100), "near"),  # 12 times: an alert goes on, none begins
        (Counts(850, 1000), Counts(), "calm"),  # nothing is heard any more: other alerts say so
        (Counts(9, 10), Counts(1, 2), "calm"),  # one failure of ten is 10 times
        (Counts(4, 5), Counts(1, 2), "few"),  # one failure of five is 20 times, and no page
        (Counts(0, 1), Counts(0, 1), "few"),
        (Counts(3, 5), Counts(1, 2), "few"),  # two of five: 1 in 1,000 by chance
        (Counts(2, 5), Counts(1, 2), "burning"),
    ],
)
def test_a_pair_of_windows(long: Counts, short: Counts, state: str) -> None:
    assert judged(FAST, long, short, 0.01) == state


def test_devices_that_report_seldom_get_longer_windows() -> None:
    assert adapted(FAST, 60.0) == FAST
    assert adapted(FAST, 900.0) == BurnPair(HOUR, 30 * MINUTE, 14.4, is_fast=True)
    assert adapted(FAST, 3600.0) == BurnPair(2 * HOUR, 2 * HOUR, 14.4, is_fast=True)
    assert adapted(PAIRS[3], 3600.0) == PAIRS[3]


@given(counts, targets)
def test_what_is_left_and_the_burn_say_the_same(one: Counts, target: float) -> None:
    left, burn = left_of(one, 1 - target), burn_of(one, 1 - target)
    assert (left is None) == (burn is None) == (one.total == 0)
    if left is not None and burn is not None:
        assert left == pytest.approx(1 - burn)
        assert left <= 1


@given(counts, targets, st.integers(1, 50))
def test_more_failures_never_calm_a_pair(one: Counts, target: float, more: int) -> None:
    order = ("calm", "few", "near", "burning")
    before = judged(FAST, one, one, 1 - target)
    worse = Counts(max(0, one.good - more), one.total)
    assert order.index(judged(FAST, worse, worse, 1 - target)) >= order.index(before)


@given(st.integers(1, 2000), st.sampled_from([0.1, 0.01, 0.001]), st.data())
@settings(max_examples=60)
def test_what_is_no_chance_is_rarer_than_said(total: int, allowed: float, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, min(total, 40)))
    if not is_chance(Counts(total - bad, total), allowed):
        below = sum(math.comb(total, k) * allowed**k * (1 - allowed) ** (total - k) for k in range(bad))
        assert 1 - below <= 1e-3 + 1e-9


@given(steps, targets, st.integers(1, 40), st.integers(1, 7))
def test_the_history_is_what_is_left_at_each_moment(
    found: list[CountStep], target: float, window_h: int, every_h: int
) -> None:
    window = dt.timedelta(hours=window_h)
    ends = [START + dt.timedelta(hours=at) for at in range(1, len(found) + 12, every_h)]
    for end, left, _ in history(found, 1 - target, window, ends):
        assert left == left_of(summed(found, end - window, end), 1 - target)
    fresh = [one for _, _, one in history(found, 1 - target, window, ends)]
    assert sum(one.total for one in fresh) == summed(found, START, ends[-1]).total


@given(st.floats(0.0001, 100), st.lists(st.floats(1e-5, 200), min_size=1, max_size=200))
def test_a_threshold_is_counted_exactly_at_an_edge_near_it(threshold_s: float, values: list[float]) -> None:
    edge = edge_s(threshold_s)
    assert abs(edge / threshold_s - 1) <= 0.01
    sketch = LatencySketch()
    for one in values:
        sketch.add(one)
    found = within(sketch, threshold_s)
    sure = [one for one in values if abs(one / edge - 1) > 1e-6]
    low, high = sum(one < edge for one in sure), sum(one <= edge * 1.000001 for one in values)
    assert (low <= found.good <= high, found.total) == (True, len(values))
