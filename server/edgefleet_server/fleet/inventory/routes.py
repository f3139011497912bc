"""Operator routes of devices: list, show, label, and which run a release. They only translate."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from edgefleet_server.access.dependency import Operator, Viewer
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest, encode_cursor, rest_of
from edgefleet_server.fleet.inventory.device_list import DeviceLister, DeviceQuery, Order, Place
from edgefleet_server.fleet.inventory.labels import DeviceEdits, LabelChange
from edgefleet_server.fleet.inventory.views import STATUS_REASONS, DeviceView, FleetReader, ReleaseDevice, Summary
from edgefleet_server.fleet.reported.suspicion import Suspicion
from edgefleet_server.fleet.schemas import ClearSuspicionIn, DeviceIn, LabelsIn
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.telemetry_views import Latest
from edgefleet_server.web.pagination import ByDevice, ListOf, paged
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute

Selector = Annotated[str, Query(max_length=4096)]
_MOST_DIGITS: Final = 18
DevicePage = Annotated[PageRequest, paged(*(sign + order for order in Order for sign in ("", "-")))]


def build_device_router(
    reader: FleetReader,
    lists: DeviceLister,
    edits: DeviceEdits,
    revoke: Callable[[str], None],
    suspicion: Suspicion,
    latest: Callable[[str], Latest | None],
    db: Database,
) -> APIRouter:
    """Return the routes of devices, to be mounted under `/api/v1`. latest: returns the newest figures of a device."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)

    def tag(device_id: str, *, lock: bool = False) -> str:
        return tag_of(*edits.editable(device_id, lock=lock))

    def one(device_id: str) -> DeviceView:
        found = reader.device(device_id)
        return replace(found, telemetry=latest(device_id), status_reason=STATUS_REASONS[found.status])

    @router.get("/devices", operation_id="list_devices")
    def list_devices(page: DevicePage, _caller: Viewer, selector: Selector = "") -> ListOf[DeviceView]:
        """List devices that a selector matches, in order of id unless `sort` says otherwise.

        `total` is exact; of more than 1,000 devices it is the last count, at most a minute old. Later pages repeat the first one's.
        A device whose place in that order changes while pages are read (`last_seen`, `status`) may come twice or not at all.
        """
        return devices_page(lists, selector, page)

    @router.get("/devices/{device_id}", operation_id="get_device")
    def get_device(device_id: str, response: Response, _caller: Viewer) -> DeviceView:
        """Return one device: what it should run, what it reports, its newest figures. The ETag names what can be set."""
        put_tag(response, tag(device_id))
        return one(device_id)

    @router.patch("/devices/{device_id}", operation_id="update_device")
    def update_device(
        device_id: str, wanted: DeviceIn, response: Response, expected: IfMatch, dry_run: DryRun, _caller: Operator
    ) -> DeviceView:
        """Set labels (null removes one), the profile and the display name."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: tag(device_id, lock=True))
            edits.update(device_id, wanted.labels, wanted.profile, wanted.display_name)
            put_tag(response, tag(device_id))
            return one(device_id)

    @router.post("/devices:label", operation_id="label_devices")
    def label_devices(wanted: LabelsIn, asked_dry: DryRun, _caller: Operator) -> LabelChange:
        """Set labels (null removes one) of every live device that a selector matches, of all or of none."""
        return edits.label(wanted.selector, wanted.labels, dry_run=asked_dry or wanted.dry_run)

    @router.delete("/devices/{device_id}", operation_id="revoke_device", status_code=204, response_class=Response)
    def revoke_device(device_id: str, expected: IfMatch, dry_run: DryRun, _caller: Operator) -> Response:
        """Take a device out of the fleet for good."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: tag(device_id, lock=True))
            revoke(device_id)
        return Response(status_code=204)

    _add_suspicion_route(router, suspicion, one, db)
    return router


def _add_suspicion_route(
    router: APIRouter, suspicion: Suspicion, one: Callable[[str], DeviceView], db: Database
) -> None:
    @router.post("/devices/{device_id}:clear-suspicion", operation_id="clear_device_suspicion")
    def clear_device_suspicion(
        device_id: str, wanted: ClearSuspicionIn, dry_run: DryRun, caller: Operator
    ) -> DeviceView:
        """Trust a suspect device again, for a reason. One that is not suspect stays as it is."""
        with acting(db, dry_run=dry_run), db.session():
            suspicion.clear(device_id, caller.name, wanted.reason)
            return one(device_id)


def build_release_router(reader: FleetReader, registry: RegistryService) -> APIRouter:
    """Return the route of the devices of a release, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)

    @router.get("/releases/{ref}/devices", operation_id="list_release_devices")
    def list_release_devices(ref: str, page: ByDevice, _caller: Viewer) -> ListOf[ReleaseDevice]:
        """List devices that run a release or should."""
        found = reader.release_devices(registry.release(registry.resolve(ref)).ref)
        rest = rest_of(found, page, lambda one: one.device)
        return ListOf.cut(rest, page, len(found), lambda one: one.device)

    return router


def build_summary_router(reader: FleetReader) -> APIRouter:
    """Return the route of the fleet in numbers, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)

    @router.get("/fleet/summary", operation_id="get_fleet_summary")
    def get_fleet_summary(_caller: Viewer) -> Summary:
        """Return the fleet in numbers."""
        return reader.summary()

    return router


def devices_page(lists: DeviceLister, selector: str, page: PageRequest) -> ListOf[DeviceView]:
    """Return the body of a list of devices; `total` goes beyond MOST_COUNTED. The cursor has it, so that a walk counts once."""
    order, is_down = Order(page.sort.removeprefix("-")), page.sort.startswith("-")
    counted, place = _walked(page.after)
    query = DeviceQuery(selector, order=order, descending=is_down, after=place, limit=page.limit)
    found = lists.page(replace(query, is_counted_whole=True, total=counted))
    rest = None if found.next is None else encode_cursor(f"{page.mark}{found.total}:{found.next.text()}")
    return ListOf(items=list(found.devices), next_cursor=rest, total=found.total)


def _walked(after: str | None) -> tuple[int | None, Place | None]:
    """Return what the first page of a walk counted, and the place behind which the next page begins. Raises BadCursorError.

    A cursor of an older server has the place alone.
    """
    if after is None:
        return None, None
    total, colon, place = after.partition(":")
    is_counted = bool(colon) and total.isdecimal() and total.isascii() and len(total) <= _MOST_DIGITS
    return (int(total), Place.of(place)) if is_counted else (None, Place.of(after))
