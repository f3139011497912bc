"""What n samples can prove of a mean: one-sided bounds at 95 %. Pure.

Of losses that are 0 or 1 the bound is exact (Clopper and Pearson, 1934); of losses between 0 and 1 it is Hoeffding's (1963), in
its form with the relative entropy, which holds for every distribution. Both need nothing but independent samples.
"""

from collections.abc import Callable
from math import exp, lgamma, log
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CONFIDENCE: Final = 0.95
_STEPS: Final = 60
_ALIKE: Final = 10


def most_lost(losses: Array, *, looks: int = 1) -> float:
    """Return the largest mean loss that these losses leave possible at 95 %.

    losses: of n independent samples, each cut to 0 … 1. looks: how often a choice was made on these samples; each gets its part of
    the 5 %. Of no sample nothing is known: 1.
    """
    n = int(losses.size)
    if n == 0:
        return 1.0
    chance = (1 - CONFIDENCE) / max(1, looks)
    cut = np.clip(losses.astype(np.float64), 0.0, 1.0)
    if bool(np.isin(cut, (0.0, 1.0)).all()):
        wrong = int(cut.sum())
        return 1.0 if wrong == n else _largest(lambda share: _at_most(wrong, n, share) >= chance, wrong / n)
    mean = float(cut.mean())
    return _largest(lambda share: n * _entropy(mean, share) <= -log(chance), mean)


def standard_error(losses: Array | None) -> float:
    """Return the standard error of the mean of the losses of a stream, whose neighbours are alike: by means of runs of 10."""
    if losses is None or losses.size < 3 * _ALIKE:
        return 0.0
    batches = losses[: losses.size // _ALIKE * _ALIKE].astype(np.float64).reshape(-1, _ALIKE).mean(axis=1)
    return float(batches.std(ddof=1) / np.sqrt(len(batches)))


def _largest(holds: Callable[[float], bool], low: float) -> float:
    """Return the largest share in low … 1 that holds, by halving."""
    high = 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high


def _at_most(k: int, n: int, share: float) -> float:
    """Return the chance of at most k in n."""
    if share <= 0:
        return 1.0
    if share >= 1:
        return float(k >= n)
    logs = [
        lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) + i * log(share) + (n - i) * log(1 - share)
        for i in range(k + 1)
    ]
    return min(1.0, sum(exp(value) for value in logs))


def _entropy(mean: float, share: float) -> float:
    """Return the relative entropy of two coins."""
    if share >= 1:
        return float("inf") if mean < 1 else 0.0
    first = mean * log(mean / share) if mean > 0 else 0.0
    second = (1 - mean) * log((1 - mean) / (1 - share)) if mean < 1 else 0.0
    return first + second
