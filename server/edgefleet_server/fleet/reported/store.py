"""SQL of what devices reported. Every function works in the caller's session.

Reports and documents are read together; `marks` says without the report whether anything is new.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Table, select
from sqlmodel import Session, col

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.db import bulk
from edgefleet_server.fleet.store import IN_CHUNK
from edgefleet_server.fleet.tables import FleetDesired, FleetDevice, FleetModelState

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
