"""Reads presence over time, and forgets what is old."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.events.log import KEPT, PRUNE_BATCH
from edgefleet_server.fleet.presence import store
from edgefleet_server.fleet.presence.model import DAY_S, Absence, FleetStep, PresenceSpan, spans

MOST_ABSENCES: Final = 100
MOST_STARTS: Final = 2_000
"""Times without a server that are read for one answer: the newest. What was before them is unknown where there are more."""


class PresenceHistory:
    """Reads it. Thread-safe; calls block."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock

    def fleet(self, scale_s: int, since: datetime, until: datetime) -> Sequence[FleetStep]:
        """Return the steps of the fleet that began in a span of time, oldest first."""
        with self._db.read() as session:
            return store.fleet_steps(session, scale_s, int(since.timestamp()), int(until.timestamp()))

    def device(self, device_id: str, since: datetime, until: datetime) -> Sequence[PresenceSpan]:
        """Return how a device was in the past part of a span of time while it belonged to the fleet, oldest first."""
        now = self._clock.now()
        with self._db.read() as session:
            found = store.presence_of(session, device_id)
            if found is None:
                return []
            is_online, offline_since, enrolled_at, revoked_at, last_seen = found
            begin, end = max(since, enrolled_at), min(until, now, revoked_at or now)
            if begin >= end:
                return []
            absences = list(store.absences(session, device_id, int(begin.timestamp()) // DAY_S, begin, end))
            if is_online is not True:
                # who was there when it was revoked has not gone before
                gone_since = offline_since or (enrolled_at if last_seen is None else revoked_at or enrolled_at)
                absences.append(Absence(gone_since, now, is_heard=is_online is False and last_seen is not None))
            starts = store.unwatched(session, min([begin, *(one.since for one in absences)]), MOST_STARTS)
            watched = store.watched_since(session)
        known_since = None if watched is None else max(watched[0], now - KEPT)
        if known_since is not None and len(starts) >= MOST_STARTS:
            known_since = max(known_since, starts[0][0])
        before_first_word = [one for one in absences if one.since == enrolled_at and not one.is_heard]
        unseen = [*starts, *((one.since, one.until) for one in before_first_word)]
        return spans(begin, end, known_since, [one for one in absences if one not in before_first_word], unseen)

    def absences(self, device_id: str, since: datetime, until: datetime) -> Sequence[Absence]:
        """Return the newest MOST_ABSENCES absences of a device that ended in a span of time, oldest first.

        The time between its enrolment and its first word is none.
        """
        with self._db.read() as session:
            device = store.presence_of(session, device_id)
            found = store.absences(session, device_id, int(since.timestamp()) // DAY_S, since, until)
            ended = [one for one in found if one.until <= until and device is not None and one.since != device[2]]
        return ended[-MOST_ABSENCES:]

    def prune(self, now: datetime) -> int:
        """Forget absences that ended more than KEPT ago, in transactions of one batch each; return how many. For the engine tick."""
        before = now - KEPT
        with self._db.session() as session:
            done = store.prune_unwatched(session, before)
        while True:
            with self._db.session() as session:
                removed = store.prune_absences(session, int(before.timestamp()) // DAY_S, PRUNE_BATCH)
            done += removed
            if removed < PRUNE_BATCH:
                return done
