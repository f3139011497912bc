"""Whether a signal differs from its reference by more than chance, and by enough to matter. Pure; the same on device and server.

1. `judge` holds counts against the reference's: a chi-square statistic with the reference's own sampling error in it, whose tail takes
   the learned design effect in full (ADR 0099). It alarms when chance makes such a difference less often than `alpha` and the part of
   the PSI beyond what chance makes is at least `floor`.
2. `judge_signal` also asks whether more values are missing, or are beyond what the reference ever saw, than before.
3. A `SignalWatch` goes through blocks of five minutes: windows of 5 minutes, an hour and a day, each learning first; meanwhile only half
   of the answers missing, or beyond the range, are a drift. After that they learn again and again, so that a change in the first day does
   no lasting harm; what is learned while a drift is open does not count, except the first time.
   `ALPHA` is a quarter of a false alarm in a year of a device with 16 signals, over all windows of the three scales.
4. Hour-of-day parts of the reference are used where there are some. Without them five-minute windows learn for a whole day, so that
   night and day are no drift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace as replaced

from edgefleet_protocol.drift.chi_square import log10_tail
from edgefleet_protocol.drift.design_effect import Effect, learn, settled
from edgefleet_protocol.drift.histogram import SignalSums, merged
from edgefleet_protocol.drift.reference import Reference, Signal, SignalKind

__all__ = [
    "Change",
    "Effect",
    "SignalWatch",
    "Verdict",
    "judge",
    "judge_signal",
    "learn",
    "settled",
    "step",
    "watches_of",
]

Count = TypeVar("Count", int, float)

BLOCK_S: Final = 300
SCALES: Final[Mapping[str, int]] = {"5m": BLOCK_S, "1h": 3_600, "1d": 86_400}
SIGNALS: Final = 16
TESTS_A_YEAR: Final = 365.25 * sum(86_400 / seconds for seconds in SCALES.values())
ALARMS_A_YEAR: Final = 0.25
"""By design, of a device with 16 signals: the goal is 1, and counts of rare bins have heavier tails than a chi-square."""
ALPHA: Final = ALARMS_A_YEAR / (SIGNALS * TESTS_A_YEAR)
LEAST_EFFECTIVE: Final = 100
PSI_FLOOR: Final = 0.02
FLEET_FLOOR: Final = 0.005
"""Of many devices together a smaller shift is worth an alarm: 0.1 standard deviations are a PSI of 0.01."""
WINDOWS: Final = 100
DAY_OF_BLOCKS: Final = 288
LONGER_WINDOWS: Final[Mapping[str, int]] = {"1h": 24, "1d": 7}
CALM: Final[Mapping[str, int]] = {"5m": 3, "1h": 2, "1d": 1}
"""Windows in a row that are as usual before a drift is over."""
_CALM_LOG10_P: Final = -3.0
_SHARE_OF_BINS: Final = 0.8
_SHARE_OF_REST: Final = 0.1
"""Of alpha: for the bins, for missing values and for values beyond the range."""
_LEAST_SHARE: Final = 0.02
"""So many more of all answers must be missing or beyond the range."""
_GROSS_SHARE: Final = 0.5
_LEAST_EXPECTED: Final = 5.0
_MOST_BINS: Final = 16
_WITHOUT_ORDER: Final = (SignalKind.CATEGORICAL, SignalKind.CLASSES)
_LEAST_IN_PART: Final = 200
_HOURS_IN_PART: Final = 4


class Word(StrEnum):
    """What a window is judged to be. Public, never renamed."""

    LEARNING = "learning"
    TOO_FEW = "too_few"
    CHANCE = "chance"
    SMALL = "small"
    DRIFT = "drift"


class Verdict(msgspec.Struct, frozen=True):
    """n: values; n_eff: as many independent ones say the same. statistic, freedom: of a chi-square of the same mean and spread.

    log10_p: how probable so great a difference is by chance; psi: its size beyond what chance makes. cause: what differs, "bins",
    "missing" or "range", "" where nothing does.
    """

    n: int
    n_eff: float = 0.0
    statistic: float = 0.0
    freedom: float = 0.0
    log10_p: float = 0.0
    psi: float = 0.0
    verdict: str = Word.LEARNING
    cause: str = ""


class Change(msgspec.Struct, frozen=True):
    """A drift that began, or is over. since: the end of the window in which it was first seen, unix seconds."""

    name: str
    kind: str
    scale: str
    is_over: bool
    verdict: Verdict
    shift_z: float
    since: float


class ScaleWatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """One scale of one signal. slot: the open window; open: its sums so far; parts: of its answers, by part of the day.

    effect: by which it judges; coming: the one that is learned meanwhile.
    """

    effect: Effect = Effect()
    coming: Effect = Effect()
    slot: int = -1
    open: SignalSums | None = None
    parts: dict[str, int] = {}
    since: float = 0.0
    calm: int = 0
    last: Verdict | None = None


class SignalWatch(msgspec.Struct, frozen=True, omit_defaults=True):
    """One signal over time; fits in a MessagePack file. alpha: of each test; floor: the smallest PSI worth an alarm."""

    signal: Signal
    alpha: float = ALPHA
    floor: float = PSI_FLOOR
    scales: dict[str, ScaleWatch] = {}

    @property
    def is_drifting(self) -> bool:
        """Return whether a drift is open at any scale."""
        return any(one.since > 0 for one in self.scales.values())


def watches_of(reference: Reference, *, floor: float = PSI_FLOOR) -> list[SignalWatch]:
    """Return a watch for each signal in the reference's order, and a last one for the classes where it counts some."""
    signals = reference.signals
    if any(reference.classes):
        signals = [*signals, Signal(name="classes", kind=SignalKind.CLASSES, counts=reference.classes)]
    alpha = ALPHA * SIGNALS / max(SIGNALS, len(signals))
    return [SignalWatch(one, alpha, floor) for one in signals]


def judge(
    expected: Sequence[float],
    bins: Sequence[int],
    effect: Effect,
    *,
    alpha: float = ALPHA,
    floor: float = PSI_FLOOR,
    least: int = WINDOWS,
) -> Verdict:
    """Return whether counts differ from the reference's. least: windows that the effect must come from."""
    n, known = sum(bins), math.fsum(expected)
    if effect.windows < least:
        return Verdict(n)
    if not effect.weights:
        effect = settled(effect)
    n_eff = n / effect.mean
    if n_eff < LEAST_EFFECTIVE or known < LEAST_EFFECTIVE:
        return Verdict(n, n_eff, verdict=Word.TOO_FEW)
    old, new, pooled = _pooled([one / known for one in expected], [one / n for one in bins], known, n_eff)
    if len(pooled) < 2:
        return Verdict(n, n_eff, verdict=Word.CHANCE)
    weights = [*effect.weights, *([effect.weights[-1]] * len(pooled))][: len(pooled) - 1]
    errors = [one / n + 1 / known for one in weights]
    guessed = [one / n / error for one, error in zip(weights, errors, strict=True)]
    distance = distance_of(old, new, pooled, n)
    chance, squares = math.fsum(errors), math.fsum(one * one for one in errors)
    log10_p = log10_tail(distance, errors, guessed, max(1, effect.known)) if distance > 0 else 0.0
    psi = max(0.0, psi_of(old, new, known, n) - chance)
    word = Word.CHANCE if log10_p > math.log10(alpha) else Word.SMALL if psi < floor else Word.DRIFT
    return Verdict(
        n,
        n_eff,
        distance * chance / squares,
        chance * chance / squares,
        log10_p,
        psi,
        word,
        "bins" if word is Word.DRIFT else "",
    )


def judge_signal(
    signal: Signal,
    expected: Sequence[float],
    sums: SignalSums,
    effect: Effect,
    *,
    alpha: float,
    floor: float,
    least: int,
) -> Verdict:
    """Return whether a signal differs from the reference: in its bins, in how many values are missing, or beyond its range."""
    found = judge(expected, sums.bins, effect, alpha=alpha * _SHARE_OF_BINS, floor=floor, least=least)
    if effect.looked < least:
        return _gross(signal, sums) or found
    if found.verdict == Word.DRIFT:
        return found
    n, known = sums.n, sum(signal.counts)
    causes = {
        "missing": (sums.missing, n + sums.missing, signal.missing, known + signal.missing, effect.of_missing),
        "range": (sums.beyond, n, 0, known, effect.greatest),
    }
    for cause, (count, answers, before, of, design) in causes.items():
        if not answers or not of or count / answers - before / of < _LEAST_SHARE:
            continue
        log10_p = log10_more(int(count / design), answers / design, before, of)
        if log10_p <= math.log10(alpha * _SHARE_OF_REST):
            psi = psi_of([before / of, 1 - before / of], [count / answers, 1 - count / answers], of, answers)
            return Verdict(answers, answers / design, found.statistic, found.freedom, log10_p, psi, Word.DRIFT, cause)
    return found


def _gross(signal: Signal, sums: SignalSums) -> Verdict | None:
    """Return a drift so plain that nothing need be learned to see it: half of all answers missing, or beyond all that was ever seen."""
    n, known = sums.n, sum(signal.counts)
    causes = {
        "missing": (sums.missing, n + sums.missing, signal.missing, known + signal.missing),
        "range": (sums.beyond, n, 0, known),
    }
    for cause, (count, answers, before, of) in causes.items():
        if min(answers, of) >= LEAST_EFFECTIVE and count / answers - before / of >= _GROSS_SHARE:
            psi = psi_of([before / of, 1 - before / of], [count / answers, 1 - count / answers], of, answers)
            return Verdict(answers, psi=psi, verdict=Word.DRIFT, cause=cause)
    return None


def distance_of(old: Sequence[float], new: Sequence[float], pooled: Sequence[float], n: int) -> float:
    """Return the distance of two sets of shares, of which the new one has n answers: the mean of Pearson's and of Freeman and Tukey's.

    Pearson's grows faster than the square of a shift, so its tail is too heavy where windows vary much; the other's grows slower. The
    latter takes 3/8 of an answer more in each bin (Anscombe), which makes it right for few.
    """
    more = 0.375 / n
    pearson = math.fsum((b - a) ** 2 / q for a, b, q in zip(old, new, pooled, strict=True))
    tukey = 4 * math.fsum((math.sqrt(b + more) - math.sqrt(a + more)) ** 2 for a, b in zip(old, new, strict=True))
    return (pearson + tukey) / 2


def psi_of(old: Sequence[float], new: Sequence[float], n_old: float, n_new: float) -> float:
    """Return the population stability index of shares, with half an answer more in each bin: no logarithm of nothing."""
    half_old, half_new = 0.5 / n_old, 0.5 / n_new
    return math.fsum(
        (b - a) * math.log((b + half_new) / (a + half_old)) for a, b in zip(old, new, strict=True) if a > 0 or b > 0
    )


def log10_more(count: int, n: float, before: int, of: int) -> float:
    """Return log10 of the chance that `count` or more of the next n are so when `before` of `of` were.

    By a beta-binomial: as improbable as it is when the two most extreme of those known are the limits (two more than `before`).
    """
    a, b = before + 2.0, of - before + 1.0
    whole = max(count, round(n))
    if count <= whole * a / (a + b):
        return 0.0
    log = (
        math.lgamma(whole + 1) - math.lgamma(count + 1) - math.lgamma(whole - count + 1)
        + math.lgamma(count + a) + math.lgamma(whole - count + b) - math.lgamma(whole + a + b)
        + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    )  # fmt: skip
    term = total = 1.0
    for j in range(count, whole):
        term *= (whole - j) * (j + a) / ((j + 1) * (whole - j - 1 + b))
        total += term
        if term < 1e-15 * total:
            break
    return min(0.0, (log + math.log(total)) / math.log(10))


def step(watch: SignalWatch, block: SignalSums, at_s: float) -> tuple[SignalWatch, list[Change]]:
    """Return the watch after a block of five minutes that ended at `at_s` (unix seconds), and what began or is over."""
    signal = watch.signal
    block = narrowed(signal, block)
    scales, changes = dict(watch.scales), []
    for scale, seconds in SCALES.items():
        one = scales.get(scale, ScaleWatch())
        slot = int((at_s - BLOCK_S / 2) // seconds)
        if one.open is not None and one.slot != slot:
            one, found = _closed(watch, scales, scale, one, float((one.slot + 1) * seconds))
            changes += found
        part = _part(at_s - BLOCK_S / 2)
        one = replaced(
            one,
            slot=slot,
            open=block if one.open is None else merged([one.open, block]),
            parts={**one.parts, part: one.parts.get(part, 0) + block.n} if signal.hours else {},
        )
        if int((at_s + BLOCK_S / 2) // seconds) != slot:
            one, found = _closed(watch, scales, scale, one, at_s)
            changes += found
        scales[scale] = one
    return replaced(watch, scales=scales), changes


def narrowed(signal: Signal, block: SignalSums) -> SignalSums:
    """Return the sums in the bins in which the signal is judged: at most 16, the rarest as one where they have no order.

    Of values without order, those that the reference never saw are beyond its range.
    """
    width = len(signal.counts)
    bins = [*block.bins, *([0] * (width - len(block.bins)))]
    if len(bins) > width:
        bins = [*bins[: width - 1], sum(bins[width - 1 :])]
    beyond = block.beyond
    if signal.kind in _WITHOUT_ORDER:
        beyond = sum(count for count, known in zip(bins, signal.counts, strict=True) if not known)
    return replace(block, bins=tuple(_grouped(signal, bins)), beyond=beyond)


def expected_of(signal: Signal, parts: Mapping[str, int]) -> list[float]:
    """Return what the reference counts in the bins of `narrowed`, at the times of the answers. parts: answers by part of the day."""
    total = sum(parts.values())
    known = {key: signal.hours.get(key, []) for key, n in parts.items() if n}
    if not total or any(len(one) != len(signal.counts) or sum(one) < _LEAST_IN_PART for one in known.values()):
        return _grouped(signal, signal.counts)
    share = {key: parts[key] / total for key in known}
    size = 1 / math.fsum(share[key] ** 2 / sum(one) for key, one in known.items())
    mixed = [
        size * math.fsum(share[k] * one[i] / sum(one) for k, one in known.items()) for i in range(len(signal.counts))
    ]
    return _grouped(signal, mixed)


def _closed(
    watch: SignalWatch, scales: Mapping[str, ScaleWatch], scale: str, one: ScaleWatch, at_s: float
) -> tuple[ScaleWatch, list[Change]]:
    """Return a scale after its window is over."""
    assert one.open is not None
    signal, sums = watch.signal, one.open
    expected = expected_of(signal, one.parts)
    least = _least(signal, scale)
    verdict = judge_signal(signal, expected, sums, one.effect, alpha=watch.alpha, floor=watch.floor, least=least)
    effect, coming = one.effect, learn(one.coming, expected, sums.bins, missing=sums.missing)
    if coming.looked >= least:
        if not (effect.weights and watch.is_drifting):
            effect = _settled(coming, scales, scale)
        coming = Effect()
    one = replaced(one, effect=effect, coming=coming, open=None, parts={}, last=verdict)
    return _turned(signal, scale, one, verdict, sums.mean_z, at_s)


def _turned(
    signal: Signal, scale: str, one: ScaleWatch, verdict: Verdict, shift_z: float, at_s: float
) -> tuple[ScaleWatch, list[Change]]:
    """Return the scale with its drift begun or over."""

    def change(since: float, *, is_over: bool) -> Change:
        return Change(signal.name, signal.kind, scale, is_over, verdict, round(shift_z, 4), since)

    if verdict.verdict == Word.DRIFT:
        if one.since > 0:
            return replaced(one, calm=0), []
        return replaced(one, since=at_s, calm=0), [change(at_s, is_over=False)]
    is_usual = verdict.verdict in (Word.SMALL, Word.LEARNING) or (
        verdict.verdict == Word.CHANCE and verdict.log10_p > _CALM_LOG10_P
    )
    if one.since <= 0 or not is_usual:
        return replaced(one, calm=0), []
    if one.calm + 1 < CALM[scale]:
        return replaced(one, calm=one.calm + 1), []
    return replaced(one, since=0.0, calm=0), [change(one.since, is_over=True)]


def _least(signal: Signal, scale: str) -> int:
    """Return how many windows a scale learns before it judges."""
    return LONGER_WINDOWS.get(scale, WINDOWS if signal.hours else DAY_OF_BLOCKS)


def _settled(effect: Effect, scales: Mapping[str, ScaleWatch], scale: str) -> Effect:
    names = list(SCALES)
    at = names.index(scale)
    if not at:
        return settled(effect)
    shorter = scales.get(names[at - 1])
    return settled(effect, shorter.effect if shorter else None, SCALES[scale] // SCALES[names[at - 1]])


def _part(at_s: float) -> str:
    return str(int(at_s % 86_400 // 3_600) // _HOURS_IN_PART)


def _grouped(signal: Signal, counts: Sequence[Count]) -> list[Count]:
    """Return counts in at most 16 bins: neighbours together where bins have an order, else all but the most frequent."""
    width = len(signal.counts)
    if width <= _MOST_BINS:
        return list(counts)
    if signal.kind not in _WITHOUT_ORDER:
        groups: list[Count] = [0] * _MOST_BINS
        for i, count in enumerate(counts):
            groups[i * _MOST_BINS // width] += count
        return groups
    order = sorted(range(width), key=lambda i: (-signal.counts[i], i))[: _MOST_BINS - 1]
    kept: list[Count] = [counts[i] for i in order]
    return kept + [sum(counts) - sum(kept)]  # noqa: RUF005 # mypy knows no constrained type in a display


def _pooled(
    old: Sequence[float], new: Sequence[float], known: float, n_eff: float
) -> tuple[list[float], list[float], list[float]]:
    """Return shares of both and of both together, with bins too rare for a chi-square as one."""
    both = [(a * known + b * n_eff) / (known + n_eff) for a, b in zip(old, new, strict=True)]
    least = _LEAST_EXPECTED / min(known, n_eff)
    groups = [[i] for i, share in enumerate(both) if share >= least]
    rare = [i for i, share in enumerate(both) if share < least]
    if rare and math.fsum(both[i] for i in rare) < least and groups:
        min(groups, key=lambda group: both[group[0]]).extend(rare)
    elif rare:
        groups.append(rare)
    sums = [[math.fsum(shares[i] for i in group) for group in groups] for shares in (old, new, both)]
    return sums[0], sums[1], sums[2]
