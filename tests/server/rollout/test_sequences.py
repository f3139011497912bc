"""The two tests of a bounded mean: the formula, what Ville's inequality needs, and that careful is careful."""

import math
import random
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_server.rollout.bounded_mean import (
    FRACTIONS,
    bin_of,
    bounds,
    clean_needed,
    log_average,
    log_e_above,
    log_e_below,
)
from edgefleet_server.rollout.failure_ratio import threshold

UNHURRIED = settings(deadline=None)  # a busy machine is no failure
LOW, HIGH, AT, STEP = -4.0, 4.0, 1.0, 0.05
WIDE = round((HIGH - LOW) / STEP)
some_bins = st.dictionaries(st.integers(0, WIDE - 1), st.integers(1, 30), max_size=12).map(
    lambda found: tuple(sorted(found.items()))
)


def below(bins: tuple[tuple[int, int], ...], missing: int = 0, at: float = AT) -> float:
    return log_e_below(bins, LOW, HIGH, at, STEP, missing)


def above(bins: tuple[tuple[int, int], ...], at: float = AT) -> float:
    return log_e_above(bins, LOW, HIGH, at, STEP)


def test_the_evidence_is_the_formula() -> None:
    values, missing = (3, 3, 40, 159), 2
    bins = ((3, 2), (40, 1), (159, 1))
    over, under = Fraction(0), Fraction(0)
    for share in map(Fraction, FRACTIONS):
        capital = Fraction(1)
        for index in values:
            capital *= 1 + share * (Fraction(LOW) + index * Fraction(STEP) - Fraction(AT)) / Fraction(AT - LOW)
        over += capital / len(FRACTIONS)
        capital = (1 - share) ** missing
        for index in values:
            end = min(Fraction(HIGH), Fraction(LOW) + (index + 1) * Fraction(STEP))
            capital *= 1 + share * (Fraction(AT) - end) / Fraction(HIGH - AT)
        under += capital / len(FRACTIONS)
    assert math.exp(above(bins)) == pytest.approx(float(over), rel=1e-9)
    assert math.exp(below(bins, missing)) == pytest.approx(float(under), rel=1e-9)


def test_nothing_seen_is_no_evidence_and_no_bound() -> None:
    assert above(()) == pytest.approx(0, abs=1e-12)
    assert below(()) == pytest.approx(0, abs=1e-12)
    assert bounds((), LOW, HIGH, STEP, 0, threshold(0.01), threshold(0.05)) == (LOW, HIGH)


@pytest.mark.parametrize("value", [LOW, -0.37, 0.0, 1.0, 1.03, 3.999, HIGH])
def test_a_value_lies_in_its_bin_and_what_is_beyond_is_clipped(value: float) -> None:
    index = bin_of(value, LOW, HIGH, STEP)
    assert LOW + index * STEP <= value + 1e-9
    assert value <= LOW + (index + 1) * STEP + 1e-9
    assert (bin_of(-99.0, LOW, HIGH, STEP), bin_of(math.inf, LOW, HIGH, STEP)) == (0, WIDE - 1)
    with pytest.raises(ValueError, match="number"):
        bin_of(math.nan, LOW, HIGH, STEP)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_at_the_threshold_neither_grows_on_average_whatever_was_seen(share: float) -> None:
    """Every distribution on two values with mean `at`, over all outcomes of six devices: the mean of E stays at most 1."""
    high_value = 1.0 + 3.0 * (1 - share)
    low_value = 1.0 - 3.0 * share
    for log_e in (above, below):
        mean = 0.0
        for outcome in product((True, False), repeat=6):
            chance = math.prod(share if one else 1 - share for one in outcome)
            counts: dict[int, int] = {}
            for one in outcome:
                index = bin_of(high_value if one else low_value, LOW, HIGH, STEP)
                counts[index] = counts.get(index, 0) + 1
            mean += chance * math.exp(log_e(tuple(sorted(counts.items()))))
        assert mean <= 1 + 1e-9


@UNHURRIED
@given(some_bins, st.integers(0, 20))
def test_a_device_without_a_value_never_helps_to_pass(bins: tuple[tuple[int, int], ...], missing: int) -> None:
    assert below(bins, missing + 1) <= below(bins, missing) + 1e-12


@UNHURRIED
@given(some_bins, st.integers(0, WIDE - 2))
def test_a_worse_device_says_more_against_and_less_for(bins: tuple[tuple[int, int], ...], index: int) -> None:
    def with_one(where: int) -> tuple[tuple[int, int], ...]:
        found = dict(bins)
        found[where] = found.get(where, 0) + 1
        return tuple(sorted(found.items()))

    assert above(with_one(index + 1)) >= above(with_one(index)) - 1e-12
    assert below(with_one(index + 1)) <= below(with_one(index)) + 1e-12


@UNHURRIED
@given(some_bins, st.integers(0, 5))
def test_bounds_are_what_the_tests_do_not_reject(bins: tuple[tuple[int, int], ...], missing: int) -> None:
    at_abort, at_promote = threshold(0.01), threshold(0.05)
    low, high = bounds(bins, LOW, HIGH, STEP, missing, at_abort, at_promote)
    assert LOW <= low < high <= HIGH
    if low > LOW:
        assert above(bins, low) >= at_abort
    if high < HIGH:
        assert below(bins, missing, high) >= at_promote
    inside = (low + high) / 2
    wide = (HIGH - LOW) / 2**13
    if high - low > 2 * wide:
        assert above(bins, inside) < at_abort
        assert below(bins, missing, inside) < at_promote


def test_looking_after_every_device_rejects_a_true_threshold_hardly_ever() -> None:
    chance = random.Random(11)
    runs, wrong = 400, 0
    for _ in range(runs):
        counts: dict[int, int] = {}
        for _ in range(60):
            index = bin_of(1.0 + chance.uniform(-2.5, 2.5), LOW, HIGH, STEP)
            counts[index] = counts.get(index, 0) + 1
            if below(tuple(sorted(counts.items()))) >= threshold(0.05):
                wrong += 1
                break
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_the_fewest_devices_that_pass_are_counted_exactly() -> None:
    needed = clean_needed(LOW, HIGH, AT, STEP, threshold(0.05), 0.0)
    index = bin_of(0.0, LOW, HIGH, STEP)
    assert needed == 19
    assert below(((index, 19),)) >= threshold(0.05) > below(((index, 18),))
    assert clean_needed(LOW, HIGH, AT, STEP, threshold(0.05), 1.2) == math.inf


def test_devices_that_scatter_need_hardly_more() -> None:
    chance = random.Random(1)
    needed = []
    for _ in range(25):
        counts: dict[int, int] = {}
        for n in range(1, 100):
            index = bin_of(chance.gauss(0.0, 1.5), LOW, HIGH, STEP)
            counts[index] = counts.get(index, 0) + 1
            if n >= 15 and below(tuple(sorted(counts.items()))) >= threshold(0.05):
                break
        needed.append(n)
    assert 19 <= sorted(needed)[12] <= 24, "the explanation says 22"


def test_a_mean_of_evidences_is_one() -> None:
    assert log_average([(0.5, math.log(4)), (0.5, 0.0)]) == pytest.approx(math.log(2.5))
    assert log_average([(1.0, 800.0)]) == pytest.approx(800.0)


@pytest.mark.parametrize(
    ("low", "high", "at", "step"), [(0, 1, 1, 0.1), (0, 1, 0, 0.1), (0, 1, 0.5, 0), (1, 0, 0.5, 1)]
)
def test_a_scale_that_is_none_is_refused(low: float, high: float, at: float, step: float) -> None:
    for log_e in (log_e_above, log_e_below):
        with pytest.raises(ValueError, match="expected low"):
            log_e((), low, high, at, step)
    with pytest.raises(ValueError, match="missing"):
        log_e_below((), 0, 1, 0.5, 0.1, -1)
