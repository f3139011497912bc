"""Devices whose words are not trusted: they reported a failure that the server's own proof and other devices refuted.

A suspect device stays so until a person clears it, also when it enrols again (`enrolment.store.suspect_before`). It goes on as before,
but it is never among the first that get a release, and its word alone stops nothing.
Source: docs/operate/suspect-devices.md.
"""

from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db.database import CommitSignal, Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet import store

SUSPECT: Final = "suspect"
CLEARED: Final = "suspicion_cleared"
MAX_REASON_CHARS: Final = 500


class Suspicion:
    """Makes devices suspect and clears them. Thread-safe; calls block; every write joins the caller's transaction."""

    def __init__(self, db: Database, feed: EventLog, news: CommitSignal, clock: Clock) -> None:
        """Wire the parts. news: rung when something new is known of devices."""
        self._db = db
        self._feed = feed
        self._news = news
        self._clock = clock

    def suspects(self) -> frozenset[DeviceId]:
        """Return the suspect devices that are not revoked."""
        with self._db.read() as session:
            return store.suspects(session)

    def count(self) -> int:
        """Return how many devices are suspect and not revoked."""
        return len(self.suspects())

    def mark(self, device_id: str, reason: str) -> bool:
        """Make a device suspect; return whether it was not, which is an event. The first reason stays."""
        with self._db.session() as session:
            text = reason[:MAX_REASON_CHARS]
            is_new = store.mark_suspect(session, device_id, text, self._clock.now())
            if is_new:
                self._feed.add([NewEvent(SUSPECT, device_id, detail={"reason": text})])
                self._news.ring(session)
        return is_new

    def clear(self, device_id: str, by: str, reason: str = "") -> bool:
        """Trust a device again, at a person's word; return whether it was suspect. Raises DeviceUnknownError.

        A revoked device can be cleared too: the one that enrols as it again is then not suspect because of it.
        """
        with self._db.session() as session:
            row = store.known_device(session, device_id, lock=True)
            since, was = row.suspect_since, row.suspect_reason
            if since is None:
                return False
            store.clear_suspicion(session, device_id)
            detail = {"by": by, "reason": reason, "was": was, "since": since.isoformat(timespec="seconds")}
            self._feed.add(
                [NewEvent(CLEARED, device_id, detail={key: value for key, value in detail.items() if value})]
            )
            self._news.ring(session)
        return True
