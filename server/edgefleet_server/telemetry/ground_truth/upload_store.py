"""The SQL of labels that were sent in bulk. Every function works in the caller's session."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, func, insert, select
from sqlmodel import Session, col

from edgefleet_server.db.bulk import is_postgresql
from edgefleet_server.telemetry.ground_truth.tables import FeedbackPart, FeedbackUpload

LOCK: Final = 0x6566_6C62
"""The advisory lock of those who number parts, on PostgreSQL."""
OUTCOMES = ("matched", "unmatched", "late", "repeated", "misfit", "refused")


def add(session: Session, upload: FeedbackUpload, parts: Sequence[Mapping[str, Any]]) -> None:
    """Insert an upload with its parts."""
    session.add(upload)
    session.flush()
    if parts:
        session.execute(insert(FeedbackPart), [dict(one) for one in parts])


def upload(session: Session, upload_id: str) -> FeedbackUpload | None:
    """Return an upload."""
    return session.get(FeedbackUpload, upload_id)


def newest(session: Session, model: str, limit: int) -> Sequence[FeedbackUpload]:
    """Return the newest uploads of a model."""
    mine = select(FeedbackUpload).where(col(FeedbackUpload.model) == model)
    statement = mine.order_by(col(FeedbackUpload.created_at).desc(), col(FeedbackUpload.id))
    return session.execute(statement.limit(limit)).scalars().all()


def outcomes(session: Session, ids: Collection[str]) -> dict[tuple[str, str, bool], dict[str, int]]:
    """Return by (upload, state, broadcast) how many parts and rows there are, and how their labels fared."""
    row = FeedbackPart
    sums = [func.sum(col(getattr(row, name))) for name in ("rows", *OUTCOMES)]
    key = (col(row.upload_id), col(row.state), col(row.broadcast))
    statement = select(*key, func.count(), *sums).where(col(row.upload_id).in_(ids)).group_by(*key)
    return {
        (found[0], found[1], bool(found[2])): dict(zip(("parts", "rows", *OUTCOMES), map(int, found[3:]), strict=True))
        for found in session.execute(statement)
    }


def failures(session: Session, upload_id: str, limit: int) -> list[tuple[str, str, int]]:
    """Return (device, reason, rows) of parts that failed."""
    row = FeedbackPart
    statement = (
        select(col(row.device_id), col(row.reason), col(row.rows))
        .where(col(row.upload_id) == upload_id, col(row.state) == "failed")
        .order_by(col(row.device_id), col(row.number))
        .limit(limit)
    )
    return [(device, reason, int(rows)) for device, reason, rows in session.execute(statement)]


def sent(session: Session, after: str, limit: int) -> list[FeedbackPart]:
    """Return parts that were sent to their devices and are not over, locked; at most so many after this one, by id."""
    row = FeedbackPart
    mine = select(row).where(col(row.state) == "sent", col(row.id) > after)
    return list(session.execute(mine.order_by(col(row.id)).limit(limit).with_for_update()).scalars())


def next_to_send(session: Session, after: str, limit: int) -> list[FeedbackPart]:
    """Return the next part of each device that has none on its way, locked; of at most so many devices after this one, by id."""
    row = FeedbackPart
    busy = select(col(row.device_id)).where(col(row.state) == "sent")
    first = (
        select(func.min(col(row.number)).label("number"), col(row.device_id).label("device_id"))
        .where(col(row.state) == "waiting", col(row.device_id) > after, col(row.device_id).not_in(busy))
        .group_by(col(row.device_id))
        .order_by(col(row.device_id))
        .limit(limit)
        .subquery()
    )
    statement = (
        select(row)
        .join(first, (first.c.device_id == col(row.device_id)) & (first.c.number == col(row.number)))
        .where(col(row.state) == "waiting")
        .order_by(col(row.device_id))  # their devices are locked in this order, as everywhere
        .with_for_update(of=row)
    )
    return list(session.execute(statement).scalars())


def drop_items(session: Session, device: str, trace_ids: Collection[str]) -> None:
    """Take labels of these answers of a device out of what waits to be sent."""
    row = FeedbackPart
    waits = select(row).where(col(row.state) == "waiting", (col(row.device_id) == device) | col(row.broadcast))
    order = (col(row.device_id), col(row.number))  # as `next_to_send` locks them
    for part in session.execute(waits.order_by(*order).with_for_update()).scalars():
        left = [one for one in part.items if (one.get("trace_id") or one.get("key")) not in trace_ids]
        if len(left) < len(part.items):
            part.items = left
            if not left:
                part.state, part.reason = "failed", "the answers were erased"
    session.flush()


def has_open_parts(session: Session) -> bool:
    """Return whether a part waits or is on its way."""
    row = FeedbackPart
    statement = select(col(row.id)).where(col(row.state).in_(("waiting", "sent")))
    return session.execute(statement.limit(1)).scalar() is not None


def last_number(session: Session) -> int:
    """Return the highest number of a part: they go out in this order. Nobody else numbers parts until the transaction ends.

    SQLite has one writer anyway.
    """
    if is_postgresql(session):
        session.execute(select(func.pg_advisory_xact_lock(LOCK)))
    return int(session.execute(select(func.max(col(FeedbackPart.number)))).scalar() or 0)


def delete_before(session: Session, moment: datetime) -> None:
    """Delete uploads that were made before a moment, with their parts."""
    old = select(col(FeedbackUpload.id)).where(col(FeedbackUpload.created_at) < moment)
    session.execute(delete(FeedbackPart).where(col(FeedbackPart.upload_id).in_(old)))
    session.execute(delete(FeedbackUpload).where(col(FeedbackUpload.created_at) < moment))
