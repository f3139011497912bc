"""How a search is carried out: from which rows the database starts, so that a page is found without collecting all that match.

Rules:
1. A requirement `key=value` on a label or on a model's version can *drive*: an index has its devices in order of id. Of several the
   rarest drives, and whatever else is asked is looked up for each of its devices.
2. Where the list has another order, its first devices are looked at one by one before, NEAR at most: where many match, they fill the
   page. So are they for a text that more than MANY labels begin with, in any order: to collect those costs more than a page.
3. Where they do not and the driver has many devices, that order's index is walked to the end, and all is looked up.
4. Without a driver the requirements collect their devices first: a few values among many are rare, and walking might never end.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Integer, Select, and_, bindparam, func, select
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from edgefleet_server.fleet import store
from edgefleet_server.fleet.selectors import sql
from edgefleet_server.fleet.selectors.grammar import GROUP, MODEL_PREFIX, RESERVED, Operator, Requirement, Selector
from edgefleet_server.fleet.tables import FleetDevice, FleetLabel, FleetModelState

MANY: Final = 10_000
NEAR: Final = 3_000


@dataclass(frozen=True, slots=True)
class _ById:
    """A device of which nothing but the id is compared."""

    id: Any


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """A search in SQL. driver: a table with a `device_id` that has a row for each candidate, None = all devices are candidates.

    condition: what holds for a device that is wanted; at_hand: the same for a device at hand, of what has its id and `columns`.
    alone: the condition for a row of the driver without its device, None where more than the id is compared.
    is_near: whether those that are wanted may stand thickly in the order, so that looking at its first devices fills a page.
    is_all: whether every device is wanted.
    """

    condition: ColumnElement[bool]
    at_hand: Callable[[Any], ColumnElement[bool]]
    columns: Sequence[Any]
    is_near: bool
    driver: Any = None
    alone: ColumnElement[bool] | None = None
    is_all: bool = False

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

    def ids(self) -> Select[Any]:
        """Return the query of the ids of the devices that are wanted: from the driver alone where nothing else of a device is compared."""
        if self.driver is None or self.alone is None:
            return self.select(col(FleetDevice.id))
        return select(self.driver.device_id).where(self.alone)


def plan_query(
    session: Session,
    selector: Selector,
    groups: Mapping[str, Selector],
    more: Sequence[ColumnElement[bool]] = (),
    *,
    text: str = "",
    by_id: bool = True,
) -> QueryPlan:
    """Return how to search. groups: those that the selector asks for; more: conditions besides; by_id: whether that is the order."""
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    if text:
        more = (*more, sql.found_by(text, is_sqlite=is_sqlite))
    flat = tuple(_flat(selector, groups))
    drivers = [place for place, one in enumerate(flat) if _can_drive(one)]
    is_only = by_id and len(drivers) == 1  # it drives, however many it has
    counted = sorted((0 if is_only else _devices(session, flat[place]), place) for place in drivers)
    probed = _rarest_first(flat, [place for _, place in counted])

    def at_hand(device: Any) -> ColumnElement[bool]:
        named = (sql.found_by_at_hand(text, device, is_sqlite=is_sqlite),) if text else ()
        return and_(sql.matching(probed, groups, probing=True, device=device), *named)

    is_near = _is_common(session, text, is_sqlite=is_sqlite) if text else bool(flat) and not by_id
    columns = sql.columns_of(probed, groups)
    driver, alone, condition = None, None, sql.matching(Selector(flat), groups)
    if counted and counted[0][0] > MANY and not by_id:
        condition = sql.matching(probed, groups, probing=True)
    elif counted:
        place = counted[0][1]
        driver, mine = _driver(flat[place])
        rest = Selector(tuple(one for one in probed.requirements if one is not flat[place]))
        condition = and_(*mine, sql.matching(rest, groups, probing=True))
        if not columns and not more:
            alone = and_(*mine, sql.matching(rest, groups, probing=True, device=_ById(driver.device_id)))
    is_all = not flat and not more
    return QueryPlan(and_(condition, *more), at_hand, columns, is_near, driver, alone, is_all)


def count(session: Session, found: QueryPlan, *, most: int | None = None) -> int:
    """Return how many devices are wanted; counting stops at `most`."""
    if found.is_all and most is None:
        return store.count_all(session)
    ids = found.ids()
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


def _rarest_first(flat: Sequence[Requirement], places: Sequence[int]) -> Selector:
    """Return requirements in the order in which a device is asked: its own columns first, then other tables from the rarest value on."""
    own = [one for place, one in enumerate(flat) if place not in places]
    return Selector((*own, *(flat[place] for place in places)))


def _is_common(session: Session, text: str, *, is_sqlite: bool) -> bool:
    """Return whether more than MANY labels begin with a text."""
    begun = select(col(FleetLabel.device_id)).where(sql.labels_found_by(text, is_sqlite=is_sqlite))
    return _rows(session, _counted(begun), {}) > MANY


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
    if one.key.startswith(MODEL_PREFIX):
        return _rows(session, _RUNNING, {"key": one.key.removeprefix(MODEL_PREFIX), "value": one.values[0]})
    return _rows(session, _LABELLED, {"key": one.key, "value": one.values[0]})


def _counted(some: Select[Any]) -> Select[Any]:
    """Return the query of how many rows there are, up to `most`."""
    return select(func.count()).select_from(some.limit(bindparam("most", type_=Integer())).subquery())


def _rows(session: Session, counted: Select[Any], values: Mapping[str, str]) -> int:
    """Return how many rows there are, up to one more than MANY."""
    return int(session.connection().execute(counted, {**values, "most": MANY + 1}).scalar_one())


_LABELLED: Final = _counted(
    select(col(FleetLabel.device_id)).where(
        col(FleetLabel.key) == bindparam("key"), col(FleetLabel.value) == bindparam("value")
    )
)
_RUNNING: Final = _counted(
    select(col(FleetModelState.device_id)).where(
        col(FleetModelState.model) == bindparam("key"), col(FleetModelState.version) == bindparam("value")
    )
)
"""Made once: to write such a statement takes longer than to count a few rows."""
