"""SQL that only streams and outboxes need of the feed. Its own file because `store` is a page long already."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlmodel import Session, col

from edgefleet_server.fleet.tables import FleetEvent


def events_by_id(session: Session, ids: Sequence[int]) -> Sequence[FleetEvent]:
    """Return these events."""
    return session.execute(select(FleetEvent).where(col(FleetEvent.id).in_(ids))).scalars().all()


def newest_before(session: Session, moment: datetime) -> int:
    """Return the id of the newest event that came at or before a moment, 0 without one."""
    statement = select(col(FleetEvent.id)).where(col(FleetEvent.received_at) <= moment)
    return int(session.execute(statement.order_by(col(FleetEvent.id).desc()).limit(1)).scalar() or 0)
