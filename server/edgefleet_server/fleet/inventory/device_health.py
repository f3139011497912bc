"""What rules of alerts need to know of devices and groups: read-only, of those devices that a rule may say something of (ADR 0165)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlmodel import Session, col

from edgefleet_server.db import bulk
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
class DeviceNeeds:
    """Which live devices rules may say something of, next to those that are away or suspect.

    ends_before: certificates that end before; free_below_mb: less room than this; None: no rule asks. named: ids of others.
    """

    ends_before: datetime | None = None
    free_below_mb: float | None = None
    named: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class DeviceCounts:
    """How many live devices there are, and how many at each site."""

    live: int
    sites: Mapping[str, int]


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

    def devices(self, needs: DeviceNeeds | None = None) -> list[DeviceHealth]:
        """Return the live devices that are needed, None: all of them, in order of id."""
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
            if needs is not None:
                ids = _needed(session, needs)
                wanted = bulk.among(session, col(FleetDevice.id), ids)
                statement, away = statement.where(wanted), away.where(wanted)
            absences = {str(device): tuple(bins) for device, bins in session.execute(away)}
            rows: list[list[Any]] = [list(row) for row in session.execute(statement)]
        return [DeviceHealth(site or "", absences.get(row[0], ()), *row) for site, *row in rows]

    def counts(self) -> DeviceCounts:
        """Return how many live devices there are, and how many at each site."""
        own, here = col(FleetLabel.value), col(FleetLabel.key) == SITE
        counted = select(own, func.count()).where(here).group_by(own)
        gone = select(col(FleetDevice.id)).where(sql.has_status(DeviceStatus.REVOKED))
        with self._db.read() as session:
            sites = {str(site): int(n) for site, n in session.execute(counted)}
            for site, n in session.execute(counted.where(col(FleetLabel.device_id).in_(gone))):
                sites[site] -= int(n)
            return DeviceCounts(fleet_store.count_live(session), sites)

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


def _needed(session: Session, needs: DeviceNeeds) -> list[str]:
    """Return the ids of devices that rules may say something of: each condition is one that an index answers."""
    own, status = col(FleetDevice.id), sql.has_status
    conditions: list[ColumnElement[bool]] = [
        status(DeviceStatus.OFFLINE),
        and_(status(DeviceStatus.UNKNOWN), col(FleetDevice.offline_since).is_not(None)),
        col(FleetDevice.suspect_since).is_not(None),
    ]
    if needs.ends_before is not None:
        conditions.append(col(FleetDevice.cert_not_after) < needs.ends_before)
    if needs.free_below_mb is not None:
        conditions.append(col(FleetDevice.free_mb) < needs.free_below_mb)
    found = set(needs.named)
    for condition in conditions:
        found.update(session.execute(select(own).where(condition)).scalars())
    return sorted(found)
