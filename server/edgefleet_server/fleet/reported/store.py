"""SQL of what devices reported. Every function works in the caller's session.

Reports and documents are read together; `marks` says without the report whether anything is new.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Table, delete, func, or_, select, update
from sqlmodel import Session, col

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.db import bulk
from edgefleet_server.fleet.reported.presence_fold import Standing
from edgefleet_server.fleet.reported.recovery_agreement import Word
from edgefleet_server.fleet.reported.state_columns import MODEL_COLUMNS
from edgefleet_server.fleet.store import IN_CHUNK
from edgefleet_server.fleet.tables import FleetDesired, FleetDevice, FleetModelState, FleetRecoveryWord
from edgefleet_server.signing.fast_forward_recovery import VersionsSeen

CHUNK: Final = 5_000

_DEVICE: Final[Table] = FleetDevice.__table__  # type: ignore[attr-defined]

_MODEL_STATE: Final[Table] = FleetModelState.__table__  # type: ignore[attr-defined]

_STANDING: Final = tuple(one.name for one in fields(Standing))

_DESIRED: Final[Table] = FleetDesired.__table__  # type: ignore[attr-defined]

ModelKey = tuple[DeviceId, str]

Mark = tuple[object, ...]
"""Differs whenever a device's report, its presence or its document does."""


def marks(session: Session, device_ids: Sequence[DeviceId]) -> Iterator[tuple[DeviceId, Mark]]:
    """Yield a mark for each of these devices that is known."""
    device = _DEVICE.c
    reported_columns = (
        device.boot_id,
        device.state_seq,
        device.reported_gen,
        device.is_online,
        device.last_seen,
        device.revoked_at,
        device.suspect_since,
    )
    for row in _with_documents(session, device_ids, *reported_columns, _DESIRED.c.gen):
        yield DeviceId(row[0]), tuple(row[1:])


def reported_with_documents(session: Session, device_ids: Sequence[DeviceId]) -> Iterator[Any]:
    """Yield what `store.reported` does of these devices, with gen and models of their documents (None: there is none)."""
    device, desired = _DEVICE.c, _DESIRED.c
    reported_columns = (
        device.profile,
        device.is_online,
        device.last_seen,
        device.revoked_at,
        device.suspect_since,
        device.reported_gen,
        device.reported,
    )
    yield from _with_documents(session, device_ids, *reported_columns, desired.gen, desired.models)


def _with_documents(session: Session, device_ids: Sequence[DeviceId], *columns: Any) -> Iterator[Any]:
    """Yield id and columns of these devices and of their documents, None in the latter where there is none."""
    statement = select(_DEVICE.c.id, *columns).outerjoin(_DESIRED, _DESIRED.c.device_id == _DEVICE.c.id)
    for start in range(0, len(device_ids), CHUNK):
        chosen = bulk.among(session, _DEVICE.c.id, device_ids[start : start + CHUNK])
        yield from session.execute(statement.where(chosen))


def failed_since(session: Session, model: str, since: datetime) -> list[DeviceId]:
    """Return devices that failed at a model, or went back by themselves, after a moment; CHUNK at the most."""
    words = (AssignmentState.FAILED.value, AssignmentState.ROLLED_BACK.value)
    state = FleetModelState
    statement = select(col(state.device_id)).where(
        col(state.model) == model, col(state.assignment).in_(words), col(state.changed_at) > since
    )
    return [DeviceId(found) for found in session.execute(statement.limit(CHUNK)).scalars()]


def reported(session: Session, device_ids: Sequence[str]) -> Iterator[Any]:
    """Yield id, profile, presence, gen and the whole report of these devices, without the rest of their rows."""
    for start in range(0, len(device_ids), IN_CHUNK):
        statement = select(
            col(FleetDevice.id),
            col(FleetDevice.profile),
            col(FleetDevice.is_online),
            col(FleetDevice.last_seen),
            col(FleetDevice.revoked_at),
            col(FleetDevice.suspect_since),
            col(FleetDevice.reported_gen),
            col(FleetDevice.reported),
        ).where(bulk.among(session, col(FleetDevice.id), device_ids[start : start + IN_CHUNK]))
        yield from session.execute(statement)


class KeptReport(NamedTuple):
    """What is kept of a device's newest state, and what it must be compared with."""

    boot_id: str
    state_seq: int
    reported_gen: int
    reported: dict[str, Any] | None
    free_mb: int | None


def lock_reports(session: Session, device_ids: Collection[str]) -> dict[DeviceId, KeptReport]:
    """Lock those of these devices that are live, in order of id; return what they reported last."""
    return {DeviceId(row[0]): KeptReport(*row[1:]) for row in _locked(session, device_ids, KeptReport._fields)}


def write_reports(session: Session, columns: Mapping[DeviceId, Mapping[str, Any]], now: datetime) -> None:
    """Set what devices report; they are heard of now, and locked."""
    rows = [{"id": device_id, **row, "last_seen": now} for device_id, row in sorted(columns.items())]
    bulk.update_rows(session, _DEVICE, rows)
    _forget_read(session, columns)


def note_heard(session: Session, device_ids: Collection[str], now: datetime) -> None:
    """Note that devices were heard of that said nothing new; they are locked."""
    bulk.update_rows(session, _DEVICE, [{"id": device_id, "last_seen": now} for device_id in sorted(device_ids)])
    _forget_read(session, device_ids)


def lock_presence(
    session: Session, device_ids: Collection[str]
) -> tuple[dict[DeviceId, Standing], dict[DeviceId, str]]:
    """Lock those of these devices that are live, in order of id; return how each stands, and with which certificate it came last."""
    standings, certificates = {}, {}
    for device_id, serial, *standing in _locked(session, device_ids, ["cert_serial", *_STANDING]):
        standings[DeviceId(device_id)] = Standing(*standing)
        certificates[DeviceId(device_id)] = str(serial)
    return standings, certificates


def write_presence(session: Session, standings: Mapping[DeviceId, Standing]) -> None:
    """Set how devices stand; they are locked."""
    names = [name for name in _STANDING if name != "enrolled_at"]
    rows = [
        {"id": device_id} | {name: getattr(one, name) for name in names}
        for device_id, one in sorted(standings.items())
    ]  # fmt: skip
    bulk.update_rows(session, _DEVICE, rows)
    _forget_read(session, standings)


def _locked(session: Session, device_ids: Collection[str], names: Sequence[str]) -> Iterator[Any]:
    """Lock live devices in order of id; yield the id and the columns of these names of each."""
    device = _DEVICE.c
    statement = (
        select(device.id, *(device[name] for name in names))
        .where(bulk.among(session, device.id, device_ids), device.revoked_at.is_(None))
        .order_by(device.id)
        .with_for_update()
    )
    yield from session.execute(statement)


def _forget_read(session: Session, device_ids: Collection[str]) -> None:
    """Let rows that the caller's transaction has read before be read again: they were changed here."""
    for known in [one for one in session.identity_map.values() if isinstance(one, FleetDevice)]:
        if known.id in device_ids:
            session.expire(known)


def model_states(session: Session, device_ids: Sequence[str]) -> dict[ModelKey, dict[str, Any]]:
    """Return what these devices last reported of models: MODEL_COLUMNS by device and model."""
    state = _MODEL_STATE.c
    found: dict[ModelKey, dict[str, Any]] = {}
    columns = [state[name] for name in MODEL_COLUMNS]
    for start in range(0, len(device_ids), IN_CHUNK):
        chosen = bulk.among(session, state.device_id, device_ids[start : start + IN_CHUNK])
        for device_id, model, *row in session.execute(select(state.device_id, state.model, *columns).where(chosen)):
            found[DeviceId(device_id), str(model)] = dict(zip(MODEL_COLUMNS, row, strict=True))
    return found


def insert_models(session: Session, rows: Mapping[ModelKey, bulk.Row]) -> None:
    """Store what devices report of models that they reported nothing of."""
    bulk.insert_rows(session, _MODEL_STATE, _keyed(rows))


def update_models(session: Session, rows: Mapping[ModelKey, bulk.Row]) -> None:
    """Set what devices report of models."""
    bulk.update_rows(session, _MODEL_STATE, _keyed(rows))


def delete_models(session: Session, keys: Collection[ModelKey]) -> None:
    """Remove what devices reported of models."""
    bulk.delete_rows(session, _MODEL_STATE, sorted(keys))


def _keyed(rows: Mapping[ModelKey, bulk.Row]) -> list[dict[str, Any]]:
    return [{"device_id": device_id, "model": model, **row} for (device_id, model), row in sorted(rows.items())]


def states_of_model(session: Session, model: str) -> Sequence[FleetModelState]:
    """Return what every device reports of one model, in order of device."""
    statement = (
        select(FleetModelState).where(col(FleetModelState.model) == model).order_by(col(FleetModelState.device_id))
    )
    return session.execute(statement).scalars().all()


def has_recovery_words(session: Session) -> bool:
    """Return whether any device says that it has seen more of the repository."""
    said = col(FleetRecoveryWord.said_at).is_not(None)
    return session.execute(select(col(FleetRecoveryWord.device_id)).where(said).limit(1)).first() is not None


def put_recovery_word(session: Session, device: DeviceId, seen: VersionsSeen, now: datetime, most: int) -> bool:
    """Keep what a live device has seen; return whether that is new or answers a question. Beyond `most` rows only known ones count."""
    lives = select(col(FleetDevice.id)).where(col(FleetDevice.id) == device, col(FleetDevice.revoked_at).is_(None))
    if session.execute(lives).first() is None:
        return False
    row = session.get(FleetRecoveryWord, device, with_for_update=True)
    roles = dict(seen.roles)
    if row is None:
        if session.execute(select(func.count()).select_from(FleetRecoveryWord)).scalar_one() >= most:
            return False
        row = FleetRecoveryWord(device_id=device)
    elif (
        row.said_at is not None
        and (row.version, row.roles) == (seen.version, roles)
        and (row.asked_at is None or row.asked_at <= row.said_at)
    ):
        return False
    row.version, row.roles, row.said_at = seen.version, roles, now
    row.first_at = row.first_at or now
    session.add(row)
    return True


def recovery_words(session: Session) -> list[Word]:
    """Return the words of live devices, also of those that were asked and have not answered; without names of roles."""
    row = FleetRecoveryWord
    columns = (row.device_id, row.version, row.first_at, row.said_at, row.asked_at)
    statement = (
        select(*map(col, columns))
        .join(FleetDevice, col(FleetDevice.id) == col(row.device_id))
        .where(col(FleetDevice.revoked_at).is_(None))
    )
    return [Word(DeviceId(found[0]), int(found[1]), *found[2:]) for found in session.execute(statement)]


def said_words(session: Session) -> Sequence[FleetRecoveryWord]:
    """Return the whole words of live devices, in the order in which they were said first."""
    row = FleetRecoveryWord
    statement = (
        select(row)
        .join(FleetDevice, col(FleetDevice.id) == col(row.device_id))
        .where(col(row.said_at).is_not(None), col(FleetDevice.revoked_at).is_(None))
        .order_by(col(row.first_at), col(row.device_id))
    )
    return session.execute(statement).scalars().all()


def online_devices(session: Session) -> list[DeviceId]:
    """Return the live devices that are there, in order of id."""
    statement = select(col(FleetDevice.id)).where(
        col(FleetDevice.revoked_at).is_(None), col(FleetDevice.is_online).is_(True)
    )
    return [DeviceId(found) for found in session.execute(statement.order_by(col(FleetDevice.id))).scalars()]


def note_asked(session: Session, devices: Sequence[DeviceId], now: datetime) -> None:
    """Note that these devices were drawn."""
    for device in devices:
        row = session.get(FleetRecoveryWord, device, with_for_update=True) or FleetRecoveryWord(device_id=device)
        row.asked_at = now
        session.add(row)


def forget_recovery_words(session: Session, devices: Collection[str], asked_before: datetime) -> int:
    """Take back the words of these devices, and drop rows without a word that were asked before a moment; return how many words."""
    row = FleetRecoveryWord
    nothing = {"version": 0, "roles": {}, "first_at": None, "said_at": None}
    session.execute(update(row).where(bulk.among(session, col(row.device_id), devices)).values(**nothing))
    is_old = or_(col(row.asked_at).is_(None), col(row.asked_at) < asked_before)
    session.execute(delete(row).where(col(row.said_at).is_(None), is_old))
    return len(devices)
