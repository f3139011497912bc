"""Facts of models on all devices: how their objectives stand, and what roll-ups say of the last hour and of the week before."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.alerting.alert_rules.fleet_facts import BurnFact, ModelTotals, SloFact
from edgefleet_server.objectives.model import BurnView, SloView
from edgefleet_server.objectives.service import ObjectiveBook
from edgefleet_server.telemetry.rollups.model import Dimension, Step, Sums
from edgefleet_server.telemetry.rollups.rollup_reader import RollupReader

LANE: Final = "active"
MINUTE_S: Final = 60
HOUR_S: Final = 3600
NOW: Final = timedelta(hours=1)
USUAL: Final = timedelta(days=7)
USUAL_KEPT_S: Final = 900.0
"""What is usual is read again after so long."""


@dataclass(slots=True)
class _Sums:
    """What a model adds up to. since: when the first of it began."""

    since: datetime
    n: int = 0
    failed: int = 0
    latency: LatencySketch = field(default_factory=LatencySketch)

    def add(self, sums: Sums) -> None:
        self.n += max(sums.n, sums.failed)
        self.failed += sums.failed
        self.latency.merge(sums.latency)

    @property
    def p95_ms(self) -> float | None:
        p95_s = self.latency.quantile_s(0.95)
        return None if p95_s is None else 1000 * p95_s


Usual = dict[str, _Sums]


class ModelFacts:
    """Loads them. Thread-safe; calls block."""

    def __init__(self, objectives: ObjectiveBook, rollups: RollupReader, clock: Clock) -> None:
        """Wire the sources. clock: of this process, for what is kept."""
        self._objectives = objectives
        self._rollups = rollups
        self._clock = clock
        self._lock = threading.Lock()
        self._usual: tuple[float, Usual] | None = None

    def slos(self) -> list[SloFact]:
        """Return how objectives stand."""
        return [_slo(one) for one in self._objectives.slos()]

    def totals(self, now: datetime) -> list[ModelTotals]:
        """Return what models did in the last hour and in the week before."""
        end = now + timedelta(seconds=MINUTE_S)
        lately = _by_model(self._read(MINUTE_S, now - NOW, end))
        usual = self._week(now) if lately else {}
        return [_totals(model, sums, usual, now) for model, sums in sorted(lately.items())]

    def _week(self, now: datetime) -> Usual:
        now_s = self._clock.monotonic_s()
        with self._lock:
            kept = self._usual
        if kept is not None and 0 <= now_s - kept[0] < USUAL_KEPT_S:
            return kept[1]
        until = datetime.fromtimestamp((now - NOW).timestamp() // HOUR_S * HOUR_S, UTC)
        found = _by_model(self._read(HOUR_S, until - USUAL, until))
        with self._lock:
            self._usual = (now_s, found)
        return found

    def _read(self, scale_s: int, since: datetime, until: datetime) -> list[Step[Sums]]:
        where = {Dimension.LANE: (LANE,)}
        return self._rollups.models(scale_s, since, until, by=(Dimension.MODEL,), where=where)


def _by_model(steps: Sequence[Step[Sums]]) -> Usual:
    found: Usual = {}
    for step in steps:
        found.setdefault(step.key[0], _Sums(step.at)).add(step.sums)
    return found


def _totals(model: str, sums: _Sums, usual: Usual, now: datetime) -> ModelTotals:
    before = usual.get(model) or _Sums(now)
    days = (now - before.since) / timedelta(days=1)
    return ModelTotals(model, sums.n, sums.failed, sums.p95_ms, before.n, before.p95_ms, days)


def _slo(one: SloView) -> SloFact:
    burns = [found for burn in one.burns if (found := _burn(burn)) is not None]
    return SloFact(one.name, one.title, one.model, one.says, one.left, burns)


def _burn(one: BurnView) -> BurnFact | None:
    if one.long_burn is None or one.short_burn is None:
        return None
    return BurnFact(
        one.long_s, one.short_s, one.factor, one.is_fast, min(one.long_burn, one.short_burn), one.is_sure, one.bad, one.total
    )  # fmt: skip
