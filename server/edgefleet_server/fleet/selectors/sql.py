"""A selector as a condition of SQL, so that the database finds its devices instead of every row being read.

It holds for exactly those devices for which `rules.Selector.matches` holds: that function gives the meaning, this file only says
it in SQL, and a test compares the two on both databases. No condition is ever NULL, so that `NOT` may be put before any.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Text, and_, case, cast, false, func, not_, or_, select, true
from sqlmodel import col

from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.selectors import health_condition
from edgefleet_server.fleet.selectors.grammar import (
    GROUP,
    HEALTH,
    MODEL_PREFIX,
    SUSPECT,
    Operator,
    Requirement,
    Selector,
)
from edgefleet_server.fleet.tables import FleetDevice, FleetLabel, FleetModelState

Condition = ColumnElement[bool]
_NUMBER: Final = r"\A-?[0-9]{1,18}\Z"
_COLUMNS: Final[Mapping[str, tuple[Any, ...]]] = {
    "profile": (FleetDevice.profile,),
    "arch": (FleetDevice.arch,),
    "status": (FleetDevice.revoked_at, FleetDevice.is_online),
    "free_mb": (FleetDevice.free_mb,),
    SUSPECT: (FleetDevice.suspect_since,),
    HEALTH: health_condition.COLUMNS,
}


def matching(
    selector: Selector, groups: Mapping[str, Selector], *, probing: bool = False, device: Any = FleetDevice
) -> Condition:
    """Return the condition of a selector. groups: those that it asks for, by name.

    probing: other tables are looked into for each device at hand, instead of first collecting all devices that have a value there:
    right where something else has narrowed the devices already, or few of many are wanted.
    device: what has the columns that `columns_of` names and the id of a device, the table or a part of it.
    """
    return and_(true(), *(_requirement(one, groups, device, probing=probing) for one in selector.requirements))


def columns_of(selector: Selector, groups: Mapping[str, Selector]) -> list[Any]:
    """Return the columns of devices, but the id, that the condition of a selector compares."""
    inner = (one for group in groups.values() for one in group.requirements)
    keys = {one.key for one in (*selector.requirements, *inner)}
    return [column for key, columns in _COLUMNS.items() if key in keys for column in columns]


def is_live() -> Condition:
    """Return the condition of devices that are not revoked."""
    return col(FleetDevice.revoked_at).is_(None)


def has_status(status: DeviceStatus, device: Any = FleetDevice) -> Condition:
    """Return the condition of a status, as an index finds it."""
    is_online, revoked_at = device.is_online, device.revoked_at
    match status:
        case DeviceStatus.REVOKED:
            return revoked_at.is_not(None)  # type: ignore[no-any-return]
        case DeviceStatus.UNKNOWN:
            return and_(revoked_at.is_(None), is_online.is_(None))
        case DeviceStatus.ONLINE:
            return and_(revoked_at.is_(None), is_online.is_(True))
        case DeviceStatus.OFFLINE:
            return and_(revoked_at.is_(None), is_online.is_(False))


def found_by(text: str, *, is_sqlite: bool) -> Condition:
    """Return the condition of devices whose id, or the value of one of whose labels, begins with a text."""
    own, value = col(FleetDevice.id), col(FleetLabel.value)
    labelled = select(col(FleetLabel.device_id)).where(_begins(value, text, is_sqlite=is_sqlite))
    named = select(own).where(_begins(own, text, is_sqlite=is_sqlite))
    return own.in_(named.union(labelled))


def found_by_at_hand(text: str, device: Any, *, is_sqlite: bool) -> Condition:
    """Return what `found_by` does, looked up for a device at hand."""
    value = col(FleetLabel.value)
    labelled = select(col(FleetLabel.device_id)).where(_begins(value, text, is_sqlite=is_sqlite))
    return or_(
        _begins(device.id, text, is_sqlite=is_sqlite), labelled.where(col(FleetLabel.device_id) == device.id).exists()
    )


def labels_found_by(text: str, *, is_sqlite: bool) -> Condition:
    """Return the condition of labels whose value begins with a text."""
    return _begins(col(FleetLabel.value), text, is_sqlite=is_sqlite)


def _begins(column: Any, text: str, *, is_sqlite: bool) -> Condition:
    """Return the condition of a text's beginning: a range where the order is that of code points, which an index can find."""
    if is_sqlite:
        return and_(column >= text, column < text + "\U0010ffff")
    return column.startswith(text, autoescape=True)  # type: ignore[no-any-return]


def _requirement(one: Requirement, groups: Mapping[str, Selector], device: Any, *, probing: bool) -> Condition:
    match one.key:
        case "id":
            return _of_text(device.id, one)
        case "profile":
            return _of_text(device.profile, one)
        case "arch":
            return _of_text(device.arch, one)
        case "status":
            return _of_status(one, device)
        case key if key == HEALTH:
            return _of_words(one, lambda values: health_condition.has_health(values, device))
        case "free_mb":
            return _of_free_mb(one, device.free_mb)
        case key if key == SUSPECT:
            return _of_suspects(one, device.suspect_since)
        case key if key == GROUP:
            return _of_groups(one, groups, device, probing=probing)
        case key if key.startswith(MODEL_PREFIX):
            return _of_models(one, key.removeprefix(MODEL_PREFIX), device, probing=probing)
        case _:
            return _of_labels(one, device, probing=probing)


def _of_text(column: Any, one: Requirement) -> Condition:
    """Return the condition on a text that every device has."""
    match one.operator:
        case Operator.EXISTS:
            return true()
        case Operator.MISSING:
            return false()
        case Operator.EQUALS | Operator.IN:
            return column.in_(one.values)  # type: ignore[no-any-return]
        case Operator.NOT_EQUALS | Operator.NOT_IN:
            return column.not_in(one.values)  # type: ignore[no-any-return]
        case Operator.GREATER | Operator.LESS:
            return func.coalesce(_compared(_as_number(column), one), false())


def _of_status(one: Requirement, device: Any) -> Condition:
    named = (status for status in DeviceStatus if status.value in one.values)
    return _of_words(one, lambda _: _any(has_status(status, device) for status in named))


def _of_words(one: Requirement, has_any: Callable[[Sequence[str]], Condition]) -> Condition:
    """Return the condition on a word that every device has. has_any: returns the condition of having one of some words."""
    match one.operator:
        case Operator.EXISTS:
            return true()
        case Operator.EQUALS | Operator.IN:
            return has_any(one.values)
        case Operator.NOT_EQUALS | Operator.NOT_IN:
            return not_(has_any(one.values))
        case _:
            return false()


def _of_free_mb(one: Requirement, column: Any) -> Condition:
    match one.operator:
        case Operator.EXISTS:
            return column.is_not(None)  # type: ignore[no-any-return]
        case Operator.MISSING:
            return column.is_(None)  # type: ignore[no-any-return]
        case Operator.EQUALS | Operator.IN:
            return func.coalesce(cast(column, Text).in_(one.values), false())
        case Operator.NOT_EQUALS | Operator.NOT_IN:
            return func.coalesce(cast(column, Text).not_in(one.values), true())
        case Operator.GREATER | Operator.LESS:
            return func.coalesce(_compared(cast(column, BigInteger), one), false())


def _of_suspects(one: Requirement, since: Any) -> Condition:
    """Return the condition on a fact that only suspect devices have, with an empty value."""
    match one.operator:
        case Operator.EXISTS:
            return since.is_not(None)  # type: ignore[no-any-return]
        case Operator.MISSING:
            return since.is_(None)  # type: ignore[no-any-return]
        case Operator.EQUALS | Operator.IN:
            return since.is_not(None) if "" in one.values else false()
        case Operator.NOT_EQUALS | Operator.NOT_IN:
            return since.is_(None) if "" in one.values else true()
        case Operator.GREATER | Operator.LESS:
            return false()


def _of_models(one: Requirement, model: str, device: Any, *, probing: bool) -> Condition:
    row, version = FleetModelState, col(FleetModelState.version)
    running = select(col(row.device_id)).where(col(row.model) == model, version != "")
    if probing and _is_one_value(one):
        running = running.with_hint(row, "INDEXED BY ix_fleet_model_state_version", "sqlite")
    return _of_rows(running, version, one, device.id, probing=probing)


def _of_labels(one: Requirement, device: Any, *, probing: bool) -> Condition:
    labelled = select(col(FleetLabel.device_id)).where(col(FleetLabel.key) == one.key)
    if probing and _is_one_value(one):
        labelled = labelled.with_hint(FleetLabel, "INDEXED BY ix_fleet_label_key", "sqlite")
    return _of_rows(labelled, col(FleetLabel.value), one, device.id, probing=probing)


def _is_one_value(one: Requirement) -> bool:
    """Return whether one value is looked for: an index of values then answers alone, where SQLite takes the key and reads the row."""
    return one.operator in (Operator.EQUALS, Operator.NOT_EQUALS)


def _of_rows(having: Any, value: Any, one: Requirement, own: Any, *, probing: bool) -> Condition:
    """Return the condition on a value in another table: `having` selects the devices that have one. own: the id of a device."""
    match one.operator:
        case Operator.EXISTS | Operator.MISSING:
            pass
        case Operator.GREATER | Operator.LESS:
            having = having.where(_compared(_as_number(value), one))
        case _:
            having = having.where(value.in_(one.values))
    found: Condition = having.where(having.selected_columns[0] == own).exists() if probing else own.in_(having)
    is_without = one.operator in (Operator.MISSING, Operator.NOT_EQUALS, Operator.NOT_IN)
    return not_(found) if is_without else found


def _of_groups(one: Requirement, groups: Mapping[str, Selector], device: Any, *, probing: bool) -> Condition:
    """Return the condition on membership. A group's selector asks for no group, so that this ends."""
    if one.operator in (Operator.GREATER, Operator.LESS):
        return false()
    is_on_all = one.operator in (Operator.EXISTS, Operator.MISSING)
    names = groups if is_on_all else one.values
    inside = _any(matching(groups[name], {}, probing=probing, device=device) for name in names)
    return inside if one.operator in (Operator.EXISTS, Operator.EQUALS, Operator.IN) else not_(inside)


def _any(conditions: Iterable[Condition]) -> Condition:
    return or_(false(), *conditions)


def _as_number(column: Any) -> ColumnElement[int]:
    """Return a text as a whole number, NULL when it is none. CASE, because nothing else keeps the cast behind the check."""
    return case((column.regexp_match(_NUMBER), cast(column, BigInteger)))


def _compared(number: ColumnElement[int], one: Requirement) -> Condition:
    wanted = int(one.values[0])
    return number > wanted if one.operator is Operator.GREATER else number < wanted
