"""SQL of readmission. Every function works in the caller's session and never commits."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, select, text
from sqlmodel import Session, col

from edgefleet_server.db.bulk import is_postgresql
from edgefleet_server.db.keyset import PageRequest, walked
from edgefleet_server.fleet.readmission.model import ReadmissionState
from edgefleet_server.fleet.tables import FleetReadmission


def take_turn(session: Session) -> None:
    """Let one process at a time count and let in, until the transaction ends. SQLite has one writer anyway."""
    if is_postgresql(session):
        session.execute(text("LOCK TABLE fleet_readmission IN SHARE ROW EXCLUSIVE MODE"))


def request(session: Session, device_id: str, *, lock: bool = False) -> FleetReadmission | None:
    """Return what a device asked for last."""
    return session.get(FleetReadmission, device_id, with_for_update=True if lock else None, populate_existing=True)


def count_by_rule(session: Session, since: datetime) -> int:
    """Return how many devices the rule let in since a moment."""
    row = FleetReadmission
    wanted = (col(row.readmitted_at) > since, col(row.by_rule).is_(True))
    return int(session.execute(select(func.count()).select_from(row).where(*wanted)).scalar_one())


def requests(session: Session, state: ReadmissionState, page: PageRequest) -> tuple[Sequence[FleetReadmission], int]:
    """Return one more request in a state than the page has, in order of device, and how many there are."""
    row = FleetReadmission
    is_so = col(row.state) == state.value
    statement = walked(select(row).where(is_so), col(row.device_id), page.after, page.limit + 1, is_down=page.is_turned)
    total = session.execute(select(func.count()).select_from(row).where(is_so)).scalar_one()
    return session.execute(statement).scalars().all(), int(total)


def prune(session: Session, before: datetime) -> int:
    """Forget devices that last asked before a moment, except those that a person refused; return how many."""
    row = FleetReadmission
    old = (col(row.heard_at) < before, col(row.state) != ReadmissionState.REFUSED.value)
    return int(session.execute(delete(row).where(*old)).rowcount)  # type: ignore[attr-defined]
