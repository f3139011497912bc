"""Which numbers of a sampled prediction log belong to it: the same for device and checker, wherever one begins to look."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.prediction_parts import sampled


@pytest.mark.parametrize("ratio", [1.0, 0.99, 0.5, 0.3, 0.01, 0.001])
def test_as_many_belong_to_it_as_the_share_says(ratio: float) -> None:
    n = 20_000
    assert abs(len([*sampled("a", 1, n, ratio)]) - ratio * n) <= 2


def test_which_ones_is_drawn_and_differs_from_log_to_log() -> None:
    one = [*sampled("a", 1, 5_000, 0.1)]
    assert len({after - before for before, after in pairwise(one)}) > 10, "not each tenth"
    assert one != [*sampled("b", 1, 5_000, 0.1)]


@given(
    st.integers(1, 10**12),
    st.integers(0, 300),
    st.integers(0, 300),
    st.floats(0.0, 1.0, exclude_max=True) | st.just(1.0),
)
def test_parts_of_a_range_give_what_the_whole_gives(first: int, one: int, other: int, ratio: float) -> None:
    middle, last = first + one, first + one + other
    whole = [*sampled("log", first, last, ratio)]
    assert whole == [*sampled("log", first, middle, ratio), *sampled("log", middle + 1, last, ratio)]
    assert whole == sorted(set(whole))


def test_looking_at_many_numbers_costs_what_belongs_to_the_log() -> None:
    assert [*sampled("a", 1, 10**15, 0.0)] == []
    assert len([*islice(sampled("a", 1, 10**18, 1e-6), 1_000)]) == 1_000
