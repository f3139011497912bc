"""SQL of members and assignments. Every function works in the caller's session and never commits."""

from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
from sqlalchemy import Select, Table, func, or_, select
from sqlmodel import Session

from edgefleet_protocol.digest import Sha256
from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.db import bulk
from edgefleet_server.rollout.model import OFFLINE, Assignment, Bundle
from edgefleet_server.rollout.state_machines import FAILED_STATES
from edgefleet_server.rollout.store.tables import RolloutAssignment

ASSIGNMENT: Final[Table] = RolloutAssignment.__table__  # type: ignore[attr-defined]


# ---- what failed


def failed(session: Session, rollout_id: str, limit: int) -> list[tuple[str, str, str, str]]:
    """Return (device, state, error class, reason) where the release failed, in order of device: as `facts.stands_failed` says."""
    row = ASSIGNMENT.c
    statement = select(row.device_id, row.state, row.error_class, row.reason).where(*_has_failed(rollout_id))
    return [
        (device, state, kind, why)
        for device, state, kind, why in session.execute(statement.order_by(row.device_id).limit(limit))
    ]


def count_failed(session: Session, rollout_id: str) -> int:
    """Return on how many devices the release failed, as they stand."""
    statement = select(func.count()).select_from(ASSIGNMENT).where(*_has_failed(rollout_id))
    return int(session.execute(statement).scalar_one())


def _has_failed(rollout_id: str) -> tuple[Any, ...]:
    row = ASSIGNMENT.c
    by_itself = sorted(state.value for state in FAILED_STATES if state is not AssignmentState.ROLLED_BACK)
    return (
        row.rollout_id == rollout_id,
        or_(
            row.state.in_(by_itself),
            (row.state == AssignmentState.ROLLED_BACK.value) & (row.error_class != ""),
            (row.state == AssignmentState.UNREACHABLE.value) & (row.error_class == OFFLINE),
        ),
    )


def assignments(session: Session, rollout_id: str, *, state: AssignmentState | None = None) -> list[Assignment]:
    """Return a rollout's assignments, or those in a state, in order of device. Plain rows, no ORM objects: a tick reads them all."""
    table = ASSIGNMENT
    statement = select(table).where(table.c.rollout_id == rollout_id).order_by(table.c.device_id)
    if state is not None:
        statement = statement.where(table.c.state == state.value)
    return [assignment_of(row) for row in session.execute(statement)]


def assigned_to(rollout_id: str) -> Select[Any]:
    """Return the query of the devices that a rollout has, whatever became of them."""
    return select(ASSIGNMENT.c.device_id).where(ASSIGNMENT.c.rollout_id == rollout_id)


def assigned_to_each(session: Session, rollout_ids: Collection[str]) -> Select[Any]:
    """Return the query of (rollout, device) of some rollouts."""
    table = ASSIGNMENT
    return select(table.c.rollout_id, table.c.device_id).where(bulk.among(session, table.c.rollout_id, rollout_ids))


def named_in(session: Session, rollout_id: str, devices: Collection[DeviceId]) -> Select[Any]:
    """Return the query of those of these devices that a rollout has."""
    return assigned_to(rollout_id).where(bulk.among(session, ASSIGNMENT.c.device_id, devices))


def save_assignments(
    session: Session, rollout_id: str, new: Sequence[Assignment], changed: Sequence[Assignment]
) -> None:
    """Write assignments: insert the new ones, update the others, each in one batch."""
    bulk.insert_rows(session, ASSIGNMENT, [_assignment_row(rollout_id, one) for one in new])
    bulk.update_rows(session, ASSIGNMENT, [_assignment_row(rollout_id, one) for one in changed])


def assignment_of(row: Any) -> Assignment:
    """Return the assignment in a row of its table."""
    return Assignment(
        device=DeviceId(row.device_id),
        stratum=ProfileName(row.stratum),
        state=AssignmentState(row.state),
        previous=None if row.previous is None else _bundle(row.previous),
        **{name: getattr(row, name) for name in _SAME},
    )


_CONVERTED: Final = frozenset({"device", "stratum", "state", "previous"})

_SAME: Final = tuple(name for name in Assignment.__struct_fields__ if name not in _CONVERTED)

_get_same: Final = attrgetter(*_SAME)


def _bundle(plain: dict[str, Any]) -> Bundle:
    return Bundle(str(plain["target"]), Sha256(str(plain["sha256"])), int(plain["length"]))


def _assignment_row(rollout_id: str, one: Assignment) -> dict[str, Any]:
    return {
        **dict(zip(_SAME, _get_same(one), strict=True)),
        "rollout_id": rollout_id,
        "device_id": one.device,
        "stratum": one.stratum,
        "state": one.state.value,
        "previous": None if one.previous is None else msgspec.to_builtins(one.previous),
    }
