"""Takes what devices say and does what follows from it: a document that a device lacks is sent or signed again, tasks end."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import Event, Presence, State
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.desired import store as desired_store
from edgefleet_server.fleet.desired.documents import DesiredBook
from edgefleet_server.fleet.desired.model import SignedDesired
from edgefleet_server.fleet.desired.tasks import TaskBook
from edgefleet_server.fleet.reported.ingest import Answer, ReportBook
from edgefleet_server.fleet.reported.metadata_recovery import MetadataRecovery


class ReportReceiver:
    """Takes reports. Thread-safe; calls block."""

    def __init__(
        self,
        db: Database,
        reports: ReportBook,
        desired: DesiredBook,
        tasks: TaskBook,
        recovery: MetadataRecovery,
        connected: Callable[[DeviceId, str], None],
    ) -> None:
        """Wire the parts. connected: takes the serial of the certificate that a device connected with."""
        self._db = db
        self._reports = reports
        self._desired = desired
        self._tasks = tasks
        self._recovery = recovery
        self._connected = connected
        self.news = reports.news
        """Rung after each commit that brought something new: model, document, presence, revocation."""

    def take_state(self, device_id: DeviceId, state: State) -> SignedDesired | None:
        """Store a reported state; return the document to send when the device lacks the newest one. Keeps `seen`."""
        if state.seen is not None:
            self._recovery.take(device_id, state.seen)
        with self._db.session() as session:
            answer = self._reports.take_state(device_id, state)
            if answer is Answer.SIGN_HIGHER:
                return self._desired.resign(device_id)
            return desired_store.desired_of(session, device_id) if answer is Answer.SEND_DESIRED else None

    def take_presence(self, device_id: DeviceId, presence: Presence) -> None:
        """Store whether a device is there; a stale "off" is ignored."""
        self._reports.take_presence(device_id, presence)
        if presence.on and presence.cert:
            self._connected(device_id, presence.cert)

    def take_events(self, events: Sequence[Event]) -> int:
        """Store events, each once; return how many were new."""
        with self._db.session():
            self._tasks.hear(events)
            return self._reports.take_events(events)

    def note_limited(self, device_id: DeviceId, detail: Mapping[str, Any], row: int | None) -> int:
        """Write down what was dropped of a device: a new event, or new numbers in the event `row`. Return the event's id."""
        return self._reports.note_limited(device_id, detail, row)

    def forget_presence(self) -> None:
        """Mark every device unheard of: after a restart nobody knows."""
        self._reports.forget_presence()
