"""Fit one positive quantity to what a model does, and say how far off it is. Deterministic; no I/O.

`y ≈ Σ βₖ xₖ`, β ≥ 0: times and bytes add up, and nothing that a model does makes it faster. Errors count by ratio, not by
difference: a model of 0.1 ms matters as much as one of 100 ms.

- The first column of `x` is the same quantity as measured on the converting host, and `y = ratio · x₀` is the starting point. Ridge
  pulls β towards it, so that a column must earn its part. Below `FULL_FIT` examples only the first `FEW_COLUMNS` take part: the
  host's figure, and what every run costs whatever the model does. From then on all do where that predicts examples that were left
  out better.
- Huber weights on the logarithm of the ratio keep a minority of wrong reports from moving the fit.
- The error comes from leaving out one example after the other. From `CONFORMAL` examples it is the quantile of those errors that
  a further example stays within at the wanted level (split conformal with leave-one-out residuals); with two or three, Student's t
  on the logarithms. With one there is no error to state, and so no fit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter, mul
from statistics import median
from typing import Final

LEVEL: Final = 0.8
"""Share of models whose true figure lies within the stated error."""
FULL_FIT: Final = 5
FEW_COLUMNS: Final = 2
CONFORMAL: Final = 4
RIDGE: Final = 0.3
"""Weight of the starting point, in examples."""
LEAST_ERROR: Final = 0.02
"""No error below this is stated: a latency sketch resolves 1 % on each side."""
REACH: Final = 5.0
"""How far beyond the examples' own range, as a ratio of the host's figure, a prediction is still made."""

_T_90: Final = {2: 3.078, 3: 1.886}
"""Student's t for two-sided 80 %, by number of examples."""
_HUBER: Final = 1.345
_LEAST_SPREAD: Final = 0.02
_ROUNDS: Final = 4
_DONE: Final = 1e-9

Row = tuple[float, ...]


@dataclass(frozen=True)
class Fit:
    """A fitted quantity. beta: per column of `x`; error: relative, 0.2 = a factor of 1.2 either way; spread: the range of x₀."""

    beta: Row
    error: float
    spread: tuple[float, float]
    left_out: tuple[float, ...]
    """log(true ÷ predicted) of each example, predicted from all the others, in the order given."""

    def value(self, x: Row) -> float:
        """Return the predicted quantity for a row."""
        return _dot(self.beta, x)

    def reaches(self, x: Row) -> bool:
        """Say whether a row is near enough to the examples to be predicted."""
        low, high = self.spread
        return low / REACH <= x[0] <= high * REACH


def fit(rows: Sequence[Row], y: Sequence[float]) -> Fit | None:
    """Return the fit, None with fewer than two examples. rows: finite, ≥ 0, first column > 0; y: > 0, of the same length."""
    if len(rows) < 2:
        return None
    few = _fit(rows, y, is_full=False)
    if len(rows) < FULL_FIT:
        return few
    full = _fit(rows, y, is_full=True)
    return min(few, full, key=lambda one: median(map(abs, one.left_out)))


def _fit(rows: Sequence[Row], y: Sequence[float], *, is_full: bool) -> Fit:
    def missed(i: int) -> float:
        beta = _beta([*rows[:i], *rows[i + 1 :]], [*y[:i], *y[i + 1 :]], is_full=is_full)
        return math.log(y[i] / max(_dot(beta, rows[i]), 1e-300))

    left_out = tuple(missed(i) for i in range(len(rows)))
    firsts = [row[0] for row in rows]
    beta, error = _beta(rows, y, is_full=is_full), _error(rows, y, left_out)
    return Fit(beta, error, (min(firsts), max(firsts)), left_out)


def fit_after(first: Fit, rows: Sequence[Row], y_first: Sequence[float], y: Sequence[float]) -> Fit:
    """Return the fit of a quantity that goes with one already fitted, as a p95 with its p50: `y ≈ a · first + b`.

    A p95 is too noisy to be explained by what models do. rows, y_first: what `first` was fitted to, whose second column is 1.
    """
    pairs = [(value, 1.0) for value in y_first]

    def missed(i: int) -> float:
        scale, constant = _beta([*pairs[:i], *pairs[i + 1 :]], [*y[:i], *y[i + 1 :]], is_full=True)
        return math.log(y[i] / max(scale * y_first[i] / math.exp(first.left_out[i]) + constant, 1e-300))

    left_out = tuple(missed(i) for i in range(len(y)))
    scale, constant = _beta(pairs, y, is_full=True)
    scaled = [scale * b for b in first.beta]
    scaled[1] += constant
    return Fit(tuple(scaled), _error(rows, y, left_out), first.spread, left_out)


def _error(rows: Sequence[Row], y: Sequence[float], left_out: Sequence[float]) -> float:
    n = len(rows)
    if n < CONFORMAL:
        logs = [math.log(value / row[0]) for row, value in zip(rows, y, strict=True)]
        mean = sum(logs) / n
        deviation = math.sqrt(sum((one - mean) ** 2 for one in logs) / (n - 1))
        reach = _T_90[n] * deviation * math.sqrt(1 + 1 / n)
    else:
        reach = sorted(abs(one) for one in left_out)[math.ceil((n + 1) * LEVEL - 1e-9) - 1]
    return max(LEAST_ERROR, math.expm1(min(reach, 50.0)))


def _beta(rows: Sequence[Row], y: Sequence[float], *, is_full: bool) -> Row:
    """Return β of the whole row, or of its first `FEW_COLUMNS` alone."""
    width = len(rows[0]) if is_full else min(FEW_COLUMNS, len(rows[0]))
    ratio = math.exp(median(math.log(value / row[0]) for row, value in zip(rows, y, strict=True)))
    start = (ratio, *(0.0 for _ in range(width - 1)))
    scaled = [tuple(v / value for v in row) for row, value in zip(rows, y, strict=True)]
    sizes = [math.sqrt(sum(row[k] ** 2 for row in scaled) / len(rows)) for k in range(width)]
    columns = [k for k in range(width) if sizes[k] > 0]
    unit = [[row[k] / sizes[k] for k in columns] for row in scaled]
    prior = [start[k] * sizes[k] for k in columns]
    found, weights = prior, [1.0] * len(rows)
    for _ in range(_ROUNDS):
        found = _non_negative(unit, weights, prior)
        weights = _huber([math.log(max(_dot(found, row), 1e-12)) for row in unit])
    centre = median(math.log(max(_dot(found, row), 1e-12)) for row in unit)
    beta = [0.0] * len(rows[0])
    for k, value in zip(columns, found, strict=True):
        beta[k] = value / sizes[k] * math.exp(-centre)
    return tuple(beta)


def _huber(residuals: Sequence[float]) -> list[float]:
    """Return a weight per residual: 1 up to a bound set by their own spread, less beyond it."""
    centre = median(residuals)
    bound = _HUBER * max(_LEAST_SPREAD, 1.4826 * median(abs(one - centre) for one in residuals))
    return [min(1.0, bound / max(abs(one - centre), 1e-12)) for one in residuals]


def _non_negative(unit: Sequence[Sequence[float]], weights: Sequence[float], prior: Sequence[float]) -> list[float]:
    """Return the β ≥ 0 with the least Σ w (unit·β - 1)² + RIDGE Σ (β - prior)²: Lawson and Hanson's active set."""
    width = range(len(prior))
    weighted = [[w * value for value in row] for w, row in zip(weights, unit, strict=True)]
    gram = [[sum(map(mul, map(itemgetter(i), weighted), map(itemgetter(j), unit))) for j in width] for i in width]
    target = [sum(map(itemgetter(i), weighted)) + RIDGE * prior[i] for i in width]
    for i in width:
        gram[i][i] += RIDGE
    beta, free = [0.0] * len(prior), set[int]()
    for _ in range(3 * len(prior)):
        slope = [target[i] - sum(map(mul, gram[i], beta)) for i in width]
        rising = [i for i in width if i not in free and slope[i] > _DONE]
        if not rising:
            break
        free.add(max(rising, key=lambda i: slope[i]))
        beta = _feasible(gram, target, beta, free)
    return beta


def _feasible(
    gram: Sequence[Sequence[float]], target: Sequence[float], beta: Sequence[float], free: set[int]
) -> list[float]:
    """Return the best β over `free` that is not negative; indices that fall to 0 on the way leave `free`."""
    now = list(beta)
    while free:
        order = sorted(free)
        wanted = dict(
            zip(order, _solved([[gram[i][j] for j in order] for i in order], [target[i] for i in order]), strict=True)
        )
        falling = [i for i in order if wanted[i] <= 0]
        step = min((now[i] / (now[i] - wanted[i]) if now[i] > wanted[i] else 0.0 for i in falling), default=1.0)
        now = [now[i] + step * (wanted[i] - now[i]) if i in free else 0.0 for i in range(len(now))]
        if not falling:
            break
        free -= {i for i in falling if now[i] <= _DONE}
        now = [max(0.0, value) if i in free else 0.0 for i, value in enumerate(now)]
    return now


def _solved(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Return x of a symmetric positive definite system, by elimination; ridge keeps the pivots away from 0."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for k in range(size):
        for i in range(k + 1, size):
            factor = rows[i][k] / rows[k][k]
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    x = [0.0] * size
    for i in reversed(range(size)):
        x[i] = (rows[i][size] - sum(rows[i][j] * x[j] for j in range(i + 1, size))) / rows[i][i]
    return x


def _dot(beta: Sequence[float], row: Sequence[float]) -> float:
    return float(sum(map(mul, beta, row)))
