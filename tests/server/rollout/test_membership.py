"""Rank and cut: fair, exact, stable; nobody ever moves to an earlier stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.rollout.model import FULL_CUT
from edgefleet_server.rollout.placement import count_below, cut_of, devices_of, rank, shares
from edgefleet_server.rollout.spec.model import Size
from tests.server.rollout.fleet_sim_audit import stage_of

RANKS = st.lists(st.integers(0, 2**64 - 1), max_size=60, unique=True).map(sorted)
PERCENTS = st.one_of(
    st.floats(0, 100, exclude_min=True, allow_subnormal=False),
    st.sampled_from([0.1, 1.0, 7.0, 12.5, 33.3, 50.0, 100.0]),
)
SIZES = st.one_of(
    st.builds(Size, percent=PERCENTS, min=st.integers(0, 80)),
    st.builds(Size, count=st.integers(1, 80), min=st.integers(0, 80)),
)


def test_rank_is_the_first_eight_bytes_of_the_documented_hash() -> None:
    assert rank("salt", "dev-1") == int.from_bytes(sha256(b"salt\x00dev-1").digest()[:8], "big")
    assert rank("salt", "dev-1") == 9272642110419420319
    assert rank("sal", "tdev-1") != rank("salt", "dev-1"), "salt and id do not run into each other"


def test_ranks_of_another_salt_are_another_draw() -> None:
    devices = [f"dev-{number:03}" for number in range(200)]
    first = set(sorted(devices, key=lambda d: rank("a", d))[:50])
    second = set(sorted(devices, key=lambda d: rank("b", d))[:50])
    assert len(first & second) < 30


@pytest.mark.parametrize(
    ("size", "population", "share", "expected"),
    [
        (Size(percent=0.1), 10, None, 1),
        (Size(percent=0.1), 1000, None, 1),
        (Size(percent=0.1), 1001, None, 2),
        (Size(percent=0.1), 100_000, None, 100),
        (Size(percent=7), 100, None, 7),
        (Size(percent=7), 300, None, 21),
        (Size(percent=14), 50, None, 7),
        (Size(percent=29), 100, None, 29),
        (Size(percent=57), 100, None, 57),
        (Size(percent=1.1), 1000, None, 11),
        (Size(percent=1e-9), 1_000_000, None, 1),
        (Size(percent=50), 7, None, 4),
        (Size(percent=99.9), 10, None, 10),
        (Size(percent=100), 7, None, 7),
        (Size(percent=50), 0, None, 0),
        (Size(percent=1, min=80), 1000, None, 80),
        (Size(percent=10, min=80), 1000, None, 100),
        (Size(percent=1, min=80), 9, None, 9),
        (Size(count=5), 9, None, 5),
        (Size(count=5), 3, None, 3),
        (Size(count=5, min=7), 9, None, 7),
        (Size(count=10, count_total=True), 9, 4, 4),
        (Size(count=10, count_total=True), 9, 0, 0),
        (Size(count=10, count_total=True, min=2), 9, 0, 2),
        (Size(count=10, count_total=True, min=2), 1, 0, 1),
    ],
)
def test_a_stage_reaches_exactly_so_many_devices(size: Size, population: int, share: int | None, expected: int) -> None:
    assert devices_of(size, population, share) == expected
    ranks = [1000 + 7 * n for n in range(population)]
    cut = cut_of(size, ranks, 0, share)
    assert count_below(ranks, cut) == expected


@given(st.integers(1, 10**6), st.integers(1, 10**4))
def test_percentages_are_exact_for_whatever_decimals_an_author_writes(population: int, thousandths: int) -> None:
    percent = float(f"{thousandths / 1000:.3f}")
    exact = math.ceil(Fraction(thousandths, 1000) * population / 100)
    assert devices_of(Size(percent=percent), population) == min(exact, population)


def test_a_count_over_all_strata_needs_the_share() -> None:
    with pytest.raises(ValueError, match="share"):
        devices_of(Size(count=3, count_total=True), 10)


def test_only_all_devices_is_a_full_cut() -> None:
    assert cut_of(Size(percent=100), [], 0, None) == FULL_CUT
    assert cut_of(Size(percent=100), [5], 0, None) == FULL_CUT
    assert cut_of(Size(count=9), [5, 8], 0, None) == 9
    assert cut_of(Size(percent=99.99), [5, 8], 0, None) == 9
    assert cut_of(Size(percent=99.99), [], 0, None) == 0
    assert cut_of(Size(percent=1), [], 17, None) == 17


@given(SIZES, RANKS, st.integers(0, FULL_CUT))
def test_a_cut_never_falls(size: Size, ranks: list[int], previous: int) -> None:
    assert cut_of(size, ranks, previous, None) >= previous
    assert cut_of(size, ranks, previous, None) <= FULL_CUT


@given(SIZES, RANKS)
def test_a_stage_has_the_lowest_ranks_and_no_more_than_asked(size: Size, ranks: list[int]) -> None:
    reached = count_below(ranks, cut_of(size, ranks, 0, None))
    assert reached == devices_of(size, len(ranks))


def _cuts(sizes: Sequence[Size], fleets: Sequence[Sequence[int]]) -> list[int]:
    cuts: list[int] = []
    for size, ranks in zip(sizes, fleets, strict=False):
        cuts.append(cut_of(size, sorted(ranks), max(cuts, default=0), None))
    return cuts


@given(st.lists(SIZES, min_size=1, max_size=5), st.lists(RANKS, min_size=5, max_size=5))
def test_a_device_keeps_its_stage_while_others_join_and_leave_and_stages_open(
    sizes: list[Size], fleets: list[list[int]]
) -> None:
    """The fleet is another one at each opening; ranks and earlier cuts are all that counts."""
    cuts = _cuts(sizes, fleets)
    assert cuts == sorted(cuts)
    for value in {value for ranks in fleets for value in ranks}:
        seen = [stage_of(value, cuts[: opened + 1]) for opened in range(len(cuts))]
        known = [stage for stage in seen if stage is not None]
        assert len(set(known)) <= 1, "once it has a stage it keeps it"
        assert seen[len(seen) - len(known) :] == known, "and never loses it"


def test_a_joiner_belongs_to_the_first_stage_whose_cut_exceeds_its_rank() -> None:
    cuts = [11, 11, 31, FULL_CUT]
    assert [stage_of(value, cuts) for value in (0, 10, 11, 30, 31, 2**64 - 1)] == [0, 0, 2, 2, 3, 3]
    assert stage_of(31, cuts[:3]) is None
    assert stage_of(5, []) is None


@pytest.mark.parametrize(
    ("count", "populations", "expected"),
    [
        (10, {"a": 50, "b": 30, "c": 20}, {"a": 5, "b": 3, "c": 2}),
        (4, {"a": 50, "b": 30, "c": 20}, {"a": 2, "b": 2, "c": 0}),
        (1, {"a": 50, "b": 30, "c": 20}, {"a": 1, "b": 0, "c": 0}),
        (2, {"a": 3, "b": 3}, {"a": 2, "b": 0}),
        (2, {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 0}),
        (3, {"b": 5, "a": 5}, {"a": 3, "b": 0}),
        (3, {"a": 2, "b": 2}, {"a": 2, "b": 1}),
        (99, {"a": 5, "b": 2}, {"a": 5, "b": 2}),
        (3, {"a": 0, "b": 9}, {"a": 0, "b": 3}),
        (3, {"a": 0}, {"a": 0}),
        (3, {}, {}),
    ],
)
def test_a_count_over_all_is_shared_out_by_size_in_pairs_at_least(
    count: int, populations: dict[str, int], expected: dict[str, int]
) -> None:
    assert shares(count, populations) == expected


@given(st.integers(1, 500), st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 200), max_size=8))
def test_shares_add_up_and_nobody_gives_more_than_they_have(count: int, populations: dict[str, int]) -> None:
    given_out = shares(count, populations)
    total = sum(populations.values())
    assert sum(given_out.values()) == min(count, total)
    assert set(given_out) == set(populations)
    for name, size in populations.items():
        assert 0 <= given_out[name] <= size
        assert total == 0 or abs(given_out[name] - Fraction(min(count, total) * size, total)) < 3
    alone = [name for name, size in populations.items() if given_out[name] == 1 and size > 1]
    assert len(alone) <= 1, "two single devices prove less than a pair"
    assert shares(count, dict(reversed(populations.items()))) == given_out
