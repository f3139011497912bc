"""Desired documents: what each device should run, signed anew whenever it changes and at half of its life.

Its own file because the service would grow beyond a page. Rules:
- Every signing raises `gen` to max(stored, last reported) + 1, so that a server restored from an old backup is heard.
- A document is written and signed in one transaction; listeners hear of it after the commit, never before.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import msgspec
from sqlalchemy import event
from sqlalchemy.orm.attributes import flag_modified
from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.desired import Desired, ModelDesired, Ref, Task, TelemetryWish, encode_desired
from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db import Database
from edgefleet_server.fleet import document_store, store
from edgefleet_server.fleet.beside import CandidateWish, Written, with_candidate
from edgefleet_server.fleet.errors import DeviceRevokedError
from edgefleet_server.fleet.model import ModelChange, OfferedBlob, SignedDesired, Wish
from edgefleet_server.fleet.sampling import capture_wish, remember_key
from edgefleet_server.fleet.tables import FleetDesired
from edgefleet_server.fleet.watching import is_renewal_due, still_watched, watched, watched_until
from edgefleet_server.signing.service import SigningService

DESIRED_LIFE: Final = timedelta(days=7)
RESIGN_BATCH: Final = 500
LOCK_BATCH: Final = 5_000
MAX_TASKS: Final = 32
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
            known = store.desired_of(session, device_id)
            return known if known is not None else self._write(session, _locked(session, device_id))

    def set_active(self, wishes: Mapping[DeviceId, Wish]) -> dict[DeviceId, tuple[SignedDesired, bool]]:
        """Make each wish the active bundle of its model; return each document, and whether that changed and signed it anew.

        Unknown and revoked devices are left out. Many are locked in batches: give them in the order that the database has.
        """
        done: dict[DeviceId, tuple[SignedDesired, bool]] = {}
        ids = list(wishes)
        with self._db.session() as session:
            for start in range(0, len(ids), LOCK_BATCH):
                for held in _locked_live(session, ids[start : start + LOCK_BATCH]):
                    done[held.device] = self._set_one(session, held, wishes[held.device])
        return done

    def _set_one(self, session: Session, held: "_Held[FleetDesired]", wish: Wish) -> tuple[SignedDesired, bool]:
        models = _models(held.row)
        before = models.get(wish.model)
        if held.row is not None and before is not None and _is_same(before, wish.active):
            return SignedDesired(held.device, held.row.gen, held.row.envelope), False
        models[wish.model] = ModelDesired(active=wish.active)
        return self._write(session, held, models), True

    def set_candidates(self, wishes: Mapping[DeviceId, CandidateWish]) -> dict[DeviceId, Written]:
        """Run each wish's bundle beside the active one, or end that; return each document and whether it is new, or why not.

        Unknown and revoked devices are left out. Devices are locked as in `set_active`.
        """
        done: dict[DeviceId, Written] = {}
        ids = list(wishes)
        with self._db.session() as session:
            for start in range(0, len(ids), LOCK_BATCH):
                for held in _locked_live(session, ids[start : start + LOCK_BATCH]):
                    models = _models(held.row)
                    after = with_candidate(models, wishes[held.device])
                    if isinstance(after, str):
                        done[held.device] = after
                    elif after == models and held.row is not None:
                        done[held.device] = (SignedDesired(held.device, held.row.gen, held.row.envelope), False)
                    else:
                        done[held.device] = (self._write(session, held, after), True)
        return done

    def set_models(self, changes: Sequence[ModelChange]) -> list[SignedDesired]:
        """Make these changes; return one newly signed document for each device, in order of id.

        Always signs, also what differs in attempt, rollout or deadlines only. Unknown and revoked devices are left out, and
        those where nothing is left to change (`ModelChange.over`). A device's later changes come after its earlier ones. Call
        it once in a transaction: devices are locked in order of id.
        """
        by_device: dict[str, list[ModelChange]] = {}
        for change in changes:
            by_device.setdefault(change.device, []).append(change)
        if not by_device:
            return []
        with self._db.session() as session:
            signed: list[SignedDesired] = []
            new: list[dict[str, Any]] = []
            changed: list[dict[str, Any]] = []
            for held in _locked_many(session, by_device):
                wished = [change for change in by_device[held.device] if _is_still_so(held.row, change)]
                if wished:
                    models, telemetry = _changed(held.row, wished)
                    one, fields = self._compose(session, held, models, telemetry)
                    signed.append(one)
                    (new if held.row is None else changed).append({"device_id": held.device, **fields})
            document_store.write(session, new, changed)
            self._announce_after_commit(session, signed)
            _log.info("desired signed", extra={"devices": len(signed)})
            return signed

    def add_task(self, device_id: DeviceId, task: Task) -> SignedDesired:
        """Put a task into a device's document and sign it. Raises DeviceRevokedError."""
        with self._db.session() as session:
            held = _locked(session, device_id)
            return self._write(session, held, tasks=[*_tasks(held.row), task])

    def drop_tasks(self, over: Mapping[str, Collection[str]]) -> None:
        """Leave each device's tasks that are over out of its document from the next signing on: no reason to sign now."""
        with self._db.session() as session:
            for row, _ in store.lock_documents(session, over) if over else ():
                row.tasks = [task for task in row.tasks if task["id"] not in over[row.device_id]]

    def watch(self, device_id: DeviceId) -> datetime:
        """Show the device's newest answers for a while; return until when. Signs only when it was asked for long ago, or never.

        Raises DeviceRevokedError.
        """
        with self._db.session() as session:
            held = _locked(session, device_id)
            wish, now = _telemetry(held.row), self._clock.now()
            if is_renewal_due(wish, now):
                wish = watched(wish, now)
                self._write(session, held, telemetry=wish)
            until = watched_until(wish, now)
            assert until is not None
            return until

    def watched_until(self, device_id: DeviceId) -> datetime | None:
        """Return until when somebody watches a device; None when nobody does."""
        with self._db.read() as session:
            return watched_until(_telemetry(store.desired_row(session, device_id)), self._clock.now())

    def resign(self, device_id: DeviceId) -> SignedDesired:
        """Sign a device's document anew with the same content and a higher gen."""
        with self._db.session() as session:
            return self._write(session, _locked(session, device_id))

    def resign_due(self, now: datetime) -> int:
        """Sign anew what has passed half of its life, in batches of one transaction each; return how many."""
        done = 0
        while True:
            with self._db.session() as session:
                due = store.due_for_signing(session, now, RESIGN_BATCH)
                for device_id in due:
                    self._write(session, _locked(session, device_id))
            done += len(due)
            if len(due) < RESIGN_BATCH:
                return done

    def offered_to(self, device_id: DeviceId) -> list[OfferedBlob]:
        """Return the bundles that the device's document names: what it may pull."""
        with self._db.read() as session:
            models = _models(store.desired_row(session, device_id))
        refs = [ref for model in models.values() for ref in (model.active, model.candidate) if ref]
        return [OfferedBlob(Sha256(ref.sha256), ref.length) for ref in refs]

    def _write(
        self,
        session: Session,
        held: "_Held[FleetDesired]",
        models: Mapping[str, ModelDesired] | None = None,
        telemetry: TelemetryWish | None = None,
        tasks: Sequence[Task] | None = None,
    ) -> SignedDesired:
        """Sign and store a document whose device is locked; None keeps that part of the content."""
        signed, fields = self._compose(session, held, models, telemetry, tasks)
        row = held.row
        if row is None:
            session.add(FleetDesired(device_id=held.device, **fields))
        else:
            for name, value in fields.items():
                setattr(row, name, value)
                flag_modified(row, name)  # every row updates the same columns, so a batch is one statement
        self._announce_after_commit(session, [signed])
        _log.info("desired signed", extra={"device_id": held.device, "gen": signed.gen})
        return signed

    def _compose(
        self,
        session: Session,
        held: "_Held[Any]",
        models: Mapping[str, ModelDesired] | None = None,
        telemetry: TelemetryWish | None = None,
        tasks: Sequence[Task] | None = None,
    ) -> tuple[SignedDesired, dict[str, Any]]:
        """Return the next document of a device that is locked, signed, and its row; None keeps that part of the content."""
        row = held.row
        now, before = self._clock.now(), _telemetry(row)
        telemetry = still_watched(before if telemetry is None else telemetry, before, now)
        known = _tasks(row) if tasks is None else list(tasks)
        tasks = [task for task in known if task.until is None or task.until > now][-MAX_TASKS:]
        gen = max(0 if row is None else row.gen, held.reported_gen) + 1
        document = Desired(
            device=held.device,
            gen=gen,
            issued=now.replace(microsecond=0),
            expires=(now + DESIRED_LIFE).replace(microsecond=0),
            models=dict(_models(row) if models is None else models),
            telemetry=telemetry,
            tasks=tasks,
            capture=capture_wish(session) or msgspec.UNSET,
        )
        envelope = self._signing.sign_desired(encode_desired(document))
        fields: dict[str, Any] = {
            "gen": gen,
            "models": msgspec.to_builtins(document.models),
            "telemetry": msgspec.to_builtins(telemetry),
            "tasks": msgspec.to_builtins(tasks),
            "envelope": envelope,
            "issued_at": document.issued,
            "expires_at": document.expires,
            "resign_at": now + DESIRED_LIFE / 2,
            "changed_at": now,
        }
        return SignedDesired(held.device, gen, envelope), fields

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


_Row = TypeVar("_Row", bound=document_store.Document)


@dataclass(frozen=True)
class _Held(Generic[_Row]):
    """A live device that this transaction has locked, the gen it reported, and its document if it has one."""

    device: DeviceId
    reported_gen: int
    row: _Row | None


def _locked(session: Session, device_id: str) -> _Held[FleetDesired]:
    """Lock a known device, then its document: always in this order, so that no two transactions wait for each other.

    Raises DeviceRevokedError: whoever revoked it has removed its document, and it must not get another.
    """
    device = store.device(session, device_id, lock=True)
    assert device is not None, "callers name known devices"
    if device.revoked_at is not None:
        raise DeviceRevokedError(f"The device {device_id} was revoked.", next_step="Choose a live device.")
    return _Held(DeviceId(device.id), device.reported_gen, store.desired_row(session, device_id, lock=True))


def _locked_live(session: Session, device_ids: Collection[str]) -> list[_Held[FleetDesired]]:
    """Lock those of these devices that are known and not revoked, then their documents; return them in order of id."""
    gens = store.lock_live(session, device_ids)
    rows: dict[str, FleetDesired] = {}
    for row, public_key in store.lock_documents(session, gens):
        rows[row.device_id] = row
        remember_key(session, public_key)
    return [_Held(DeviceId(device_id), gen, rows.get(device_id)) for device_id, gen in gens.items()]


def _locked_many(session: Session, device_ids: Collection[str]) -> Iterator[_Held[document_store.Document]]:
    """Lock as `_locked_live`, a batch at a time, and read only what the next signing needs."""
    ids = sorted(device_ids)
    for start in range(0, len(ids), LOCK_BATCH):
        gens = store.lock_live(session, ids[start : start + LOCK_BATCH])
        rows: dict[str, document_store.Document] = {}
        for device_id, row, public_key in document_store.lock(session, gens):
            rows[device_id] = row
            remember_key(session, public_key)
        yield from (_Held(DeviceId(device_id), gen, rows.get(device_id)) for device_id, gen in gens.items())


def _changed(
    row: document_store.Document | None, changes: Sequence[ModelChange]
) -> tuple[dict[str, ModelDesired], TelemetryWish | None]:
    models, telemetry = _models(row), None
    for change in changes:
        if change.beside is not None:
            beside = _beside(models, change)
            models = models if isinstance(beside, str) else beside
        elif change.active is None:
            models.pop(change.model, None)
        else:
            known = models.get(change.model)
            is_same = known is not None and known.active is not None and known.active.sha256 == change.active.sha256
            # what is tried beside a version goes on while that version is only offered anew
            candidate = known if is_same and known is not None else ModelDesired(active=None)
            models[change.model] = msgspec.structs.replace(candidate, active=change.active)
        telemetry = change.telemetry or telemetry
    return models, telemetry


def _is_still_so(row: document_store.Document | None, change: ModelChange) -> bool:
    """Return whether the document, now that it is locked, names what the change is to replace or to run beside."""
    if change.beside is not None:
        return not isinstance(_beside(_models(row), change), str)
    named = _models(row).get(change.model)
    return change.over is None or (
        named is not None and named.active is not None and named.active.sha256 == change.over
    )


def _beside(models: Mapping[str, ModelDesired], change: ModelChange) -> dict[str, ModelDesired] | str:
    assert change.active is not None, "a candidate has a bundle"
    assert change.beside is not None, "asked for changes of candidates only"
    return with_candidate(models, CandidateWish(change.model, change.active, change.beside))


def _models(row: document_store.Document | None) -> dict[str, ModelDesired]:
    return {} if row is None else msgspec.convert(row.models, dict[str, ModelDesired])


def _telemetry(row: document_store.Document | None) -> TelemetryWish:
    return TelemetryWish() if row is None else msgspec.convert(row.telemetry, TelemetryWish)


def _tasks(row: document_store.Document | None) -> list[Task]:
    return [] if row is None else msgspec.convert(row.tasks, list[Task])


def _is_same(before: ModelDesired, ref: Ref) -> bool:
    """Return whether the model's active bundle is this one already, apart from attempt and deadlines."""
    active = before.active
    return (
        active is not None and (active.target, active.sha256) == (ref.target, ref.sha256) and before.candidate is None
    )
