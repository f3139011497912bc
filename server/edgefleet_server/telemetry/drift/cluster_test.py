"""Whether devices differ from what is expected, or from each other, by more than chance: the device is the unit. Pure.

The mean over devices of their shares of bins is compared, so one busy device decides nothing. It is as uncertain as the devices differ,
and never less than by counting: where a device's answers hang together (one slow stream) and where devices differ by nature, both
grow. The statistic is the chi-square of Rao and Scott with their second-order correction, held against an F distribution whose second
freedom says how few devices the spread rests on (Rao and Scott, Annals of Statistics 12, 1984; Thomas and Rao, JASA 82, 1987).
Sampling of the reference is part of it.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

Shares = Sequence[float]

SURE: Final = -300.0
"""No smaller power of ten is told."""
ENOUGH: Final = 5
"""Freedom with which it is known how devices differ by nature; with less, only a plain effect is worth a word."""
MIN_PEERS: Final = 3
_TINY: Final = 1e-300
_STEPS: Final = 300
_MANY: Final = 1e5
"""Freedom of what is known."""


@dataclass(frozen=True, slots=True)
class Chance:
    """How likely a difference is by chance: statistic of `freedom` over `devices_freedom`, log10 of its probability."""

    statistic: float
    freedom: float
    devices_freedom: float
    log10_p: float


NOTHING: Final = Chance(0.0, 0.0, 0.0, 0.0)
"""Too little to compare."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """Devices to compare: each one's shares of bins, and its answers."""

    shares: Sequence[Shares]
    sizes: Sequence[float]

    @property
    def counting(self) -> float:
        """Return what counting makes their mean uncertain by, as a part of 1 / n."""
        return sum(1 / size for size in self.sizes) / len(self.sizes) ** 2


def against_expected(some: Sampled, others: Sampled, expected: Shares, n_expected: float) -> Chance:
    """Compare the mean of some devices with expected shares that rest on `n_expected` samples. Every expected share is above nothing.

    others: the rest of the devices. How much devices differ is read inside of both, so that few devices borrow it from many.
    """
    sides = [one for one in (some, others) if one.shares]
    freedom = sum(len(one.shares) - 1 for one in sides)
    if not some.shares or freedom < 2:
        return NOTHING
    spread = sum(_scatter(one.shares, expected) for one in sides) / freedom / len(some.shares)
    own = 1 / n_expected
    mean = mean_shares(some.shares)
    return _judged(mean, expected, expected, spread + own * (len(mean) - 1), some.counting + own, freedom)


def each_against_peers(some: Sampled, peers: Collection[int], expected: Shares) -> list[Chance]:
    """Compare each device with its peers, by the spread of these. peers: places of those that serve as such; nobody is its own.

    expected: what differences are measured by.
    """
    chosen = [some.shares[at] for at in sorted(peers)]
    if len(chosen) < MIN_PEERS:
        return [NOTHING] * len(some.shares)
    mean, whole = mean_shares(chosen), _scatter(chosen, expected)
    counting = sum(1 / some.sizes[at] for at in peers)
    found = []
    for at, (one, size) in enumerate(zip(some.shares, some.sizes, strict=True)):
        n, others, scatter, count = len(chosen), mean, whole, counting
        if at in peers:  # what is left without it
            others = [(n * a - b) / (n - 1) for a, b in zip(mean, one, strict=True)]
            scatter -= n / (n - 1) * _distance(one, mean, expected)
            count -= 1 / size
            n -= 1
        found.append(
            _against_peers(one, size, others, max(0.0, scatter), count, n, expected) if n >= MIN_PEERS else NOTHING
        )
    return found


def _against_peers(
    one: Shares, size: float, others: Shares, scatter: float, count: float, n: int, expected: Shares
) -> Chance:
    """Compare one device with the mean of n others. scatter, count: their squared deviations, and the sum of 1 / size."""
    bins, freedom = len(expected), n - 1
    beyond = max(0.0, scatter / freedom - count / n * (bins - 1))
    counting = 1 / size + count / n**2
    return _judged(one, others, expected, beyond * (1 + 1 / n) + counting * (bins - 1), counting, freedom)


def mean_shares(shares: Sequence[Shares]) -> list[float]:
    """Return the mean over devices, each with the same weight."""
    n = len(shares)
    return [sum(column) / n for column in zip(*shares, strict=True)]


def _judged(
    mean: Shares,
    other: Shares,
    expected: Shares,
    spread: float,
    counting: float,
    freedom: float,
) -> Chance:
    """Return the chance of a difference. spread: trace of its covariance, measured by the expected shares; counting: of that what
    counting alone makes, as a part of 1 / n.

    Counting is known and the same in all directions. What the devices differ by beyond that is estimated, with `freedom`, and taken to
    lie in one direction, which is the least that it can be told from a drift.
    """
    bins = len(mean)
    statistic = _distance(mean, other, expected)
    known = counting * (bins - 1)
    beyond = max(0.0, spread - known)
    total = known + beyond
    if total <= 0:
        return NOTHING
    own = total**2 / (counting**2 * (bins - 1) + 2 * counting * beyond + beyond**2)
    devices = min(_MANY, freedom * (total / beyond) ** 2) if beyond else _MANY
    log10_p = f_survival_log10(statistic / total, own, devices)
    if beyond and freedom >= ENOUGH:  # far out, one direction alone decides
        log10_p = max(log10_p, f_survival_log10((statistic - known) / beyond, 1, freedom))
    return Chance(statistic / total, own, devices, log10_p)


def _scatter(shares: Sequence[Shares], expected: Shares) -> float:
    """Return the sum over devices of squared deviations from their mean, measured by the expected shares."""
    mean = mean_shares(shares)
    return sum(_distance(one, mean, expected) for one in shares)


def _distance(one: Shares, other: Shares, expected: Shares) -> float:
    return sum((a - b) ** 2 / share for a, b, share in zip(one, other, expected, strict=True))


def f_survival_log10(value: float, d1: float, d2: float) -> float:
    """Return log10 of the probability of more than `value` under the F distribution, at least SURE."""
    if value <= 0 or d1 <= 0 or d2 <= 0:
        return 0.0
    x = d2 / (d2 + d1 * value)
    return max(SURE, min(0.0, _log_beta_part(d2 / 2, d1 / 2, x) / math.log(10)))


def _log_beta_part(a: float, b: float, x: float) -> float:
    """Return the logarithm of the regularized incomplete beta function."""
    if x <= 0:
        return -math.inf
    if x >= 1:
        return 0.0
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x < (a + 1) / (a + b + 2):
        return front + math.log(_fraction(a, b, x) / a)
    other = math.exp(min(0.0, front + math.log(_fraction(b, a, 1 - x) / b)))
    return math.log(max(_TINY, 1 - other))


def _fraction(a: float, b: float, x: float) -> float:
    """Return the continued fraction of the incomplete beta function, by Lentz's method."""
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > _TINY else _TINY)
    value = d
    for m in range(1, _STEPS):
        for top in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + top * d
            d = 1 / (d if abs(d) > _TINY else _TINY)
            c = 1 + top / c
            c = c if abs(c) > _TINY else _TINY
            value *= d * c
        if abs(d * c - 1) < 1e-12:
            break
    return value
