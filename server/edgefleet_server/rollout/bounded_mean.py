"""Is the mean of a bounded quantity above or below a threshold? Two tests that may be looked at after every device. Pure.

- Values are counted in bins of equal width. Each test takes a value for the end of its bin that speaks less for it, so binning
  costs a little power and never validity; and a test over any number of devices costs as much as there are bins in use.
- Above: H0 "the mean is at most `at`". E = mean over f of prod (1 + f (x - at)/(at - low)): a gambler who bets the share f of
  what may be lost on "larger than `at`" with each device, spread over ten shares f.
- Below: H0 "the mean is at least `at`". The same with (at - x)/(high - at).
- Under H0 each is a non-negative supermartingale that starts at 1, so it reaches 1/alpha with a probability of at most alpha,
  however often one looks (Ville's inequality). The shares are fixed, so the order of the devices does not matter: a
  device without a value is a factor of its own (`missing`), the worst that there is.
- The confidence sequence is what the tests do not reject: the least `at` that "below" rejects, the greatest that "above" does.
- Assumed: values lie in [low, high] (the caller that counts clips them, and counts what was clipped), and the conditional mean of
  each, given the devices before, is on the H0 side. No distribution, variance or number of devices is assumed.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86 (2024), the capital
process of its section 4 with bets spread over a grid ("diversified Kelly", appendix); Ville (1939).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

FRACTIONS: Final = (0.95, 0.75, 0.55, 0.4, 0.28, 0.2, 0.12, 0.07, 0.03, 0.01)
"""Shares of the greatest bet that cannot ruin: the large ones win where devices agree, the small ones where they scatter."""
BISECTIONS: Final = 14
"""A bound is found to 1/16,384 of the range, on its careful side."""

Bins = tuple[tuple[int, int], ...]
"""(index, devices), in order of index."""


def bin_of(value: float, low: float, high: float, step: float) -> int:
    """Return the bin of a value, which is clipped to [low, high]. Raises ValueError for a value that is no number."""
    if math.isnan(value):
        raise ValueError("a value to be counted is a number")
    last = max(0, math.ceil((high - low) / step - 1e-9) - 1)
    return min(last, max(0, math.floor((min(max(value, low), high) - low) / step)))


def log_e_above(bins: Bins, low: float, high: float, at: float, step: float) -> float:
    """Return the natural log of the evidence against "the mean is at most `at`". Raises ValueError unless low < at < high."""
    _check(low, high, at, step)
    room = at - low
    gains = [((low + index * step - at) / room, count) for index, count in bins]
    return _log_mean([_log_capital(gains, share) for share in FRACTIONS])


def log_e_below(bins: Bins, low: float, high: float, at: float, step: float, missing: int = 0) -> float:
    """Return the natural log of the evidence against "the mean is at least `at`"; `missing` devices count as `high`.

    Raises ValueError unless low < at < high and missing >= 0.
    """
    _check(low, high, at, step)
    if missing < 0:
        raise ValueError(f"no less than no device can be missing, got {missing}")
    room = high - at
    gains = [((at - min(high, low + (index + 1) * step)) / room, count) for index, count in bins]
    return _log_mean([_log_capital([*gains, (-1.0, missing)], share) for share in FRACTIONS])


@lru_cache(maxsize=4096)
def bounds(
    bins: Bins, low: float, high: float, step: float, missing: int, log_above: float, log_below: float
) -> tuple[float, float]:
    """Return what the mean lies between: greatest threshold that is shown to be exceeded, least that is shown to be kept.

    log_above, log_below: natural logs that the two tests must reach. Without any device: (low, high).
    """
    below, over = low, high
    ends = [low, high]
    for _ in range(BISECTIONS):
        middle = (ends[0] + ends[1]) / 2
        if log_e_above(bins, low, high, middle, step) >= log_above:
            ends[0] = below = middle
        else:
            ends[1] = middle
    ends = [low, high]
    for _ in range(BISECTIONS):
        middle = (ends[0] + ends[1]) / 2
        if log_e_below(bins, low, high, middle, step, missing) >= log_below:
            ends[1] = over = middle
        else:
            ends[0] = middle
    return below, over


@lru_cache(maxsize=256)
def clean_needed(low: float, high: float, at: float, step: float, log_below: float, value: float) -> float:
    """Return how many devices that all have `value` it takes to show that the mean is below `at`; infinity: never."""
    index = bin_of(value, low, high, step)
    gain = (at - min(high, low + (index + 1) * step)) / (high - at)
    if gain <= 0:
        return math.inf
    least, most = 0, 1
    while _log_mean([most * math.log1p(share * gain) for share in FRACTIONS]) < log_below:
        least, most = most, 2 * most
        if most > 10**7:
            return math.inf
    while most - least > 1:
        middle = (least + most) // 2
        if _log_mean([middle * math.log1p(share * gain) for share in FRACTIONS]) < log_below:
            least = middle
        else:
            most = middle
    return most


def log_average(weighted: Sequence[tuple[float, float]]) -> float:
    """Return the log of a weighted mean of evidences, given as (weight, log); weights are positive and sum to 1.

    The mean of evidences against hypotheses is evidence against "all of them hold": looking at several costs no penalty.
    """
    return _log_sum([math.log(weight) + log for weight, log in weighted])


def _check(low: float, high: float, at: float, step: float) -> None:
    if not low < at < high or not step > 0:
        raise ValueError(f"expected low < at < high and a step, got {low}, {at}, {high}, {step}")


def _log_capital(gains: Sequence[tuple[float, int]], share: float) -> float:
    return math.fsum([count * math.log1p(share * gain) for gain, count in gains if count])


def _log_mean(logs: Sequence[float]) -> float:
    return _log_sum(logs) - math.log(len(logs))


def _log_sum(logs: Sequence[float]) -> float:
    top = max(logs)
    return top + math.log(math.fsum([math.exp(log - top) for log in logs]))
