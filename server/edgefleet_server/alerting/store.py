"""The SQL of alert receivers. Every function works in the caller's session and never commits."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlmodel import Session, col

from edgefleet_server.alerting.errors import ReceiverUnknownError
from edgefleet_server.alerting.tables import AlertReceiver, AlertSeen
from edgefleet_server.db.bulk import insert_new


def receivers(session: Session) -> Sequence[AlertReceiver]:
    """Return all receivers, oldest first."""
    order = (col(AlertReceiver.created_at), col(AlertReceiver.id))
    return session.execute(select(AlertReceiver).order_by(*order)).scalars().all()


def find(session: Session, receiver_id: str) -> AlertReceiver | None:
    """Return a receiver's row."""
    return session.get(AlertReceiver, receiver_id)


def known(session: Session, receiver_id: str) -> AlertReceiver:
    """Return a receiver's row. Raises ReceiverUnknownError."""
    row = find(session, receiver_id)
    if row is None:
        raise ReceiverUnknownError(
            f"there is no alert receiver {receiver_id[:40]!r}", next_step="`edgectl alert-receiver list` shows all"
        )
    return row


def remove(session: Session, receiver_id: str) -> None:
    """Delete a receiver and what it saw. Raises ReceiverUnknownError."""
    known(session, receiver_id)
    session.execute(delete(AlertSeen).where(col(AlertSeen.receiver_id) == receiver_id))
    session.execute(delete(AlertReceiver).where(col(AlertReceiver.id) == receiver_id))


def mark_used(session: Session, receiver_id: str, now: datetime) -> None:
    """Remember when a receiver was last used."""
    session.execute(update(AlertReceiver).where(col(AlertReceiver.id) == receiver_id).values(last_used_at=now))


def note_first(session: Session, row: dict[str, Any]) -> bool:
    """Write that an alert is seen; return False when it was before. Of two processes at once one waits for the other."""
    return insert_new(session, AlertSeen, row)


def set_outcome(session: Session, row: dict[str, Any], outcome: str, reason: str) -> None:
    """Write what became of an alert that `note_first` wrote."""
    keys = ("receiver_id", "group_sha256", "fingerprint", "starts_at", "rollout_id")
    mine = [getattr(AlertSeen, key) == row[key] for key in keys]
    session.execute(update(AlertSeen).where(*mine).values(outcome=outcome, reason=reason))


def prune(session: Session, before: datetime) -> int:
    """Remove what was seen before a moment; return how many."""
    done = session.execute(delete(AlertSeen).where(col(AlertSeen.at) < before))
    return int(done.rowcount)  # type: ignore[attr-defined]


def seen_page(session: Session, limit: int) -> Sequence[tuple[AlertSeen, str]]:
    """Return what alerts did, newest first, each with its receiver's name, at most so many."""
    statement = (
        select(AlertSeen, col(AlertReceiver.name))
        .join(AlertReceiver, col(AlertReceiver.id) == col(AlertSeen.receiver_id))
        .order_by(col(AlertSeen.at).desc(), col(AlertSeen.rollout_id), col(AlertSeen.fingerprint))
        .limit(limit)
    )
    return [(row, name) for row, name in session.execute(statement)]
