"""Desired documents: what each device should run, signed again whenever it changes and at half of its life.

Rules:
- Every signing raises `gen` to max(stored, last reported) + 1, so that a server restored from an old backup is heard. What a device
  reports beyond the highest number that can have been signed is no number of ours.
- A document is written and signed in one transaction; listeners hear of it after the commit, never before.
- What a document says of models changes on a protected device only with a warrant (`protection.rules`), whoever asks.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import event
from sqlalchemy.orm.attributes import flag_modified
from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.desired import (
    Desired,
    ModelDesired,
    Ref,
    Task,
    TelemetryRequest,
    encode_desired,
)
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db.database import Database
from edgefleet_server.fleet import store
from edgefleet_server.fleet.desired import store as desired_store
from edgefleet_server.fleet.desired.candidate import CandidateRequest, Written, with_candidate
from edgefleet_server.fleet.desired.capture_key import capture_request, remember_key
from edgefleet_server.fleet.desired.content import (
    Content,
    Contents,
    DocumentParts,
    Texts,
    content_of,
    is_renewal_due,
    watched,
    watched_until,
)
from edgefleet_server.fleet.desired.model import ActiveRequest, ModelChange, OfferedBlob, SignedDesired, SigningProgress
from edgefleet_server.fleet.desired.prediction_logs import log_requests, remember_logs
from edgefleet_server.fleet.errors import DeviceRevokedError
from edgefleet_server.fleet.protection.document_guard import DocumentGuard, protected_error, remember_rules
from edgefleet_server.fleet.protection.model import Refused, Warrant
from edgefleet_server.fleet.tables import FleetDesired
from edgefleet_server.signing.role_lives import highest_number
from edgefleet_server.signing.service import SigningService

RESIGN_BATCH: Final = 500
NEW_KEY_BATCHES: Final = 4
"""After a new key of the director, in each tick: 1,000 documents a second, so that devices do not all fetch metadata at once."""
LOCK_BATCH: Final = 5_000
Listener = Callable[[Sequence[SignedDesired]], None]

_log = logging.getLogger(__name__)


class DesiredBook:
    """Writes and reads desired documents."""

    def __init__(self, db: Database, signing: SigningService, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._signing = signing
        self._clock = clock
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` after each commit that signed documents, in the committing thread; return how to stop.

        The session is not yet free then: a listener must only hand the documents on, never use the database.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def ensure(self, device_id: DeviceId) -> SignedDesired:
        """Return a device's document, signing an empty first one when there is none."""
        with self._db.session() as session:
            known = desired_store.desired_of(session, device_id)
            return known if known is not None else self._write(session, _locked(session, device_id))

    def set_active(
        self, requests: Mapping[DeviceId, ActiveRequest], warrant: Warrant = None
    ) -> dict[DeviceId, tuple[SignedDesired, bool]]:
        """Make each requested bundle the active one of its model; return each document, and whether that changed and signed it again.

        Unknown and revoked devices are left out. Many are locked in batches: give them in the order that the database has.
        warrant: why protected devices may be changed. Raises ProtectedDeviceError, then nothing is changed.
        """
        with self._db.session() as session:
            allowed = list(_allowed(session, self._clock.now(), requests, _with_active, warrant))
            return {
                held.device: self._put(session, held, after) for held, after in allowed if not isinstance(after, str)
            }

    def set_candidates(
        self, requests: Mapping[DeviceId, CandidateRequest], warrant: Warrant = None
    ) -> dict[DeviceId, Written]:
        """Run each requested bundle as a candidate, or end that; return each document and whether it is new, or why not.

        Unknown and revoked devices are left out. Devices are locked, and protected ones refused, as in `set_active`.
        """
        with self._db.session() as session:
            allowed = list(_allowed(session, self._clock.now(), requests, _with_candidate, warrant))
            return {
                held.device: after if isinstance(after, str) else self._put(session, held, after)
                for held, after in allowed
            }

    def check(self, requests: Mapping[DeviceId, ActiveRequest | CandidateRequest], warrant: Warrant) -> None:
        """Raise ProtectedDeviceError where `set_active` or `set_candidates` would, changing nothing."""
        with self._db.read() as session:
            guard = DocumentGuard(session, self._clock.now())
            guard.look_at(requests, note=False)
            refused = []
            for device, _, models in desired_store.documents(session, list(guard.protected())):
                before = msgspec.convert(models, dict[str, ModelDesired])
                after = _after(before, requests[device])
                if isinstance(after, dict) and (one := guard.refused(device, before, after, warrant)):
                    refused.append(one)
        if refused:
            raise protected_error(refused)

    def _put(
        self, session: Session, held: "_Held", after: Mapping[str, ModelDesired] | None
    ) -> tuple[SignedDesired, bool]:
        """Write these models into a document; None: as they are."""
        if after is not None:
            return self._write(session, held, after), True
        assert held.row is not None, "a document that stays as it is exists"
        return SignedDesired(held.device, held.row.gen, held.row.envelope), False

    def set_models(self, changes: Sequence[ModelChange]) -> list[SignedDesired]:
        """Make these changes; return one newly signed document for each device, in order of id.

        Always signs, also what differs in attempt, rollout or deadlines only. Unknown and revoked devices are left out, and
        those where nothing is left to change (`ModelChange.over`), or where a protected device's change has no warrant. A device's
        later changes come after its earlier ones. Call it once in a transaction: devices are locked in order of id.
        """
        by_device: dict[str, list[ModelChange]] = {}
        for change in changes:
            by_device.setdefault(change.device, []).append(change)
        if not by_device:
            return []
        with self._db.session() as session:
            signed: list[SignedDesired] = []
            for batch in _locked_many(session, by_device):
                contents = Contents(self._clock.now())
                guard = DocumentGuard(session, self._clock.now())
                guard.look_at([held.device for held in batch])
                due: list[tuple[_Many, Content]] = []
                for held in batch:
                    content = contents.after(held.texts, by_device[held.device])
                    if held.device in guard.protected():
                        content = _warranted(guard, contents, held, by_device[held.device])
                    if content is not None:
                        due.append((held, content))
                signed += self._sign_many(session, due)
            self._announce_after_commit(session, signed)
            _log.info("desired signed", extra={"devices": len(signed)})
            return signed

    def _sign_many(self, session: Session, due: Sequence[tuple["_Many", Content]]) -> list[SignedDesired]:
        """Sign and store documents whose devices are locked: one question to the signing process for all."""
        keyid, now = self._signing.director_keyid(), self._clock.now()
        gens = [_next_gen(held.device, held.gen, held.reported_gen, now) for held, _ in due]
        payloads = [
            _payload(held.device, gen, content, session) for (held, content), gen in zip(due, gens, strict=True)
        ]
        signed: list[SignedDesired] = []
        new: list[dict[str, Any]] = []
        changed: list[dict[str, Any]] = []
        for (held, content), gen, envelope in zip(due, gens, self._signing.sign_all_desired(payloads), strict=True):
            signed.append(SignedDesired(held.device, gen, envelope))
            row = {"device_id": held.device, "gen": gen, "envelope": envelope, "key_id": keyid, **content.columns}
            (new if held.texts is None else changed).append(row)
        desired_store.write_documents(session, new, changed)
        return signed

    def _sign_again(self, session: Session, device_ids: Collection[str]) -> None:
        """Sign documents again as they are."""
        signed: list[SignedDesired] = []
        for batch in _locked_many(session, device_ids):
            contents = Contents(self._clock.now())
            signed += self._sign_many(session, [(held, contents.again(held.texts)) for held in batch])
        self._announce_after_commit(session, signed)
        _log.info("desired signed", extra={"devices": len(signed)})

    def add_task(self, device_id: DeviceId, task: Task) -> SignedDesired:
        """Put a task into a device's document and sign it. Raises DeviceRevokedError."""
        with self._db.session() as session:
            held = _locked(session, device_id)
            return self._write(session, held, tasks=[*_tasks(held.row), task])

    def drop_tasks(self, over: Mapping[str, Collection[str]]) -> None:
        """Leave each device's tasks that are over out of its document from the next signing on: no reason to sign now."""
        with self._db.session() as session:
            for row, _ in desired_store.lock_documents(session, over) if over else ():
                row.tasks = [task for task in row.tasks if task["id"] not in over[row.device_id]]

    def watch(self, device_id: DeviceId) -> datetime:
        """Show the device's newest answers for a while; return until when. Signs only when it was asked for long ago, or never.

        Raises DeviceRevokedError.
        """
        with self._db.session() as session:
            held = _locked(session, device_id)
            request, now = _telemetry(held.row), self._clock.now()
            if is_renewal_due(request, now):
                request = watched(request, now)
                self._write(session, held, telemetry=request)
            until = watched_until(request, now)
            assert until is not None
            return until

    def watched_until(self, device_id: DeviceId) -> datetime | None:
        """Return until when somebody watches a device; None when nobody does."""
        with self._db.read() as session:
            return watched_until(_telemetry(desired_store.desired_row(session, device_id)), self._clock.now())

    def resign(self, device_id: DeviceId) -> SignedDesired:
        """Sign a device's document again with the same content and a higher gen."""
        with self._db.session() as session:
            return self._write(session, _locked(session, device_id))

    def resign_due(self, now: datetime) -> int:
        """Sign again what has passed half of its life, in batches of one transaction each; return how many."""
        done = 0
        while True:
            with self._db.session() as session:
                due = desired_store.due_for_signing(session, now, RESIGN_BATCH)
                self._sign_again(session, due)
            done += len(due)
            if len(due) < RESIGN_BATCH:
                return done

    def resign_for_key(self) -> int:
        """Sign again some of what an earlier key of the director signed, in batches of one transaction each; return how many.

        Every tick goes on, in every process, until none is left; so a crash costs nothing, nor does a document that was just being signed.
        """
        done = 0
        keyid = self._signing.director_keyid()
        with self._db.read() as session:
            if not desired_store.signed_with_others(session, keyid, 1):
                return 0
        for _ in range(NEW_KEY_BATCHES):
            with self._db.session() as session:
                due = desired_store.signed_with_others(session, self._signing.director_keyid(), RESIGN_BATCH, lock=True)
                self._sign_again(session, due)
            done += len(due)
            if len(due) < RESIGN_BATCH:
                break
        return done

    def signing_progress(self) -> SigningProgress:
        """Return how far the director's newest key has signed what devices have."""
        keyid = self._signing.director_keyid()
        with self._db.read() as session:
            total, waiting = desired_store.count_signed_with_others(session, keyid)
        return SigningProgress(keyid, total, waiting)

    def offered_to(self, device_id: DeviceId) -> list[OfferedBlob]:
        """Return the bundles that the device's document names: what it may pull."""
        with self._db.read() as session:
            models = _models(desired_store.desired_row(session, device_id))
        refs = [ref for model in models.values() for ref in (model.active, model.candidate) if ref]
        return [OfferedBlob(Sha256(ref.sha256), ref.length) for ref in refs]

    def _write(
        self,
        session: Session,
        held: "_Held",
        models: Mapping[str, ModelDesired] | None = None,
        telemetry: TelemetryRequest | None = None,
        tasks: Sequence[Task] | None = None,
    ) -> SignedDesired:
        """Sign and store a document whose device is locked; None keeps that part of the content."""
        row, now = held.row, self._clock.now()
        before = DocumentParts(_models(row), _telemetry(row), _tasks(row) if tasks is None else list(tasks))
        content = content_of(
            before,
            now,
            before.models if models is None else models,
            before.telemetry if telemetry is None else telemetry,
        )
        gen = _next_gen(held.device, 0 if row is None else row.gen, held.reported_gen, now)
        signed = self._sign(held.device, gen, content, session)
        keyid = self._signing.director_keyid()
        fields = {"gen": gen, "envelope": signed.envelope, "key_id": keyid, **content.columns}
        if row is None:
            session.add(FleetDesired(device_id=held.device, **fields))
        else:
            for name, value in fields.items():
                setattr(row, name, value)
                flag_modified(row, name)  # every row updates the same columns, so a batch is one statement
        self._announce_after_commit(session, [signed])
        _log.info("desired signed", extra={"device_id": held.device, "gen": signed.gen})
        return signed

    def _sign(self, device: DeviceId, gen: int, content: Content, session: Session) -> SignedDesired:
        """Return a device's document with this content and number, signed."""
        return SignedDesired(device, gen, self._signing.sign_desired(_payload(device, gen, content, session)))

    def _announce_after_commit(self, session: Session, signed: Sequence[SignedDesired]) -> None:
        waiting: list[SignedDesired] = session.info.setdefault("fleet_signed", [])
        is_first = not waiting
        waiting += signed
        if not (is_first and waiting):
            return

        def announce(_session: Session) -> None:
            for listener in list(self._listeners):
                listener(tuple(waiting))

        event.listen(session, "after_commit", announce, once=True)


@dataclass(frozen=True)
class _Held:
    """A live device that this transaction has locked, the gen it reported, and its document if it has one."""

    device: DeviceId
    reported_gen: int
    row: FleetDesired | None


class _Many(NamedTuple):
    """One of many devices that this transaction has locked: the gen it reported, and what its document says, if it has one."""

    device: DeviceId
    reported_gen: int
    gen: int
    texts: Texts | None


def _payload(device: DeviceId, gen: int, content: Content, session: Session) -> bytes:
    """Return a device's document with this content and number, as it is signed."""
    document = Desired(
        device=device,
        gen=gen,
        issued=content.issued,
        expires=content.expires,
        models=content.models,
        telemetry=content.telemetry,
        tasks=content.tasks,
        capture=capture_request(session) or msgspec.UNSET,
        prediction_logs=log_requests(session, content.models, content.issued) or msgspec.UNSET,
    )
    return encode_desired(document)


def _locked(session: Session, device_id: str) -> _Held:
    """Lock a known device, then its document: always in this order, so that no two transactions wait for each other.

    Raises DeviceRevokedError: revoking it has removed its document, and it must not get another.
    """
    device = store.device(session, device_id, lock=True)
    assert device is not None, "callers name known devices"
    if device.revoked_at is not None:
        raise DeviceRevokedError(f"the device {device_id} was revoked", next_step="choose a live device")
    return _Held(DeviceId(device.id), device.reported_gen, desired_store.desired_row(session, device_id, lock=True))


def _locked_live(session: Session, device_ids: Collection[str]) -> list[_Held]:
    """Lock those of these devices that are known and not revoked, then their documents; return them in order of id."""
    gens = store.lock_live(session, device_ids)
    rows: dict[str, FleetDesired] = {}
    for row, common in desired_store.lock_documents(session, gens):
        rows[row.device_id] = row
        _remember(session, common)
    return [_Held(DeviceId(device_id), gen, rows.get(device_id)) for device_id, gen in gens.items()]


def _locked_many(session: Session, device_ids: Collection[str]) -> Iterator[list[_Many]]:
    """Lock as `_locked_live`, and yield a batch at a time, with only what the next signing needs."""
    ids = sorted(device_ids)
    for start in range(0, len(ids), LOCK_BATCH):
        gens = store.lock_live(session, ids[start : start + LOCK_BATCH])
        known: dict[str, tuple[int, Texts]] = {}
        for device_id, gen, texts, common in desired_store.lock_contents(session, gens):
            known[device_id] = gen, texts
            _remember(session, common)
        yield [_Many(DeviceId(one), reported, *known.get(one, (0, None))) for one, reported in gens.items()]


def _remember(session: Session, common: desired_store.Common) -> None:
    remember_key(session, common.public_key)
    remember_logs(session, has_logs=common.has_logs)
    remember_rules(session, has_rules=common.has_rules)


def _allowed(
    session: Session,
    now: datetime,
    requests: Mapping[DeviceId, Any],
    change: Callable[[dict[str, ModelDesired], Any], dict[str, ModelDesired] | str | None],
    warrant: Warrant,
) -> Iterator[tuple[_Held, dict[str, ModelDesired] | str | None]]:
    """Yield the live devices, locked, with what `change` makes of their models: None for nothing, a text for why it cannot.

    Raises ProtectedDeviceError naming those whose change has no warrant.
    """
    ids = list(requests)
    refused: list[Refused] = []
    for start in range(0, len(ids), LOCK_BATCH):
        batch = _locked_live(session, ids[start : start + LOCK_BATCH])
        guard = DocumentGuard(session, now)
        guard.look_at([held.device for held in batch])
        for held in batch:
            models = _models(held.row)
            after = change(models, requests[held.device])
            if isinstance(after, dict) and (one := guard.refused(held.device, models, after, warrant)):
                refused.append(one)
            yield held, after
    if refused:
        raise protected_error(refused)


def _next_gen(device: DeviceId, known: int, reported: int, now: datetime) -> int:
    """Return a number above what was signed and what a device says it has, unless nobody can have sent it that: then it lies.

    The signing process would refuse the number, and with it the documents of all other devices of the transaction.
    """
    highest = highest_number(now)
    if max(known, reported) >= highest:
        _log.warning("a device says it has a document that nobody sent", extra={"device_id": device, "gen": reported})
    return max(number for number in (0, known, reported) if number < highest) + 1


def _with_active(models: dict[str, ModelDesired], request: ActiveRequest) -> dict[str, ModelDesired] | None:
    before = models.get(request.model)
    if before is not None and _is_same(before, request.active):
        return None
    return {**models, request.model: ModelDesired(active=request.active)}


def _after(
    models: dict[str, ModelDesired], request: ActiveRequest | CandidateRequest
) -> dict[str, ModelDesired] | str | None:
    return _with_active(models, request) if isinstance(request, ActiveRequest) else _with_candidate(models, request)


def _with_candidate(models: dict[str, ModelDesired], request: CandidateRequest) -> dict[str, ModelDesired] | str | None:
    after = with_candidate(models, request)
    return None if after == models else after


def _warranted(guard: DocumentGuard, contents: Contents, held: _Many, changes: Sequence[ModelChange]) -> Content | None:
    """Return what a protected device's document says after those of its changes that have a warrant; None where none has."""
    kept: list[ModelChange] = []
    for change in changes:
        before, after = contents.models(held.texts, kept), contents.models(held.texts, [*kept, change])
        refused = guard.refused(held.device, before, after, change.warrant)
        if refused is None:
            kept.append(change)
        else:
            _log.warning(
                "protected device left as it is",
                extra={"device_id": held.device, "rules": refused.rules, "reason": refused.reason},
            )
    return contents.after(held.texts, kept) if kept else None


def _models(row: FleetDesired | None) -> dict[str, ModelDesired]:
    return {} if row is None else msgspec.convert(row.models, dict[str, ModelDesired])


def _telemetry(row: FleetDesired | None) -> TelemetryRequest:
    return TelemetryRequest() if row is None else msgspec.convert(row.telemetry, TelemetryRequest)


def _tasks(row: FleetDesired | None) -> list[Task]:
    return [] if row is None else msgspec.convert(row.tasks, list[Task])


def _is_same(before: ModelDesired, ref: Ref) -> bool:
    """Return whether the model's active bundle is this one already, apart from attempt and deadlines."""
    active = before.active
    return (
        active is not None and (active.target, active.sha256) == (ref.target, ref.sha256) and before.candidate is None
    )
