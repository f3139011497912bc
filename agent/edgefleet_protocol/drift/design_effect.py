"""How much more windows of a signal differ from one another than independent answers would: learned while all is as usual. Pure.

1. Answers that follow one another are alike, so a window says less than its number of answers. What a Pearson statistic is then, is a
   sum of chi-squares weighted with the eigenvalues of the covariance of windows (Rao and Scott); 1 each for independent answers.
2. The covariance is taken around the windows' own mean and in units of their own shares. So a signal that has drifted before anybody
   looked has an ordinary design effect, and its drift is seen.
3. Weights that are not more uneven than chance makes them (Marchenko and Pastur) count with their mean.
4. A longer window is never less uncertain than shorter ones foretell from how much successive ones are alike. Where the longer windows
   seen differ more than that, they are believed instead, with the little that so few of them say (ADR 0099).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace as replaced

LEAST_IN_WINDOW: Final = 30
"""A window of fewer answers says nothing about its kind."""
LEAST_WINDOWS: Final = 8
_LEAST_EXPECTED: Final = 1.0
_LIMIT: Final = 2.5
"""Standard deviations above what shorter windows foretell from which on the longer ones are believed."""
_LONGEST_MEMORY: Final = 0.95


class Effect(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was learned of one signal at one scale. Sums over windows; vectors have a number a bin, matrices their upper half.

    windows: with values enough; looked: all with answers enough, with values or not. counts: of values; offsets: counts less those
    expected; products: of offsets, each by the answers of its window; lagged: of offsets with those of the window before.
    absent, absent_squares: missing values, and their square by the answers of the window.

    weights: the eigenvalues, greatest first, empty until `settled`; known: how many windows they come from; decay: of the likeness of
    successive windows.
    """

    windows: int = 0
    looked: int = 0
    answers: int = 0
    n: int = 0
    counts: list[float] = []
    offsets: list[float] = []
    products: list[float] = []
    lagged: list[float] = []
    last: list[float] = []
    absent: int = 0
    absent_squares: float = 0.0
    weights: list[float] = []
    known: int = 0
    decay: float = 0.0

    @property
    def mean(self) -> float:
        """Return the mean design effect, 1 as long as nothing is learned."""
        return math.fsum(self.weights) / len(self.weights) if self.weights else 1.0

    @property
    def greatest(self) -> float:
        """Return the greatest weight, 1 as long as nothing is learned."""
        return max(self.weights, default=1.0)

    @property
    def of_missing(self) -> float:
        """Return the design effect of the share of missing values, at least 1."""
        share = self.absent / self.answers if self.answers else 0.0
        if self.looked < 2 or not 0 < share < 1:
            return 1.0
        spread = self.absent_squares - self.absent**2 / self.answers
        return max(1.0, spread / (share * (1 - share) * (self.looked - 1)))


def learn(effect: Effect, expected: Sequence[float], bins: Sequence[int], *, missing: int = 0) -> Effect:
    """Return the effect with one more window. expected: counts or shares of the reference, a bin each as in `bins`."""
    n, total = sum(bins), math.fsum(expected)
    answers = n + missing
    if answers < LEAST_IN_WINDOW:
        return effect
    effect = replaced(
        effect,
        looked=effect.looked + 1,
        answers=effect.answers + answers,
        absent=effect.absent + missing,
        absent_squares=effect.absent_squares + missing * missing / answers,
    )
    if n < LEAST_IN_WINDOW or not total > 0:
        return effect
    width = len(bins)
    off = [count - n * share / total for count, share in zip(bins, expected, strict=True)]
    scaled = [one / math.sqrt(n) for one in off]
    if len(effect.counts) != width:
        none = [0.0] * (width * (width + 1) // 2)
        effect = replaced(
            effect, windows=0, n=0, counts=[0.0] * width, offsets=[0.0] * width, products=none, lagged=none, last=[]
        )
    lagged = effect.lagged
    if effect.last:
        before = effect.last
        mixed = [(scaled[i] * before[j] + scaled[j] * before[i]) / 2 for i in range(width) for j in range(i, width)]
        lagged = [a + b for a, b in zip(lagged, mixed, strict=True)]
    squares = [scaled[i] * scaled[j] for i in range(width) for j in range(i, width)]
    return replaced(
        effect,
        windows=effect.windows + 1,
        n=effect.n + n,
        counts=[a + b for a, b in zip(effect.counts, bins, strict=True)],
        offsets=[a + b for a, b in zip(effect.offsets, off, strict=True)],
        products=[a + b for a, b in zip(effect.products, squares, strict=True)],
        lagged=lagged,
        last=scaled,
    )


def settled(effect: Effect, shorter: Effect | None = None, parts: int = 1) -> Effect:
    """Return the effect with its weights, without the sums from which they come.

    shorter: of the same signal in windows of 1/parts the length, settled.
    """
    weights, decay = _spectrum(effect)
    known = max(0, effect.windows - 1)
    if shorter is not None and shorter.weights:
        rise = 1 + 2 * math.fsum((1 - h / parts) * shorter.decay**h for h in range(1, parts))
        foretold = [one * rise for one in shorter.weights]
        if weights and _differs(weights, foretold, known):
            width = max(len(weights), len(foretold))
            weights = [max(a, b) for a, b in zip(_filled(weights, width), _filled(foretold, width), strict=True)]
        else:
            weights, known = foretold, shorter.known
    return Effect(
        windows=effect.windows, looked=effect.looked, answers=effect.answers, absent=effect.absent,
        absent_squares=effect.absent_squares, weights=weights, known=known, decay=decay,
    )  # fmt: skip


def _differs(seen: Sequence[float], foretold: Sequence[float], known: int) -> bool:
    """Say whether the weights seen in `known` + 1 windows are greater than chance makes them."""
    squares, total = math.fsum(w * w for w in foretold), math.fsum(foretold)
    mean = (math.fsum(seen) / len(seen)) / (total / len(foretold))
    return (
        mean > 1 + _LIMIT * math.sqrt(2 * squares / (total * total) / known)
        or max(seen) > max(foretold) * (1 + math.sqrt(len(foretold) / known)) ** 2
    )


def _filled(weights: Sequence[float], width: int) -> list[float]:
    return [*weights, *([weights[-1]] * (width - len(weights)))]


def _spectrum(effect: Effect) -> tuple[list[float], float]:
    """Return the weights, greatest first, and the decay; ([], 0) of too few windows."""
    if effect.windows < LEAST_WINDOWS:
        return [], 0.0
    kept = _groups(effect)
    if len(kept) < 2:
        return [1.0], 0.0
    per = effect.windows - 1
    now = _matrix(effect, effect.products, kept, 1.0)
    values = sorted(eigenvalues(now), reverse=True)[: len(kept) - 1]
    before = _matrix(effect, effect.lagged, kept, per / effect.windows)
    power = math.fsum(a * a for row in now for a in row)
    alike = math.fsum(a * b for x, y in zip(now, before, strict=True) for a, b in zip(x, y, strict=True))
    decay = min(_LONGEST_MEMORY, max(0.0, alike / power)) if power > 0 else 0.0
    return [max(1.0, one) for one in _without_noise([one / per for one in values], per)], decay


def _groups(effect: Effect) -> list[list[int]]:
    """Return the bins that count, the rare ones as one."""
    least = _LEAST_EXPECTED * effect.windows
    common = [[i] for i, count in enumerate(effect.counts) if count >= least]
    rare = [i for i, count in enumerate(effect.counts) if count < least]
    if sum(effect.counts[i] for i in rare) >= least:
        return [*common, rare]
    return common


def _matrix(effect: Effect, half: Sequence[float], groups: Sequence[Sequence[int]], mean: float) -> list[list[float]]:
    """Return sums of products of offsets around their mean, in units of the shares. mean: how much of it is in the sums."""
    width, n = len(effect.counts), effect.n
    start = [i * width - i * (i - 1) // 2 - i for i in range(width)]

    def at(i: int, j: int) -> float:
        return half[start[min(i, j)] + max(i, j)] - mean * effect.offsets[i] * effect.offsets[j] / n

    shares = [math.fsum(effect.counts[i] for i in group) / n for group in groups]
    return [
        [
            math.fsum(at(i, j) for i in one for j in other) / math.sqrt(shares[a] * shares[b])
            for b, other in enumerate(groups)
        ]
        for a, one in enumerate(groups)
    ]


def _without_noise(values: Sequence[float], windows: int) -> list[float]:
    """Return the weights with the mean in place of those that are no more uneven than so few windows make equal ones."""
    found, rest = [], list(values)
    while len(rest) > 1:
        mean = math.fsum(rest[1:]) / (len(rest) - 1)
        if rest[0] <= mean * (1 + math.sqrt(len(rest) / windows)) ** 2:
            break
        found.append(rest.pop(0))
    return [*found, *([math.fsum(rest) / len(rest)] * len(rest))]


def eigenvalues(matrix: Sequence[Sequence[float]]) -> list[float]:
    """Return the eigenvalues of a symmetric matrix: Jacobi's rotations."""
    a = [list(row) for row in matrix]
    width = len(a)
    for _ in range(30):
        off = math.fsum(a[i][j] ** 2 for i in range(width) for j in range(i + 1, width))
        if off <= 1e-18 * math.fsum(a[i][i] ** 2 for i in range(width)):
            break
        for p in range(width):
            for q in range(p + 1, width):
                _rotate(a, p, q)
    return [a[i][i] for i in range(width)]


def _rotate(a: list[list[float]], p: int, q: int) -> None:
    """Make a[p][q] nothing."""
    if a[p][q] == 0:
        return
    theta = (a[q][q] - a[p][p]) / (2 * a[p][q])
    t = math.copysign(1 / (abs(theta) + math.hypot(theta, 1)), theta)
    c = 1 / math.hypot(t, 1)
    s = t * c
    for row in a:
        row[p], row[q] = c * row[p] - s * row[q], s * row[p] + c * row[q]
    a[p], a[q] = (
        [c * x - s * y for x, y in zip(a[p], a[q], strict=True)],
        [s * x + c * y for x, y in zip(a[p], a[q], strict=True)],
    )
