"""How many devices a selector matches, counted by the database: for who needs numbers and no names.

Its own file because it reads no device; which ones match, `conditions` says. Devices that were revoked are never counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, select
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from edgefleet_protocol.ids import ProfileName
from edgefleet_server.fleet import conditions, selecting
from edgefleet_server.fleet.rules import Selector
from edgefleet_server.fleet.tables import FleetDevice, FleetLabel


@dataclass(frozen=True, slots=True)
class DeviceCount:
    """Devices of one profile with these values of the labels that were asked for; None: without the label."""

    profile: ProfileName
    values: tuple[str | None, ...]
    devices: int


def count_matching(session: Session, selector: Selector, labels: Sequence[str] = ()) -> list[DeviceCount]:
    """Return how many devices match, by profile and by the values of `labels`. Raises BadSelectorError for an unknown group."""
    matches = conditions.matching(selector, selecting.asked_groups(session, selector))
    columns: dict[str, Any] = {key: aliased(FleetLabel) for key in labels}
    keys = [col(FleetDevice.profile), *(row.value for row in columns.values())]
    statement = select(*keys, func.count()).select_from(FleetDevice)
    for key, row in columns.items():
        statement = statement.outerjoin(row, and_(row.device_id == col(FleetDevice.id), row.key == key))
    counted = statement.where(conditions.is_live(), matches).group_by(*keys)
    return [DeviceCount(ProfileName(profile), tuple(rest), int(n)) for profile, *rest, n in session.execute(counted)]
