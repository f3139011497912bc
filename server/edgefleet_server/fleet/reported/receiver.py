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
        connected: Callable[[Mapping[DeviceId, str]], None],
    ) -> None:
        """Wire the parts. connected: takes the serials of the certificates that devices connected with."""
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
        return next(iter(self.take_states({device_id: state})), None)

    def take_states(self, states: Mapping[DeviceId, State]) -> Sequence[SignedDesired]:
        """Store reported states in one transaction; return the documents of those devices that lack the newest one. Keeps `seen`."""
        self._recovery.take_all({device: state.seen for device, state in states.items() if state.seen is not None})
        with self._db.session() as session:
            answers = self._reports.take_states(states)
            lacking = [device for device, answer in answers.items() if answer is Answer.SEND_DESIRED]
            documents = list(desired_store.desired_of_many(session, lacking))
            signed = [self._desired.resign(one) for one, answer in answers.items() if answer is Answer.SIGN_HIGHER]
            return [*documents, *signed]

    def take_presence(self, device_id: DeviceId, presence: Presence) -> None:
        """Store whether a device is there, and the certificate that it connected with; a stale "off" is ignored."""
        self.note_certificates(self.take_presences([(device_id, presence)]))

    def take_presences(self, words: Sequence[tuple[DeviceId, Presence]]) -> Mapping[DeviceId, str]:
        """Store in one transaction whether devices are there, in the order of their words.

        Return the serials of certificates that are to be noted (`note_certificates`): of devices that connected with another than before.
        """
        return self._reports.take_presences(words)

    def note_certificates(self, serials: Mapping[DeviceId, str]) -> None:
        """Note in one transaction the serials of the certificates that devices connected with."""
        if serials:
            self._connected(serials)

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
