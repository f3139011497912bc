"""How many devices a selector matches, counted by the database: for who needs numbers and no names.

It reads no device; which ones match, `sql` says. Devices that were revoked are never counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.fleet.selectors import device_selector, sql
from edgefleet_server.fleet.selectors.grammar import Selector, parse_selector
from edgefleet_server.fleet.tables import FleetDevice, FleetLabel


@dataclass(frozen=True, slots=True)
class DeviceCount:
    """Devices of one profile with these values of the labels that were asked for; None: without the label."""

    profile: ProfileName
    values: tuple[str | None, ...]
    devices: int


@dataclass(frozen=True, slots=True)
class DeviceSet:
    """Devices that need not be named: those that a selector matches, or, where `ids` is given, those whose ids this query finds."""

    selector: str = ""
    ids: Select[Any] | None = None


@dataclass(frozen=True, slots=True)
class Shared:
    """How many devices crowds share, and the first of them by id ("" = none)."""

    devices: int
    first: DeviceId


NOTHING_SHARED: Final = Shared(0, DeviceId(""))


def count_matching(session: Session, selector: Selector, labels: Sequence[str] = ()) -> list[DeviceCount]:
    """Return how many devices match, by profile and by the values of `labels`. Raises BadSelectorError for an unknown group."""
    matches = sql.matching(selector, device_selector.asked_groups(session, selector))
    columns: dict[str, Any] = {key: aliased(FleetLabel) for key in labels}
    keys = [col(FleetDevice.profile), *(row.value for row in columns.values())]
    statement = select(*keys, func.count()).select_from(FleetDevice)
    for key, row in columns.items():
        statement = statement.outerjoin(row, and_(row.device_id == col(FleetDevice.id), row.key == key))
    counted = statement.where(sql.is_live(), matches).group_by(*keys)
    return [DeviceCount(ProfileName(profile), tuple(rest), int(n)) for profile, *rest, n in session.execute(counted)]


def count_shared(session: Session, mine: DeviceSet, theirs: Sequence[DeviceSet]) -> Shared:
    """Return what a crowd shares with any of others. Raises BadSelectorError for an unknown group."""
    own = col(FleetDevice.id)
    among = or_(*(_holds(session, one) for one in theirs))
    counted = select(func.count(), func.min(own)).where(sql.is_live(), _holds(session, mine), among)
    devices, first = session.execute(counted).one()
    return Shared(int(devices), DeviceId(first or ""))


def count_shared_each(session: Session, mine: DeviceSet, theirs: Select[Any]) -> dict[str, Shared]:
    """Return what a crowd shares with each of others that share anything. theirs: the query of (name of a crowd, device).

    Raises BadSelectorError for an unknown group.
    """
    own = col(FleetDevice.id)
    name, device = theirs.subquery().c
    counted = (
        select(name, func.count(), func.min(own))
        .join(FleetDevice, own == device)
        .where(sql.is_live(), _holds(session, mine))
        .group_by(name)
    )
    return {str(one): Shared(int(devices), DeviceId(first)) for one, devices, first in session.execute(counted)}


def _holds(session: Session, crowd: DeviceSet) -> ColumnElement[bool]:
    if crowd.ids is not None:
        return col(FleetDevice.id).in_(crowd.ids)
    selector = parse_selector(crowd.selector)
    return sql.matching(selector, device_selector.asked_groups(session, selector))
