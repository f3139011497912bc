"""Taking a device out of the fleet for good: its document and certificates go; the gateway then cuts it off the broker."""

from collections.abc import Callable, Sequence

from sqlalchemy import event

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db.database import CommitSignal, Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet import store
from edgefleet_server.fleet.desired import store as desired_store
from edgefleet_server.fleet.enrolment import store as enrolment_store
from edgefleet_server.signing.service import SigningService


class Revocation:
    """Revokes devices. Thread-safe; calls block."""

    def __init__(self, db: Database, signing: SigningService, feed: EventLog, news: CommitSignal, clock: Clock) -> None:
        """Wire the parts. news: rung when something new is known of devices."""
        self._db = db
        self._signing = signing
        self._feed = feed
        self._news = news
        self._clock = clock
        self._listeners: list[Callable[[DeviceId], None]] = []

    def revoke(self, device_id: str) -> None:
        """Take a device out of the fleet for good. Raises DeviceUnknownError. Again: changes nothing."""
        with self._db.session() as session:
            row = store.known_device(session, device_id, lock=True)
            if row.revoked_at is not None:
                return
            row.revoked_at = self._clock.now()
            row.is_online = False
            desired_store.delete_desired(session, device_id)
            self._signing.revoke_device_certificates(device_id)
            event.listen(session, "after_commit", lambda _session: self._revoked(DeviceId(device_id)), once=True)
            self._feed.add([NewEvent("revoked", device_id)])
            self._news.ring(session)

    def subscribe(self, listener: Callable[[DeviceId], None]) -> Callable[[], None]:
        """Call `listener` with each device revoked by this process, after the commit; return how to stop."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def not_cut_off(self, limit: int) -> list[DeviceId]:
        """Return up to `limit` revoked devices that no gateway has cut off the broker yet."""
        with self._db.read() as session:
            return enrolment_store.not_cut_off(session, limit)

    def cut_off(self, device_ids: Sequence[DeviceId]) -> None:
        """Note that the broker has ended the sessions of these devices and refuses their certificates."""
        with self._db.session() as session:
            noted = enrolment_store.note_cut_off(session, device_ids, self._clock.now())
            self._feed.add([NewEvent("cut_off", device_id) for device_id in noted])
            self._news.ring(session)

    def _revoked(self, device_id: DeviceId) -> None:
        for listener in list(self._listeners):
            listener(device_id)
