"""What is said of objectives: what is left of their budgets, and how fast these burn.

What is older than the day before is read again every OLD_S, the rest every FRESH_S: devices that were away report late, so the past
changes, but seldom.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.objectives.burn_rate import PAIRS, BurnPair, BurnState, adapted, burn_of, is_chance, judged
from edgefleet_server.objectives.error_budget import Counts, CountStep, edge_s, history, largest_uses, left_of, summed
from edgefleet_server.objectives.model import BudgetPoint, BudgetState, BudgetUse, BurnView, Indicator, Slo
from edgefleet_server.objectives.slo_indicators import COARSE_S, DAY_S, HOUR_S, MINUTE_S, Indicators
from edgefleet_server.telemetry.rollups.model import Dimension

FRESH_S: Final = 30.0
OLD_S: Final = 600.0
MOST_USES: Final = 5
USED_BY: Final = (Dimension.VERSION, Dimension.SITE, Dimension.PROFILE)
POINTS: Final = 120
"""Points of the history of a budget, at most."""
FINE: Final = timedelta(hours=12)
"""Windows up to here are counted in steps of a minute, longer ones in steps of 15 minutes, the budget in hours."""


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """How an objective stands."""

    state: BudgetState
    counts: Counts
    left: float | None
    since: datetime | None
    looked_at: datetime
    burns: Sequence[BurnView]


@dataclass(frozen=True, slots=True)
class _Kept:
    slo: Slo
    read_s: float
    cut: datetime
    steps: Sequence[CountStep]


class BudgetReports:
    """Makes reports, and keeps them for FRESH_S. Thread-safe; calls block."""

    def __init__(self, indicators: Indicators, clock: Clock) -> None:
        """Wire the parts."""
        self._indicators = indicators
        self._clock = clock
        self._lock = threading.Lock()
        self._reports: dict[str, tuple[float, Slo, BudgetReport]] = {}
        self._uses: dict[str, tuple[float, Slo, list[BudgetUse]]] = {}
        self._old: dict[tuple[str, int], _Kept] = {}

    def of(self, slo: Slo) -> BudgetReport:
        """Return how an objective stands."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            kept = self._reports.get(slo.name)
        if kept is not None and kept[1] == slo and 0 <= now_s - kept[0] < FRESH_S:
            return kept[2]
        found = self._made(slo, self._clock.now())
        with self._lock:
            self._reports[slo.name] = (now_s, slo, found)
        return found

    def uses(self, slo: Slo) -> list[BudgetUse]:
        """Return which profiles, sites and versions used the budget in the window, of each the largest; empty where nobody knows."""
        now_s, now = self._clock.monotonic_s(), self._clock.now()
        with self._lock:
            kept = self._uses.get(slo.name)
        if kept is not None and kept[1] == slo and 0 <= now_s - kept[0] < FRESH_S:
            return kept[2]
        found = []
        for place in USED_BY:
            by_value = self._indicators.by_value(slo, place, now - timedelta(seconds=slo.window_s), now)
            found += [
                BudgetUse(place.value, value, one.bad, one.total, share)
                for value, one, share in largest_uses(by_value, MOST_USES)
            ]
        with self._lock:
            self._uses[slo.name] = (now_s, slo, found)
        return found

    def history(self, slo: Slo) -> list[BudgetPoint]:
        """Return what was left of a budget at moments of its window, oldest first."""
        now, window = self._clock.now(), timedelta(seconds=slo.window_s)
        step_s = max(HOUR_S, -(-slo.window_s // POINTS // HOUR_S) * HOUR_S)
        end = _floor(now, HOUR_S) + timedelta(seconds=HOUR_S)
        ends = [end - timedelta(seconds=step_s * n) for n in range(slo.window_s // step_s, -1, -1)]
        steps = self._steps(slo, HOUR_S, ends[0] - window, end, now)
        found = history(steps, slo.allowed, window, ends)
        return [BudgetPoint(min(at, now), left, counts.good, counts.total) for at, left, counts in found[1:]]

    def forget(self, names: set[str]) -> None:
        """Keep nothing of objectives but of these."""
        with self._lock:
            self._reports = {name: one for name, one in self._reports.items() if name in names}
            self._uses = {name: one for name, one in self._uses.items() if name in names}
            self._old = {key: one for key, one in self._old.items() if key[0] in names}

    def _made(self, slo: Slo, now: datetime) -> BudgetReport:
        end = now + timedelta(seconds=MINUTE_S)  # the step that has begun counts
        window = timedelta(seconds=slo.window_s)
        steps = self._steps(slo, HOUR_S, now - window, end, now)
        counts = summed(steps, now - window, end)
        report_s = self._indicators.report_s(slo, now - timedelta(days=1), end)
        fine = self._indicators.steps(slo, MINUTE_S, now - FINE, end)
        coarse = self._steps(slo, COARSE_S, now - timedelta(days=4), end, now)
        burns = [_burn(adapted(pair, report_s), slo, fine, coarse, now, end) for pair in PAIRS]
        left = left_of(counts, slo.allowed)
        since = next((one.at for one in steps if one.counts.total and one.at >= now - window), None)
        return BudgetReport(_state(burns, left), counts, left, since, now, burns)

    def _steps(self, slo: Slo, scale_s: int, since: datetime, until: datetime, now: datetime) -> list[CountStep]:
        """Return steps, of which the old ones may have been read a while ago."""
        cut = _floor(now - timedelta(days=1), DAY_S)
        now_s, key = self._clock.monotonic_s(), (slo.name, scale_s)
        with self._lock:
            kept = self._old.get(key)
        if kept is None or (kept.slo, kept.cut) != (slo, cut) or not 0 <= now_s - kept.read_s < OLD_S:
            reach = timedelta(days=5) if scale_s == COARSE_S else timedelta(seconds=2 * slo.window_s + 2 * DAY_S)
            kept = _Kept(slo, now_s, cut, self._indicators.steps(slo, scale_s, now - reach, cut))
            with self._lock:
                self._old[key] = kept
        old = [one for one in kept.steps if since <= one.at < until]
        return [*old, *self._indicators.steps(slo, scale_s, max(since, cut), until)]


def _burn(
    pair: BurnPair,
    slo: Slo,
    fine: Sequence[CountStep],
    coarse: Sequence[CountStep],
    now: datetime,
    end: datetime,
) -> BurnView:
    def counted(seconds: int) -> Counts:
        steps = fine if seconds <= FINE.total_seconds() else coarse
        return summed(steps, now - timedelta(seconds=seconds), end)

    long, short = counted(pair.long_s), counted(pair.short_s)
    return BurnView(
        pair.long_s,
        pair.short_s,
        pair.factor,
        pair.is_fast,
        burn_of(long, slo.allowed),
        burn_of(short, slo.allowed),
        long.bad,
        long.total,
        not is_chance(long, slo.allowed),
        judged(pair, long, short, slo.allowed).value,
    )


def _state(burns: Sequence[BurnView], left: float | None) -> BudgetState:
    burning = [one for one in burns if one.state == BurnState.BURNING]
    if left is None:
        return BudgetState.NO_DATA
    if any(one.is_fast for one in burning):
        return BudgetState.BURNING
    if left <= 0:
        return BudgetState.SPENT
    return BudgetState.SLOW_BURN if burning else BudgetState.OK


def _floor(at: datetime, seconds: int) -> datetime:
    return datetime.fromtimestamp(at.timestamp() // seconds * seconds, UTC)


def counted_at(slo: Slo) -> float | None:
    """Return the threshold that latencies are really counted at, in milliseconds; None for all other indicators."""
    if slo.indicator is not Indicator.LATENCY or slo.threshold is None:
        return None
    return 1000 * edge_s(slo.threshold / 1000)
