"""Rows of tasks and of their results. Its own file because `store` would grow beyond a page."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete
from sqlmodel import Session, col, select

from edgefleet_server.fleet.tables import FleetTask, FleetTaskResult


def add(session: Session, fields: dict[str, Any]) -> FleetTask:
    """Store a new task and return it."""
    row = FleetTask(**fields)
    session.add(row)
    session.flush()
    return row


def add_result(session: Session, task_id: str, at: datetime, data: bytes) -> None:
    """Store what a device sent for a task."""
    session.add(FleetTaskResult(task_id=task_id, at=at, data=data))


def task(session: Session, task_id: str, *, lock: bool = False) -> FleetTask | None:
    """Return a task."""
    return session.get(FleetTask, task_id, with_for_update=True if lock else None)


def tasks_of(session: Session, device_id: str, limit: int) -> Sequence[FleetTask]:
    """Return a device's tasks, newest first."""
    chosen = select(FleetTask).where(col(FleetTask.device_id) == device_id)
    return session.exec(chosen.order_by(col(FleetTask.created_at).desc(), col(FleetTask.id)).limit(limit)).all()


def task_result(session: Session, task_id: str) -> bytes | None:
    """Return what a device sent for a task."""
    row = session.get(FleetTaskResult, task_id)
    return None if row is None else row.data


def prune_task_results(session: Session, before: datetime) -> int:
    """Remove results that came before a time; return how many. Their tasks stay."""
    removed = session.execute(delete(FleetTaskResult).where(col(FleetTaskResult.at) < before))
    return int(getattr(removed, "rowcount", 0))
