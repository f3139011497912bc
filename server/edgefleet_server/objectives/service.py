"""Objectives as the rest of the server sees them: set from a file, shown, removed, and their fleet samples taken once a minute."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import msgspec

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.objectives import openslo, store
from edgefleet_server.objectives.budget_reports import BudgetReport, BudgetReports, counted_at
from edgefleet_server.objectives.errors import SloNameError, TooManySlosError
from edgefleet_server.objectives.model import BudgetUse, Indicator, Slo, SloDetail, SloView
from edgefleet_server.objectives.slo_indicators import COARSE_S, DAY_S, MINUTE_S, SAMPLED, Indicators
from edgefleet_server.objectives.tables import Objective

MAX_SLOS: Final = 100
FINE_KEPT: Final = timedelta(days=2)
COARSE_KEPT: Final = timedelta(days=2 * 90 + 2)


class Models(Protocol):
    """What is needed of the registry."""

    def model(self, name: str) -> Any:
        """Return a model. Raises ModelUnknownError."""
        ...


@dataclass(frozen=True, slots=True)
class BudgetWord:
    """What is left of a budget, for those that ask before a change. left: None without events."""

    name: str
    model: str
    left: float | None
    says: str


@dataclass(frozen=True, slots=True)
class SloStamp:
    """An objective, and who set it when."""

    slo: Slo
    created_at: datetime
    created_by: str
    changed_at: datetime
    changed_by: str


class ObjectiveBook:
    """Keeps objectives. Thread-safe; calls block; writes join the caller's transaction."""

    def __init__(self, db: Database, indicators: Indicators, models: Models, clock: Clock, shared: Clock) -> None:
        """Wire the parts. shared: the clock that all processes of the database go by."""
        self._db = db
        self._indicators = indicators
        self._models = models
        self._reports = BudgetReports(indicators, clock)
        self._clock = shared

    def put(self, name: str, document: Any, by: str) -> tuple[SloStamp, bool]:
        """Set an objective from its parsed file, and say whether it is new; `shown` says how it stands.

        Raises BadSloError, SloNameError, TooManySlosError, ModelUnknownError.
        """
        slo = openslo.parsed(document)
        if slo.name != name:
            raise SloNameError(
                f"the file is of the objective {slo.name!r}, the address says {name[:63]!r}",
                next_step="give both the same name",
            )
        self._models.model(slo.model)
        now = self._clock.now()
        with self._db.session() as session:
            row = store.find(session, name)
            is_new = row is None
            if row is None:
                if store.count(session) >= MAX_SLOS:
                    raise TooManySlosError(
                        f"there are {MAX_SLOS} objectives, more are not kept",
                        next_step="delete one: `edgectl slo delete NAME`",
                    )
                row = Objective(
                    name=name, model=slo.model, document={}, created_at=now, created_by=by[:80], changed_at=now,
                    changed_by=by[:80], measures="",
                )  # fmt: skip
            measures = _measures(slo)
            if row.measures != measures:
                store.forget_samples(session, name)
            row.model, row.document, row.measures = slo.model, openslo.document_of(slo), measures
            row.changed_at, row.changed_by = now, by[:80]
            session.add(row)
            session.flush()
            return _stamp(row), is_new

    def stamp(self, name: str) -> SloStamp:
        """Return an objective as it was set last. Raises SloUnknownError."""
        with self._db.read() as session:
            return _stamp(store.known(session, name))

    def shown(self, stamp: SloStamp) -> SloView:
        """Return an objective with how it stands."""
        return view_of(stamp, self._reports.of(stamp.slo))

    def slos(self, model: str = "") -> list[SloView]:
        """Return all objectives, or those of a model, by name, with how they stand."""
        with self._db.read() as session:
            stamps = [_stamp(row) for row in store.objectives(session, model)]
        return [self.shown(one) for one in stamps]

    def asked(self, model: str = "") -> list[Slo]:
        """Return what all objectives ask, or those of a model, by name; not how they stand."""
        with self._db.read() as session:
            return [openslo.parsed(row.document) for row in store.objectives(session, model)]

    def slo(self, name: str) -> SloDetail:
        """Return one objective with its file and the history of its budget. Raises SloUnknownError."""
        with self._db.read() as session:
            row = store.known(session, name)
            stamp, document = _stamp(row), row.document
        return SloDetail(self.shown(stamp), document, self._reports.history(stamp.slo))

    def budget(self, name: str) -> BudgetWord:
        """Return what is left of the budget of an objective. Raises SloUnknownError."""
        view = self.shown(self.stamp(name))
        return BudgetWord(name, view.model, view.left, view.says)

    def uses(self, name: str) -> list[BudgetUse]:
        """Return which profiles, sites and versions used the budget in the window, of each the largest; empty where nobody knows.

        Raises SloUnknownError.
        """
        return self._reports.uses(self.stamp(name).slo)

    def delete(self, name: str) -> None:
        """Remove an objective with its samples. Raises SloUnknownError."""
        with self._db.session() as session:
            store.remove(session, name)

    def tick(self, _now: datetime | None = None) -> int:
        """Take the samples of this minute that no process has taken; return how many. For the engine tick."""
        now = self._clock.now()
        minute = int(now.timestamp()) // MINUTE_S * MINUTE_S
        with self._db.read() as session:
            slos = [openslo.parsed(row.document) for row in store.objectives(session)]
        self._reports.forget({one.name for one in slos})
        return sum(self._sampled(one, minute, now) for one in slos if one.indicator in SAMPLED)

    def prune(self, _now: datetime | None = None) -> int:
        """Forget samples that no window needs; return how many. For the engine tick."""
        now = self._clock.now()
        kept = {MINUTE_S: FINE_KEPT, COARSE_S: COARSE_KEPT}
        with self._db.session() as session:
            return store.prune(session, {scale: int((now - age).timestamp()) for scale, age in kept.items()})

    def _sampled(self, slo: Slo, minute: int, now: datetime) -> bool:
        with self._db.read() as session:
            if store.samples(session, slo.name, MINUTE_S, minute, minute + 1):
                return False
        counts = self._indicators.sample(slo, now)
        with self._db.session() as session:
            row = store.find(session, slo.name)
            if row is None or row.measures != _measures(slo):  # it was changed meanwhile
                return False
            if not store.claim(session, slo.name, MINUTE_S, minute):
                return False
            steps = {MINUTE_S: minute, COARSE_S: minute // COARSE_S * COARSE_S}
            store.add(session, slo.name, steps, counts.good, counts.total)
        return True


def view_of(stamp: SloStamp, report: BudgetReport) -> SloView:
    """Return an objective as it is shown."""
    slo = stamp.slo
    return SloView(
        name=slo.name, model=slo.model, title=slo.title or slo.name, description=slo.description, indicator=slo.indicator,
        says=says(slo), threshold=slo.threshold, counted_at=counted_at(slo), target=slo.target, window_s=slo.window_s,
        where=dict(slo.where), state=report.state, left=report.left, good=report.counts.good, total=report.counts.total,
        since=report.since, looked_at=report.looked_at, burns=report.burns, created_at=stamp.created_at,
        created_by=stamp.created_by, changed_at=stamp.changed_at, changed_by=stamp.changed_by,
    )  # fmt: skip


def says(slo: Slo) -> str:
    """Return what an objective asks, in a sentence without its end."""
    share = f"{100 * slo.target:.6g} %"
    value = slo.threshold or 0.0
    goals = {
        Indicator.LATENCY: f"of answers within {value:.10g} ms",
        Indicator.SUCCESS: "of requests succeed",
        Indicator.AVAILABILITY: "of devices that serve it are connected",
        Indicator.ANSWER_AGE: f"of minutes with an answer not older than {value:.10g} s",
        Indicator.RELEASE_AGE: f"of devices run a release not older than {_days(value)}",
        Indicator.ACCURACY: "of labelled answers are right",
    }
    where = "".join(f", {place} {name}" for place, name in slo.where)
    return f"{share} {goals[slo.indicator]}, in {_days(slo.window_s / DAY_S)}{where}"


def _days(count: float) -> str:
    return "1 day" if count == 1 else f"{count:g} days"


def _stamp(row: Objective) -> SloStamp:
    return SloStamp(openslo.parsed(row.document), row.created_at, row.created_by, row.changed_at, row.changed_by)


def _measures(slo: Slo) -> str:
    return msgspec.json.encode([slo.model, slo.indicator.value, slo.threshold, slo.where]).decode()
