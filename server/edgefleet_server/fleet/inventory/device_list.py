"""Lists of devices for people: sorted, searched, in pages both ways, and the fleet counted by what it can be narrowed to.

Rules:
1. A page costs what its rows cost, whatever the size of the fleet: each order is walked along an index from where the page begins.
   An order is a row of *segments* (those with a value, those without; one status after another), each walked by itself.
2. By health nothing is indexed: the ids of each health, the worst first, are read once for all pages and kept (`db.read_cache`), and
   a page is cut out of them. Few that a search finds (FEW) are put in that order; of many, those among the next ids are looked up.
3. Counting stops at MOST_COUNTED. What narrows the fleet is counted for all devices and kept until a device reports something new
   (`db.read_cache`): of a large fleet nobody waits for it but the first. Counting has at most SHARE of one core, also where devices report
   all the time. So has counting what a search finds, for a reader who turns its pages.
4. Of a list that is counted whole, `total` is exact. Of more than MOST_EXACT devices it is what was counted last, at most a minute ago,
   and one thread counts again meanwhile (`db.read_cache`, ADR 0173).
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import ColumnElement, Integer, Select, and_, bindparam, func, literal, or_, select, true
from sqlmodel import Session, col

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database, UtcDateTime
from edgefleet_server.db.keyset import BadCursorError
from edgefleet_server.db.read_cache import KeptReadings
from edgefleet_server.fleet import store as group_store
from edgefleet_server.fleet.health_state import WORST_FIRST, Health
from edgefleet_server.fleet.inventory import query_plan
from edgefleet_server.fleet.inventory import store as inventory_store
from edgefleet_server.fleet.inventory.query_plan import NEAR, QueryPlan
from edgefleet_server.fleet.inventory.views import DeviceView, Withdrawn, device_views
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.selectors import device_selector, grammar, health_condition, sql
from edgefleet_server.fleet.tables import FleetDevice, FleetModelState

MOST_COUNTED: Final = query_plan.MANY
MOST_EXACT: Final = 1_000
FACETS_AGE_S: Final = 1.0
SHARE: Final = 0.1
MOST_TOTALS: Final = 256
MOST_VERSIONS: Final = 100
MOST_LABELS: Final = 24
VALUES_OF_A_LABEL: Final = 8
HEALTHY: Final = WORST_FIRST.index(Health.HEALTHY)
FEW: Final = 2_000
CHUNKS: Final = (200, 1_000, 3_000)
"""How many ids of an order by health are looked up at once: first, and then."""
TROUBLED: Final = ("failed", "rolled_back")


_Value = TypeVar("_Value")


class Order(StrEnum):
    """What a list may be sorted by; `-` before it turns it around. Public: part of addresses."""

    ID = "id"
    HEALTH = "health"
    PROFILE = "profile"
    STATUS = "status"
    LAST_SEEN = "last_seen"


@dataclass(frozen=True, slots=True)
class Place:
    """A row's place in a list: the segment of the order, what it is sorted by there ("" where by its id), and its id."""

    segment: int
    key: str
    id: str

    def text(self) -> str:
        """Return the place as a cursor holds it."""
        return json.dumps([self.segment, self.key, self.id], separators=(",", ":"))

    @classmethod
    def of(cls, text: str) -> "Place":
        """Return the place in a cursor. Raises BadCursorError."""
        try:
            segment, key, device = json.loads(text)
            return cls(int(segment), str(key), str(device))
        except (ValueError, TypeError) as error:
            raise BadCursorError("this cursor belongs to another list") from error


@dataclass(frozen=True, slots=True)
class DeviceQuery:
    """Which devices, in which order, and which part. text: beginning of an id or of a label's value, "" = any.

    after, before: places that the page begins behind or ends before; neither = the first page.
    is_counted_whole: count beyond MOST_COUNTED, too. total: what an earlier page of the same walk counted, None: count.
    """

    selector: str = ""
    text: str = ""
    order: Order = Order.ID
    descending: bool = False
    after: Place | None = None
    before: Place | None = None
    limit: int = 50
    is_counted_whole: bool = False
    total: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceList:
    """A page of devices; places are None where there is nothing on that side. is_capped: there are more than `total`."""

    devices: Sequence[DeviceView]
    total: int
    is_capped: bool
    previous: Place | None
    next: Place | None


@dataclass(frozen=True, slots=True)
class Facets:
    """Live devices by what a list can be narrowed to; `status` has the revoked ones too. versions: by `model` and version, most first.

    labels: by key and value, most first.
    """

    status: Mapping[str, int]
    profiles: Mapping[str, int]
    versions: Sequence[tuple[str, str, int]]
    groups: Sequence[str]
    devices: int
    suspects: int = 0
    labels: Sequence[tuple[str, str, int]] = ()


@dataclass(frozen=True, slots=True)
class _Count(Generic[_Value]):
    """What was counted, when, how long that took, and what had been reported by then."""

    value: _Value
    at_s: float
    cost_s: float
    reports: int

    def rests(self, now_s: float) -> bool:
        """Whether it is not to be counted again yet in any case."""
        return 0 <= now_s - self.at_s < self.cost_s * (1 / SHARE - 1)

    def is_fresh(self, now_s: float, reports: int) -> bool:
        """Whether it need not be counted again."""
        return self.rests(now_s) or (self.reports == reports and 0 <= now_s - self.at_s < FACETS_AGE_S)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A device that failed with a model: the newest first."""

    device: str
    model: str
    state: str
    error_class: str
    reason: str
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class _ByHealth:
    """The ids of each health in order, the worst first; places: in which of them an id is that is not among the healthy ones."""

    ids: Sequence[Sequence[str]]
    places: Mapping[str, int]

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> "_ByHealth":
        """Return the order of ids by health. Databases may order texts otherwise than Python."""
        ids = [sorted(texts.get(health.value, "").split()) for health in WORST_FIRST]
        return cls(ids, {one: place for place, group in enumerate(ids) if place != HEALTHY for one in group})

    def place(self, device: str) -> int:
        """Return the place of a device; one that came meanwhile stands among the healthy ones until health is read again."""
        return self.places.get(device, HEALTHY)


@dataclass(frozen=True, slots=True)
class _Segment:
    """Rows of one order that an index walks: those of `condition`, by `column` and the id (by the id alone where None)."""

    condition: ColumnElement[bool]
    column: Any = None


class DeviceLister:
    """Reads lists. Thread-safe; calls block."""

    def __init__(self, db: Database, clock: Clock, withdrawn: Withdrawn = dict) -> None:
        """Wire the parts. withdrawn: returns why releases were withdrawn, by release."""
        self._db = db
        self._withdrawn = withdrawn
        self._clock = clock
        self._facets = KeptReadings[str, Facets](clock, lambda _: self._counted(), 1)
        self._totals: dict[tuple[str, str], _Count[int]] = {}
        self._whole = KeptReadings[tuple[str, str], int](clock, self._counted_whole, MOST_TOTALS, quick_s=0.0)
        self._many: set[tuple[str, str]] = set()
        self._reports = 0
        self._health = KeptReadings(clock, self._by_health, 1)

    def page(self, query: DeviceQuery) -> DeviceList:
        """Return a page of devices. Raises BadSelectorError, BadCursorError."""
        parsed = grammar.parse_selector(query.selector)
        with self._db.read() as session:
            found = self._look(session, parsed, query.text, by_id=query.order is Order.ID)
            places = self._worst(session, found, query) if query.order is Order.HEALTH else _walk(session, found, query)
            is_back = query.before is not None
            has_more = len(places) > query.limit
            places = places[: query.limit]
            if is_back:
                places.reverse()
            rows = inventory_store.shown_devices(session, [place.id for place in places])
            total = query.total
            if total is None:
                count = self._whole_total if query.is_counted_whole else self._total
                total = count(session, found, query)
            is_capped = total > MOST_COUNTED and not query.is_counted_whole
            return DeviceList(
                devices=device_views(session, rows, self._withdrawn),
                total=MOST_COUNTED if is_capped else total,
                is_capped=is_capped,
                previous=places[0] if places and (has_more if is_back else query.after is not None) else None,
                next=places[-1] if places and (is_back or has_more) else None,
            )

    def count(self, selector: str, text: str = "") -> int:
        """Return how many live devices match, exactly. Raises BadSelectorError."""
        with self._db.read() as session:
            found = self._look(session, grammar.parse_selector(selector), text, sql.is_live())
            return query_plan.count(session, found)

    def names_of(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the display names of these devices, by id; devices without one are left out."""
        with self._db.read() as session:
            return group_store.display_names(session, ids)

    def forget(self) -> None:
        """Count again when asked next: a device reported something. Called in the thread that committed it; waits for nothing."""
        self._reports += 1

    def facets(self) -> Facets:
        """Return what the fleet can be narrowed to."""
        return self._facets.get("", self._reports)

    def troubled(self, limit: int) -> list[Trouble]:
        """Return the live devices that failed last, with what they say of it."""
        with self._db.read() as session:
            return [
                _trouble(row, reported) for row, reported in inventory_store.newest_troubles(session, TROUBLED, limit)
            ]

    def _look(
        self, session: Session, selector: grammar.Selector, text: str, *more: ColumnElement[bool], by_id: bool = True
    ) -> QueryPlan:
        groups = device_selector.asked_groups(session, selector)
        return query_plan.plan_query(session, selector, groups, more, text=text, by_id=by_id)

    def _total(self, session: Session, found: QueryPlan, query: DeviceQuery) -> int:
        """Return how many devices a search finds, up to one more than MOST_COUNTED."""
        key, now_s = (query.selector, query.text), self._clock.monotonic_s()
        kept, reports = self._totals.get(key), self._reports
        if kept is None or not (kept.is_fresh(now_s, reports) if kept.value > MOST_COUNTED else kept.rests(now_s)):
            total, at_s = query_plan.count(session, found, most=MOST_COUNTED + 1), self._clock.monotonic_s()
            if len(self._totals) >= MOST_TOTALS:
                self._totals = {}
            kept = self._totals[key] = _Count(total, at_s, at_s - now_s, reports)
        return kept.value

    def _whole_total(self, session: Session, found: QueryPlan, query: DeviceQuery) -> int:
        """Return how many devices a search finds: few are counted, of many the last count is kept."""
        key = (query.selector, query.text)
        if key in self._many and (kept := self._whole.get(key, self._reports)) > MOST_EXACT:
            return kept
        total = query_plan.count(session, found)
        if len(self._many) >= MOST_TOTALS:
            self._many = set()
        (self._many.add if total > MOST_EXACT else self._many.discard)(key)
        return total

    def _counted_whole(self, key: tuple[str, str]) -> int:
        selector, text = key
        with self._db.read() as session:
            return query_plan.count(session, self._look(session, grammar.parse_selector(selector), text))

    def _counted(self) -> Facets:
        with self._db.read() as session:
            status = {one.value: group_store.count_devices(session, sql.has_status(one)) for one in DeviceStatus}
            profiles = inventory_store.count_by(session, col(FleetDevice.profile))
            versions = inventory_store.count_versions(session)
            groups = [row.name for row in group_store.groups(session)]
            suspects = len(group_store.suspects(session))
            labels = inventory_store.count_labels(session, VALUES_OF_A_LABEL, MOST_LABELS)
        live = sum(n for name, n in status.items() if name != DeviceStatus.REVOKED)
        return Facets(status, profiles, versions[:MOST_VERSIONS], groups, live, suspects, labels)

    def _by_health(self, _: str) -> _ByHealth:
        with self._db.read() as session:
            is_sqlite = session.get_bind().dialect.name == "sqlite"
            word = health_condition.health_word().label("word")
            every = select(word, col(FleetDevice.id).label("id")).subquery().c
            ids = func.group_concat(every.id, " ") if is_sqlite else func.string_agg(every.id, literal(" "))
            found = session.connection().execute(select(every.word, ids).group_by(every.word)).all()
        return _ByHealth.of({str(health): str(text) for health, text in found})

    def _worst(self, session: Session, wanted: QueryPlan, query: DeviceQuery) -> list[Place]:
        """Return the places of a page in order of health, as `_walk` does."""
        kept = self._health.get("", self._reports)
        if not query.selector and not query.text:
            return _cut(kept.ids, query, None)
        if self._total(session, wanted, query) > FEW:
            return _cut(kept.ids, query, lambda part: _wanted_of(session, wanted, part))
        groups: list[list[str]] = [[] for _ in kept.ids]
        for device in sorted(str(one) for one in session.execute(wanted.ids()).scalars()):
            groups[kept.place(device)].append(device)
        return _cut(groups, query, None)


def _walk(session: Session, wanted: QueryPlan, query: DeviceQuery) -> list[Place]:
    """Return the places of the page and of one row more, in the direction of walking: backwards for a page before a place."""
    is_down = query.descending is not (query.before is not None)
    edge = query.before or query.after
    segments = list(enumerate(_segments(query.order)))
    found: list[Place] = []
    for number, segment in reversed(segments) if is_down else segments:
        if edge is not None and (number > edge.segment if is_down else number < edge.segment):
            continue
        edge_here = edge if edge is not None and edge.segment == number else None
        needed = query.limit + 1 - len(found)
        rows = _near(session, wanted, segment, edge_here, is_down=is_down, limit=needed) if wanted.is_near else []
        if len(rows) < needed:
            statement = _ordered(wanted.select, wanted.own, segment, edge_here, is_down=is_down)
            rows = session.execute(statement.limit(needed)).all()
        found += [Place(number, _key(row[:-1]), str(row[-1])) for row in rows]
        if len(found) > query.limit:
            break
    return found


def _wanted_of(session: Session, wanted: QueryPlan, ids: Sequence[str]) -> set[str]:
    """Return those of some devices that are wanted: all is looked up for each of them."""
    own = col(FleetDevice.id)
    part = select(own, *(one for one in wanted.columns if one is not FleetDevice.id)).where(own.in_(ids)).subquery()
    found = select(part.c.id).where(wanted.at_hand(part.c))
    return set(session.execute(found).scalars())


def _cut(
    groups: Sequence[Sequence[str]], query: DeviceQuery, look_up: Callable[[Sequence[str]], set[Any]] | None
) -> list[Place]:
    """Return the places of a page of ids in groups, each in order, as `_walk` does. look_up: returns which ids are wanted; None: all."""
    is_down = query.descending is not (query.before is not None)
    edge = query.before or query.after
    numbered = list(enumerate(groups))
    found: list[Place] = []
    for number, ids in reversed(numbered) if is_down else numbered:
        if edge is not None and (number > edge.segment if is_down else number < edge.segment):
            continue
        begin, end = 0, len(ids)
        if edge is not None and edge.segment == number:
            begin, end = (0, bisect_left(ids, edge.id)) if is_down else (bisect_right(ids, edge.id), end)
        sizes = iter(CHUNKS)
        size = next(sizes)
        while begin < end and len(found) <= query.limit:
            part = ids[max(begin, end - size) : end] if is_down else ids[begin : min(end, begin + size)]
            begin, end = (begin, end - len(part)) if is_down else (begin + len(part), end)
            kept = part if look_up is None else look_up(part)
            ordered = (one for one in (reversed(part) if is_down else part) if look_up is None or one in kept)
            found += [Place(number, "", one) for one in ordered][: query.limit + 1 - len(found)]
            size = next(sizes, size)
        if len(found) > query.limit:
            break
    return found


def _segments(order: Order) -> list[_Segment]:
    seen = col(FleetDevice.last_seen)
    match order:
        case Order.ID | Order.HEALTH:
            return [_Segment(true())]
        case Order.PROFILE:
            return [_Segment(true(), col(FleetDevice.profile))]
        case Order.STATUS:
            return [_Segment(sql.has_status(one)) for one in DeviceStatus]
        case Order.LAST_SEEN:
            return [_Segment(seen.is_(None)), _Segment(seen.is_not(None), seen)]


def _near(
    session: Session, wanted: QueryPlan, segment: _Segment, edge: Place | None, *, is_down: bool, limit: int
) -> Sequence[Any]:
    """Return the rows that are wanted among the first of a segment behind a place, in order: enough, or those among the first NEAR."""
    more = [column for column in wanted.columns if column is not segment.column]
    ordered = _ordered(lambda *keys: select(*keys, *more), col(FleetDevice.id), segment, edge, is_down=is_down)
    near = ordered.limit(bindparam("reach", type_=Integer())).subquery()
    keys = list(near.c)[: len(near.c) - len(more)]
    found = select(*keys).where(wanted.at_hand(near.c)).order_by(*(one.desc() if is_down else one for one in keys))
    found = found.limit(limit)
    rows: Sequence[Any] = ()
    for reach in (NEAR // 10, NEAR):
        rows = session.connection().execute(found, {"reach": reach}).all()
        if len(rows) == limit:
            break
    return rows


def _ordered(
    choose: Callable[..., Select[Any]], own: Any, segment: _Segment, edge: Place | None, *, is_down: bool
) -> Select[Any]:
    """Return the query of a segment's rows behind a place, by the segment's column and the id."""
    keys = [own] if segment.column is None else [segment.column, own]
    statement = choose(*keys).where(segment.condition)
    if edge is not None:
        behind = own < edge.id if is_down else own > edge.id
        if segment.column is not None:
            key, value = segment.column, _value(edge.key, segment.column)
            # the first half is what an index can jump to
            behind = (
                and_(key <= value, or_(key < value, behind))
                if is_down
                else and_(key >= value, or_(key > value, behind))
            )
        statement = statement.where(behind)
    return statement.order_by(*(key.desc() if is_down else key for key in keys))


def _key(values: Sequence[Any]) -> str:
    if not values:
        return ""
    return values[0].isoformat() if isinstance(values[0], datetime) else str(values[0])


def _value(key: str, column: Any) -> Any:
    if not isinstance(column.type, UtcDateTime):
        return key
    try:
        at = datetime.fromisoformat(key)
    except ValueError as error:
        raise BadCursorError("this cursor belongs to another list") from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _trouble(row: FleetModelState, reported: Any) -> Trouble:
    report: Mapping[str, Any] = next(
        (one for one in (reported or {}).get("models", ()) if one["model"] == row.model), {}
    )
    reason = str(report.get("reason") or report.get("error_code") or "")
    return Trouble(row.device_id, row.model, row.assignment, row.error_class or "", reason, row.changed_at)
