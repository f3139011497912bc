"""Adds what a batch of messages counted to the roll-ups, in the transaction that stores the messages: each window once, or not at all.

1. Who adds is alone until the transaction ends (`store.lock`), so a row is read, added to and written without another between.
2. Ids that a transaction made are remembered only once it is committed.
3. Devices name models and versions as they like. One device names at most DAILY_SERIES new bundles a UTC day, and all together
   MOST_SERIES since the process began; what is beyond counts in a series named OTHER. Cohorts are bounded by how many are stored: in
   new ones groups are left out first, then sites.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Final

import msgspec
from sqlalchemy import event
from sqlmodel import Session

from edgefleet_protocol.messages import SystemFigures
from edgefleet_server.telemetry.rollups import store
from edgefleet_server.telemetry.rollups.model import SCALES, Cohort
from edgefleet_server.telemetry.rollups.step_fold import (
    ALL,
    BLOCK,
    MINUTE,
    Places,
    SeriesKey,
    folded,
    oldest_of,
    written,
)
from edgefleet_server.telemetry.rollups.totals import SystemTotal, WindowTotal

MODEL: Final = "model"
SYSTEM: Final = "system"
KINDS: Final[Mapping[str, type[WindowTotal | SystemTotal]]] = {MODEL: WindowTotal, SYSTEM: SystemTotal}
NO_BUNDLE: Final = ("", "", "", "")
OTHER: Final = "(other)"
LANES: Final = frozenset({"active", "candidate", "measure", "shadow", "split"})
DAILY_SERIES: Final = 100
MOST_SERIES: Final = 50_000
MOST_COHORTS: Final = 1_000
"""Beyond it new cohorts have no groups, beyond twice as many no site either."""
MOST_ROWS: Final = 10_000_000
"""Of all scales together, some gigabytes: beyond it the oldest steps of the finest scale go first."""

BundleKey = tuple[str, str, str, str]
"""Model, version, digest, lane."""
_log = logging.getLogger(__name__)


class Counted:
    """What one transaction adds: totals of windows and figures of devices, by cohort, bundle and minute."""

    __slots__ = ("_cohorts", "now_s", "oldest_minute_s", "system")

    def __init__(self, now: datetime) -> None:
        self.now_s = int(now.timestamp())
        self.oldest_minute_s = oldest_of(MINUTE, now)
        self._cohorts: dict[Cohort, dict[BundleKey, dict[int, list[WindowTotal]]]] = {}
        self.system: dict[Cohort, dict[int, list[SystemFigures]]] = {}

    def of(self, cohort: Cohort) -> dict[BundleKey, dict[int, list[WindowTotal]]]:
        """Return where the windows of a cohort are collected, by bundle and `place_of`."""
        known = self._cohorts.get(cohort)
        if known is None:
            known = self._cohorts[cohort] = {}
            self.system[cohort] = {}
        return known

    def places(self, cohorts: Mapping[Cohort, int]) -> dict[SeriesKey, Places]:
        """Return what was collected by series. Cohorts that are the same in the database are one."""
        found: dict[SeriesKey, Places] = {}
        for cohort, bundles in self._cohorts.items():
            for bundle, totals in bundles.items():
                _merge(found.setdefault((MODEL, *bundle, cohorts[cohort]), {}), totals)
            system = {at: [SystemTotal.of(messages)] for at, messages in self.system[cohort].items()}
            _merge(found.setdefault((SYSTEM, *NO_BUNDLE, cohorts[cohort]), {}), system)
        return found

    @property
    def cohorts(self) -> set[Cohort]:
        """Which cohorts there are."""
        return set(self._cohorts)


class RollupWriter:
    """Adds to the roll-ups. For the thread that ingests."""

    def __init__(self, most_rows: int = MOST_ROWS) -> None:
        """Remember nothing yet. most_rows: how many are kept."""
        self._most_rows = most_rows
        self._series: dict[SeriesKey, int] = {}
        self._cohorts: dict[Cohort, int] = {}
        self._day: date | None = None
        self._made: Counter[str] = Counter()
        self._bundles: set[BundleKey] = set()
        self._beyond: set[str] = set()
        self._bounded_on: date | None = None

    def bundle_of(self, device: str, bundle: BundleKey, now: datetime) -> BundleKey:
        """Return under which bundle a device's window counts: its own, or OTHER where it has named too many."""
        if bundle in self._bundles:
            return bundle
        today = now.astimezone(UTC).date()
        if today != self._day:
            self._day = today
            self._made.clear()
            self._beyond.clear()
        if self._made[device] >= DAILY_SERIES or len(self._bundles) >= MOST_SERIES:
            if device not in self._beyond:
                self._beyond.add(device)
                why = {"device": device, "new_today": self._made[device], "known": len(self._bundles)}
                _log.warning("too many new models and versions: more of them count as (other) today", extra=why)
            return OTHER, "", "", bundle[3] if bundle[3] in LANES else OTHER
        self._made[device] += 1
        self._bundles.add(bundle)
        return bundle

    def add(self, session: Session, counted: Counted, now: datetime) -> None:
        """Add in the caller's transaction."""
        if not counted.cohorts:
            return
        store.lock(session)
        places = counted.places(self._cohort_ids(session, counted.cohorts, now))
        whole = {series: (*series[:5], ALL) for series in places}
        numbers = self._series_ids(session, {*whole, *whole.values()})
        kinds = {numbers[series]: KINDS[series[0]] for series in (*whole, *whole.values())}
        of_all = {numbers[series]: numbers[all_cohorts] for series, all_cohorts in whole.items()}
        rows = folded({numbers[series]: found for series, found in places.items()}, of_all, now)
        before = store.rows_of(session, list(rows))
        found = []
        for key in sorted(rows):
            scale, series, at = key
            sums = written(scale, rows[key], before.get(key), kinds[series])
            found.append({"scale_s": scale, "series_id": series, "at": at, "sums": sums})
        store.set_rows(session, found)

    def prune(self, session: Session, now: datetime, there: int) -> int:
        """Delete what is older than is kept, then what there is no room for; return how many rows.

        there: how many rows there were, counted outside of this transaction: nobody else can write meanwhile.
        """
        gone = sum(store.delete_before(session, scale, oldest_of(scale, now) - BLOCK) for scale in SCALES)
        excess = there - gone - self._most_rows
        for scale in SCALES if excess > 0 else ():
            until = found = 0
            for at, n in store.begins(session, scale):
                until, found = at + 1, found + n
                if found >= excess:
                    break
            dropped = store.delete_before(session, scale, until) if found else 0
            if dropped:
                began = datetime.fromtimestamp(until - 1, UTC).isoformat()
                _log.warning("roll-ups dropped to save room", extra={"scale_s": scale, "rows": dropped, "until": began})
            gone, excess = gone + dropped, excess - dropped
            if excess <= 0:
                break
        return gone

    def _cohort_ids(self, session: Session, wanted: set[Cohort], now: datetime) -> dict[Cohort, int]:
        unknown = {one for one in wanted if one not in self._cohorts}
        if not unknown:
            return self._cohorts
        digests = {one: _digest(one) for one in unknown | {_without_groups(one) for one in unknown}}
        ids = store.cohort_ids(session, digests.values())
        kept = {one: one for one in unknown if digests[one] in ids}
        new = sorted(unknown - kept.keys(), key=_text)
        if new:
            there = store.count_cohorts(session)
            for at, one in enumerate(new):
                bare = _without_groups(one)
                kept[one] = bare if there + at >= MOST_COHORTS and digests[bare] in ids else _bounded(one, there + at)
            if any(kept[one] != one for one in new) and self._bounded_on != now.date():
                self._bounded_on = now.date()
                _log.warning(
                    "too many combinations of profile, site and groups: new ones count without groups, then without site",
                    extra={"stored": there},
                )
            rows = {_digest(kept[one]): kept[one] for one in new}
            store.add_cohorts(session, [_row(digest, one) for digest, one in rows.items()])
            ids |= store.cohort_ids(session, rows)
        fresh = {one: ids[_digest(cohort)] for one, cohort in kept.items()}
        _remember(session, self._cohorts, fresh)
        return self._cohorts | fresh

    def _series_ids(self, session: Session, wanted: Iterable[SeriesKey]) -> Mapping[SeriesKey, int]:
        unknown = sorted(one for one in wanted if one not in self._series)
        if not unknown:
            return self._series
        store.add_series(session, unknown)
        known = {key: number for number, key in store.series(session, max(self._series.values(), default=0))}
        if any(one not in known for one in unknown):  # another process made them before the newest that is known here
            known = {key: number for number, key in store.series(session)}
        _remember(session, self._series, known)
        return self._series | known


def _merge(into: dict[int, list[Any]], found: Mapping[int, list[Any]]) -> None:
    for at, parts in found.items():
        into[at] = into[at] + parts if at in into else parts


def _remember(session: Session, known: dict[Any, int], fresh: Mapping[Any, int]) -> None:
    event.listen(session, "after_commit", lambda _session: known.update(fresh), once=True)


def _bounded(cohort: Cohort, there: int) -> Cohort:
    if there < MOST_COHORTS:
        return cohort
    return _without_groups(cohort) if there < 2 * MOST_COHORTS else Cohort(cohort.profile)


def _without_groups(cohort: Cohort) -> Cohort:
    return Cohort(cohort.profile, cohort.site)


def _row(digest: str, cohort: Cohort) -> dict[str, Any]:
    return {"digest": digest, "profile": cohort.profile, "site": cohort.site, "groups": list(cohort.groups)}


def _text(cohort: Cohort) -> bytes:
    return msgspec.json.encode([cohort.profile, cohort.site, cohort.groups])


def _digest(cohort: Cohort) -> str:
    return hashlib.sha256(_text(cohort)).hexdigest()
