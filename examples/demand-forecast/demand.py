"""The data of the example: what 20 kiosks sold a day, from 1 September 2024 to 31 August 2026. Made, not measured.

Rules:
- Units of a day = size of the kiosk × weekday × season × holiday × promotion × noise of 7 %. In summer they sell twice as much.
- The change: from 1 March 2026 kiosks may open on Sundays; until then Sundays bring a quarter of a usual day.
- A row is one kiosk and one day: what was sold 1, 7 and 14 days before, the mean of 28 days, the weekday, holiday and promotion of the
  day itself. The target is what was sold on it. The first 28 days have no row.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt

SEED = 25
KIOSKS = 20
FIRST, LAST = date(2024, 9, 1), date(2026, 8, 31)
SUNDAYS_OPEN = date(2026, 3, 1)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
COLUMNS = ("sold_1", "sold_7", "sold_14", "mean_28", *WEEKDAYS, "holiday", "promotion")
HOLIDAYS = {(1, 1), (5, 1), (10, 3), (12, 24), (12, 25), (12, 26), (12, 31)}
_WEEK = np.array([0.90, 0.95, 1.00, 1.05, 1.25, 1.35, 0.25])
_WEEK_OPEN = np.array([0.75, 0.85, 0.95, 1.00, 1.20, 1.30, 1.25])
_PAST = 28


@dataclass(frozen=True)
class Rows:
    """Rows of a time. x: float32 `[n, 13]`, as COLUMNS; units: float32 `[n, 1]`, the target; day, kiosk: of each row."""

    x: npt.NDArray[np.float32]
    units: npt.NDArray[np.float32]
    day: npt.NDArray[np.datetime64]
    kiosk: npt.NDArray[np.int64]

    def between(self, first: date, last: date) -> Rows:
        """Return the rows of these days, both included."""
        chosen = (self.day >= np.datetime64(first)) & (self.day <= np.datetime64(last))
        return Rows(self.x[chosen], self.units[chosen], self.day[chosen], self.kiosk[chosen])

    def sample(self, n: int, seed: int) -> Rows:
        """Return n rows in order of time, chosen by chance."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self.x))[:n])
        return Rows(self.x[chosen], self.units[chosen], self.day[chosen], self.kiosk[chosen])


def season(day: date) -> float:
    """Return how much is sold at this time of the year: 1 in winter, 2 at the end of July."""
    return 1.0 + max(0.0, float(np.cos(2 * np.pi * (day.timetuple().tm_yday - 205) / 365.25))) ** 1.5


def rows() -> Rows:
    """Return all rows, in order of day and kiosk; the same on every call."""
    rng = np.random.default_rng(SEED)
    days = [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]
    size = rng.uniform(60, 240, KIOSKS)
    promotion = rng.random((len(days), KIOSKS)) < 0.06
    noise = rng.normal(1.0, 0.07, (len(days), KIOSKS))
    holiday = np.array([(day.month, day.day) in HOLIDAYS for day in days])
    week = np.array([(_WEEK_OPEN if day >= SUNDAYS_OPEN else _WEEK)[day.weekday()] for day in days])
    by_day = week * np.array([season(day) for day in days]) * np.where(holiday, 0.35, 1.0)
    sold = np.maximum(0.0, np.round(by_day[:, None] * size * np.where(promotion, 1.5, 1.0) * noise))
    x, units = [], []
    for at in range(_PAST, len(days)):
        weekday = np.tile(np.eye(7)[days[at].weekday()], (KIOSKS, 1))
        past = np.stack([sold[at - 1], sold[at - 7], sold[at - 14], sold[at - _PAST : at].mean(axis=0)], axis=1)
        of_day = np.stack([np.full(KIOSKS, holiday[at]), promotion[at]], axis=1)
        x.append(np.concatenate([past, weekday, of_day], axis=1))
        units.append(sold[at][:, None])
    when = np.repeat(np.array(days[_PAST:], dtype="datetime64[D]"), KIOSKS)
    kiosk = np.tile(np.arange(KIOSKS), len(days) - _PAST)
    return Rows(np.concatenate(x).astype(np.float32), np.concatenate(units).astype(np.float32), when, kiosk)
