"""Devices and groups by a part of their names: what a search box asks while somebody types, also in a fleet of 100,000.

Ids that begin with the text come from the index; only when these are too few is every id, and then every label, looked through.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Text, cast, func, select
from sqlmodel import Session, col

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.db.database import Database
from edgefleet_server.fleet import store
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.tables import FleetDevice, FleetGroup

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
        device_id, shown = col(FleetDevice.id), col(FleetDevice.display_name)
        # most devices have no name: to lower nothing for each of 100,000 takes a third of the time
        is_named = (shown != "") & func.lower(shown).contains(text, autoescape=True)
        conditions: list[Any] = [
            (device_id >= text) & (device_id < text + _AFTER_ALL),
            device_id.contains(text, autoescape=True) | is_named,
        ]
        if len(text) >= _LABEL_CHARS:
            conditions.append(func.lower(cast(col(FleetDevice.labels), Text)).contains(text, autoescape=True))
        found: dict[str, FoundDevice] = {}
        with self._db.read() as session:
            for condition in conditions:
                for one in _devices(session, condition, limit + len(found)):
                    found.setdefault(one.id, one)
                if len(found) >= limit:
                    break
        return list(found.values())[:limit]

    def groups(self, text: str, limit: int) -> Sequence[FoundGroup]:
        """Return up to `limit` groups that have a text in their name."""
        name = col(FleetGroup.name)
        statement = select(name, col(FleetGroup.selector)).where(name.contains(text, autoescape=True))
        with self._db.read() as session:
            return [FoundGroup(*row) for row in session.execute(statement.order_by(name).limit(limit))]


def _devices(session: Session, condition: Any, limit: int) -> Iterator[FoundDevice]:
    columns = (
        FleetDevice.id,
        FleetDevice.profile,
        FleetDevice.is_online,
        FleetDevice.revoked_at,
        FleetDevice.display_name,
    )
    statement = select(*(col(one) for one in columns)).where(condition).order_by(col(FleetDevice.id)).limit(limit)
    for device_id, profile, is_online, revoked_at, display_name in session.execute(statement):
        yield FoundDevice(DeviceId(device_id), profile, store.status_of(is_online, revoked_at), display_name)
