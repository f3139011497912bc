"""SQL of rotations of the device CA. Every function works in the caller's session and never commits."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, case, func, or_, select
from sqlmodel import Session, col

from edgefleet_server.fleet.ca_rotation.model import ROTATIONS, SHOWN, CaFollowers, CaStraggler
from edgefleet_server.fleet.tables import FleetCaRotation, FleetDevice


def last(session: Session) -> Sequence[FleetCaRotation]:
    """Return the rotations that were started last, the newest first."""
    row = FleetCaRotation
    statement = select(row).order_by(col(row.started_at).desc(), col(row.number).desc()).limit(ROTATIONS)
    return session.execute(statement).scalars().all()


def add(session: Session, row: FleetCaRotation) -> None:
    """Write a new rotation."""
    session.add(row)
    session.flush()


def followers(session: Session, number: int, has_followed: ColumnElement[bool], back_since: datetime) -> CaFollowers:
    """Count live devices. number: of the announcement that they know; has_followed: condition on a device. Reads all devices.

    back_since: those that were online when the server started count as online if that was later.
    """
    device = FleetDevice
    is_expected = and_(col(device.is_online).is_(None), col(device.offline_since) > back_since)
    is_online, is_told = or_(col(device.is_online).is_(True), is_expected), col(device.place_told) >= number
    told, followed, online, online_followed = (
        func.coalesce(func.sum(case((condition, 1), else_=0)), 0)
        for condition in (is_told, has_followed, is_online, and_(is_online, has_followed))
    )
    live = col(device.revoked_at).is_(None)
    counts = select(func.count(), told, followed, online, online_followed).select_from(device).where(live)
    found = [int(one) for one in session.execute(counts).one()]
    order = (case((is_online, 0), else_=1), col(device.last_seen).desc(), col(device.id))
    behind = select(device, is_online).where(live, ~has_followed).order_by(*order).limit(SHOWN)
    stragglers = [
        CaStraggler(one.id, bool(is_there), one.place_told >= number, one.last_seen)
        for one, is_there in session.execute(behind)
    ]
    return CaFollowers(found[0], found[1], found[2], found[3], found[4], stragglers)


def holds(ca: str) -> ColumnElement[bool]:
    """Return the condition that a device connected last with a certificate of this CA."""
    return col(FleetDevice.cert_ca) == ca
