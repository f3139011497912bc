"""SQL of what devices reported. Every function works in the caller's session.

Reports and documents are read together; `marks` says without the report whether anything is new.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Table, delete, func, or_, select, update
from sqlmodel import Session, col

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.db import bulk
from edgefleet_server.fleet.reported.recovery_agreement import Word
from edgefleet_server.fleet.store import IN_CHUNK
from edgefleet_server.fleet.tables import FleetDesired, FleetDevice, FleetModelState, FleetRecoveryWord
from edgefleet_server.signing.fast_forward_recovery import VersionsSeen

CHUNK: Final = 5_000

_DEVICE: Final[Table] = FleetDevice.__table__  # type: ignore[attr-defined]

_DESIRED: Final[Table] = FleetDesired.__table__  # type: ignore[attr-defined]

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


def model_states(session: Session, device_id: str) -> dict[str, FleetModelState]:
    """Return what a device last reported, by model."""
    statement = select(FleetModelState).where(col(FleetModelState.device_id) == device_id)
    return {row.model: row for row in session.execute(statement).scalars()}


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
