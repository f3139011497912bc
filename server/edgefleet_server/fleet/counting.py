"""How many devices a selector matches, counted by the database: for who needs numbers and no names.

Its own file because it answers what can be counted in one statement only; whatever else a selector asks (groups, models, numbers in
labels) is matched device by device in `selecting`. Devices that were revoked are never counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, String, func, literal_column, or_, select
from sqlmodel import Session, col

from edgefleet_protocol.ids import ProfileName
from edgefleet_server import bulk
from edgefleet_server.fleet.rules import Operator, Requirement, Selector, is_label_key, is_reserved
from edgefleet_server.fleet.tables import FleetDevice


@dataclass(frozen=True, slots=True)
class DeviceCount:
    """Devices of one profile with these values of the labels that were asked for; None: without the label."""

    profile: ProfileName
    values: tuple[str | None, ...]
    devices: int


_COLUMNS: Final = {"id": col(FleetDevice.id), "profile": col(FleetDevice.profile), "arch": col(FleetDevice.arch)}


def count_matching(session: Session, selector: Selector, labels: Sequence[str] = ()) -> list[DeviceCount] | None:
    """Return how many devices match, by profile and by the values of `labels`; None when that cannot be counted in one statement."""
    conditions = list(_conditions(session, selector))
    wanted = [one for one in conditions if one is not None]
    if len(wanted) < len(conditions):
        return None
    keys: list[Any] = [col(FleetDevice.profile), *(_label(session, key) for key in labels)]
    statement = select(*keys, func.count()).where(col(FleetDevice.revoked_at).is_(None), *wanted).group_by(*keys)
    return [DeviceCount(ProfileName(profile), tuple(rest), int(n)) for profile, *rest, n in session.execute(statement)]


def _conditions(session: Session, selector: Selector) -> Iterator[ColumnElement[bool] | None]:
    for requirement in selector.requirements:
        column = _column(session, requirement)
        yield None if column is None else _holds(requirement, column)


def _column(session: Session, requirement: Requirement) -> Any:
    """Return what a requirement compares, None when no column says it."""
    if requirement.key in _COLUMNS:
        return _COLUMNS[requirement.key]
    return None if is_reserved(requirement.key) else _label(session, requirement.key)


def _label(session: Session, key: str) -> Any:
    """Return a label's value. The key stands in the statement itself, so that an index on it is found. Raises ValueError."""
    if not is_label_key(key):
        raise ValueError(f"{key!r} is no key of a label")
    labels = col(FleetDevice.labels)
    if bulk.is_postgresql(session):
        return labels.op("->>", return_type=String())(literal_column(f"'{key}'"))
    return func.json_extract(labels, literal_column(f"'$.\"{key}\"'"), type_=String())


def _holds(requirement: Requirement, column: Any) -> ColumnElement[bool] | None:
    """Return the condition in SQL, as `Requirement.holds` has it; None for one that compares numbers."""
    match requirement.operator:
        case Operator.EXISTS:
            found: ColumnElement[bool] = column.is_not(None)
        case Operator.MISSING:
            found = column.is_(None)
        case Operator.EQUALS | Operator.IN:
            found = column.in_(requirement.values)
        case Operator.NOT_EQUALS | Operator.NOT_IN:
            found = or_(column.is_(None), column.not_in(requirement.values))
        case Operator.GREATER | Operator.LESS:
            return None
    return found
