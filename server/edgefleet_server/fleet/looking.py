"""How a search is carried out: from which rows the database starts, so that a page is found without collecting all that match.

Rules:
1. A requirement `key=value` on a label or on a model's version can *drive*: an index has its devices in order of id. Of several the
   rarest drives, and whatever else is asked is looked up for each of its devices.
2. Where the list has another order, its first NEAR devices are looked at one by one before: where many match, they fill the page.
3. Where they do not and the driver has many devices, that order's index is walked to the end, and all is looked up.
4. Without a driver the requirements collect their devices first: a few values among many are rare, and walking might never end.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, select
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from edgefleet_server.fleet import conditions
from edgefleet_server.fleet.rules import GROUP, MODEL_PREFIX, RESERVED, Operator, Requirement, Selector
from edgefleet_server.fleet.tables import FleetDevice, FleetLabel, FleetModelState

MANY: Final = 10_000
NEAR: Final = 3_000


@dataclass(frozen=True, slots=True)
class Look:
    """A search in SQL. driver: a table with a `device_id` that has a row for each candidate, None = all devices are candidates.

    condition: what holds for a device that is wanted; probing: the same for a device at hand, whatever the driver.
    """

    condition: ColumnElement[bool]
    probing: ColumnElement[bool]
    driver: Any = None

    @property
    def own(self) -> Any:
        """The id of a candidate, as the rows that are walked have it."""
        return col(FleetDevice.id) if self.driver is None else self.driver.device_id

    def select(self, *columns: Any) -> Select[Any]:
        """Return the query of columns of the devices that are wanted."""
        if self.driver is None:
            return select(*columns).select_from(FleetDevice).where(self.condition)
        joined = (
            select(*columns).select_from(self.driver).join(FleetDevice, col(FleetDevice.id) == self.driver.device_id)
        )
        return joined.where(self.condition)


def look(
    session: Session,
    selector: Selector,
    groups: Mapping[str, Selector],
    more: Sequence[ColumnElement[bool]] = (),
    *,
    by_id: bool = True,
) -> Look:
    """Return how to search. groups: those that the selector asks for; more: conditions besides; by_id: whether that is the order."""
    flat = tuple(_flat(selector, groups))
    probing = and_(conditions.matching(Selector(flat), groups, probing=True), *more)
    counted = [(_devices(session, one), place) for place, one in enumerate(flat) if _can_drive(one)]
    if not counted:
        return Look(and_(conditions.matching(Selector(flat), groups), *more), probing)
    devices, place = min(counted)
    if devices > MANY and not by_id:
        return Look(probing, probing)
    rest = Selector(flat[:place] + flat[place + 1 :])
    driver, mine = _driver(flat[place])
    return Look(and_(*mine, conditions.matching(rest, groups, probing=True), *more), probing, driver)


def count(session: Session, found: Look, *, most: int | None = None) -> int:
    """Return how many devices are wanted; counting stops at `most`."""
    ids = found.select(col(FleetDevice.id))
    if most is not None:
        ids = ids.limit(most)
    return int(session.execute(select(func.count()).select_from(ids.subquery())).scalar_one())


def _flat(selector: Selector, groups: Mapping[str, Selector]) -> Iterator[Requirement]:
    """Yield the requirements, with those of a group in place of `group=NAME`."""
    for one in selector.requirements:
        if one.key == GROUP and one.operator is Operator.EQUALS:
            yield from groups[one.values[0]].requirements
        else:
            yield one


def _can_drive(one: Requirement) -> bool:
    is_model = one.key.startswith(MODEL_PREFIX) and one.values != ("",)
    is_label = one.key not in RESERVED and not one.key.startswith(MODEL_PREFIX)
    return one.operator is Operator.EQUALS and (is_model or is_label)


def _driver(one: Requirement) -> tuple[Any, list[ColumnElement[bool]]]:
    if one.key.startswith(MODEL_PREFIX):
        state: Any = aliased(FleetModelState)
        return state, [state.model == one.key.removeprefix(MODEL_PREFIX), state.version == one.values[0]]
    label: Any = aliased(FleetLabel)
    return label, [label.key == one.key, label.value == one.values[0]]


def _devices(session: Session, one: Requirement) -> int:
    driver, mine = _driver(one)
    some = select(driver.device_id).where(*mine).limit(MANY + 1)
    return int(session.execute(select(func.count()).select_from(some.subquery())).scalar_one())
