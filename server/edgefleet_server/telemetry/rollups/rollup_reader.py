"""Reads roll-ups: sums of windows and of system figures by time and by what the caller asks for.

What is asked of all devices together is read from the series of all cohorts; by profile, group or site from those of the cohorts. A
device in two groups counts in both where sums are told apart by group, and once everywhere else.

Sums of cohorts are remembered (`KeptSteps`). Rows are added up step by step: a month of a large fleet has millions of counts.
"""

import threading
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

from sqlmodel import Session

from edgefleet_server.db.database import Database
from edgefleet_server.telemetry.rollups import store
from edgefleet_server.telemetry.rollups.kept_steps import KeptSteps, witnesses
from edgefleet_server.telemetry.rollups.model import EVER, SCALES, Cohort, Dimension, Step, Sums, SystemSums
from edgefleet_server.telemetry.rollups.rollup_writer import KINDS, MODEL, SYSTEM
from edgefleet_server.telemetry.rollups.step_fold import ALL, BLOCK, MINUTE, SeriesKey, sum_of
from edgefleet_server.telemetry.rollups.totals import Served, Total, loaded, served

OF_COHORTS: Final = frozenset({Dimension.PROFILE, Dimension.GROUP, Dimension.SITE})
_PLACES: Final = {Dimension.MODEL: 1, Dimension.VERSION: 2, Dimension.SHA256: 3, Dimension.LANE: 4}
Where = Mapping[Dimension, Collection[str]]
_EVERYTHING: Final[Where] = {}
Keys = tuple[tuple[str, ...], ...]
"""The keys in which a series counts."""
StoredStep = tuple[int, int, bytes]
"""Series, beginning, sums."""
Found = tuple[int, tuple[str, ...], Any]
"""Beginning, key, total."""


class _Question(NamedTuple):
    """What is asked. begin, end: of the span of time, Unix time."""

    kind: str
    scale_s: int
    step_s: int
    by: tuple[Dimension, ...]
    where: Where
    begin: float
    end: float

    @property
    def span(self) -> tuple[int, int]:
        """Between which whole seconds the rows begin that are asked for."""
        first = self.begin - BLOCK + 1 if self.scale_s == MINUTE else self.begin
        return int(-(-first // 1)), int(-(-self.end // 1))

    @property
    def is_kept(self) -> bool:
        """Whether its sums are worth remembering: those of cohorts are of many rows."""
        return self.scale_s in SCALES[1:] and not OF_COHORTS.isdisjoint({*self.by, *self.where})

    def name(self, series: int) -> Hashable:
        """Return what the same question of so many series has, whatever its span."""
        where = frozenset((one, frozenset(of)) for one, of in self.where.items())
        return self.kind, self.scale_s, self.step_s, self.by, where, series

    def is_whole(self, at: int) -> bool:
        """Return whether all of a step is asked for."""
        return self.begin <= at and at + self.step_s <= self.end


class RollupReader:
    """Reads. Thread-safe; calls block."""

    def __init__(self, db: Database) -> None:
        """Read from `db`."""
        self._db = db
        self._lock = threading.Lock()
        self._series: dict[int, SeriesKey] = {}
        self._cohorts: dict[int, Cohort] = {}
        self._kept = KeptSteps()

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

    def served(
        self,
        scale_s: int,
        since: datetime,
        until: datetime,
        *,
        by: Sequence[Dimension] = (),
        where: Where = _EVERYTHING,
    ) -> dict[tuple[str, ...], Served]:
        """Return windows, seconds and answers of the steps that began in a span of time, added up, by the values of `by`.

        As `models` with one step, without latencies and classes: of many groups over a month a tenth of the time. scale_s: not of a minute.
        """
        asked = _Question(MODEL, scale_s, scale_s, tuple(by), where, since.timestamp(), until.timestamp())
        with self._db.read() as session:
            keys = _chosen(*self._known(session), MODEL, by, where)
            counted: dict[int, list[int]] = {}
            for number, _, data in store.steps(session, scale_s, keys, *asked.span):
                one, sums = served(data), counted.setdefault(number, [0, 0, 0])
                sums[0] += one.windows
                sums[1] += one.seconds
                sums[2] += one.n
        found: dict[tuple[str, ...], Served] = {}
        for number, (windows, seconds, n) in counted.items():
            for key in keys[number]:
                known = found.get(key, Served(0, 0, 0))
                found[key] = Served(known.windows + windows, known.seconds + seconds, known.n + n)
        return found

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
        asked = _Question(kind, scale_s, step_s, tuple(by), where, since.timestamp(), until.timestamp())
        with self._db.read() as session:
            series, cohorts = self._known(session)
            keys = _chosen(series, cohorts, kind, by, where)
            now = _witnesses(session, series, asked)
            name = asked.name(len(keys))
            kept = self._kept.known(name, now)
            rows = [one for gap in _gaps(kept, asked) for one in store.steps(session, scale_s, keys, *gap)]
        fresh = list(_added(rows, keys, asked))
        for at, parts in groupby(fresh, key=itemgetter(0)):
            if at in now:
                self._kept.keep(name, at, now[at], [(key, total.packed()) for _, key, total in parts])
        fresh += [(at, key, KINDS[kind].unpacked(one)) for at, parts in kept.items() for key, one in parts]
        for at, key, total in sorted(fresh, key=itemgetter(0, 1)):
            yield datetime.fromtimestamp(at, UTC), key, total

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


def _witnesses(session: Session, series: Mapping[int, SeriesKey], asked: _Question) -> dict[int, bytes]:
    """Return what says whether the sums of whole steps are those that are remembered."""
    if not asked.is_kept:
        return {}
    where = {one: of for one, of in asked.where.items() if one not in OF_COHORTS}
    of_all = _chosen(series, {}, asked.kind, (), where)
    found = witnesses(store.steps(session, asked.scale_s, of_all, *asked.span), asked.step_s)
    return {at: one for at, one in found.items() if asked.is_whole(at)}


def _gaps(kept: Collection[int], asked: _Question) -> Iterator[tuple[int, int]]:
    """Yield the spans of time between the steps that are remembered."""
    begin, end = asked.span
    for at in sorted(kept):
        if at > begin:
            yield begin, at
        begin = at + asked.step_s
    if begin < end:
        yield begin, end


def _added(rows: Iterable[StoredStep], keys: Mapping[int, Keys], asked: _Question) -> Iterator[Found]:
    """Yield the sums of rows by step and key, in this order."""
    found: dict[tuple[int, tuple[str, ...]], list[Total]] = {}
    for at, parts in groupby(sorted(rows, key=itemgetter(1)), key=itemgetter(1)):
        yield from _summed(found, at - asked.step_s)
        for number, _, data in parts:
            packed = loaded(data)
            for moment, one in packed if asked.scale_s == MINUTE else [(at, packed)]:
                if asked.begin <= moment < asked.end:
                    total, place = KINDS[asked.kind].unpacked(one), moment // asked.step_s * asked.step_s
                    for key in keys[number]:
                        found.setdefault((place, key), []).append(total)
    yield from _summed(found, int(asked.end))


def _summed(found: dict[tuple[int, tuple[str, ...]], list[Total]], last: int) -> Iterator[Found]:
    """Yield the sums of the steps that began until `last`, and forget what they are of."""
    for place in sorted(one for one in found if one[0] <= last):
        yield *place, sum_of(found.pop(place))


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
