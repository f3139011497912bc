"""What devices say: states, presence, events; many of a kind in one transaction (ADR 0156).

Rules:
- A report is taken once: state by (boot, seq), events by (device, boot, seq). Duplicates change nothing.
- What a word of presence changes says `presence_fold`.
- Reported and stored `gen` are compared on each state: lower gets the current document again, unless it was just that one
  which the device refused; higher means that our database was restored, and the document is signed again above it. So it is when the
  device refuses our document because it knows another one of the same `gen`.
- Devices are locked in order of id, as all writers of documents do.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import Event, Presence, State
from edgefleet_protocol.verify import OldGenerationError
from edgefleet_server.db.database import CommitSignal, Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet import store
from edgefleet_server.fleet.desired import store as desired_store
from edgefleet_server.fleet.presence import store as presence_store
from edgefleet_server.fleet.reported import store as reported_store
from edgefleet_server.fleet.reported.presence_fold import folded
from edgefleet_server.fleet.reported.state_columns import compared, device_columns, model_columns, named_fields

LIMITED: Final = "limited"
MAX_MS: Final = 253_402_300_799_000  # the last millisecond of the year 9999


class Answer(StrEnum):
    """What a reported state asks of us."""

    NONE = "none"
    SEND_DESIRED = "send_desired"
    SIGN_HIGHER = "sign_higher"


class ReportBook:
    """Stores reports."""

    def __init__(self, db: Database, feed: EventLog, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._feed = feed
        self._clock = clock
        self.news = CommitSignal()
        """Set when a report has something new of a model, of a document or of presence."""

    def take_states(self, states: Mapping[DeviceId, State]) -> dict[DeviceId, Answer]:
        """Store states; return what to do about the documents of those devices. Unknown and revoked devices get nothing."""
        with self._db.session() as session:
            now = self._clock.now()
            kept = reported_store.lock_reports(session, states)
            gens = desired_store.gens(session, list(kept))
            new = {
                device: states[device] for device, row in kept.items() if not _is_known(states[device], row)
            }  # fmt: skip
            columns = {device: device_columns(state, kept[device].free_mb) for device, state in new.items()}
            if any(compared(kept[device].reported) != compared(row["reported"]) for device, row in columns.items()):
                self.news.ring(session)
            reported_store.write_reports(session, columns, now)
            reported_store.note_heard(session, kept.keys() - columns.keys(), now)
            self._write_models(session, new, now)
            reported = {
                device: int(columns.get(device, {}).get("reported_gen", row.reported_gen))
                for device, row in kept.items()
            }
            return {device: _answer(states[device], gen, gens.get(device)) for device, gen in reported.items()}

    def _write_models(self, session: Session, new: Mapping[DeviceId, State], now: datetime) -> None:
        """Store what states say of models; a model that a device does not name any more is removed."""
        known = reported_store.model_states(session, list(new))
        said = {(device, name): row for device, state in new.items() for name, row in model_columns(state).items()}
        stamped = {"changed_at": now}
        reported_store.insert_models(session, {key: row | stamped for key, row in said.items() if key not in known})
        changed = {key: row | stamped for key, row in said.items() if key in known and known[key] != row}
        reported_store.update_models(session, changed)
        reported_store.delete_models(session, known.keys() - said.keys())

    def take_presences(self, words: Sequence[tuple[DeviceId, Presence]]) -> dict[DeviceId, str]:
        """Store whether devices are there; return the certificates of those that connected with another one than is known."""
        with self._db.session() as session:
            kept, certificates = reported_store.lock_presence(session, {device for device, _ in words})
            found = folded(kept, words, self._clock.now())
            reported_store.write_presence(session, found.standings)
            presence_store.add_absences(session, found.absences)
            if found.has_news:
                self.news.ring(session)
        said = {device: word.cert for device, word in words if word.on and word.cert and device in kept}
        return {device: cert for device, cert in said.items() if certificates[device] != cert}

    def forget_presence(self) -> None:
        """Mark every device unheard of: after a restart nobody knows. Those that were there count as away until they are heard of.

        What happened since the last sample of the fleet, or since the last such start, nobody saw.
        """
        with self._db.session() as session:
            now = self._clock.now()
            store.forget_presence(session, now)
            presence_store.note_unwatched(session, now)

    def take_events(self, events: Sequence[Event]) -> int:
        """Store events, each once; return how many were new."""
        now = self._clock.now()
        return self._feed.add_reported([_event_row(event, now) for event in events])

    def note_limited(self, device_id: DeviceId, detail: Mapping[str, Any], row: int | None) -> int:
        """Write down what was dropped of a device: a new event, or new numbers in the event `row`. Return the event's id."""
        if row is None:
            return self._feed.add([NewEvent(LIMITED, device_id, detail=detail)])[0]
        self._feed.amend(row, detail)
        return row


def _is_known(state: State, row: reported_store.KeptReport) -> bool:
    """Return whether a device's state was stored before, or a newer one of the same start."""
    return row.boot_id == state.boot_id and state.seq <= row.state_seq


def _answer(state: State, reported_gen: int, gen: int | None) -> Answer:
    """Return what a state asks. reported_gen: what the device reported last; gen: of its document, None without one."""
    if gen is None or reported_gen > gen or _knows_another(state, gen):
        return Answer.SIGN_HIGHER
    # A device that refused this very document says so once and keeps refusing it: sending it again would go in circles.
    is_known = state.gen >= gen or state.refused_gen == gen
    return Answer.NONE if is_known else Answer.SEND_DESIRED


def _knows_another(state: State, gen: int) -> bool:
    """Return whether the device accepted a document of the `gen` of ours that is not ours, or does not know any more that it was ours."""
    return state.refused_gen == gen and state.refused_code == OldGenerationError.code


def _event_row(event: Event, now: datetime) -> dict[str, Any]:
    is_time = 0 <= event.ts <= MAX_MS
    detail = named_fields(event)
    for key in ("v", "device", "boot_id", "seq", "ts", "kind", "model"):
        del detail[key]
    return {
        "device_id": event.device,
        "boot_id": event.boot_id[:64],
        "seq": event.seq,
        "at": datetime.fromtimestamp(event.ts / 1000, UTC) if is_time else now,
        "received_at": now,
        "kind": event.kind.value,
        "model": event.model[:63],
        "detail": {key: value for key, value in detail.items() if value not in ("", 0, None, {}, [])},
    }
