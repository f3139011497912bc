"""Two sequential tests of a failure ratio, and the bound that few devices give. Pure, in log space, bit-identical on repetition.

- Abort: H0 "at most p0 of the devices fail". E(k, n) = sum of w(q) (q/p0)^k ((1-q)/(1-p0))^(n-k) over the midpoints q of 400
  equal cells of (p0, 1), w proportional to the Beta(1, 3) density and normalised. k = failed, n = exposed: pending counts as good.
- Promote: H0 "at least p1 of the devices fail". The same with p1, cells of (0, p1), weights of Beta(0.5, 10); k counts pending as bad.
- Under H0 an E reaches 1/alpha with a probability of at most alpha, however often one looks (Ville's inequality). So every
  report may be looked at, and no number of devices has to be fixed beforehand.

Source: docs/explanation/rollouts.md; Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2024), for the
mixture; Clopper and Pearson (1934) for the bound.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

CELLS: Final = 400
_ABORT_BETA: Final = (1.0, 3.0)
_PROMOTE_BETA: Final = (0.5, 10.0)
_LEAST: Final = math.ulp(0.0)
_MOST: Final = 1 - math.ulp(0.5)
"""Least and greatest float between 0 and 1: cells of a p next to either would otherwise be rounded to 0 or 1 themselves."""
_MAX_CLEAN: Final = 100_000
_BISECTIONS: Final = 60

_Table = tuple[tuple[float, float, float], ...]
"""Per cell: log weight, log of the factor of a failure, log of the factor of a success."""


def log_e_abort(failed: int, exposed: int, p0: float) -> float:
    """Return the natural log of the evidence against "at most p0 fail". Raises ValueError unless 0 <= failed <= exposed, 0 < p0 < 1."""
    return _log_e(failed, exposed, p0, True)


def log_e_promote(bad: int, exposed: int, p1: float) -> float:
    """Return the natural log of the evidence against "at least p1 fail". Raises ValueError unless 0 <= bad <= exposed, 0 < p1 < 1."""
    return _log_e(bad, exposed, p1, False)


def with_false_alarms(ratio: float, liars: float) -> float:
    """Return the share of devices that report a failure where `ratio` of the honest ones fail, and a share `liars` says so anyway."""
    return ratio + liars * (1 - ratio)


def with_hidden_failures(ratio: float, liars: float) -> float:
    """Return the share of devices that report a failure where `ratio` of all fail, and a share `liars` never says so."""
    return ratio * (1 - liars)


def threshold(alpha: float) -> float:
    """Return the natural log of 1/alpha, which the evidence has to reach. Raises ValueError unless 0 < alpha < 1."""
    if not 0 < alpha < 1:
        raise ValueError(f"an error probability lies between 0 and 1, got {alpha}")
    return -math.log(alpha)


@lru_cache(maxsize=64)
def clean_needed(p1: float, alpha: float) -> int:
    """Return how many devices without a failure it takes to promote: 73 at p1 = 0.05 and alpha = 0.05.

    Raises ValueError for a p1 or alpha outside (0, 1), or when even 100,000 devices do not suffice.
    """
    enough = threshold(alpha)
    high = 1
    while log_e_promote(0, high, p1) < enough:
        if high > _MAX_CLEAN:
            raise ValueError(f"no number of devices up to {_MAX_CLEAN} can show that less than {p1} fail")
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if log_e_promote(0, middle, p1) < enough:
            low = middle
        else:
            high = middle
    return high


@lru_cache(maxsize=1024)
def upper_bound(failed: int, n: int, confidence: float = 0.95) -> float:
    """Return the failure ratio that `failed` of `n` rule out from above, one-sided (Clopper-Pearson): 0.527 for 0 of 4.

    1.0 when nothing was seen or everything failed. Raises ValueError unless 0 <= failed <= n and 0 < confidence < 1.
    """
    if not 0 <= failed <= n or not 0 < confidence < 1:
        raise ValueError(f"expected 0 <= failed <= n and 0 < confidence < 1, got {failed}, {n}, {confidence}")
    if failed == n:
        return 1.0
    target = math.log1p(-confidence)
    low, high = failed / n, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _log_at_most(failed, n, middle) > target:
            low = middle
        else:
            high = middle
    return high


def _log_at_most(failed: int, n: int, p: float) -> float:
    """Return the log of the probability of at most `failed` failures among `n` devices that fail with `p`, 0 < p < 1."""
    log_p, log_q = math.log(p), math.log1p(-p)
    log_choose = math.lgamma(n + 1)
    return _log_sum(
        [
            log_choose - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_q
            for k in range(failed + 1)
        ]
    )


@lru_cache(maxsize=65_536)
def _log_e(bad: int, exposed: int, p: float, is_abort: bool) -> float:
    if not 0 <= bad <= exposed:
        raise ValueError(f"expected 0 <= bad <= exposed, got {bad} of {exposed}")
    good = exposed - bad
    return _log_sum([weight + bad * fail + good * fine for weight, fail, fine in _table(p, is_abort)])


@lru_cache(maxsize=64)
def _table(p: float, is_abort: bool) -> _Table:
    if not 0 < p < 1:
        raise ValueError(f"a failure ratio to test lies between 0 and 1, got {p}")
    low, high = (p, 1.0) if is_abort else (0.0, p)
    a, b = _ABORT_BETA if is_abort else _PROMOTE_BETA
    midpoints = list(_midpoints(low, high))
    densities = [(a - 1) * math.log(q) + (b - 1) * math.log1p(-q) for q in midpoints]
    total = _log_sum(densities)
    log_p, log_not_p = math.log(p), math.log1p(-p)
    return tuple(
        (density - total, math.log(q) - log_p, math.log1p(-q) - log_not_p)
        for density, q in zip(densities, midpoints, strict=True)
    )


def _midpoints(low: float, high: float) -> Iterator[float]:
    width = (high - low) / CELLS
    return (min(max(low + (cell + 0.5) * width, _LEAST), _MOST) for cell in range(CELLS))


def _log_sum(logs: list[float]) -> float:
    """Return log(sum(exp(logs))) without overflow; fsum makes it the same for every order of the terms."""
    top = max(logs)
    return top + math.log(math.fsum([math.exp(term - top) for term in logs]))
