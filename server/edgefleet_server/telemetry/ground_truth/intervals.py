"""What share of a fleet's answers is right, and how sure that is: the device is the unit. Pure.

1. Each device has one part of the value, however many labels it has: a busy or a lying one moves it by at most 1 / devices.
2. The mean over devices is as uncertain as the devices differ, and never less than by counting. From that follows how many independent
   answers it is worth (the effective sample size), and the interval is Wilson's for so many, with the quantile of Student's t where the
   devices' spread decides: at 0 and 1 it is no point, and it never leaves 0 … 1.
3. Of one device only counting is known: how other devices fare, it does not say.
Source: Wilson, JASA 22 (1927); Korn and Graubard, Survey Methodology 24 (1998), for the effective size; Dean and Pagano, JSSAM 3 (2015).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Final

from edgefleet_server.telemetry.drift.cluster_test import f_survival_log10

CONFIDENCE: Final = 0.95
_STEPS: Final = 60
_MANY: Final = 500
"""From so many devices on Student's t is the normal distribution to three digits."""

Counts = Sequence[tuple[float, float]]
"""Labelled and right answers of each device; weighted ones are no whole numbers."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share over devices with its interval. spread: variance of the value; freedom: what it rests on, infinite for counting alone."""

    value: float
    low: float
    high: float
    devices: int
    labelled: float
    spread: float
    freedom: float


def share_of(counts: Counts, confidence: float = CONFIDENCE) -> Share | None:
    """Return the mean over devices of their shares of right answers, with its interval; None without labels."""
    known = [(n, right) for n, right in counts if n > 0]
    if not known:
        return None
    devices = len(known)
    shares = [right / n for n, right in known]
    value = math.fsum(shares) / devices
    spread, freedom, smooth = _spread(known, shares, value)
    worth = smooth * (1 - smooth) / spread
    z = t_quantile(0.5 + confidence / 2, freedom)
    low, high = wilson(value, worth, z)
    return Share(value, low, high, devices, math.fsum(n for n, _ in known), spread, freedom)


def _spread(known: Counts, shares: Sequence[float], value: float) -> tuple[float, float, float]:
    """Return the variance of the mean, the freedom that it rests on, and the share as counting smooths it."""
    devices = len(shares)
    worth = devices**2 / math.fsum(1 / n for n, _ in known)  # answers; a device with many weighs no more here, either
    smooth = (value * worth + 1) / (worth + 2)
    counting = smooth * (1 - smooth) / worth
    if devices == 1:
        return counting, math.inf, smooth
    between = math.fsum((one - value) ** 2 for one in shares) / (devices * (devices - 1))
    beyond = between - counting
    # counting is known; only what devices differ by beyond that is estimated, with devices - 1 (Satterthwaite)
    return (between, (devices - 1) * (between / beyond) ** 2, smooth) if beyond > 0 else (counting, math.inf, smooth)


def wilson(value: float, worth: float, z: float) -> tuple[float, float]:
    """Return Wilson's interval of a share of so many independent answers; z: the quantile that it reaches to on either side."""
    square = z * z / worth
    middle = (value + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(value * (1 - value) / worth + square / (4 * worth))
    return max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half))


@lru_cache(maxsize=1024)
def t_quantile(p: float, freedom: float) -> float:
    """Return the p-quantile of Student's t, p above one half."""
    if freedom >= _MANY:
        return NormalDist().inv_cdf(p)
    low, high = 0.0, 1e6
    goal = math.log10(2 * (1 - p))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if f_survival_log10(middle * middle, 1, freedom) > goal:
            low = middle
        else:
            high = middle
    return high


def drop_log10(now: Share, before: Share | float, before_n: int = 0) -> float:
    """Return log10 of how likely a share is this much lower by chance. before: a share of the same devices' labels before, or a fixed
    one that `before_n` samples showed.
    """
    known = before.value if isinstance(before, Share) else before
    if isinstance(before, Share):
        spread, freedom = before.spread, before.freedom
    else:
        smooth = (before * before_n + 1) / (before_n + 2)
        spread, freedom = smooth * (1 - smooth) / max(1, before_n), math.inf
    total = now.spread + spread
    drop = known - now.value
    if drop <= 0 or total <= 0:
        return 0.0
    loose = sum(one**2 / own for one, own in ((now.spread, now.freedom), (spread, freedom)) if own < math.inf)
    together = total**2 / loose if loose else math.inf
    return f_survival_log10(drop * drop / total, 1, min(together, 1e5)) + math.log10(0.5)
