"""What devices say: state, presence, events.

Rules:
- A report is taken once: state by (boot, seq), events by (device, boot, seq). Duplicates change nothing.
- An "off" counts only from the newest connection: a broker may send the will of an old one after a take-over.
- Reported and stored `gen` are compared on each state: lower gets the current document again, unless it was just that one
  which the device refused; higher means that our database was restored, and the document is signed again above it. So it is when the
  device refuses our document because it knows another one of the same `gen`.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import msgspec
from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId, parse_target_path
from edgefleet_protocol.messages import Event, ModelState, Presence, State, assignment_of
from edgefleet_protocol.verify import OldGenerationError
from edgefleet_server.db.database import CommitSignal, Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet import store
from edgefleet_server.fleet.desired import store as desired_store
from edgefleet_server.fleet.presence import store as presence_store
from edgefleet_server.fleet.presence.model import MOST_A_DAY, Absence, place_of
from edgefleet_server.fleet.reported import absence
from edgefleet_server.fleet.reported import store as reported_store
from edgefleet_server.fleet.tables import FleetDevice, FleetModelState

LIMITED: Final = "limited"
MIB: Final = 1024 * 1024
MAX_MODELS: Final = 64
MAX_SIGNALS: Final = 8
MAX_SIGNAL: Final = 120
MAX_REPORT_BYTES: Final = 64 * 1024
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

    def take_state(self, device_id: DeviceId, state: State) -> Answer:
        """Store a state; return what to do about the device's document. Unknown and revoked devices get nothing."""
        with self._db.session() as session:
            device = store.device(session, device_id, lock=True)
            if device is None or device.revoked_at is not None:
                return Answer.NONE
            device.last_seen = self._clock.now()
            desired = desired_store.desired_row(session, device_id)
            if not (device.boot_id == state.boot_id and state.seq <= device.state_seq):
                self._store_state(session, device, state)
            if desired is None or device.reported_gen > desired.gen or _knows_another(state, desired.gen):
                return Answer.SIGN_HIGHER
            # A device that refused this very document says so once and keeps refusing it: sending it again would go in circles.
            is_known = state.gen >= desired.gen or state.refused_gen == desired.gen
            return Answer.NONE if is_known else Answer.SEND_DESIRED

    def take_presence(self, device_id: DeviceId, presence: Presence) -> None:
        """Store whether a device is there."""
        with self._db.session() as session:
            device = store.device(session, device_id, lock=True)
            if device is None or device.revoked_at is not None:
                return
            before, now = device.is_online, self._clock.now()
            if presence.on:
                device.conn_id = presence.conn_id[:64]
                device.is_online = True
                device.last_seen = now
                gone_since, device.offline_since = device.offline_since, None
                if before is not True:
                    self._came_back(session, device, gone_since, now, is_heard=before is False)
            elif device.conn_id in ("", presence.conn_id[:64]):
                device.is_online = False
                device.offline_since = now if before is True else device.offline_since or now
            if device.is_online is not before:
                self.news.ring(session)

    def _came_back(
        self, session: Session, device: FleetDevice, gone_since: datetime | None, now: datetime, *, is_heard: bool
    ) -> None:
        """Write down how long a device was away. gone_since: None: it had never been there. is_heard: its session had ended."""
        away_s = 0.0 if gone_since is None else (now - gone_since).total_seconds()
        if away_s >= absence.FIRST_S:
            device.absences = absence.with_absence(device.absences, away_s)
        device.absence_day, device.absence_count = place_of(now, device.absence_day, device.absence_count)
        away = Absence(min(gone_since or device.enrolled_at, now), now, is_heard)
        place = min(device.absence_count, MOST_A_DAY)
        # last: the statement before it writes all that changed of the device
        presence_store.add_absence(session, device.id, device.absence_day, place, away)

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

    def _store_state(self, session: Session, device: FleetDevice, state: State) -> None:
        device.boot_id = state.boot_id[:64]
        device.state_seq = state.seq
        device.reported_gen = max(0, min(state.gen, 2**62))
        plain: dict[str, Any] = msgspec.to_builtins(_named(state))
        before, device.reported = device.reported, plain if len(json.dumps(plain)) <= MAX_REPORT_BYTES else None
        if _compared(before) != _compared(device.reported):
            self.news.ring(session)
        free = state.facts.get("disk_free_bytes")
        if isinstance(free, int) and 0 <= free < 2**62:
            device.free_mb = free // MIB
        drift = _drift_of(state.facts.get("drift"))
        if device.drift != drift:
            device.drift = drift
        device.place_told, device.place_used = _places_of(state.facts.get("place"))
        known = reported_store.model_states(session, device.id)
        reported = {model.model[:63]: model for model in state.models[:MAX_MODELS]}
        for name, model in reported.items():
            row = known.get(name) or FleetModelState(
                device_id=device.id, model=name, phase="", assignment="", changed_at=self._clock.now()
            )
            self._store_model(row, model)
            session.add(row)
        for name in known.keys() - reported.keys():
            session.delete(known[name])

    def _store_model(self, row: FleetModelState, model: ModelState) -> None:
        fields: dict[str, Any] = {
            "version": _version_of(model.active_target),
            "active_target": model.active_target[:255],
            "active_sha256": model.active_sha256[:64],
            "phase": model.phase.value,
            "assignment": assignment_of(model.phase).value,
            "error_class": None if model.error_class is None else model.error_class.value,
        }
        if any(getattr(row, name) != value for name, value in fields.items()):
            row.changed_at = self._clock.now()
            for name, value in fields.items():
                setattr(row, name, value)


def _knows_another(state: State, gen: int) -> bool:
    """Return whether the device accepted a document of the `gen` of ours that is not ours, or does not know any more that it was ours."""
    return state.refused_gen == gen and state.refused_code == OldGenerationError.code


def _places_of(said: Any) -> tuple[int, int]:
    """Return which announcement of the server's place a device knows and which it uses, as it says; 0 for none, and for what is none."""
    is_pair = isinstance(said, list) and len(said) == 2 and all(type(one) is int and 0 <= one < 2**62 for one in said)
    return (said[0], said[1]) if is_pair else (0, 0)


def _compared(reported: dict[str, Any] | None) -> Any:
    """Return what of a report somebody may wait for: all of documents and models but how far a download is."""
    if reported is None:
        return None
    models = [{**model, "progress_pct": 0} for model in reported["models"]]
    return reported["gen"], reported["refused_gen"], reported["refused_code"], models


def _drift_of(told: Any) -> dict[str, list[str]] | None:
    """Return by model the signals that a state says drift, at most so many of so many letters; None for none."""
    found: dict[str, list[str]] = {}
    for model, signals in list(told.items())[:MAX_MODELS] if isinstance(told, Mapping) else ():
        names = (
            [one[:MAX_SIGNAL] for one in signals[:MAX_SIGNALS] if isinstance(one, str)]
            if isinstance(signals, list)
            else []
        )
        if names and isinstance(model, str):
            found[model[:63]] = names
    return found or None


def _version_of(target: str) -> str:
    try:
        return parse_target_path(target)[1]
    except EdgefleetError:
        return ""


def _named(message: msgspec.Struct) -> Any:
    """Return a message with its field names, since the wire form is positional."""
    named = msgspec.structs.asdict(message)
    for field, value in named.items():
        if isinstance(value, msgspec.Struct):
            named[field] = _named(value)
        elif isinstance(value, list):
            named[field] = [_named(item) if isinstance(item, msgspec.Struct) else item for item in value]
    return named


def _event_row(event: Event, now: datetime) -> dict[str, Any]:
    is_time = 0 <= event.ts <= MAX_MS
    detail = _named(event)
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
