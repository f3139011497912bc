"""Reads roll-ups: sums of windows and of system figures by time and by what the caller asks for.

What is asked of all devices together is read from the series of all cohorts; by profile, group or site from those of the cohorts. A
device in two groups counts in both where sums are told apart by group, and once everywhere else.
"""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlmodel import Session

from edgefleet_server.db.database import Database
from edgefleet_server.telemetry.rollups import store
from edgefleet_server.telemetry.rollups.model import EVER, Cohort, Dimension, Step, Sums, SystemSums
from edgefleet_server.telemetry.rollups.rollup_writer import KINDS, MODEL, SYSTEM
from edgefleet_server.telemetry.rollups.step_fold import ALL, BLOCK, MINUTE, SeriesKey, sum_of
from edgefleet_server.telemetry.rollups.totals import Total, loaded

OF_COHORTS: Final = frozenset({Dimension.PROFILE, Dimension.GROUP, Dimension.SITE})
_PLACES: Final = {Dimension.MODEL: 1, Dimension.VERSION: 2, Dimension.SHA256: 3, Dimension.LANE: 4}
Where = Mapping[Dimension, Collection[str]]
_EVERYTHING: Final[Where] = {}
Keys = tuple[tuple[str, ...], ...]
"""The keys in which a series counts."""


class RollupReader:
    """Reads. Thread-safe; calls block."""

    def __init__(self, db: Database) -> None:
        """Read from `db`."""
        self._db = db
        self._lock = threading.Lock()
        self._series: dict[int, SeriesKey] = {}
        self._cohorts: dict[int, Cohort] = {}

    def models(
        self,
        scale_s: int,
        since: datetime,
        until: datetime,
        *,
        by: Sequence[Dimension] = (),
        where: Where = _EVERYTHING,
        step_s: int | None = None,
    ) -> list[Step[Sums]]:
        """Return the sums of steps that began in a span of time, oldest first, by the values of `by`.

        step_s: a multiple of the scale: so many seconds of it are added up to one step.
        """
        found = self._steps(MODEL, scale_s, since, until, by, where, step_s or scale_s)
        return [Step(at, key, total.sums()) for at, key, total in found]

    def system(
        self,
        scale_s: int,
        since: datetime,
        until: datetime,
        *,
        by: Sequence[Dimension] = (),
        where: Where = _EVERYTHING,
        step_s: int | None = None,
    ) -> list[Step[SystemSums]]:
        """Return what devices said of themselves, as `models`; only by and where profile, group and site."""
        found = self._steps(SYSTEM, scale_s, since, until, by, where, step_s or scale_s)
        return [Step(at, key, total.sums()) for at, key, total in found]

    def series(self, by: Sequence[Dimension] = (), where: Where = _EVERYTHING) -> int:
        """Return how many series `models` reads for a question: each has a row a step."""
        with self._db.read() as session:
            return len(_chosen(*self._known(session), MODEL, by, where))

    def totals(self, *, by: Sequence[Dimension] = (), where: Where = _EVERYTHING) -> dict[tuple[str, ...], Sums]:
        """Return what was counted since the beginning, by the values of `by`."""
        begin, end = datetime.fromtimestamp(0, UTC), datetime.fromtimestamp(1, UTC)
        return {key: total.sums() for _, key, total in self._steps(MODEL, EVER, begin, end, by, where, 1)}

    def _steps(  # the question as it was asked
        self,
        kind: str,
        scale_s: int,
        since: datetime,
        until: datetime,
        by: Sequence[Dimension],
        where: Where,
        step_s: int,
    ) -> Iterator[tuple[datetime, tuple[str, ...], Any]]:
        begin, end = since.timestamp(), until.timestamp()
        with self._db.read() as session:
            series, cohorts = self._known(session)
            keys = _chosen(series, cohorts, kind, by, where)
            found: dict[tuple[int, tuple[str, ...]], list[Total]] = {}
            first = begin - BLOCK + 1 if scale_s == MINUTE else begin
            for number, at, data in store.steps(session, scale_s, keys, int(-(-first // 1)), int(-(-end // 1))):
                parts = loaded(data)
                for moment, one in parts if scale_s == MINUTE else [(at, parts)]:
                    total = KINDS[kind].unpacked(one)
                    if begin <= moment < end:
                        for key in keys[number]:
                            found.setdefault((moment // step_s * step_s, key), []).append(total)
        for at, key in sorted(found):
            yield datetime.fromtimestamp(at, UTC), key, sum_of(found[at, key])

    def _known(self, session: Session) -> tuple[Mapping[int, SeriesKey], Mapping[int, Cohort]]:
        """Return series and cohorts: they are only ever added, and become visible in the order of their ids (`store.lock`)."""
        with self._lock:
            series, cohorts = self._series, self._cohorts
        fresh = dict(store.series(session, max(series, default=0)))
        new = store.cohorts(session, max(cohorts, default=0))
        if fresh or new:
            series = series | fresh
            cohorts = cohorts | {row.id or 0: Cohort(row.profile, row.site, tuple(row.groups)) for row in new}
            with self._lock:
                self._series, self._cohorts = series, cohorts
        return series, cohorts


def _chosen(
    series: Mapping[int, SeriesKey],
    cohorts: Mapping[int, Cohort],
    kind: str,
    by: Sequence[Dimension],
    where: Where,
) -> dict[int, Keys]:
    """Return the series that are asked for, and in which keys each counts."""
    is_of_all = not OF_COHORTS & (set(by) | where.keys())
    found: dict[int, Keys] = {}
    for number, key in series.items():
        if key[0] != kind or (key[5] == ALL) != is_of_all:
            continue
        cohort = cohorts.get(key[5], Cohort())
        keys: list[tuple[str, ...]] = [()]
        for dimension in by:
            values = _values(dimension, key, cohort, where)
            keys = [(*one, value) for one in keys for value in values]
        if keys and all(_values(dimension, key, cohort, where) for dimension in where):
            found[number] = tuple(keys)
    return found


def _values(dimension: Dimension, key: SeriesKey, cohort: Cohort, where: Where) -> list[str]:
    """Return the values of a series in a dimension that are asked for; "" is what belongs to no group."""
    if dimension is Dimension.GROUP:
        values: Sequence[str] = cohort.groups or ("",)
    elif dimension is Dimension.PROFILE:
        values = (cohort.profile,)
    elif dimension is Dimension.SITE:
        values = (cohort.site,)
    else:
        values = (str(key[_PLACES[dimension]]),)
    wanted = where.get(dimension)
    return [one for one in values if wanted is None or one in wanted]
