"""The fleet in counts that do not grow with it: for `/metrics`, of all devices at once; for a model, by version, profile and site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Select, and_, case, func, select
from sqlmodel import col

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.inventory import store
from edgefleet_server.fleet.inventory.device_health import DeviceDrift, DeviceHealthReader, GroupPresence
from edgefleet_server.fleet.selectors import sql
from edgefleet_server.fleet.tables import FleetDevice, FleetLabel, FleetModelState
from edgefleet_terms.reserved_labels import SITE_LABEL

KEPT_S: Final = 15.0
PATIENCE: Final = 50
"""Counting takes a fiftieth of the time at most, however large the fleet is."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as too little: certificates that end before a moment, and free disk space below so many MiB.

    heard_since: what devices that are away said before counts no more.
    """

    heard_since: datetime
    certificate_until: datetime
    least_free_mb: float


@dataclass(frozen=True, slots=True)
class FleetCounts:
    """The fleet in counts; all but `revoked` are of live devices.

    away: offline, or not heard of since the server started. versions: devices that run a version, by (model, version). updates: devices
    by (model, state of the assignment). first_certificate_end: None without devices. drifts: what devices that
    are not suspect report of drift now.
    """

    online: int
    offline: int
    unknown: int
    revoked: int
    away: int
    profiles: Mapping[str, int]
    groups: Sequence[GroupPresence]
    versions: Mapping[tuple[str, str], int]
    updates: Mapping[tuple[str, str], int]
    certificates_end: int
    first_certificate_end: datetime | None
    low_disk: int
    drifts: Sequence[DeviceDrift]


class FleetCounter:
    """Counts the fleet. Thread-safe; calls block."""

    def __init__(self, db: Database) -> None:
        """Read from `db`."""
        self._db = db
        self._health = DeviceHealthReader(db)

    def count(self, limits: Limits) -> FleetCounts:
        """Return the counts of now."""
        groups, drifts = self._health.groups(), self._health.drifts(limits.heard_since)
        with self._db.read() as session:
            updates: dict[tuple[str, str], int] = {}
            for model, _version, state, n in store.count_model_states(session):
                updates[model, state] = updates.get((model, state), 0) + n
            versions = {(model, version): n for model, version, n in store.count_versions(session)}
            profiles = store.count_by(session, col(FleetDevice.profile))
            whole = _Whole(*session.execute(_whole(limits)).one())
        return FleetCounts(
            online=int(whole.online or 0),
            offline=int(whole.offline or 0),
            unknown=int(whole.unknown or 0),
            revoked=int(whole.revoked or 0),
            away=int(whole.away or 0),
            profiles=profiles,
            groups=groups,
            versions=versions,
            updates=updates,
            certificates_end=int(whole.certificates_end or 0),
            first_certificate_end=whole.first_certificate_end,
            low_disk=int(whole.low_disk or 0),
            drifts=drifts,
        )

    def running_bundles(self) -> list[tuple[str, str, int]]:
        """Return (model, sha256 of the bundle, live devices that run it)."""
        with self._db.read() as session:
            return store.count_bundles(session)


class _Whole(NamedTuple):
    """What one look at all rows of devices counts; sums are null without devices."""

    online: int | None
    offline: int | None
    unknown: int | None
    revoked: int | None
    away: int | None
    certificates_end: int | None
    low_disk: int | None
    first_certificate_end: datetime | None


def _whole(limits: Limits) -> Select[Any]:
    is_live, is_online = sql.is_live(), col(FleetDevice.is_online)
    counted = [
        and_(is_live, is_online.is_(True)),
        and_(is_live, is_online.is_(False)),
        and_(is_live, is_online.is_(None)),
        col(FleetDevice.revoked_at).is_not(None),
        and_(is_live, col(FleetDevice.offline_since).is_not(None), is_online.is_not(True)),
        and_(is_live, col(FleetDevice.cert_not_after) < limits.certificate_until),
        and_(is_live, col(FleetDevice.free_mb) < limits.least_free_mb),
    ]
    sums = [func.sum(case((condition, 1), else_=0)) for condition in counted]
    return select(*sums, func.min(case((is_live, col(FleetDevice.cert_not_after)))))


@dataclass(frozen=True, slots=True)
class VersionPlace:
    """How many live devices of a profile at a site run a version, as they last reported. site: "" of those without such a label.

    silent: how many of them are not connected now.
    """

    version: str
    profile: str
    site: str
    devices: int
    silent: int


class VersionPlaces:
    """Counts them. Thread-safe; calls block."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Read from `db`."""
        self._db = db
        self._clock = clock
        self._kept: dict[str, tuple[float, list[VersionPlace]]] = {}

    def of_model(self, model: str) -> Sequence[VersionPlace]:
        """Return the places of a model's versions, at most KEPT_S old, or older where counting takes long."""
        now_s = self._clock.monotonic_s()
        kept = {name: one for name, one in self._kept.items() if now_s < one[0]}
        if model not in kept:
            found = self._counted(model)
            took_s = self._clock.monotonic_s() - now_s
            kept[model] = (now_s + max(KEPT_S, PATIENCE * took_s), found)
        self._kept = kept
        return kept[model][1]

    def _counted(self, model: str) -> list[VersionPlace]:
        state, device, label = FleetModelState, FleetDevice, FleetLabel
        keys = (col(state.version), col(device.profile), func.coalesce(col(label.value), ""))
        silent = func.sum(case((col(device.is_online).is_(True), 0), else_=1))
        statement = (
            select(*keys, func.count(), silent)
            .select_from(state)
            .join(device, col(device.id) == col(state.device_id))
            .outerjoin(label, and_(col(label.device_id) == col(state.device_id), col(label.key) == SITE_LABEL))
            .where(col(state.model) == model, col(state.version) != "", sql.is_live())
            .group_by(*keys)
        )
        with self._db.read() as session:
            rows = session.execute(statement).all()
        return [VersionPlace(version, profile, site, int(n), int(away)) for version, profile, site, n, away in rows]
