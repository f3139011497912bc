"""Loads what the question why latency rose is answered from.

Of a device: its own windows and messages, and those of some others that ran the same bundles, so the same model on the same hardware. Of
all devices: the roll-ups, by hardware profile and site.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.inventory.views import DeviceCrowds
from edgefleet_server.telemetry import store
from edgefleet_server.telemetry.drift.views import DriftWord
from edgefleet_server.telemetry.latency.model import Case, DriftFact, Moment, Strand, VersionFigures
from edgefleet_server.telemetry.model import shown_ms
from edgefleet_server.telemetry.rollups.model import SCALES, Dimension, Step, Sums, SystemSums
from edgefleet_server.telemetry.rollups.rollup_reader import RollupReader
from edgefleet_server.telemetry.timelines.timeline_figures import scale_of

STEPS: Final = 192
FEWEST_STEPS: Final = 12
MOST_ROWS: Final = 20_000
"""Of roll-ups that are read for one answer."""
MOST_OTHERS: Final = 16
LOOKED_AT: Final = 2_000
"""Windows of other devices that are looked at to find some."""
SITE_LABEL: Final = "site"
ACTIVE: Final = "active"
MEASURE: Final = "measure"
SYSTEM: Final = ("throttled_ratio", "temperature_celsius", "cpu_ratio", "memory_available_bytes", "disk_free_bytes")
NETWORK: Final = ("net_rx_bytes", "net_tx_bytes")
Crowds = Callable[[Sequence[str]], Mapping[str, DeviceCrowds]]
Place = tuple[str, str]


class Words(Protocol):
    """What is needed of the words of devices about drift."""

    def open(self, *, model: str = "", device: str = "") -> list[DriftWord]:
        """Return the drifts that are not over, of a model or a device."""
        ...


@dataclass(slots=True)
class _Step:
    """What is added up over one step of one device or cohort.

    p95: of cohorts, of all answers of the step; of a device, whose windows are read without their sketches, the geometric mean of the
    windows' by their answers.
    """

    n: int = 0
    seconds: int = 0
    sketches: list[LatencySketch] = field(default_factory=list)
    log_sum: float = 0.0
    weight: int = 0
    others: int = 0
    candidates: int = 0
    versions: dict[str, list[float]] = field(default_factory=dict)
    classes: list[int] = field(default_factory=list)
    system: dict[str, list[float]] = field(default_factory=dict)

    def answer(self, version: str, n: int, seconds: int, p95_ms: float | None, classes: Sequence[int]) -> None:
        """Add answers of the model for users."""
        self.n += n
        self.seconds += seconds
        mine = self.versions.setdefault(version, [0, 0, 0.0])
        mine[0] += n
        if p95_ms is not None and p95_ms > 0 and n > 0:
            mine[1] += n
            mine[2] += n * math.log(p95_ms)
            self.weight += n
            self.log_sum += n * math.log(p95_ms)
        self.classes.extend([0] * (len(classes) - len(self.classes)))
        for place, count in enumerate(classes):
            self.classes[place] += count

    def moment(self, at: int, length_s: int) -> Moment:
        """Return the step as it is judged."""
        figures = {name: values[1] / values[0] for name, values in self.system.items() if values[0] and name in SYSTEM}
        traffic = [self.system[name][1] for name in NETWORK if name in self.system]
        if traffic:
            figures["net_per_s"] = sum(traffic) / length_s
        if self.n and self.seconds:
            figures["requests_per_s"] = self.n / self.seconds
            figures["candidate_share"] = self.candidates / self.n
            figures["other_per_s"] = self.others / self.seconds
        versions = {
            name: VersionFigures(int(n), math.exp(logs / weight) if weight else None)
            for name, (n, weight, logs) in self.versions.items()
        }
        p95_ms = math.exp(self.log_sum / self.weight) if self.weight else None
        if self.sketches:
            p95_ms = shown_ms(LatencySketch.merged(self.sketches).quantile_s(0.95))
        return Moment(at, self.n, p95_ms, figures, versions, tuple(self.classes))


Steps = dict[int, _Step]


class EvidenceLoader:
    """Loads cases. Thread-safe; calls block."""

    def __init__(self, db: Database, clock: Clock, rollups: RollupReader, crowds: Crowds, words: Words) -> None:
        """Wire the parts. crowds: returns what devices have in common; words: what they say of drift."""
        self._db = db
        self._clock = clock
        self._rollups = rollups
        self._crowds = crowds
        self._words = words

    def of_device(self, model: str, device: str, since: datetime, until: datetime) -> Case:
        """Return the question about one device, next to others that ran its bundles."""
        step_s = _step_of(since, until)
        with self._db.read(streams=True) as session:
            own = store.latency_rows(session, [device], since, until)
            digests = sorted({row.sha256 for row in own if row.model == model and row.lane == ACTIVE})
            near = store.devices_of_bundles(session, digests, since, until, windows=LOOKED_AT, but=device)
        others = near[:MOST_OTHERS]
        crowds = self._crowds([device, *others])
        kept = [device, *(one for one in others if one in crowds)]
        steps: dict[str, Steps] = {one: {} for one in kept}
        with self._db.read(streams=True) as session:
            for row in store.latency_rows(session, kept, since, until):
                _add_window(_at(steps[row.device_id], row.t0, since, step_s), row, model)
            for sender, at, figures in store.system_rows(session, kept, since, until):
                _add_system(_at(steps[sender], at, since, step_s), figures)
        strands = [Strand(one, _moments(steps[one], since, step_s), *_place(crowds.get(one))) for one in kept]
        return Case(model, strands[0], strands, step_s, is_device=True, drift=self._drift(model, device))

    def of_fleet(self, model: str, since: datetime, until: datetime) -> Case:
        """Return the question about all devices that run a model, by hardware profile and site."""
        where = {Dimension.MODEL: (model,), Dimension.LANE: (ACTIVE,)}
        place = (Dimension.PROFILE, Dimension.SITE)
        by = (Dimension.MODEL, Dimension.LANE, Dimension.VERSION, *place)
        span_s, series = (until - since).total_seconds(), self._rollups.series(by)
        age_s = (self._clock.now() - since).total_seconds()
        least_s = max(span_s / STEPS, series * span_s / MOST_ROWS)
        scale_s = scale_of(SCALES[0], age_s, min(least_s, self._longest(span_s)))
        cells: dict[Place, Steps] = {}
        whole: Steps = {}
        others = []
        for one in self._rollups.models(scale_s, since, until, by=by):
            name, lane, version, *cell = one.key
            if (name, lane) == (model, ACTIVE):
                _answer(cells.setdefault((cell[0], cell[1]), {}), one, version)
            else:
                others.append(one)
        for one in self._rollups.models(scale_s, since, until, by=(Dimension.VERSION,), where=where):
            _answer(whole, one, one.key[0])
        _add_others(cells, others, model)
        _add_cohorts(cells, self._rollups.system(scale_s, since, until, by=place))
        strands = [
            Strand(" at ".join(filter(None, cell)), _known(steps, scale_s), *cell)
            for cell, steps in sorted(cells.items())
        ]
        return Case(model, Strand("", _known(whole, scale_s)), strands, scale_s, drift=self._drift(model, ""))

    @staticmethod
    def _longest(span_s: float) -> int:
        """Return the longest scale with enough steps to see a rise in."""
        return max((one for one in SCALES if span_s / one >= FEWEST_STEPS), default=SCALES[0])

    def _drift(self, model: str, device: str) -> list[DriftFact]:
        words = self._words.open(model=model, device=device)
        return [DriftFact(one.signal, one.psi, int(one.since.timestamp())) for one in words]


def _step_of(since: datetime, until: datetime) -> int:
    """Return the length of a step: whole minutes, at most STEPS of them."""
    return max(60, -int(-(until - since).total_seconds() // (STEPS * 60)) * 60)


def _at(steps: Steps, at: datetime, since: datetime, step_s: int) -> _Step:
    return steps.setdefault(int((at - since).total_seconds() // step_s), _Step())


def _moments(steps: Steps, since: datetime, step_s: int) -> list[Moment]:
    begin = int(since.timestamp())
    return [one.moment(begin + number * step_s, step_s) for number, one in sorted(steps.items())]


def _known(steps: Steps, scale_s: int) -> list[Moment]:
    return [one.moment(at, scale_s) for at, one in sorted(steps.items())]


def _place(crowds: DeviceCrowds | None) -> Place:
    return ("", "") if crowds is None else (crowds.profile, crowds.labels.get(SITE_LABEL, ""))


def _add_window(step: _Step, row: Any, model: str) -> None:
    if row.model == model and row.lane == ACTIVE:
        classes = msgspec.msgpack.decode(row.classes, type=list[int])
        step.answer(row.version, row.n, row.length_s, row.latency_p95_ms, classes)
    elif row.model == model and row.lane != MEASURE:
        step.candidates += row.n
    elif row.lane == ACTIVE:
        step.others += row.n


def _add_system(step: _Step, figures: Mapping[str, Any]) -> None:
    for name in (*SYSTEM, *NETWORK):
        value = figures.get(name)
        if isinstance(value, int | float) and value >= 0:
            sums = step.system.setdefault(name, [0, 0.0])
            sums[0] += 1
            sums[1] += value


def _answer(steps: Steps, one: Step[Sums], version: str) -> None:
    step = steps.setdefault(int(one.at.timestamp()), _Step())
    p95_ms = shown_ms(one.sums.latency.quantile_s(0.95))
    step.answer(version, one.sums.n, one.sums.seconds, p95_ms, one.sums.classes)
    step.sketches.append(one.sums.latency)


def _add_others(cells: Mapping[Place, Steps], others: Iterable[Step[Sums]], model: str) -> None:
    for one in others:
        name, lane, _, profile, site = one.key
        step = cells.get((profile, site), {}).get(int(one.at.timestamp()))
        if step is None or lane == MEASURE:
            continue
        if name == model and lane != ACTIVE:
            step.candidates += one.sums.n
        elif name != model and lane == ACTIVE:
            step.others += one.sums.n


def _add_cohorts(cells: Mapping[Place, Steps], system: Iterable[Step[SystemSums]]) -> None:
    for one in system:
        profile, site = one.key
        step = cells.get((profile, site), {}).get(int(one.at.timestamp()))
        if step is not None:
            step.system = {name: [sums.n, sums.total] for name, sums in one.sums.figures.items()}
