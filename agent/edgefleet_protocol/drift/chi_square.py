"""How improbable a chi-square is: the survival function for any positive degrees of freedom, as a power of ten. Pure, no library.

1. `log10_sf` is the tail of one chi-square, exact to 1e-9 of the probability down to 1e-300 and far below.
2. `log10_tail` is the tail of a sum of weighted chi-squares of one degree of freedom each: what a Pearson statistic is where answers
   depend on one another. The weights are estimates from so many windows, which makes the tail heavier (ADR 0099).

Source: the incomplete gamma function by its series and continued fraction (Abramowitz and Stegun 6.5.29, 6.5.31); Lugannani and Rice
(1980) for sums; Rao and Scott, JASA 76 (1981), for why a sum of weighted chi-squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

_LN10: Final = math.log(10)
_LARGE: Final = 30.0
"""From this shape on Stirling's series gives all digits."""
_TINY: Final = 1e-300
_BULK: Final = 2.5
"""So many standard deviations above the mean the tail begins, for which the saddlepoint is used."""


def log10_sf(x: float, freedom: float) -> float:
    """Return log10 of P(X > x) for X chi-square with `freedom` degrees (any positive real number). x may be infinite."""
    if freedom <= 0:
        raise ValueError(f"a chi-square has positive degrees of freedom, not {freedom}")
    if x <= 0:
        return 0.0
    if math.isinf(x):
        return -math.inf
    return log_upper_gamma(freedom / 2, x / 2) / _LN10


def log_upper_gamma(a: float, x: float) -> float:
    """Return the natural logarithm of the regularized upper incomplete gamma function Q(a, x); a, x > 0."""
    if x < 1.5 and a < 1:
        return _log_upper_of_small(a, x)
    if x > a + 1:
        return _log_front(a, x) + math.log(_fraction(a, x))
    lower = math.exp(_log_front(a, x)) * _series(a, x)
    return math.log1p(-lower) if lower < 1 else -math.inf


def log10_tail(x: float, weights: Sequence[float], guessed: Sequence[float] = (), windows: float = math.inf) -> float:
    """Return log10 of P(Σ weights[i]·Z[i]² > x), Z standard normal and independent.

    guessed: the share of each weight that was estimated from `windows` windows; the rest is known. In the bulk of the sum it is the
    second order of Rao and Scott: a chi-square of the same mean and spread. In the tail that is too light, by 5 to 50 times at 1e-6
    where one weight is much greater than the others; there it is the saddlepoint, averaged over what the weights may be.
    """
    total, squares = math.fsum(weights), math.fsum(w * w for w in weights)
    begin = total + _BULK * math.sqrt(2 * squares)
    if x <= begin:
        return log10_sf(x * total / squares, total * total / squares)
    if not guessed or math.isinf(windows):
        return min(0.0, _log_saddle(x, weights) / _LN10)
    tilt = _tilt(x, weights)
    f = _freedom(tilt, weights, guessed, windows)
    nearer = x / (1 + 2 * tilt * x / f)
    f = _freedom(_tilt(max(nearer, begin), weights), weights, guessed, windows)
    return min(0.0, _log_mean(x, weights, f, math.log(nearer / x)) / _LN10)


def _freedom(tilt: float, weights: Sequence[float], guessed: Sequence[float], windows: float) -> float:
    """Return of how many degrees the scale of a sum is uncertain: the greater weights bear the tail, so they count most."""
    shares = [w / (1 - 2 * tilt * w) for w in weights]
    total = math.fsum(shares)
    part = math.fsum(s * g for s, g in zip(shares, guessed, strict=True)) / total
    return windows * total**2 / math.fsum(s * s for s in shares) / max(part * part, _TINY)


def _log_mean(x: float, weights: Sequence[float], f: float, centre: float) -> float:
    """Return ln of the mean of P(sum > x·W) over W, a chi-square of f degrees by f; `centre`: ln of the W that matters most."""
    total, squares = math.fsum(weights), math.fsum(w * w for w in weights)
    begin = total + _BULK * math.sqrt(2 * squares)
    step = math.sqrt(2 / f)
    front = f / 2 * math.log(f / 2) - math.lgamma(f / 2) if f < 1e6 else 0.5 * math.log(f / (4 * math.pi)) + f / 2
    parts = []
    for k in range(-7, 8):
        u = centre + k * step
        at = x * math.exp(u)
        tail = (
            _log_saddle(at, weights) if at > begin else _LN10 * log10_sf(at * total / squares, total * total / squares)
        )
        parts.append(front + f / 2 * (u - math.exp(u)) + tail)
    most = max(parts)
    return most + math.log(step * math.fsum(math.exp(one - most) for one in parts))


def _log_saddle(x: float, weights: Sequence[float]) -> float:
    """Return ln P(sum > x) in its tail: Lugannani and Rice."""
    tilt = _tilt(x, weights)
    spread = math.fsum(2 * (w / (1 - 2 * tilt * w)) ** 2 for w in weights)
    cumulant = -0.5 * math.fsum(math.log1p(-2 * tilt * w) for w in weights)
    distance = math.sqrt(max(_TINY, 2 * (tilt * x - cumulant)))
    return _log_normal_tail(distance, 1 / (tilt * math.sqrt(spread)) - 1 / distance)


def _log_upper_of_small(a: float, x: float) -> float:
    """Q = 1 - x^a/Γ(a+1)·(1 + a·Σ (-x)^k/((a+k)·k!)), without losing what is left of 1."""
    front = a * math.log(x) - math.lgamma(a + 1)
    term, total = 1.0, 0.0
    for k in range(1, 200):
        term *= -x / k
        total += term / (a + k)
        if abs(term) < 1e-18:
            break
    return math.log(-math.expm1(front) - math.exp(front) * a * total)


def _log_front(a: float, x: float) -> float:
    """Return ln(x^a·e^-x/Γ(a)), without a difference of large numbers where a is large."""
    if a < _LARGE:
        return a * math.log(x) - x - math.lgamma(a)
    u = (x - a) / a
    return a * _log1p_less(u) + 0.5 * math.log(a / (2 * math.pi)) - _stirling(a)


def _log1p_less(u: float) -> float:
    """Return ln(1+u) - u."""
    if abs(u) > 0.2:
        return math.log1p(u) - u
    power, total = u * u, 0.0
    for k in range(2, 40):
        total += power / k if k % 2 else -power / k
        power *= u
    return total


def _stirling(a: float) -> float:
    """Return ln Γ(a) - (a - 1/2)·ln a + a - ln √(2π)."""
    b = 1 / (a * a)
    return (1 / 12 - b * (1 / 360 - b * (1 / 1260 - b * (1 / 1680 - b * (1 / 1188 - b * 691 / 360360))))) / a


def _series(a: float, x: float) -> float:
    """Return P(a, x) divided by x^a·e^-x/Γ(a)."""
    term = total = 1 / a
    at = a
    while term > total * 1e-17:
        at += 1
        term *= x / at
        total += term
    return total


def _fraction(a: float, x: float) -> float:
    """Return Q(a, x) divided by x^a·e^-x/Γ(a): Lentz's continued fraction."""
    b = x + 1 - a
    c, d = 1 / _TINY, 1 / b
    found = d
    for i in range(1, 1_000_000):
        step = -i * (i - a)
        b += 2
        d = 1 / (step * d + b or _TINY)
        c = b + step / c or _TINY
        found *= d * c
        if abs(d * c - 1) < 1e-16:
            break
    return found


def _tilt(x: float, weights: Sequence[float]) -> float:
    """Return where the sum's cumulant has the slope x: Newton's steps down from where the greatest weight alone has it."""
    most = max(weights)
    tilt = (1 - most / x) / (2 * most)
    for _ in range(60):
        shares = [w / (1 - 2 * tilt * w) for w in weights]
        step = (sum(shares) - x) / (2 * sum([s * s for s in shares]))
        tilt -= step
        if abs(step) < 1e-13 * tilt:
            break
    return tilt


def _log_normal_tail(z: float, more: float) -> float:
    """Return ln(P(Z > z) + more·φ(z))."""
    mills = (
        math.erfc(z / math.sqrt(2)) / 2 * math.exp(z * z / 2) * math.sqrt(2 * math.pi)
        if z < 20
        else (1 - 1 / (z * z) + 3 / z**4 - 15 / z**6) / z
    )
    return -z * z / 2 - 0.5 * math.log(2 * math.pi) + math.log(mills + more)
