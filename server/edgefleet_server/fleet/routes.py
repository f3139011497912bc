"""Operator routes of the fleet. They only translate."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from edgefleet_protocol.ids import ReleaseRef
from edgefleet_server.access.dependency import require
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.fleet.schemas import (
    ClaimOut,
    ClaimTokenOut,
    ClaimTokensOut,
    DeployIn,
    DeploymentOut,
    DeviceIn,
    DeviceOut,
    EnrollmentIn,
    EventOut,
    ReleaseDeviceOut,
    SummaryOut,
)
from edgefleet_server.fleet.views import EventView
from edgefleet_server.paging import BadCursorError, ListOf, PageRequest, Paging, encode_cursor
from edgefleet_server.parts import Parts
from edgefleet_server.telemetry.schemas import latest_body

Viewer = Annotated[Principal, Depends(require(Role.VIEWER))]
Operator = Annotated[Principal, Depends(require(Role.OPERATOR))]
Selector = Annotated[str, Query(max_length=4096)]


def build_router(parts: Parts) -> APIRouter:
    """Return the fleet's routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["fleet"])
    _add_device_routes(router, parts)
    _add_enrollment_routes(router, parts)
    _add_release_routes(router, parts)
    _add_event_routes(router, parts)
    return router


def _add_device_routes(router: APIRouter, parts: Parts) -> None:
    fleet = parts.fleet

    def one(device_id: str) -> DeviceOut:
        view = fleet.reader.device(device_id)
        latest = parts.telemetry.latest(device_id)
        return DeviceOut.of(view, None if latest is None else latest_body(latest))

    @router.get("/devices", operation_id="list_devices")
    def list_devices(page: Paging, _caller: Viewer, selector: Selector = "") -> ListOf[DeviceOut]:
        """List devices that a selector matches, in order of id."""
        found, total = fleet.reader.devices(selector, page.after, page.limit)
        items = [DeviceOut.of(view) for view in found[: page.limit]]
        more = len(found) > page.limit
        return ListOf(items=items, next_cursor=encode_cursor(items[-1].id) if more else None, total=total)

    @router.get("/devices/{device_id}", operation_id="get_device")
    def get_device(device_id: str, _caller: Viewer) -> DeviceOut:
        """Return one device: what it should run, what it reports, its newest figures."""
        return one(device_id)

    @router.patch("/devices/{device_id}", operation_id="update_device")
    def update_device(device_id: str, wanted: DeviceIn, _caller: Operator) -> DeviceOut:
        """Set labels (null removes one) and the profile."""
        fleet.update(device_id, wanted.labels, wanted.profile)
        return one(device_id)

    @router.delete("/devices/{device_id}", operation_id="revoke_device", status_code=204, response_class=Response)
    def revoke_device(device_id: str, _caller: Operator) -> Response:
        """Take a device out of the fleet for good."""
        fleet.revoke(device_id)
        return Response(status_code=204)


def _add_enrollment_routes(router: APIRouter, parts: Parts) -> None:
    fleet = parts.fleet

    @router.post("/enrollments", operation_id="create_enrollments", status_code=201)
    def create_enrollments(wanted: EnrollmentIn, caller: Operator) -> ClaimTokensOut:
        """Make claim tokens; their text is in this answer and nowhere else."""
        made = fleet.create_claims(
            count=wanted.count,
            uses=wanted.uses,
            ttl=timedelta(seconds=wanted.ttl_s),
            labels=wanted.labels,
            profile=wanted.profile,
            name_prefix=wanted.name_prefix,
            created_by=caller.name,
        )
        return ClaimTokensOut(tokens=[ClaimTokenOut.of(claim) for claim in made])

    @router.get("/enrollments", operation_id="list_enrollments")
    def list_enrollments(page: Paging, _caller: Viewer) -> ListOf[ClaimOut]:
        """List claim tokens without their secrets."""
        found, total = fleet.claims(page.after, page.limit + 1)
        items = [ClaimOut.of(claim) for claim in found[: page.limit]]
        more = len(found) > page.limit
        return ListOf(items=items, next_cursor=encode_cursor(items[-1].id) if more else None, total=total)


def _add_release_routes(router: APIRouter, parts: Parts) -> None:
    fleet = parts.fleet

    @router.post("/releases/{ref}:deploy", operation_id="deploy_release")
    def deploy_release(ref: str, wanted: DeployIn, caller: Operator) -> DeploymentOut:
        """Make a release active on every matching device whose profile has a bundle; the others are listed with reasons."""
        done = fleet.deploy(
            ReleaseRef.parse(ref),
            selector=wanted.selector,
            device=wanted.device,
            dry_run=wanted.dry_run,
            by=caller.name,
        )
        return DeploymentOut.of(done)

    @router.get("/releases/{ref}/devices", operation_id="list_release_devices")
    def list_release_devices(ref: str, page: Paging, _caller: Viewer) -> ListOf[ReleaseDeviceOut]:
        """List devices that run a release or should."""
        parsed = ReleaseRef.parse(ref)
        parts.registry.release(parsed)
        found = fleet.reader.release_devices(parsed)
        rest = [one for one in found if page.after is None or one.device > page.after]
        items = [ReleaseDeviceOut.of(one) for one in rest[: page.limit]]
        more = len(rest) > page.limit
        return ListOf(items=items, next_cursor=encode_cursor(items[-1].device) if more else None, total=len(found))


def _add_event_routes(router: APIRouter, parts: Parts) -> None:
    fleet = parts.fleet

    @router.get("/devices/{device_id}/events", operation_id="list_device_events")
    def list_device_events(
        device_id: str, page: Paging, _caller: Viewer, since: datetime | None = None
    ) -> ListOf[EventOut]:
        """List what happened to one device, newest first."""
        fleet.reader.device(device_id)
        found = fleet.reader.events(device_id=device_id, before=_number(page), since=since, limit=page.limit)
        return _events(page, *found)

    @router.get("/events", operation_id="list_events")
    def list_events(page: Paging, _caller: Viewer, since: datetime | None = None) -> ListOf[EventOut]:
        """List what happened in the fleet, newest first."""
        found = fleet.reader.events(device_id=None, before=_number(page), since=since, limit=page.limit)
        return _events(page, *found)

    @router.get("/fleet/summary", operation_id="get_fleet_summary")
    def get_fleet_summary(_caller: Viewer) -> SummaryOut:
        """Return the fleet in numbers."""
        return SummaryOut.of(fleet.reader.summary())


def _events(page: PageRequest, found: list[EventView], total: int) -> ListOf[Any]:
    items = [EventOut.of(event) for event in found[: page.limit]]
    more = len(found) > page.limit
    return ListOf(items=items, next_cursor=encode_cursor(str(items[-1].id)) if more else None, total=total)


def _number(page: PageRequest) -> int | None:
    """Return the id in a cursor of events. Raises BadCursorError."""
    if page.after is None:
        return None
    if not page.after.isdigit() or len(page.after) > 18:
        raise BadCursorError("this cursor is not of this list", next_step="start the list again without `cursor`")
    return int(page.after)
