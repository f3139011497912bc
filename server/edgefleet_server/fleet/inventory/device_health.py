"""What rules of alerts need to know of devices and groups: read-only, of all live devices at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import and_, or_, select
from sqlmodel import col

from edgefleet_server.db.database import Database
from edgefleet_server.fleet import store as fleet_store
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.selectors import device_selector, sql
from edgefleet_server.fleet.tables import FleetDevice, FleetLabel

_COLUMNS: Final = (
    *("id", "display_name", "profile", "is_online", "offline_since", "cert_not_after", "free_mb", "suspect_since"),
    "suspect_reason",
)
SITE: Final = "site"
"""The label by which devices are at one place."""


@dataclass(frozen=True, slots=True)
class DeviceHealth:
    """One live device. offline_since: None while it is there, and for one that never connected.

    absences: see `reported.absence`; only of a device that is away.
    """

    site: str
    absences: Sequence[int]
    id: str
    name: str
    profile: str
    is_online: bool | None
    offline_since: datetime | None
    cert_not_after: datetime
    free_mb: int | None
    suspect_since: datetime | None
    suspect_reason: str


@dataclass(frozen=True, slots=True)
class DeviceDrift:
    """A model of which a live device says that signals drift."""

    device: str
    model: str
    signals: Sequence[str]


@dataclass(frozen=True, slots=True)
class GroupPresence:
    """How many live devices of a group there are, and how many of them are away."""

    group: str
    devices: int
    away: int


@dataclass(frozen=True, slots=True)
class Departure:
    """A live device that went away and is away still."""

    id: str
    name: str
    site: str
    at: datetime


class DeviceHealthReader:
    """Reads the health of devices. Thread-safe; calls block."""

    def __init__(self, db: Database) -> None:
        """Read from `db`."""
        self._db = db

    def devices(self) -> list[DeviceHealth]:
        """Return all live devices in order of id."""
        # a label is read from its table, and absences of few: to decode the JSON of every device would take most of the time
        columns = (col(getattr(FleetDevice, name)) for name in _COLUMNS)
        label = and_(col(FleetLabel.device_id) == col(FleetDevice.id), col(FleetLabel.key) == SITE)
        statement = (
            select(col(FleetLabel.value), *columns)
            .select_from(FleetDevice)
            .join(FleetLabel, label, isouter=True)
            .where(sql.is_live())
            .order_by(col(FleetDevice.id))
        )
        away = select(col(FleetDevice.id), col(FleetDevice.absences)).where(
            sql.is_live(), col(FleetDevice.offline_since).is_not(None)
        )
        with self._db.read() as session:
            absences = {str(device): tuple(bins) for device, bins in session.execute(away)}
            rows: list[list[Any]] = [list(row) for row in session.execute(statement)]
        return [DeviceHealth(site or "", absences.get(row[0], ()), *row) for site, *row in rows]

    def drifts(self, heard_since: datetime) -> list[DeviceDrift]:
        """Return what live devices say of drift, in order of id: no suspect ones, and none that was away since before."""
        away = col(FleetDevice.offline_since)
        is_heard = or_(away.is_(None), away >= heard_since, col(FleetDevice.is_online).is_(True))
        statement = (
            select(col(FleetDevice.id), col(FleetDevice.drift))
            .where(sql.is_live(), col(FleetDevice.drift).is_not(None))
            .where(col(FleetDevice.suspect_since).is_(None), is_heard)
            .order_by(col(FleetDevice.id))
        )
        with self._db.read() as session:
            return [
                DeviceDrift(str(device), model, signals)
                for device, said in session.execute(statement)
                for model, signals in said.items()
            ]

    def departures(self, since: datetime, limit: int) -> list[Departure]:
        """Return the live devices whose sessions ended since a moment and that are not back, the newest first."""
        away, own = col(FleetDevice.offline_since), col(FleetDevice.id)
        label = and_(col(FleetLabel.device_id) == own, col(FleetLabel.key) == SITE)
        statement = (
            select(own, col(FleetDevice.display_name), col(FleetLabel.value), away)
            .select_from(FleetDevice)
            .join(FleetLabel, label, isouter=True)
            .where(sql.has_status(DeviceStatus.OFFLINE), away >= since)
            .order_by(away.desc(), own)
            .limit(limit)
        )
        with self._db.read() as session:
            return [Departure(device, name, site or "", at) for device, name, site, at in session.execute(statement)]

    def groups(self) -> list[GroupPresence]:
        """Return the presence of each group."""
        away = and_(col(FleetDevice.offline_since).is_not(None), col(FleetDevice.is_online).is_not(True))
        found = []
        with self._db.read() as session:
            for name, selector in sorted(device_selector.all_groups(session).items()):
                inside = sql.matching(selector, {})
                devices = fleet_store.count_devices(session, inside, sql.is_live())
                if devices:
                    found.append(
                        GroupPresence(name, devices, fleet_store.count_devices(session, inside, sql.is_live(), away))
                    )
        return found
