"""The event log: what the server itself adds, how the log is followed, and how long it is kept.

Devices (through `fleet.reported.ingest`), the fleet and rollouts all write to it. Following it needs one rule:

An id is taken when a row is inserted and seen when its transaction commits. On PostgreSQL transactions overlap, so id 7 may
be seen before id 6. A reader that asks "what comes after 7?" would never see 6. So following stops before a gap until the row
behind the gap is SETTLED old: by then what took the missing id has committed or never will. Transactions that write events
must not last longer. SQLite has one writer at a time: there ids are seen in order and nothing waits.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import CommitSignal, Database
from edgefleet_server.events import store as feed_store
from edgefleet_server.events.model import EventFilter, EventView, NewEvent
from edgefleet_server.events.tables import FleetEvent
from edgefleet_server.events.types import type_of

SETTLED: Final = timedelta(seconds=10)

KEPT: Final = timedelta(days=90)

PRUNE_BATCH: Final = 5_000


Outbox = Callable[[Callable[[], Sequence[EventView]]], None]
"""Called in the very transaction that stores new events, with what returns them: what it writes is committed with them, or not at all.

They are made when they are asked for: a large rollout stores thousands a second that nobody may want.
"""


class EventLog:
    """Adds, follows and prunes events. `outboxes`: who writes down, in the same transaction, that they are to be sent."""

    def __init__(self, db: Database, clock: Clock, name_of: Callable[[str], str]) -> None:
        """Wire the parts. name_of: the display name of a device, "" when it has none."""
        self._db = db
        self._name_of = name_of
        self._clock = clock
        self.outboxes: list[Outbox] = []
        self.bell = CommitSignal()
        """Rung when events were committed by this process."""

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
            ids = feed_store.add_server_events(session, plain)
            self.bell.ring(session)
            for row, one in zip(plain, ids, strict=True):
                row["id"] = one
            self._tell(plain)
            return ids

    def amend(self, event_id: int, detail: Mapping[str, Any]) -> None:
        """Replace the detail of an event that was added here, in the caller's transaction. Who follows the log is not called again."""
        with self._db.session() as session:
            feed_store.set_detail(session, event_id, detail)

    def add_reported(self, rows: Sequence[dict[str, Any]]) -> int:
        """Store what devices reported, each event once, in the caller's transaction; return how many were new."""
        with self._db.session() as session:
            new = feed_store.add_events(session, rows)
            if new:
                self.bell.ring(session)
                self._tell(new)
            return len(new)

    def _tell(self, rows: Sequence[Mapping[str, Any]]) -> None:
        @cache
        def views() -> Sequence[EventView]:
            return [_view_of(row) for row in rows]

        for outbox in self.outboxes if rows else ():
            outbox(views)

    def has_named(self, kind: str, model: str, release: str) -> bool:
        """Return whether an event of this kind was ever added of a release. What the server adds is never pruned."""
        with self._db.read() as session:
            return feed_store.is_told(session, kind, model, release)

    def devices_that_said(self, kinds: Sequence[str], since: datetime, limit: int) -> list[tuple[str, str, str]]:
        """Return (kind, model, device) of events of these kinds received since a moment, each once and in order, at most `limit`."""
        with self._db.read() as session:
            return [
                (kind, model, device)
                for kind, model, device in feed_store.devices_that_said(session, kinds, since, limit)
            ]

    def after(self, after_id: int, what: EventFilter, limit: int) -> tuple[list[FleetEvent], int]:
        """Return up to `limit` events after an id, oldest first, and how many of them there are by now."""
        with self._db.read() as session:
            settled = self._clock.now() - SETTLED
            until = None if self._db.is_sqlite else feed_store.settled_until(session, settled, after_id)
            rows = feed_store.events_after(session, what, after_id, until, limit)
            return list(rows), feed_store.count_events(session, what, after_id=after_id, until=until)

    def following(self, after_id: int, what: EventFilter, limit: int) -> tuple[list[EventView], int]:
        """Return up to `limit` + 1 events after an id, oldest first, and how many there are; following so loses none.

        On PostgreSQL an event may come up to 10 s late, never after a later one.
        """
        rows, total = self.after(after_id, what, limit + 1)
        return [self._view(row) for row in rows], total

    def page(
        self,
        *,
        device_id: str | None = None,
        before: int | None = None,
        since: datetime | None = None,
        limit: int,
        rollout: str | None = None,
        kinds: Sequence[str] = (),
        model: str | None = None,
    ) -> tuple[list[EventView], int]:
        """Return up to `limit` + 1 events before an id, newest first, and how many there are."""
        return self.page_of(EventFilter(device_id, rollout, kinds, since, model=model), limit, before)

    def page_of(self, what: EventFilter, limit: int, before: int | None = None) -> tuple[list[EventView], int]:
        """Return up to `limit` + 1 events before an id, newest first, and how many there are, as `page`."""
        with self._db.read() as session:
            rows = feed_store.events_page(session, what, before, limit + 1)
            return [self._view(row) for row in rows], feed_store.count_events(session, what)

    def oldest(self, what: EventFilter, after: int | None, limit: int) -> tuple[list[EventView], int]:
        """Return up to `limit` + 1 events after an id, oldest first by the rule of following, and how many there are in all."""
        with self._db.read() as session:
            return self.since(after or 0, what, limit + 1), feed_store.count_events(session, what)

    def newest(  # what events are asked for
        self,
        *,
        limit: int,
        device_id: str | None = None,
        rollout: str | None = None,
        before: int | None = None,
        kinds: Sequence[str] = (),
        since: datetime | None = None,
    ) -> list[EventView]:
        """Return up to `limit` events, newest first, uncounted: counting reads every event that there is."""
        return self.newest_of(EventFilter(device_id, rollout, kinds, since), limit, before)

    def newest_of(self, what: EventFilter, limit: int, before: int | None = None) -> list[EventView]:
        """Return up to `limit` events, newest first, uncounted, as `newest`."""
        with self._db.read() as session:
            return [self._view(row) for row in feed_store.events_page(session, what, before, limit)]

    def position(self) -> int:
        """Return an id up to which nothing can appear any more: that of the newest event that is SETTLED old, 0 without one."""
        with self._db.read() as session:
            return feed_store.newest_before(session, self._clock.now() - SETTLED)

    def since(self, after_id: int, what: EventFilter, limit: int) -> list[EventView]:
        """Return up to `limit` events after an id, oldest first, by the rule of `after` but uncounted: for streams."""
        with self._db.read() as session:
            settled = self._clock.now() - SETTLED
            until = None if self._db.is_sqlite else feed_store.settled_until(session, settled, after_id)
            return [self._view(row) for row in feed_store.events_after(session, what, after_id, until, limit)]

    def by_id(self, ids: Sequence[int]) -> dict[int, EventView]:
        """Return these events by id; what was pruned is left out."""
        with self._db.read() as session:
            return {row.id or 0: self._view(row) for row in feed_store.events_by_id(session, ids)}

    def _view(self, row: FleetEvent) -> EventView:
        """Return a row as it is shown."""
        return EventView(
            id=row.id or 0,
            device=row.device_id,
            at=row.at,
            received_at=row.received_at,
            kind=row.kind,
            type=type_of(row.kind, row.device_id, row.detail),
            model=row.model,
            rollout=row.rollout_id,
            detail=row.detail,
            display_name=self._name_of(row.device_id) if row.device_id else "",
        )

    def prune(self, now: datetime) -> int:
        """Remove what devices reported more than KEPT ago, in transactions of one batch each; return how many.

        What the server noted stays, and all that belongs to a rollout.
        """
        done = 0
        while True:
            with self._db.session() as session:
                removed = feed_store.prune_events(session, now - KEPT, PRUNE_BATCH)
            done += removed
            if removed < PRUNE_BATCH:
                return done


def _view_of(row: Mapping[str, Any]) -> EventView:
    """Return a row that is being stored as it will be shown."""
    return EventView(
        id=row["id"],
        device=row["device_id"],
        at=row["at"],
        received_at=row["received_at"],
        kind=row["kind"],
        type=type_of(row["kind"], row["device_id"], row["detail"]),
        model=row["model"],
        rollout=row.get("rollout_id"),
        detail=row["detail"],
    )
