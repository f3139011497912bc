"""Operator routes of the fleet. They only translate."""

from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from edgefleet_server.access.dependency import require
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.composition.container import Parts
from edgefleet_server.db.keyset import PageRequest, encode_cursor, rest_of
from edgefleet_server.events.model import EventFilter, EventView
from edgefleet_server.events.routes import add_stream_route
from edgefleet_server.fleet.desired.capture_key import CaptureKeyView
from edgefleet_server.fleet.desired.model import CandidateOrder, Deployment, TasksAsked, TaskView
from edgefleet_server.fleet.desired.schemas import CaptureKeyIn, DeployIn, TaskIn, TasksIn
from edgefleet_server.fleet.enrolment.model import ClaimView
from edgefleet_server.fleet.enrolment.routes import add_approval_routes
from edgefleet_server.fleet.enrolment.schemas import ClaimTokensOut, EnrollmentIn
from edgefleet_server.fleet.errors import CaptureKeyUnknownError
from edgefleet_server.fleet.inventory.labels import LabelChange
from edgefleet_server.fleet.inventory.listing import DeviceQuery, Order, Place
from edgefleet_server.fleet.inventory.views import DeviceView, ReleaseDevice, Summary
from edgefleet_server.fleet.model import Group
from edgefleet_server.fleet.schemas import DeviceIn, GroupChangeIn, GroupIn, LabelsIn
from edgefleet_server.web.pagination import ByDevice, ById, ByName, EitherWay, ListOf, paged
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_location, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute
from edgefleet_server.web.strict_types import Moment

Viewer = Annotated[Principal, Depends(require(Role.VIEWER))]
Admin = Annotated[Principal, Depends(require(Role.ADMIN))]
Operator = Annotated[Principal, Depends(require(Role.OPERATOR))]
Selector = Annotated[str, Query(max_length=4096)]
DevicePage = Annotated[PageRequest, paged(*(sign + order for order in Order for sign in ("", "-")))]
AfterId = Annotated[int | None, Query(ge=0, lt=2**63)]
_RESULTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "what the device sent",
        "content": {
            "application/gzip": {"schema": {"type": "string", "format": "binary"}},
            "text/plain": {"schema": {"type": "string"}},
        },
    }
}
_NO_KEY: dict[int | str, dict[str, Any]] = {404: {"description": "no capture key was set"}}


def _event_filter(
    since: Moment | None = None,
    rollout: Annotated[str | None, Query(max_length=32)] = None,
    kind: Annotated[str, Query(max_length=512, description="kinds, separated by commas")] = "",
    device: Annotated[str | None, Query(max_length=63)] = None,
) -> EventFilter:
    return EventFilter(device, rollout, tuple(filter(None, (one.strip() for one in kind.split(",")))), since)


Filter = Annotated[EventFilter, Depends(_event_filter)]


def build_router(parts: Parts) -> APIRouter:
    """Return the fleet's routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)
    _add_device_routes(router, parts)
    _add_enrollment_routes(router, parts)
    add_approval_routes(router, parts)
    _add_release_routes(router, parts)
    _add_event_routes(router, parts)
    add_stream_route(router, parts)
    _add_group_routes(router, parts)
    _add_capture_key_routes(router, parts)
    _add_task_routes(router, parts)
    return router


def _add_capture_key_routes(router: APIRouter, parts: Parts) -> None:
    sampling = parts.fleet.sampling

    def known(*, lock: bool = False) -> CaptureKeyView:
        found = sampling.key(lock=lock)
        if found is None:
            raise CaptureKeyUnknownError("The tenant has no capture key: no device captures anything.")
        return found

    def tag(key: CaptureKeyView) -> str:
        return tag_of(key.public_key, key.set_at)

    @router.get("/capture-key", operation_id="get_capture_key", responses=_NO_KEY)
    def get_capture_key(response: Response, _caller: Viewer) -> CaptureKeyView:
        """Return the public key that devices seal captured records to."""
        found = known()
        put_tag(response, tag(found))
        return found

    @router.put("/capture-key", operation_id="set_capture_key", responses=_NO_KEY)
    def set_capture_key(
        wanted: CaptureKeyIn, response: Response, expected: IfMatch, dry_run: DryRun, caller: Admin
    ) -> CaptureKeyView:
        """Let devices that consent capture, sealed to this key from now on."""
        with acting(parts.db, dry_run=dry_run), parts.db.session():
            expected.check(lambda: tag(known(lock=True)))
            made = sampling.set(wanted.public_key, f"{caller.name} ({caller.id})")
        put_tag(response, tag(made))
        return made

    @router.delete(
        "/capture-key", operation_id="remove_capture_key", status_code=204, response_class=Response, responses=_NO_KEY
    )
    def remove_capture_key(expected: IfMatch, dry_run: DryRun, _caller: Admin) -> Response:
        """Let no device capture any more."""
        with acting(parts.db, dry_run=dry_run), parts.db.session():
            expected.check(lambda: tag(known(lock=True)))
            sampling.remove()
        return Response(status_code=204)


def _add_device_routes(router: APIRouter, parts: Parts) -> None:
    fleet = parts.fleet

    def tag(device_id: str, *, lock: bool = False) -> str:
        return tag_of(*fleet.edits.editable(device_id, lock=lock))

    def one(device_id: str) -> DeviceView:
        return replace(fleet.reader.device(device_id), telemetry=parts.telemetry.latest(device_id))

    @router.get("/devices", operation_id="list_devices")
    def list_devices(page: DevicePage, _caller: Viewer, selector: Selector = "") -> ListOf[DeviceView]:
        """List devices that a selector matches, in order of id unless `sort` says otherwise.

        A device whose place in that order changes while pages are read (`last_seen`, `status`) may come twice or not at all.
        """
        return _devices(parts, selector, page)

    @router.get("/devices/{device_id}", operation_id="get_device")
    def get_device(device_id: str, response: Response, _caller: Viewer) -> DeviceView:
        """Return one device: what it should run, what it reports, its newest figures. The ETag names labels and profile."""
        put_tag(response, tag(device_id))
        return one(device_id)

    @router.patch("/devices/{device_id}", operation_id="update_device")
    def update_device(
        device_id: str, wanted: DeviceIn, response: Response, expected: IfMatch, dry_run: DryRun, _caller: Operator
    ) -> DeviceView:
        """Set labels (null removes one) and the profile."""
        with acting(parts.db, dry_run=dry_run), parts.db.session():
            expected.check(lambda: tag(device_id, lock=True))
            fleet.update(device_id, wanted.labels, wanted.profile)
            put_tag(response, tag(device_id))
            return one(device_id)

    @router.post("/devices:label", operation_id="label_devices")
    def label_devices(wanted: LabelsIn, asked_dry: DryRun, _caller: Operator) -> LabelChange:
        """Set labels (null removes one) of every live device that a selector matches, of all or of none."""
        return fleet.edits.label(wanted.selector, wanted.labels, dry_run=asked_dry or wanted.dry_run)

    @router.delete("/devices/{device_id}", operation_id="revoke_device", status_code=204, response_class=Response)
    def revoke_device(device_id: str, expected: IfMatch, dry_run: DryRun, _caller: Operator) -> Response:
        """Take a device out of the fleet for good."""
        with acting(parts.db, dry_run=dry_run), parts.db.session():
            expected.check(lambda: tag(device_id, lock=True))
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
            approval=wanted.approval,
            created_by=caller.name,
        )
        return ClaimTokensOut(tokens=made)

    @router.get("/enrollments", operation_id="list_enrollments")
    def list_enrollments(page: ById, _caller: Viewer) -> ListOf[ClaimView]:
        """List claim tokens without their secrets."""
        found, total = fleet.claims(page.after, page.limit + 1)
        return ListOf.cut(found, page, total, lambda claim: claim.id)


def _add_release_routes(router: APIRouter, parts: Parts) -> None:
    fleet = parts.fleet

    @router.post("/releases/{ref}:deploy", operation_id="deploy_release")
    def deploy_release(ref: str, wanted: DeployIn, asked_dry: DryRun, caller: Operator) -> Deployment:
        """Make a release active on every matching device whose profile has a bundle, or run it beside; the others are listed."""
        beside = None if wanted.mode is None else CandidateOrder(wanted.mode, wanted.share_pct, wanted.salt)
        return fleet.deploy(
            parts.registry.resolve(ref),
            selector=wanted.selector,
            device=wanted.device,
            dry_run=asked_dry or wanted.dry_run,
            by=caller.name,
            beside=beside,
        )

    @router.get("/releases/{ref}/devices", operation_id="list_release_devices")
    def list_release_devices(ref: str, page: ByDevice, _caller: Viewer) -> ListOf[ReleaseDevice]:
        """List devices that run a release or should."""
        found = fleet.reader.release_devices(parts.registry.release(parts.registry.resolve(ref)).ref)
        rest = rest_of(found, page, lambda one: one.device)
        return ListOf.cut(rest, page, len(found), lambda one: one.device)


def _add_event_routes(router: APIRouter, parts: Parts) -> None:
    fleet = parts.fleet

    @router.get("/devices/{device_id}/events", operation_id="list_device_events")
    def list_device_events(
        device_id: str, page: EitherWay, _caller: Viewer, since: Moment | None = None
    ) -> ListOf[EventView]:
        """List what happened to one device, newest first unless `sort` says otherwise."""
        fleet.reader.check(device_id)
        return _events(parts, EventFilter(device=device_id, since=since), page)

    @router.get("/events", operation_id="list_events")
    def list_events(page: EitherWay, _caller: Viewer, what: Filter, after_id: AfterId = None) -> ListOf[EventView]:
        """List what happened in the fleet, newest first unless `sort` says otherwise; with `after_id` what came after that event.

        Following (`after_id` = the last id that was returned, 0 from the beginning) is oldest first, misses nothing, and has no cursor.
        """
        if after_id is not None:
            found, total = fleet.reader.events_after(after_id, what, page.limit)
            return ListOf(items=found[: page.limit], next_cursor=None, total=total)
        return _events(parts, what, page)

    @router.get("/fleet/summary", operation_id="get_fleet_summary")
    def get_fleet_summary(_caller: Viewer) -> Summary:
        """Return the fleet in numbers."""
        return fleet.reader.summary()


def _add_task_routes(router: APIRouter, parts: Parts) -> None:
    tasks = parts.fleet.tasks

    @router.post("/devices/{device_id}/tasks", operation_id="create_device_task", status_code=201)
    def create_task(device_id: str, wanted: TaskIn, response: Response, caller: Operator) -> TaskView:
        """Ask a device to do something once: send its diagnosis or its log, or restart. It learns so by its signed document."""
        made = tasks.create(device_id, wanted.order(), caller.name)
        put_location(response, f"/devices/{device_id}/tasks/{made.id}")
        return made

    @router.post("/devices:task", operation_id="create_tasks", status_code=201)
    def create_tasks(wanted: TasksIn, caller: Operator) -> TasksAsked:
        """Ask every live device that a selector matches to do something once: at most 1,000; `dry_run` only counts them."""
        devices = [one.id for one in parts.fleet.population(wanted.selector)]
        return tasks.create_many(devices, wanted.order(), caller.name, dry_run=wanted.dry_run)

    @router.get("/devices/{device_id}/tasks", operation_id="list_device_tasks")
    def list_tasks(device_id: str, _caller: Viewer) -> ListOf[TaskView]:
        """List the newest 50 tasks of a device and how far they are, newest first."""
        return ListOf.whole(tasks.tasks(device_id))

    @router.get("/devices/{device_id}/tasks/{task_id}", operation_id="get_device_task")
    def get_task(device_id: str, task_id: str, _caller: Viewer) -> TaskView:
        """Return one task and how far it is."""
        return tasks.task(device_id, task_id)

    @router.get(
        "/devices/{device_id}/tasks/{task_id}/result",
        operation_id="get_device_task_result",
        response_class=Response,
        responses=_RESULTS,
    )
    def get_result(device_id: str, task_id: str, _caller: Operator) -> Response:
        """Return what the device sent: a gzipped tar for `diag`, text for `logs`."""
        media_type, data = tasks.result(device_id, task_id)
        return Response(data, media_type=media_type, headers={"X-Content-Type-Options": "nosniff"})


def _add_group_routes(router: APIRouter, parts: Parts) -> None:
    fleet = parts.fleet

    def tag(name: str, *, lock: bool = False) -> str:
        return tag_of(*fleet.groups.editable(name, lock=lock))

    @router.post("/groups", operation_id="create_group", status_code=201)
    def create_group(wanted: GroupIn, response: Response, dry_run: DryRun, caller: Operator) -> Group:
        """Give a selector a name, so that other selectors can say `group=NAME`."""
        with acting(parts.db, dry_run=dry_run):
            made = fleet.groups.create(wanted.name, wanted.selector, caller.name)
        put_location(response, f"/groups/{made.name}")
        put_tag(response, tag_of(made.name, made.selector))
        return made

    @router.get("/groups", operation_id="list_groups")
    def list_groups(page: ByName, _caller: Viewer) -> ListOf[Group]:
        """List groups and how many live devices each has, in order of name, upwards unless `sort` says otherwise."""
        found, total = fleet.groups.page(page.after, page.limit + 1, is_down=page.is_turned)
        return ListOf.cut(found, page, total, lambda group: group.name)

    @router.get("/groups/{name}", operation_id="get_group")
    def get_group(name: str, response: Response, _caller: Viewer) -> Group:
        """Return one group."""
        found = fleet.groups.get(name)
        put_tag(response, tag_of(found.name, found.selector))
        return found

    @router.get("/groups/{name}/members", operation_id="list_group_members")
    def list_group_members(name: str, page: DevicePage, _caller: Viewer) -> ListOf[DeviceView]:
        """List the live devices in a group, in order of id unless `sort` says otherwise."""
        return _devices(parts, fleet.groups.members_selector(name), page)

    @router.patch("/groups/{name}", operation_id="update_group")
    def update_group(
        name: str, wanted: GroupChangeIn, response: Response, expected: IfMatch, dry_run: DryRun, _caller: Operator
    ) -> Group:
        """Give a group that nothing unfinished names another selector."""
        with acting(parts.db, dry_run=dry_run), parts.db.session():
            expected.check(lambda: tag(name, lock=True))
            changed = fleet.groups.change(name, wanted.selector)
        put_tag(response, tag_of(changed.name, changed.selector))
        return changed

    @router.delete("/groups/{name}", operation_id="delete_group", status_code=204, response_class=Response)
    def delete_group(name: str, expected: IfMatch, dry_run: DryRun, _caller: Operator) -> Response:
        """Remove a group that nothing unfinished names; its devices stay as they are."""
        with acting(parts.db, dry_run=dry_run), parts.db.session():
            expected.check(lambda: tag(name, lock=True))
            fleet.groups.delete(name)
        return Response(status_code=204)


def _devices(parts: Parts, selector: str, page: PageRequest) -> ListOf[DeviceView]:
    """Return the body of a list of devices; `total` is exact, however many there are."""
    order, is_down = Order(page.sort.removeprefix("-")), page.sort.startswith("-")
    after = None if page.after is None else Place.of(page.after)
    found = parts.fleet.lists.page(
        DeviceQuery(selector, order=order, descending=is_down, after=after, limit=page.limit, is_counted_whole=True)
    )
    rest = None if found.next is None else encode_cursor(page.mark + found.next.text())
    return ListOf(items=list(found.devices), next_cursor=rest, total=found.total)


def _events(parts: Parts, what: EventFilter, page: PageRequest) -> ListOf[EventView]:
    """Return the body of a list of events."""
    if page.is_turned:
        found, total = parts.fleet.reader.oldest_events(what, page.after_number(), page.limit)
    else:
        found, total = parts.fleet.reader.events(
            device_id=what.device,
            before=page.after_number(),
            since=what.since,
            limit=page.limit,
            rollout=what.rollout,
            kinds=what.kinds,
        )
    return ListOf.cut(found, page, total, lambda event: str(event.id))
