"""The two tests against an exact calculation, their reference figures, and that looking often costs nothing."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_server.rollout.failure_ratio import (
    CELLS,
    _log_e,
    clean_needed,
    log_e_abort,
    log_e_promote,
    threshold,
    upper_bound,
)

UNHURRIED = settings(deadline=None)  # a busy machine is no failure
P0, P1 = 0.03, 0.05
ratios = st.floats(0.001, 0.6)
counts = st.integers(0, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def exact(k: int, n: int, p: float, low: float, high: float, weight: tuple[int, int]) -> float:
    """Return E as the formula says it, in exact fractions; `weight` has the Beta's exponents, doubled."""
    q_low, q_high = Fraction(low), Fraction(high)
    midpoints = [q_low + (2 * i + 1) * (q_high - q_low) / (2 * CELLS) for i in range(CELLS)]
    if weight[0] % 2:  # half a power of q: exact enough as the float it is near to
        weights = [Fraction(float(q) ** (weight[0] / 2)) * (1 - q) ** (weight[1] // 2) for q in midpoints]
    else:
        weights = [q ** (weight[0] // 2) * (1 - q) ** (weight[1] // 2) for q in midpoints]
    null = Fraction(p)
    total = sum(
        w * (q / null) ** k * ((1 - q) / (1 - null)) ** (n - k) for q, w in zip(midpoints, weights, strict=True)
    )
    return float(total / sum(weights))


@pytest.mark.parametrize(("k", "n"), [(0, 0), (1, 1), (2, 2), (0, 5), (3, 40), (1, 12)])
def test_the_evidence_is_the_formula_of_the_design(k: int, n: int) -> None:
    assert math.exp(log_e_abort(k, n, P0)) == pytest.approx(exact(k, n, P0, P0, 1.0, (0, 4)), rel=1e-12)
    assert math.exp(log_e_promote(k, n, P1)) == pytest.approx(exact(k, n, P1, 0.0, P1, (-1, 18)), rel=1e-9)


def test_nothing_seen_is_no_evidence() -> None:
    assert log_e_abort(0, 0, P0) == pytest.approx(0, abs=1e-12)
    assert log_e_promote(0, 0, P1) == pytest.approx(0, abs=1e-12)


def test_73_clean_devices_promote_at_the_defaults() -> None:
    assert clean_needed(0.05, 0.05) == 73
    assert log_e_promote(0, 73, P1) >= threshold(0.05) > log_e_promote(0, 72, P1)


@pytest.mark.parametrize(("p1", "alpha"), [(0.01, 0.05), (0.2, 0.1), (0.5, 0.2), (0.05, 0.9)])
def test_clean_needed_is_the_smallest_number_that_suffices(p1: float, alpha: float) -> None:
    needed = clean_needed(p1, alpha)
    assert log_e_promote(0, needed, p1) >= threshold(alpha)
    assert log_e_promote(0, needed - 1, p1) < threshold(alpha)


def test_a_bound_that_no_number_of_devices_shows_is_refused() -> None:
    with pytest.raises(ValueError, match="no number of devices"):
        clean_needed(1e-7, 0.05)


def test_two_of_two_failures_abort_and_one_of_one_does_not() -> None:
    assert log_e_abort(2, 2, P0) >= threshold(0.01) > log_e_abort(1, 1, P0)


def test_huge_counts_neither_overflow_nor_vanish() -> None:
    assert log_e_abort(100_000, 100_000, P0) > 300_000
    assert log_e_abort(0, 1_000_000, P0) < -20
    assert math.isfinite(log_e_promote(0, 1_000_000, P1))
    assert math.isfinite(log_e_promote(100_000, 100_000, P1))


@pytest.mark.parametrize("p", [math.ulp(0.0), 1e-300, 1 - 1e-14, 1 - math.ulp(0.5)])
@pytest.mark.parametrize(("k", "n"), [(0, 0), (0, 3), (1, 3), (3, 3)])
def test_a_ratio_next_to_0_or_1_is_a_ratio(p: float, k: int, n: int) -> None:
    assert math.isfinite(log_e_abort(k, n, p))
    assert math.isfinite(log_e_promote(k, n, p))


@UNHURRIED
@given(count=counts, p=ratios)
def test_the_same_counts_give_the_same_bits(count: tuple[int, int], p: float) -> None:
    k, n = count
    first = (log_e_abort(k, n, p), log_e_promote(k, n, p))
    _log_e.cache_clear()
    assert (log_e_abort(k, n, p), log_e_promote(k, n, p)) == first


@UNHURRIED
@given(count=counts, p=ratios)
def test_a_failure_more_speaks_against_and_a_healthy_device_for_the_release(count: tuple[int, int], p: float) -> None:
    k, n = count
    margin = 1e-9
    assert log_e_abort(k + 1, n + 1, p) >= log_e_abort(k, n, p) - margin
    assert log_e_abort(k, n + 1, p) <= log_e_abort(k, n, p) + margin
    assert log_e_promote(k + 1, n + 1, p) <= log_e_promote(k, n, p) + margin
    assert log_e_promote(k, n + 1, p) >= log_e_promote(k, n, p) - margin


@UNHURRIED
@given(count=counts, p=ratios)
def test_the_evidence_is_a_fair_bet_under_its_hypothesis(count: tuple[int, int], p: float) -> None:
    """E[next | now] = now when devices fail with exactly p: this is why one may look after every report."""
    k, n = count
    for log_e in (log_e_abort, log_e_promote):
        now = log_e(k, n, p)
        ahead = p * math.exp(log_e(k + 1, n + 1, p) - now) + (1 - p) * math.exp(log_e(k, n + 1, p) - now)
        assert ahead == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(
    ("failed", "n", "bound"), [(0, 4, 0.5271), (0, 3, 0.6316), (0, 1, 0.95), (1, 10, 0.3942), (0, 59, 0.0495)]
)
def test_the_bound_is_clopper_pearson(failed: int, n: int, bound: float) -> None:
    assert upper_bound(failed, n) == pytest.approx(bound, abs=5e-5)


@UNHURRIED
@given(count=counts, confidence=st.floats(0.5, 0.999))
def test_the_bound_is_where_so_few_failures_become_unlikely(count: tuple[int, int], confidence: float) -> None:
    failed, n = count
    bound = upper_bound(failed, n, confidence)
    if failed == n:
        assert bound == 1.0
        return
    assert failed / n < bound <= 1
    tail = math.fsum(math.comb(n, i) * bound**i * (1 - bound) ** (n - i) for i in range(failed + 1))
    assert tail == pytest.approx(1 - confidence, rel=1e-6)


@pytest.mark.parametrize(("k", "n", "p"), [(-1, 3, P0), (4, 3, P0), (1, 3, 0.0), (1, 3, 1.0), (1, 3, math.nan)])
def test_impossible_counts_and_ratios_are_refused(k: int, n: int, p: float) -> None:
    with pytest.raises(ValueError, match=r"expected|lies between"):
        log_e_abort(k, n, p)
    with pytest.raises(ValueError, match=r"expected|lies between"):
        log_e_promote(k, n, p)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, math.nan])
def test_impossible_error_probabilities_are_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="lies between"):
        threshold(alpha)
    with pytest.raises(ValueError, match="expected"):
        upper_bound(1, 2, alpha)
