"""What devices belong to, all in few queries: profile, site and groups, for sums of telemetry by what devices have in common (ADR 0104)."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlmodel import col

from edgefleet_server.db.bulk import among
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.inventory.device_health import SITE
from edgefleet_server.fleet.selectors import device_selector, sql
from edgefleet_server.fleet.tables import FleetDevice, FleetLabel

Membership = tuple[str, str, tuple[str, ...]]
"""Profile, site ("" without one) and the names of groups, sorted."""


class MembershipReader:
    """Says what devices belong to. Thread-safe; calls block."""

    def __init__(self, db: Database) -> None:
        """Read from `db`."""
        self._db = db

    def of(self, devices: Sequence[str] | None) -> dict[str, Membership]:
        """Return what these devices belong to, None for all; unknown devices are left out. One query a group."""
        with self._db.read() as session:
            chosen = [] if devices is None else [among(session, col(FleetDevice.id), devices)]
            named = [] if devices is None else [among(session, col(FleetLabel.device_id), devices)]
            profiles = session.execute(select(col(FleetDevice.id), col(FleetDevice.profile)).where(*chosen)).all()
            labels = select(col(FleetLabel.device_id), col(FleetLabel.value)).where(col(FleetLabel.key) == SITE, *named)
            sites = dict(session.execute(labels).all())
            groups: dict[str, list[str]] = {}
            for name, selector in sorted(device_selector.all_groups(session).items()):
                inside = select(col(FleetDevice.id)).where(sql.matching(selector, {}), *chosen)
                for device in session.execute(inside).scalars():
                    groups.setdefault(device, []).append(name)
        return {device: (profile, sites.get(device, ""), tuple(groups.get(device, ()))) for device, profile in profiles}
