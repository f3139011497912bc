"""The feed of events: what the server itself notes, how the feed is followed, and how long it is kept.

Its own file because three kinds of writers share the feed (devices through `reports`, this feature, rollouts), and because
following it needs one rule that nobody else has:

An id is taken when a row is inserted and seen when its transaction commits. On PostgreSQL transactions overlap, so id 7 may be
seen before id 6. A reader that asks "what comes after 7?" would never see 6. So following stops before a gap until the row
behind the gap is SETTLED old: by then what took the missing id has committed or never will. Transactions that write events
must not last longer. SQLite has one writer at a time: there ids are seen in order and nothing waits.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.db import Database
from edgefleet_server.fleet import store
from edgefleet_server.fleet.model import EventFilter, NewEvent
from edgefleet_server.fleet.tables import FleetEvent

SETTLED: Final = timedelta(seconds=10)
KEPT: Final = timedelta(days=90)
PRUNE_BATCH: Final = 5_000


class EventFeed:
    """Adds, follows and prunes events."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock

    def add(self, rows: Sequence[NewEvent]) -> list[int]:
        """Store what happened here, in the caller's transaction, with one statement; return the ids in the order of `rows`."""
        now = self._clock.now()
        plain: list[dict[str, Any]] = [
            {
                "device_id": row.device,
                "at": now,
                "received_at": now,
                "kind": row.kind,
                "model": row.model,
                "rollout_id": row.rollout,
                "detail": dict(row.detail),
            }
            for row in rows
        ]
        if not plain:
            return []
        with self._db.session() as session:
            return store.add_server_events(session, plain)

    def after(self, after_id: int, what: EventFilter, limit: int) -> tuple[list[FleetEvent], int]:
        """Return up to `limit` events after an id, oldest first, and how many of them there are by now."""
        with self._db.read() as session:
            settled = self._clock.now() - SETTLED
            until = None if self._db.is_sqlite else store.settled_until(session, settled, after_id)
            rows = store.events_after(session, what, after_id, until, limit)
            return list(rows), store.count_events(session, what, after_id=after_id, until=until)

    def prune(self, now: datetime) -> int:
        """Remove what devices told more than KEPT ago, in transactions of one batch each; return how many.

        What the server noted stays, and all that belongs to a rollout.
        """
        done = 0
        while True:
            with self._db.session() as session:
                removed = store.prune_events(session, now - KEPT, PRUNE_BATCH)
            done += removed
            if removed < PRUNE_BATCH:
                return done
