"""What the pages of the fleet show: list of devices, what is done to many, groups. Read from the services."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from edgefleet_server.alerting.active_alerts.service import ActiveAlerts
from edgefleet_server.dashboard.core.filters import SEVERITY_KINDS
from edgefleet_server.dashboard.core.rows import DeviceLine, device_line
from edgefleet_server.dashboard.devices.health_panel import KINDS as HEALTH_KINDS
from edgefleet_server.dashboard.fleet.device_query import MAX_IDS, Search, ids_selector
from edgefleet_server.dashboard.timelines.time_range import Asked
from edgefleet_server.dashboard.timelines.views import TimelineView, TimelineViews
from edgefleet_server.db.keyset import decode_cursor, encode_cursor
from edgefleet_server.fleet.errors import BadSelectorError
from edgefleet_server.fleet.health_state import ATTENTION, WORST_FIRST, Health
from edgefleet_server.fleet.inventory.device_list import DeviceLister, DeviceQuery, Facets, Order, Place
from edgefleet_server.fleet.inventory.fleet_map import FleetMapper
from edgefleet_server.fleet.inventory.groups import GroupBook
from edgefleet_server.fleet.inventory.views import DeviceView
from edgefleet_server.fleet.model import Group
from edgefleet_server.fleet.selectors.grammar import HEALTH, MAX_SELECTOR_CHARS, SUSPECT
from edgefleet_server.telemetry.series import Trend
from edgefleet_server.telemetry.service import TelemetryService
from edgefleet_server.telemetry.timelines.model import LinesBy, Scope
from edgefleet_terms.reserved_labels import SITE_LABEL

PAGE_DEVICES: Final = 50
PAGE_GROUPS: Final = 50
SHOWN_IN_BULK: Final = 20
FACET_OPTIONS: Final = 12
IDS_AT_ONCE: Final = 50
"""So many ids fit into a selector, however long they are."""
ALERT: Final = "alert"
"""The word of a device that is well but for an alert."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the list of devices. trend: of the model that answers most slowly, None where nothing was measured.

    kind: of the state that `word` says; reason: the worst one that the word does not say, "" without; more: how many others there are.
    """

    line: DeviceLine
    kind: str
    word: str
    reason: str
    more: int
    arch: str
    groups: Sequence[str]
    trend: Trend | None


@dataclass(frozen=True, slots=True)
class Option:
    """One thing that a list can be narrowed to. count: live devices of the whole fleet that have it, None where nobody counted."""

    label: str
    count: int | None
    address: str
    is_on: bool


@dataclass(frozen=True, slots=True)
class Facet:
    """A row of options of one kind."""

    name: str
    options: Sequence[Option]


@dataclass(frozen=True, slots=True)
class SortLink:
    """The link in the head of a column. direction: how the list is sorted by it now, for `aria-sort`."""

    address: str
    direction: str


@dataclass(frozen=True, slots=True)
class FleetPage:
    """A page of devices; addresses are empty where there is nothing on that side. fleet: live devices and revoked ones in all.

    live: those that are not revoked; ill: how many of them need a look; alerts: where none does, about how many an alert fires.
    """

    search: Search
    rows: Sequence[Row]
    total: int
    is_capped: bool
    previous: str
    next: str
    is_first: bool
    facets: Sequence[Facet]
    sorts: Mapping[str, SortLink]
    fleet: int
    live: int
    ill: int
    alerts: int


@dataclass(frozen=True, slots=True)
class GroupsPage:
    """A page of groups, and what a new one can be made of.

    following: the cursor of the next page, "" = none; fleet: live devices. matching: how many of them the selector of the new one finds,
    None where there is none or it is wrong; picker: what it can ask for, as links that add it or take it off.
    """

    groups: Sequence[Group]
    total: int
    following: str
    fleet: int
    matching: int | None
    wrong: BadSelectorError | None
    picker: Sequence[Facet]

    @property
    def without_devices(self) -> int:
        """How many of the groups that are shown have no live device."""
        return sum(not one.devices for one in self.groups)


@dataclass(frozen=True, slots=True)
class GroupPage:
    """A group with its first live devices, the worst first. ill: how many of all need a look; kind: of the worst one.

    alerts: where none does, about how many of all an alert fires.
    """

    group: Group
    rows: Sequence[Row]
    ill: int
    alerts: int
    kind: str


@dataclass(frozen=True, slots=True)
class Bulk:
    """Devices to which one thing is done. selector: of all of them. total: live ones; shown: the first few."""

    selector: str
    total: int
    shown: Sequence[DeviceLine]


class FleetPages:
    """Builds pages. Thread-safe; calls block."""

    def __init__(
        self,
        lists: DeviceLister,
        fleet_map: FleetMapper,
        groups: GroupBook,
        telemetry: TelemetryService,
        alerts: ActiveAlerts,
        timelines: TimelineViews,
    ) -> None:
        """Wire the services."""
        self._alerts = alerts
        self._lists = lists
        self._map = fleet_map
        self._groups = groups
        self._telemetry = telemetry
        self._timelines = timelines

    def over_time(self, group: str, asked: Asked, by: LinesBy | None) -> TimelineView:
        """Return the charts of a group. Raises GroupUnknownError, BadSpanError."""
        return self._timelines.view(Scope.GROUP, group, asked, by)

    def devices(self, search: Search, after: str | None, before: str | None) -> FleetPage:
        """Return a page of devices. Raises BadSelectorError, BadCursorError."""
        lists = self._lists
        query = DeviceQuery(
            selector=search.selector,
            text=search.text,
            order=search.order,
            descending=search.descending,
            after=_place(after),
            before=_place(before),
            limit=PAGE_DEVICES,
        )
        found, facets, health = lists.page(query), lists.facets(), self._map.health()
        fleet, ill = sum(facets.status.values()), sum(health.get(one, 0) for one in ATTENTION)
        return FleetPage(
            search=search,
            rows=self._rows(found.devices),
            total=found.total if search.is_narrow else max(fleet, found.total),
            is_capped=found.is_capped and search.is_narrow,
            previous="" if found.previous is None else search.address(before=encode_cursor(found.previous.text())),
            next="" if found.next is None else search.address(after=encode_cursor(found.next.text())),
            is_first=found.previous is None,
            facets=_facets(search, facets, health),
            sorts={order.value: _sort_link(search, order) for order in Order},
            fleet=fleet,
            live=sum(health.values()),
            ill=ill,
            alerts=0 if ill else self._loud(),
        )

    def bulk(self, search: Search, ids: Sequence[str] | None) -> Bulk:
        """Return the live devices of these ids; None: all that match. Raises BadSelectorError.

        A search by text is written down as ids, because selectors cannot say it; more than MAX_IDS, or than fit into one, are not taken.
        """
        lists = self._lists
        if ids is not None:
            selector = ids_selector(list(dict.fromkeys(ids))[:MAX_IDS])
        elif search.text:
            found = lists.page(DeviceQuery(selector=search.selector, text=search.text, limit=MAX_IDS + 1)).devices
            selector = ids_selector([one.id for one in found]) if 0 < len(found) <= MAX_IDS else ""
            if not selector or len(_live(selector)) > MAX_SELECTOR_CHARS:
                return Bulk("", lists.count(search.selector, search.text), ())
        else:
            selector = search.selector
        live = _live(selector)
        shown = lists.page(DeviceQuery(selector=live, limit=SHOWN_IN_BULK)).devices
        return Bulk(live, lists.count(live), [device_line(one) for one in shown])

    def groups(self, after: str | None, selector: str) -> GroupsPage:
        """Return a page of groups. selector: of one that is to be made, "" where nobody chose any."""
        found, total = self._groups.page(after, PAGE_GROUPS + 1)
        shown, facets = found[:PAGE_GROUPS], self._lists.facets()
        matching, wrong = None, None
        try:
            matching = self._lists.count(selector) if selector.strip() else None
        except BadSelectorError as error:
            wrong = error
        return GroupsPage(
            groups=shown,
            total=total,
            following=encode_cursor(shown[-1].name) if len(found) > PAGE_GROUPS else "",
            fleet=facets.devices,
            matching=matching,
            wrong=wrong,
            picker=picker(Search(selector), facets, lambda one: f"{one.address('/groups')}#new"),
        )

    def group(self, name: str) -> GroupPage:
        """Return a group and its first live members. Raises GroupUnknownError."""
        group, members = self._groups.get(name), self._groups.members_selector(name)
        rows = self._rows(self._lists.page(DeviceQuery(members, order=Order.HEALTH, limit=PAGE_DEVICES)).devices)
        ill = self._lists.count(f"{members},{HEALTH} in ({','.join(ATTENTION)})")
        alerts = 0 if ill else self._loud(members)
        is_bad = any(one.kind == "bad" for one in rows)
        kind = "off" if not rows else "ok" if not ill + alerts else "bad" if is_bad else "warn"
        return GroupPage(group, rows, ill, alerts, kind)

    def _loud(self, selector: str = "") -> int:
        """Return how many devices that a selector finds are well but for an alert that fires about them."""
        ids, count = self._alerts.loud_devices(), self._lists.count
        asked = [*([selector] if selector else []), f"{HEALTH} in ({Health.HEALTHY},{Health.UPDATING})"]
        parts = [ids[at : at + IDS_AT_ONCE] for at in range(0, len(ids), IDS_AT_ONCE)]
        return sum(count(",".join([ids_selector(part), *asked])) for part in parts)

    def _rows(self, devices: Sequence[DeviceView]) -> list[Row]:
        ids = [one.id for one in devices]
        trends, alerts = self._telemetry.series.trends(ids), self._alerts.loudest(ids)
        return [_row(one, alerts.get(one.id), _slowest(trends.get(one.id, ()))) for one in devices]


def _row(device: DeviceView, alert: tuple[str, str] | None, trend: Trend | None) -> Row:
    """Return a row. alert: title and severity of the worst one that fires; it speaks where the rules of health find nothing wrong."""
    reasons = [one.text for one in device.health_reasons]
    kind, word = HEALTH_KINDS[device.health], device.health.value
    if alert is not None:
        title, severity = alert
        reasons = [*reasons, title] if reasons else [title]
        if device.health in {Health.HEALTHY, Health.UPDATING}:
            kind, word, reasons = SEVERITY_KINDS[severity], ALERT, [title, *reasons[:-1]]
    if device.health is Health.OFFLINE:  # its word says it; what was wrong before it went away is still to be mended
        reasons = [one.text for one in device.health_reasons if one.health in {Health.FAILING, Health.DEGRADED}]
    reason = reasons[0] if reasons else ""
    return Row(device_line(device), kind, word, reason, max(0, len(reasons) - 1), device.arch, device.groups, trend)


def _live(selector: str) -> str:
    return f"{selector},status!=revoked" if selector else "status!=revoked"


def _place(cursor: str | None) -> Place | None:
    return None if not cursor else Place.of(decode_cursor(cursor))


def _slowest(trends: Sequence[Trend]) -> Trend | None:
    return max((one for one in trends if one.newest is not None), key=lambda one: one.newest or 0.0, default=None)


def _sort_link(search: Search, order: Order) -> SortLink:
    direction = "none" if search.order is not order else "descending" if search.descending else "ascending"
    return SortLink(search.sorted_by(order).address(), direction)


def narrowing_labels(facets: Facets) -> list[tuple[str, str, int]]:
    """Return the labels that a list is narrowed by: those of the site first, then those of the key that most devices have.

    A label of all devices narrows nothing, and a key that has another value on each device names them, as ids do.
    """
    keys: dict[str, list[tuple[str, str, int]]] = {}
    for one in facets.labels:
        if one[2] < facets.devices:
            keys.setdefault(one[0], []).append(one)
    kept = [found for key, found in keys.items() if key == SITE_LABEL or found[0][2] > 1]
    kept.sort(key=lambda found: (found[0][0] != SITE_LABEL, -found[0][2]))
    return [one for found in kept for one in found][:FACET_OPTIONS]


def _facets(search: Search, facets: Facets, health: Mapping[Health, int]) -> list[Facet]:
    option = partial(_option, search, Search.address)
    suspects = [option(SUSPECT, None, facets.suspects)] if facets.suspects else []
    rows = [
        Facet("Health", [option(HEALTH, one.value, health[one]) for one in WORST_FIRST if health.get(one)]),
        Facet("Status", [option("status", name, count) for name, count in facets.status.items() if count] + suspects),
        *picker(search, replace(facets, labels=narrowing_labels(facets)), groups=facets.groups),
    ]
    return [one for one in rows if one.options]


def picker(
    search: Search, facets: Facets, to: Callable[[Search], str] = Search.address, groups: Sequence[str] = ()
) -> list[Facet]:
    """Return what a selector can ask of devices for good, as links that add it or take it off. to: returns where a search leads."""
    option = partial(_option, search, to)
    profiles = sorted(facets.profiles.items(), key=lambda one: (-one[1], one[0]))[:FACET_OPTIONS]
    runs = [
        option(f"model.{model}", version, n, f"{model}@{version}")
        for model, version, n in facets.versions[:FACET_OPTIONS]
    ]
    rows = [
        Facet("Label", [option(key, value, n, f"{key}={value}") for key, value, n in facets.labels[:FACET_OPTIONS]]),
        Facet("Profile", [option("profile", name, count) for name, count in profiles]),
        Facet("Runs", runs),
        Facet("Group", [option("group", name, None) for name in groups[:FACET_OPTIONS]]),
    ]
    return [one for one in rows if one.options]


def _option(
    search: Search, to: Callable[[Search], str], key: str, value: str | None, count: int | None, label: str = ""
) -> Option:
    address = to(search.toggled(key, value))
    return Option(label or value or key, count, address, search.has(key, value))
