"""Memory that grows without end is told from memory that rises and rests."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.install.probation.memory_leak import MAX_READINGS, MIB, Memory, Resident, leak, read

LIMIT = 200 * MIB


def readings(sizes: list[int], every_s: int = 1, pid: int = 7) -> Resident:
    """Return the readings of one process, one each `every_s`."""
    known = Resident()
    for i, size in enumerate(sizes):
        known = read(known, pid, 1_000 + i * every_s, size)
    return known


def verdict(known: Resident, *, hard: bool = True, limit: int = LIMIT, span_s: float = 10) -> str:
    return leak(known, Memory(limit, -1) if hard else Memory(0, 0), min_span_s=span_s)


def test_steady_growth_is_a_leak_long_before_the_limit() -> None:
    known = readings([80 * MIB + i * MIB // 2 for i in range(40)])
    assert "rose by" in verdict(known)
    assert "limit of 200.0 MiB" in verdict(known)


@pytest.mark.parametrize(
    "sizes",
    [
        # warms up, then rests
        [80 * MIB + min(i, 20) * MIB for i in range(40)],
        # a sawtooth: what is taken is given back
        [80 * MIB + i % 10 * MIB for i in range(40)],
        # grows, but by what any process does
        [80 * MIB + i * 4096 for i in range(40)],
        # too few readings
        [80 * MIB + i * MIB for i in range(11)],
        [],
    ],
)
def test_what_is_no_leak(sizes: list[int]) -> None:
    assert verdict(readings(sizes)) == ""


def test_slow_growth_counts_only_when_the_limit_would_be_passed_within_a_day() -> None:
    known = readings([80 * MIB + i * 50_000 for i in range(40)], every_s=60)
    assert verdict(known, limit=85 * MIB)
    assert verdict(known, limit=400 * MIB) == ""


def test_above_a_limit_that_was_declared_there_is_nothing_to_wait_for() -> None:
    known = readings([201 * MIB])
    assert "its limit is 200.0 MiB" in verdict(known)
    assert verdict(known, hard=False) == ""


def test_another_process_begins_anew() -> None:
    known = readings([80 * MIB + i * MIB for i in range(40)])
    assert read(known, 8, 2_000, 90 * MIB).at == ((2_000, 90 * MIB),)
    assert read(known, 7, 2_000, -1) is known


@given(st.integers(1, 2_000), st.integers(0, 1 << 30))
def test_readings_stay_few_and_span_the_whole_trial(n: int, seed: int) -> None:
    rng = random.Random(seed)
    known = readings([80 * MIB + rng.randrange(MIB) for _ in range(n)])
    assert len(known.at) <= MAX_READINGS
    assert known.at[0][0] == 1_000
    assert known.at[-1][0] >= 1_000 + (n - 1) * 0.9 - known.every
    assert verdict(known) == ""
