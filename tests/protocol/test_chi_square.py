"""Tails of chi-squares, held against scipy and against draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from edgefleet_protocol.drift.chi_square import log10_sf, log10_tail
from edgefleet_protocol.drift.design_effect import eigenvalues

FREEDOMS = (1e-3, 0.1, 0.5, 1, 1.7, 2, 3, 9, 9.5, 30, 59, 61, 99.9, 1e3, 1e4, 1e6)
POWERS = (-1e-3, -0.1, -0.5, -1, -2, -6.26, -20, -100, -200, -300)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_one_chi_square_has_nine_digits_down_to_1e_300(freedom: float) -> None:
    for power in POWERS:
        x = float(stats.chi2.isf(10.0**power, freedom))
        if 0 < x < math.inf:
            known = math.log10(float(stats.chi2.sf(x, freedom)))
            assert abs(log10_sf(x, freedom) - known) * math.log(10) < 1e-9, (freedom, power)


def test_the_ends() -> None:
    assert log10_sf(0, 3) == log10_sf(-1, 3) == 0.0
    assert log10_sf(math.inf, 3) == -math.inf
    assert log10_sf(1e6, 2) == pytest.approx(-5e5 / math.log(10)), "far below what a float holds"
    with pytest.raises(ValueError, match="positive"):
        log10_sf(1, 0)


def test_a_sum_of_equal_weights_is_a_chi_square() -> None:
    for x in (4.0, 12.0, 30.0, 60.0, 400.0):
        assert log10_tail(x, [1.0] * 9) == pytest.approx(log10_sf(x, 9), abs=0.005)
        assert log10_tail(7 * x, [7.0] * 9) == pytest.approx(log10_sf(x, 9), abs=0.005)


def test_a_sum_of_uneven_weights_is_as_often_beyond_as_draws_are() -> None:
    weights = np.array([18.0, 7.9, 3.7, 2.1, 1.4, 1.1, 1.0, 1.0, 1.0])
    drawn = np.random.default_rng(2).chisquare(1, (400_000, 9)) @ weights
    for x in (60.0, 120.0, 200.0, 300.0):
        share = float((drawn > x).mean())
        slack = 0.05 + 3 / math.sqrt(share * len(drawn)) / math.log(10)
        assert abs(log10_tail(x, weights.tolist()) - math.log10(share)) < slack, x


@pytest.mark.parametrize("windows", [6, 23, 99, 5000])
def test_weights_of_few_windows_have_the_tail_of_f(windows: int) -> None:
    for x in (20.0, 40.0, 80.0):
        one = math.log10(float(stats.f.sf(x, 1, windows)))
        assert log10_tail(x, [1.0], [1.0], windows) == pytest.approx(one, abs=0.05)
        nine = math.log10(float(stats.f.sf(x / 6, 9, 9 * windows)))
        assert log10_tail(1.5 * x, [1.0] * 9, [1.0] * 9, windows) == pytest.approx(nine, abs=0.05)


def test_eigenvalues_are_those_of_numpy() -> None:
    half = np.random.default_rng(1).normal(size=(12, 12))
    matrix = half + half.T
    found = sorted(eigenvalues(matrix.tolist()))
    assert np.allclose(found, np.linalg.eigvalsh(matrix), atol=1e-9)
