"""Where figures lie on a line: evidence by factors, metrics beside what is allowed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.dashboard.core.filters import times
from edgefleet_server.dashboard.rollouts.gauges import evidence_share, interval

FINITE = st.floats(-1e9, 1e9)


@pytest.mark.parametrize(
    ("e", "share"), [(0.0, 0), (0.5, 0), (1.0, 0), (10.0, 50), (100.0, 100), (1e30, 100), (math.inf, 100)]
)
def test_evidence_goes_by_factors(e: float, share: float) -> None:
    assert evidence_share(e, 100.0) == share


def test_a_metric_lies_between_its_ends_beside_its_threshold() -> None:
    found = interval(-2.0, 12.0, 4.0, 10.0, with_zero=True)
    assert found is not None
    assert found.zero is not None
    assert 0 < found.low < found.zero < found.value < found.threshold < found.high < 100
    assert interval(None, None, None, 10.0, with_zero=True) is None


@given(FINITE, FINITE, FINITE, FINITE, st.booleans())
def test_nothing_lies_beyond_the_line(a: float, b: float, value: float, threshold: float, with_zero: bool) -> None:
    found = interval(min(a, b), max(a, b), value, threshold, with_zero=with_zero)
    assert found is not None
    assert all(0 <= one <= 100 for one in (found.low, found.high, found.value, found.threshold, found.zero or 0.0))
    assert found.low <= found.high
    assert found.width > 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0, "0×"), (0.003, "< 0.01×"), (0.3775, "0.38×"), (9.96, "10×"), (1234.5, "1\u202f234×")],
)
def test_how_many_times_has_two_digits(value: float | None, shown: str) -> None:
    assert times(value) == shown
