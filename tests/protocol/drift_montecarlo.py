"""`./dev soak drift-montecarlo`: device-years of the shipped drift detector on streams in which nothing happens.

- A device has 16 signals and answers once a second. Each signal is a Gaussian AR(1) stream with its own reference of 10,000 samples.
- Streams are drawn and counted with numpy. What a scale learned goes through the shipped `settled`, and every window that is further
  from the reference than the bulk of chance goes through the shipped `judge_signal`; others are chance by its own first rule. That this
  gives what `step` gives, block by block, is a test (`tests/protocol/test_drift_montecarlo.py`).
- Eigenvalues are numpy's here, which are 100 times faster; that they are those of the shipped rotations is a test, too.
- A false alarm is a window judged as drift at a scale at which the window before was none. `PSI > 0.2` counts the same way, on the same
  windows of five minutes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from unittest import mock

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter  # type: ignore[import-untyped]
from scipy.special import ndtr  # type: ignore[import-untyped]

from edgefleet_protocol.drift import design_effect
from edgefleet_protocol.drift.chi_square import log10_tail
from edgefleet_protocol.drift.design_effect import Effect, settled
from edgefleet_protocol.drift.detector import (
    ALPHA,
    DAY_OF_BLOCKS,
    LEAST_EFFECTIVE,
    LONGER_WINDOWS,
    PSI_FLOOR,
    SCALES,
    SIGNALS,
    Verdict,
    Word,
    judge_signal,
)
from edgefleet_protocol.drift.histogram import SignalSums
from edgefleet_protocol.drift.reference import Signal

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

RHOS: Final = (0.0, 0.5, 0.9)
DAYS: Final = 365
IN_BLOCK: Final = 300
REFERENCE: Final = 10_000
PARTS: Final = 64
"""Edges lie on this grid, so that a value is put into its bin by a table."""
_SPAN: Final = 8
BLOCKS: Final[Mapping[str, int]] = {name: seconds // 300 for name, seconds in SCALES.items()}
LEAST: Final[Mapping[str, int]] = {"5m": DAY_OF_BLOCKS, **LONGER_WINDOWS}
PSI_LIMIT: Final = 0.2


def drawn_signal(rng: np.random.Generator) -> Signal:
    """Return the reference of one signal, made of 10,000 samples."""
    samples = rng.normal(size=REFERENCE)
    edges = np.unique(np.rint(np.quantile(samples, np.arange(1, 10) / 10) * PARTS) / PARTS)
    counts = np.bincount(np.searchsorted(edges, samples, side="right"), minlength=len(edges) + 1)
    low, high = float(samples.min()), float(samples.max())
    return Signal(name="signal", std=1.0, low=low, high=high, edges=edges.tolist(), counts=counts.tolist())


class Blocks(Protocol):
    """Counts of signals, block by block."""

    signals: list[Signal]

    def blocks(self, n: int) -> tuple[Counts, Counts]:
        """Return [signals, n, bins] counts of the next n blocks, and [signals, n] values beyond the range."""


@dataclass
class Stream:
    """AR(1) streams of signals, counted by blocks of 300."""

    rng: np.random.Generator
    rho: float
    signals: list[Signal]
    shift: float = 0.0
    state: Floats = field(init=False)

    def __post_init__(self) -> None:
        """Begin in the steady state."""
        self.state = self.rng.normal(size=len(self.signals))
        table = (np.arange(2 * _SPAN * PARTS) - _SPAN * PARTS) / PARTS
        self._tables = [np.searchsorted(one.edges, table, side="right").astype(np.int64) for one in self.signals]

    def blocks(self, n: int) -> tuple[Counts, Counts]:
        """Return [signals, n, bins] counts of the next n blocks, and [signals, n] values beyond the range."""
        if self.rho == 0:
            return self._independent(n)
        spread = math.sqrt(1 - self.rho**2)
        counts, beyond = np.zeros((len(self.signals), n, 10), np.int64), np.zeros((len(self.signals), n), np.int64)
        windows = np.repeat(np.arange(n) * 10, IN_BLOCK)
        for at, signal in enumerate(self.signals):
            shocks = self.rng.standard_normal(n * IN_BLOCK, np.float32) * np.float32(spread)
            values, _ = lfilter([1.0], [1.0, -self.rho], shocks, zi=[self.rho * self.state[at]])
            self.state[at] = values[-1]
            values += self.shift
            places = np.clip((values * PARTS + _SPAN * PARTS).astype(np.int32), 0, 2 * _SPAN * PARTS - 1)
            counts[at] = np.bincount(self._tables[at][places] + windows, minlength=10 * n).reshape(n, 10)
            out = np.flatnonzero((values < signal.low) | (values > signal.high)) // IN_BLOCK
            beyond[at] = np.bincount(out, minlength=n)
        return counts, beyond

    def _independent(self, n: int) -> tuple[Counts, Counts]:
        counts, beyond = [], []
        for signal in self.signals:
            limits = ndtr(np.array([*signal.edges, np.inf]) - self.shift)
            counts.append(self.rng.multinomial(IN_BLOCK, np.diff(limits, prepend=0.0), size=n))
            outside = ndtr(signal.low - self.shift) + ndtr(self.shift - signal.high)
            beyond.append(self.rng.binomial(IN_BLOCK, outside, size=n))
        return np.stack(counts), np.stack(beyond)


def effect_of(counts: Counts, expected: Floats) -> Effect:
    """Return what `learn` makes of windows, one after another. counts: [windows, bins]; expected: shares."""
    n = counts.sum(1, keepdims=True)
    offsets = counts - n * expected
    scaled = offsets / np.sqrt(n)
    upper = np.triu_indices(counts.shape[1])
    lagged = scaled[1:].T @ scaled[:-1]
    return Effect(
        windows=len(counts),
        looked=len(counts),
        answers=int(n.sum()),
        n=int(n.sum()),
        counts=counts.sum(0).astype(float).tolist(),
        offsets=offsets.sum(0).tolist(),
        products=(scaled.T @ scaled)[upper].tolist(),
        lagged=((lagged + lagged.T) / 2)[upper].tolist(),
        last=scaled[-1].tolist(),
    )


@dataclass
class Device:
    """The watches of a device's signals, many windows at once; as `step` has them when no drift is open."""

    stream: Blocks
    effects: dict[tuple[str, int], Effect] = field(default_factory=dict)
    waiting: dict[str, list[Counts]] = field(default_factory=lambda: {scale: [] for scale in SCALES})
    was_drift: dict[tuple[str, int], bool] = field(default_factory=dict)
    alarms: list[tuple[str, Verdict]] = field(default_factory=list)
    judged: dict[str, int] = field(default_factory=dict)
    psi_alarms: int = 0

    def day(self) -> None:
        """Draw, judge and learn one day."""
        counts, beyond = self.stream.blocks(DAY_OF_BLOCKS)
        is_quiet = True
        self.psi_alarms += _psi_begins(counts, self.stream.signals)
        for scale, blocks in BLOCKS.items():
            whole = counts.reshape(len(counts), -1, blocks, counts.shape[2]).sum(2)
            outside = beyond.reshape(len(beyond), -1, blocks).sum(2)
            for at, signal in enumerate(self.stream.signals):
                is_quiet &= not self._judge(scale, at, signal, whole[at], outside[at])
            self.waiting[scale].append(whole)
        for scale, least in LEAST.items():
            known = np.concatenate(self.waiting[scale], axis=1)
            if known.shape[1] >= least:
                if is_quiet or (scale, 0) not in self.effects:
                    self._learn(scale, known)
                self.waiting[scale] = []

    def _judge(self, scale: str, at: int, signal: Signal, windows: Counts, outside: Counts) -> bool:
        """Return whether a window was judged as drift."""
        effect = self.effects.get((scale, at))
        if effect is None:
            return False
        known = np.asarray(signal.counts, float)
        n = windows.sum(1)
        n_eff = n / effect.mean
        self.judged[scale] = self.judged.get(scale, 0) + int((n_eff >= 100).sum())
        old, new = known / known.sum(), windows / n[:, None]
        pooled = (old * known.sum() + new * n_eff[:, None]) / (known.sum() + n_eff[:, None])
        more = 0.375 / n[:, None]
        pearson = ((new - old) ** 2 / pooled).sum(1)
        distance = (pearson + 4 * ((np.sqrt(new + more) - np.sqrt(old + more)) ** 2).sum(1)) / 2
        errors = np.array(effect.weights)[None] / n[:, None] + 1 / known.sum()
        bulk = errors.sum(1) + 2.5 * np.sqrt(2 * (errors**2).sum(1))
        asked = (distance > bulk) | (outside > 0.02 * n) | (pooled.min(1) * np.minimum(n_eff, known.sum()) < 5)
        last = -1 if self.was_drift.get((scale, at), False) else None
        found = False
        for window in np.flatnonzero(asked):
            sums = SignalSums(tuple(windows[window].tolist()), beyond=int(outside[window]))
            verdict = judge_signal(
                signal, signal.counts, sums, effect, alpha=ALPHA, floor=PSI_FLOOR, least=LEAST[scale]
            )
            if verdict.verdict == Word.DRIFT:
                if last is None or last != window - 1:
                    self.alarms.append((scale, verdict))
                found, last = True, int(window)
        self.was_drift[(scale, at)] = found and last == len(windows) - 1
        return found

    def _learn(self, scale: str, windows: Counts) -> None:
        names = list(SCALES)
        for at, signal in enumerate(self.stream.signals):
            effect = effect_of(windows[at][-LEAST[scale] :], np.asarray(signal.counts, float) / sum(signal.counts))
            place = names.index(scale)
            shorter = self.effects.get((names[place - 1], at)) if place else None
            parts = BLOCKS[scale] // BLOCKS[names[place - 1]] if place else 1
            self.effects[(scale, at)] = settled(effect, shorter, parts)


def _psi_begins(counts: Counts, signals: list[Signal]) -> int:
    """Return how often the PSI of five minutes rises above 0.2."""
    begins = 0
    for at, signal in enumerate(signals):
        old = (np.asarray(signal.counts) + 0.5) / (sum(signal.counts) + 5)
        new = (counts[at] + 0.5) / (IN_BLOCK + 5)
        is_over = ((new - old) * np.log(new / old)).sum(1) > PSI_LIMIT
        begins += int((is_over & ~np.concatenate([[False], is_over[:-1]])).sum())
    return begins


def false_alarms(rho: float, days: int, seed: int) -> dict[str, Any]:
    """Return what so many device-days show. Each device begins with nothing learned and lives a year at most."""
    rng = np.random.default_rng(seed)
    figures: dict[str, Any] = {"alarms": 0, "by_scale": dict.fromkeys(SCALES, 0), "judged": dict.fromkeys(SCALES, 0)}
    psi = 0
    left = days
    while left > 0:
        device = Device(Stream(rng, rho, [drawn_signal(rng) for _ in range(SIGNALS)]))
        for _ in range(min(left, DAYS)):
            device.day()
        left -= DAYS
        figures["alarms"] += len(device.alarms)
        for scale, _verdict in device.alarms:
            figures["by_scale"][scale] += 1
        for scale, n in device.judged.items():
            figures["judged"][scale] += n
        psi += device.psi_alarms
    found = figures["alarms"]
    return {
        "rho": rho,
        "device_years": round(days / DAYS, 3),
        **figures,
        "per_device_year": round(found * DAYS / days, 4),
        "at_most_per_device_year": round(_upper(found) * DAYS / days, 4),
        "psi_above_0.2_per_device_year": round(psi * DAYS / days, 1),
    }


def _upper(found: int) -> float:
    """Return the mean that so few events are compatible with, at 95 %."""
    from scipy.stats import chi2  # type: ignore[import-untyped]

    return float(chi2.ppf(0.95, 2 * (found + 1)) / 2)


def expected_alarms(rho: float, seed: int, *, draws: int = 20, windows: int = 3_000) -> dict[str, float]:
    """Return how many false alarms the bins of 16 signals give in a year, by scale, with the exact tail instead of counted alarms.

    The true spectrum comes from many blocks; what a device learned is drawn again and again; both are those of normal windows. An hour
    and a day of such a stream have the spectrum of a block.
    """
    rng = np.random.default_rng(seed)
    signal = drawn_signal(rng)
    stream = Stream(rng, rho, [signal])
    counts, _ = stream.blocks(windows)
    known = np.asarray(signal.counts, float)
    true = settled(effect_of(counts[0], known / known.sum()))
    told = dict.fromkeys(SCALES, 0.0)
    for _ in range(draws):
        picked = counts[0][rng.integers(windows - DAY_OF_BLOCKS) + np.arange(DAY_OF_BLOCKS)]
        effect: Effect | None = None
        for scale, blocks in BLOCKS.items():
            effect = (
                settled(effect_of(picked, known / known.sum())) if effect is None else settled(Effect(), effect, 12)
            )
            n = blocks * IN_BLOCK
            if n / effect.mean < LEAST_EFFECTIVE:
                continue
            log10_p = _true_tail(effect, true, n)
            told[scale] += SIGNALS * 365.25 * (DAY_OF_BLOCKS / blocks) * 10**log10_p / draws
    return {scale: float(f"{value:.3g}") for scale, value in told.items()}


def _true_tail(effect: Effect, true: Effect, n: int) -> float:
    """Return log10 of how often a window without drift is beyond the limit of a device that learned `effect`."""
    mine, theirs = ([weight / n + 1 / REFERENCE for weight in one.weights] for one in (effect, true))
    guessed = [1 - 1 / REFERENCE / error for error in mine]
    low, high = 2 * sum(mine), 400 * sum(mine)
    for _ in range(40):
        middle = (low + high) / 2
        if log10_tail(middle, mine, guessed, effect.known) > math.log10(0.8 * ALPHA):
            low = middle
        else:
            high = middle
    return log10_tail(high, theirs)


def main(n: int, seed: int) -> dict[str, Any]:
    """Run n device-days at each autocorrelation."""
    with mock.patch.object(design_effect, "eigenvalues", lambda matrix: np.linalg.eigvalsh(matrix).tolist()):
        rows = [
            false_alarms(rho, n, seed + at) | {"expected_per_device_year": expected_alarms(rho, seed)}
            for at, rho in enumerate(RHOS)
        ]
    return {"ok": all(row["per_device_year"] <= 1 for row in rows), "alpha": ALPHA, "rows": rows}
