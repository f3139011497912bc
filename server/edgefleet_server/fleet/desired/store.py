"""SQL of desired documents, of the hold and of tasks. Every function works in the caller's session and never commits.

Many documents are read and written as plain rows: objects of rows cost more than signing.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlmodel
from sqlalchemy import String, Table, Text, case, cast, delete, func, or_, select
from sqlmodel import Session, col

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db import bulk
from edgefleet_server.db.bulk import insert_into
from edgefleet_server.fleet.desired.content import Texts
from edgefleet_server.fleet.desired.model import SignedDesired, TaskState
from edgefleet_server.fleet.store import IN_CHUNK
from edgefleet_server.fleet.tables import (
    FleetCaptureKey,
    FleetDesired,
    FleetDevice,
    FleetHold,
    FleetPredictionLog,
    FleetProtectionRule,
    FleetTask,
    FleetTaskResult,
)

OPEN: Final = (TaskState.QUEUED.value, TaskState.ACCEPTED.value, TaskState.RUNNING.value)
_DESIRED: Final[Table] = FleetDesired.__table__  # type: ignore[attr-defined]


class Common(NamedTuple):
    """What is the same for all documents: the public key for captures, whether a model has a prediction log, and any protection rule."""

    public_key: str | None
    has_logs: bool
    has_rules: bool


def lock_contents(session: Session, device_ids: Collection[str]) -> Iterator[tuple[str, int, Texts, Common]]:
    """Lock the documents of devices that `store.lock_live` returned; yield device, gen, content and what is common."""
    table = _DESIRED
    texts = [cast(column, Text) for column in (table.c.models, table.c.telemetry, table.c.tasks)]
    statement = (
        select(table.c.device_id, table.c.gen, *texts, *_common())
        .where(bulk.among(session, table.c.device_id, device_ids))
        .order_by(table.c.device_id)
        .with_for_update(of=table)
    )
    for device_id, gen, models, telemetry, tasks, public_key, has_logs, has_rules in session.execute(statement):
        yield device_id, int(gen), Texts(models, telemetry, tasks), Common(public_key, bool(has_logs), bool(has_rules))


def _common() -> tuple[Any, Any, Any]:
    """Return the columns of `Common`.

    They may be read in the same statement because they change only while no device is locked (`store.lock_devices`).
    """
    key = select(col(FleetCaptureKey.public_key)).where(col(FleetCaptureKey.id) == CAPTURE_KEY_ROW).scalar_subquery()
    return key, select(col(FleetPredictionLog.model)).exists(), select(col(FleetProtectionRule.name)).exists()


def write_documents(session: Session, new: Sequence[bulk.Row], changed: Sequence[bulk.Row]) -> None:
    """Store documents whose devices are locked: rows of the whole table, by `device_id`."""
    bulk.insert_rows(session, _DESIRED, new)
    bulk.update_rows(session, _DESIRED, changed)
    gone = {row["device_id"] for row in changed}
    for known in [one for one in session.identity_map.values() if isinstance(one, FleetDesired)]:
        if known.device_id in gone:
            session.expire(known)


def insert_task(session: Session, fields: dict[str, Any]) -> FleetTask:
    """Store a new task and return it."""
    row = FleetTask(**fields)
    session.add(row)
    session.flush()
    return row


def insert_task_result(session: Session, task_id: str, at: datetime, data: bytes) -> None:
    """Store what a device sent for a task."""
    session.add(FleetTaskResult(task_id=task_id, at=at, data=data))


def task(session: Session, task_id: str, *, lock: bool = False) -> FleetTask | None:
    """Return a task."""
    return session.get(FleetTask, task_id, with_for_update=True if lock else None)


def tasks_by_id(session: Session, ids: Collection[str]) -> Sequence[FleetTask]:
    """Return the tasks with these ids, in no order."""
    return session.exec(sqlmodel.select(FleetTask).where(col(FleetTask.id).in_(ids))).all() if ids else []


def tasks_without_end(session: Session, kind: str, now: datetime, limit: int) -> Sequence[FleetTask]:
    """Return tasks of a kind whose time has passed before they were over, locked; at most so many, and none that others hold."""
    row = FleetTask
    passed = sqlmodel.select(row).where(col(row.kind) == kind, col(row.state).in_(OPEN), col(row.until) <= now)
    return session.exec(passed.order_by(col(row.id)).limit(limit).with_for_update(skip_locked=True)).all()


def tasks_of(session: Session, device_id: str, limit: int) -> Sequence[FleetTask]:
    """Return a device's tasks, newest first."""
    chosen = sqlmodel.select(FleetTask).where(col(FleetTask.device_id) == device_id)
    return session.exec(chosen.order_by(col(FleetTask.created_at).desc(), col(FleetTask.id)).limit(limit)).all()


def task_result(session: Session, task_id: str) -> bytes | None:
    """Return what a device sent for a task."""
    row = session.get(FleetTaskResult, task_id)
    return None if row is None else row.data


def prune_task_results(session: Session, before: datetime) -> int:
    """Remove results that came before a time; return how many. Their tasks stay."""
    removed = session.execute(delete(FleetTaskResult).where(col(FleetTaskResult.at) < before))
    return int(getattr(removed, "rowcount", 0))


HOLD_ROW = 1

CAPTURE_KEY_ROW = 1


def all_desired(session: Session) -> Iterator[SignedDesired]:
    """Yield the signed document of every device that is not revoked."""
    yield from _signed(session, select_more=None)


def desired_changed_since(session: Session, since: datetime, known: Mapping[DeviceId, int]) -> Iterator[SignedDesired]:
    """Yield documents that were signed at or after `since` and have a higher gen than is known; only those are read whole."""
    table: Table = FleetDesired.__table__  # type: ignore[attr-defined]
    # one text of all: there may be all of a fleet, and a row of each takes twice as long to read
    pair = table.c.device_id + "=" + cast(table.c.gen, String)
    text = session.scalar(select(func.aggregate_strings(pair, " ")).where(table.c.changed_at >= since)) or ""
    pairs = (one.partition("=") for one in text.split())
    news = [device for device, _, gen in pairs if int(gen) > known.get(DeviceId(device), 0)]
    for start in range(0, len(news), IN_CHUNK):
        chosen = bulk.among(session, col(FleetDesired.device_id), sorted(news)[start : start + IN_CHUNK])
        yield from _signed(session, select_more=chosen)


def desired_of(session: Session, device_id: str) -> SignedDesired | None:
    """Return the signed document of one device that is not revoked."""
    return next(_signed(session, select_more=col(FleetDesired.device_id) == device_id), None)


def desired_of_many(session: Session, device_ids: Sequence[str]) -> Iterator[SignedDesired]:
    """Yield the signed documents of those of these devices that are not revoked."""
    for start in range(0, len(device_ids), IN_CHUNK):
        chosen = bulk.among(session, col(FleetDesired.device_id), device_ids[start : start + IN_CHUNK])
        yield from _signed(session, select_more=chosen)


def gens(session: Session, device_ids: Sequence[str]) -> dict[DeviceId, int]:
    """Return the gen of these devices' documents; devices without one are left out."""
    row = FleetDesired
    found: dict[DeviceId, int] = {}
    for start in range(0, len(device_ids), IN_CHUNK):
        chosen = bulk.among(session, col(row.device_id), device_ids[start : start + IN_CHUNK])
        statement = select(col(row.device_id), col(row.gen)).where(chosen)
        found |= {DeviceId(device_id): int(gen) for device_id, gen in session.execute(statement)}
    return found


def _signed(session: Session, *, select_more: Any) -> Iterator[SignedDesired]:
    statement = (
        select(col(FleetDesired.device_id), col(FleetDesired.gen), col(FleetDesired.envelope))
        .join(FleetDevice, col(FleetDevice.id) == col(FleetDesired.device_id))
        .where(col(FleetDevice.revoked_at).is_(None))
        .order_by(col(FleetDesired.device_id))
    )
    if select_more is not None:
        statement = statement.where(select_more)
    for device_id, gen, envelope in session.execute(statement):
        yield SignedDesired(DeviceId(device_id), int(gen), bytes(envelope))


def desired_row(session: Session, device_id: str, *, lock: bool = False) -> FleetDesired | None:
    """Return the row of a device's document."""
    return session.get(FleetDesired, device_id, with_for_update=True if lock else None)


def wanted_targets(session: Session, model: str) -> dict[str, str]:
    """Return the target of one model's active bundle in the documents of devices that are not revoked, by device."""
    target = col(FleetDesired.models)[(model, "active", "target")].as_string()
    statement = (
        select(col(FleetDesired.device_id), target)
        .join(FleetDevice, col(FleetDevice.id) == col(FleetDesired.device_id))
        .where(col(FleetDevice.revoked_at).is_(None), target.is_not(None))
    )
    return {str(device_id): str(found) for device_id, found in session.execute(statement)}


def lock_documents(session: Session, device_ids: Collection[str]) -> Iterable[tuple[FleetDesired, Common]]:
    """Lock the documents of devices that `lock_live` returned; return each, read again, with what is common."""
    statement = (
        select(FleetDesired, *_common())
        .where(col(FleetDesired.device_id).in_(device_ids))
        .order_by(col(FleetDesired.device_id))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return [(row[0], Common(row[1], bool(row[2]), bool(row[3]))) for row in session.execute(statement)]


def documents(session: Session, device_ids: Sequence[str]) -> Iterator[tuple[DeviceId, int, dict[str, Any]]]:
    """Yield (device, gen, models as plain data) of these devices' documents."""
    for start in range(0, len(device_ids), IN_CHUNK):
        chosen = bulk.among(session, col(FleetDesired.device_id), device_ids[start : start + IN_CHUNK])
        statement = select(col(FleetDesired.device_id), col(FleetDesired.gen), col(FleetDesired.models)).where(chosen)
        for device_id, gen, models in session.execute(statement):
            yield DeviceId(device_id), int(gen), models


def due_for_signing(session: Session, now: datetime, limit: int) -> list[str]:
    """Return devices whose document has passed half of its life, locked; those that others hold are left out."""
    statement = (
        select(col(FleetDesired.device_id))
        .join(FleetDevice, col(FleetDevice.id) == col(FleetDesired.device_id))
        .where(col(FleetDesired.resign_at) <= now, col(FleetDevice.revoked_at).is_(None))
        .order_by(col(FleetDesired.resign_at))
        .limit(limit)
        .with_for_update(skip_locked=True, of=FleetDevice)
    )
    return list(session.execute(statement).scalars())


def signed_with_others(session: Session, keyid: str, limit: int, *, lock: bool = False) -> list[str]:
    """Return devices whose document another key of the director signed; lock: locked, without those that others hold."""
    other = or_(col(FleetDesired.key_id) < keyid, col(FleetDesired.key_id) > keyid)  # so an index finds them
    statement = (
        select(col(FleetDesired.device_id))
        .join(FleetDevice, col(FleetDevice.id) == col(FleetDesired.device_id))
        .where(other, col(FleetDevice.revoked_at).is_(None))
        .limit(limit)
    )
    if lock:
        statement = statement.with_for_update(skip_locked=True, of=FleetDevice)
    return list(session.execute(statement).scalars())


def count_signed_with_others(session: Session, keyid: str) -> tuple[int, int]:
    """Return how many documents of live devices there are, and how many another key of the director signed."""
    is_other = case((col(FleetDesired.key_id) != keyid, 1), else_=0)
    statement = (
        select(func.count(), func.coalesce(func.sum(is_other), 0))
        .select_from(FleetDesired)
        .join(FleetDevice, col(FleetDevice.id) == col(FleetDesired.device_id))
        .where(col(FleetDevice.revoked_at).is_(None))
    )
    total, others = session.execute(statement).one()
    return int(total), int(others)


def delete_desired(session: Session, device_id: str) -> None:
    """Remove a device's document."""
    session.execute(delete(FleetDesired).where(col(FleetDesired.device_id) == device_id))


def hold(session: Session) -> FleetHold | None:
    """Return the hold document, if one was ever signed."""
    row = session.get(FleetHold, HOLD_ROW)
    return row if row is not None and row.seq > 0 else None


def locked_hold(session: Session, now: datetime) -> FleetHold:
    """Return the row of the hold, locked and read again; it is made when there is none."""
    empty = {"id": HOLD_ROW, "seq": 0, "rollouts": [], "digests": [], "envelope": b"", "expires_at": now}
    session.execute(insert_into(session, FleetHold).values(empty).on_conflict_do_nothing())
    statement = select(FleetHold).where(col(FleetHold.id) == HOLD_ROW).with_for_update()
    row: FleetHold = session.execute(statement.execution_options(populate_existing=True)).scalar_one()
    return row
