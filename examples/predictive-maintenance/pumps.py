"""The data of the example: what 30 pumps measured in windows of six hours, from January 2025 to June 2026. Made, not measured.

Rules:
- A pump wears for 50 to 110 days, then fails and gets new bearings. Vibration rises with the fourth power of wear, temperature with the
  third, current with the fifth. Temperature also follows the season and the hour of the day, current follows the load.
- A window is due when the pump fails within seven days of it. That is known a week later, no sooner.
- The change: from 1 February 2026 pumps get bearings of another maker at their next failure. They vibrate less, and draw more current.
- A row is one window: figures of its six hours, and their difference to the mean of the 28 windows (a week) before.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

SEED = 77
PUMPS = 30
FIRST, LAST = datetime(2025, 1, 1), datetime(2026, 6, 30)
OTHER_BEARINGS = datetime(2026, 2, 1)
WINDOW = np.timedelta64(6, "h")
DUE_WINDOWS = 28
COLUMNS = (
    "vibration_mean", "vibration_max", "vibration_rise", "temperature_mean", "temperature_rise", "current_mean", "current_rise",
    "load", "outdoor",
)  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Windows. x: float32 `[n, 9]`, as COLUMNS; due: int64 `[n]`, 1 = fails within a week; at, pump: of each row."""

    x: npt.NDArray[np.float32]
    due: npt.NDArray[np.int64]
    at: npt.NDArray[np.datetime64]
    pump: npt.NDArray[np.int64]

    def chosen(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Rows:
        """Return some of the rows."""
        return Rows(self.x[which], self.due[which], self.at[which], self.pump[which])

    def between(self, first: str, last: str) -> Rows:
        """Return the rows of these days, both included."""
        days = self.at.astype("datetime64[D]")
        return self.chosen((days >= np.datetime64(first)) & (days <= np.datetime64(last)))

    def balanced(self, n: int, seed: int) -> Rows:
        """Return n rows in order of time, half of them due."""
        rng = np.random.default_rng(seed)
        halves = [rng.permutation(np.flatnonzero(self.due == kind))[: n // 2] for kind in (0, 1)]
        return self.chosen(np.sort(np.concatenate(halves)))


def rows() -> Rows:
    """Return all windows of all pumps, in order of pump and time; the same on every call."""
    rng = np.random.default_rng(SEED)
    at = np.arange(np.datetime64(FIRST, "h"), np.datetime64(LAST, "h"), WINDOW)
    day = (at - np.datetime64("2025-01-01T00", "h")) / np.timedelta64(24, "h")
    outdoor = 10 + 12 * np.cos(2 * np.pi * (day - 200) / 365.25) + 3 * np.cos(2 * np.pi * (day - 0.6))
    found = [_pump(rng, at, outdoor, number) for number in range(PUMPS)]
    return Rows(*(np.concatenate([getattr(one, name) for one in found]) for name in ("x", "due", "at", "pump")))


def _pump(
    rng: np.random.Generator, at: npt.NDArray[np.datetime64], outdoor: npt.NDArray[np.float64], number: int
) -> Rows:
    n = len(at)
    wear, left, other = np.empty(n), np.empty(n, dtype=np.int64), np.zeros(n)
    begin, is_other = -int(rng.integers(0, 200)), False
    while begin < n:
        life = int(rng.integers(200, 440))
        here = np.arange(max(0, begin), min(n, begin + life))
        wear[here], left[here], other[here] = (here - begin) / life, begin + life - here, is_other
        begin += life
        is_other = is_other or (begin < n and at[begin] >= np.datetime64(OTHER_BEARINGS))
    load = np.clip(rng.normal(0.7, 0.1, n), 0.3, 1.0)
    vibration = 1.8 + np.where(other, 1.2, 5.0) * wear**4 + 0.5 * load + rng.normal(0, 0.18, n)
    temperature = 35 + 0.6 * outdoor + 8 * load + 14 * wear**3 + rng.normal(0, 1.2, n)
    current = 6 + 5 * load + np.where(other, 4.0, 1.5) * wear**5 + rng.normal(0, 0.15, n)
    peak = vibration * rng.uniform(1.3, 1.6, n)
    columns = [
        vibration,
        peak,
        _rise(vibration),
        temperature,
        _rise(temperature),
        current,
        _rise(current),
        load,
        outdoor,
    ]
    due = (left <= DUE_WINDOWS).astype(np.int64)
    known = slice(
        DUE_WINDOWS, n - DUE_WINDOWS
    )  # what is before has no week behind it; of what is after nobody knows yet
    x = np.stack(columns, axis=1).astype(np.float32)[known]
    return Rows(x, due[known], at[known], np.full(len(x), number))


def _rise(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    sums = np.concatenate([[0.0], np.cumsum(values)])
    before = np.zeros(len(values))
    before[DUE_WINDOWS:] = (sums[DUE_WINDOWS:-1] - sums[: -DUE_WINDOWS - 1]) / DUE_WINDOWS
    return values - before
