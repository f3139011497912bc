"""SQL of moves of the server. Every function works in the caller's session and never commits."""

from collections.abc import Sequence

from sqlalchemy import case, func, select
from sqlmodel import Session, col

from edgefleet_server.fleet.moves.model import MOVES, SHOWN, Followers
from edgefleet_server.fleet.tables import FleetDevice, FleetMove


def newest(session: Session, *, lock: bool = False) -> FleetMove | None:
    """Return the move that was planned last; `lock` holds it until the transaction ends."""
    statement = select(FleetMove).order_by(col(FleetMove.planned_at).desc(), col(FleetMove.id)).limit(1)
    return session.execute(statement.with_for_update() if lock else statement).scalars().first()


def last(session: Session) -> Sequence[FleetMove]:
    """Return the moves that were planned last, the newest first."""
    statement = select(FleetMove).order_by(col(FleetMove.planned_at).desc(), col(FleetMove.id))
    return session.execute(statement.limit(MOVES)).scalars().all()


def add(session: Session, row: FleetMove) -> None:
    """Write a new move."""
    session.add(row)
    session.flush()


def followers(session: Session, number: int) -> Followers:
    """Count live devices by what they say of the announcement with this number, or a later one. Reads all devices."""
    device = FleetDevice
    told, used = (
        func.coalesce(func.sum(case((condition, 1), else_=0)), 0)
        for condition in (col(device.place_told) >= number, col(device.place_used) >= number)
    )
    live = col(device.revoked_at).is_(None)
    counted = session.execute(select(func.count(), told, used).select_from(device).where(live)).one()
    behind = select(col(device.id)).where(live, col(device.place_used) < number).order_by(col(device.id)).limit(SHOWN)
    return Followers(int(counted[0]), int(counted[1]), int(counted[2]), list(session.execute(behind).scalars()))
