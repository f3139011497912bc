"""Devices and groups by a part of their names: what a search box asks while somebody types, also in a fleet of 100,000.

Ids that begin with the text come from the index. Only when these are too few, the ids and names of all devices are looked through, and
then the values of all labels: in a narrow table that holds nothing else (ADR 0164), since a device's own row is wide.

What many devices have, the first NEAR of them in order of id have, too. Only where these are too few, the whole table is read, as it lies
on the disk: in order of id PostgreSQL jumps from row to row, and a text that no device has took twice as long.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from sqlmodel import Session, col

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db.database import Database
from edgefleet_server.fleet import store
from edgefleet_server.fleet.inventory.query_plan import NEAR
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.tables import FleetDevice, FleetGroup, FleetSearchText

_AFTER_ALL: Final = "\U0010ffff"
_LABEL_CHARS: Final = 2
"""A text must be so long before labels are looked through: one letter is in every label."""


@dataclass(frozen=True, slots=True)
class FoundDevice:
    """A device that was found."""

    id: DeviceId
    profile: str
    status: DeviceStatus
    display_name: str = ""


@dataclass(frozen=True, slots=True)
class FoundGroup:
    """A group that was found."""

    name: str
    selector: str


class InventorySearch:
    """Finds devices and groups. Thread-safe; calls block."""

    def __init__(self, db: Database) -> None:
        """Wire the database."""
        self._db = db

    def devices(self, text: str, limit: int) -> list[FoundDevice]:
        """Return up to `limit` devices: those whose id begins with a text (lower case), whose id or name has it, or whose labels
        have it.
        """
        own, row = col(FleetDevice.id), FleetSearchText
        begun = select(own).where((own >= text) & (own < text + _AFTER_ALL)).order_by(own)
        looked_through = [col(row.names), *([col(row.labels)] if len(text) >= _LABEL_CHARS else [])]
        with self._db.read() as session:
            found = dict.fromkeys(session.execute(begun.limit(limit)).scalars())
            for column in looked_through:
                if len(found) < limit:
                    found.update(dict.fromkeys(_having(session, column, text, limit + len(found))))
            shown = {one.id: one for one in _devices(session, list(found)[:limit])}
        return [shown[DeviceId(one)] for one in found if one in shown]

    def groups(self, text: str, limit: int) -> Sequence[FoundGroup]:
        """Return up to `limit` groups that have a text in their name."""
        name = col(FleetGroup.name)
        statement = select(name, col(FleetGroup.selector)).where(name.contains(text, autoescape=True))
        with self._db.read() as session:
            return [FoundGroup(*row) for row in session.execute(statement.order_by(name).limit(limit))]


def _having(session: Session, column: Any, text: str, limit: int) -> Sequence[str]:
    """Return the first ids, `limit` at most, of rows that have a text in a column."""
    own: Any = col(FleetSearchText.device_id).label("id")
    near = select(own, column.label("text")).order_by(own).limit(NEAR).subquery().c
    here = select(near.id).where(near.text.contains(text, autoescape=True)).order_by(near.id)
    found = session.execute(here.limit(limit)).scalars().all()
    if len(found) < limit:
        having = select(own).where(column.contains(text, autoescape=True)).cte().prefix_with("MATERIALIZED").c
        found = session.execute(select(having.id).order_by(having.id).limit(limit)).scalars().all()
    return found


def _devices(session: Session, ids: Sequence[str]) -> Iterator[FoundDevice]:
    columns = (
        FleetDevice.id,
        FleetDevice.profile,
        FleetDevice.is_online,
        FleetDevice.revoked_at,
        FleetDevice.display_name,
    )
    statement = select(*(col(one) for one in columns)).where(col(FleetDevice.id).in_(ids))
    for device_id, profile, is_online, revoked_at, display_name in session.execute(statement) if ids else ():
        yield FoundDevice(DeviceId(device_id), profile, store.status_of(is_online, revoked_at), display_name)
