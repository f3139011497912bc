"""Routes of the telemetry feature. They only translate."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import parse_profile_name
from edgefleet_server.access.dependency import Operator, Viewer
from edgefleet_server.access.service import AccessService
from edgefleet_server.db.keyset import PageRequest, cut_page
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.telemetry.captures import CaptureService
from edgefleet_server.telemetry.costs import CostService
from edgefleet_server.telemetry.live_predictions import LivePredictions
from edgefleet_server.telemetry.model import (
    CaptureFetch,
    CaptureView,
    CostState,
    Performance,
    PredictionsView,
    WatchView,
)
from edgefleet_server.telemetry.release_comparison import Comparison, Comparisons
from edgefleet_server.telemetry.schemas import CaptureFetchIn, CaptureOut
from edgefleet_server.telemetry.service import TelemetryService
from edgefleet_server.telemetry_views import WindowView
from edgefleet_server.web import problems
from edgefleet_server.web.pagination import ById, ListOf, paged
from edgefleet_server.web.preconditions import put_location
from edgefleet_server.web.sparse_fields import ListRoute

MAX_WAIT_S = 20.0
LOOK_S = 0.5
WindowPage = Annotated[PageRequest, paged("-received_at")]
Version = Annotated[str, Query(max_length=63)]


def build_router(
    telemetry: TelemetryService,
    costs: CostService,
    comparisons: Comparisons,
    registry: RegistryService,
    check_device: Callable[[str], None],
) -> APIRouter:
    """Return the routes of figures, to be mounted under `/api/v1`. check_device: raises an error unless there is such a device."""
    router = APIRouter(tags=["telemetry"], route_class=ListRoute)

    @router.get("/devices/{device_id}/telemetry", operation_id="list_device_telemetry")
    def list_device_telemetry(device_id: str, page: WindowPage, _caller: Viewer) -> ListOf[WindowView]:
        """List the telemetry windows of one device, newest first."""
        check_device(device_id)
        found, total = telemetry.windows(device_id, page.after_number(), page.limit + 1)
        return ListOf.of(cut_page(found, page, total, lambda one: str(one[0])), lambda one: one[1])

    @router.get("/releases/{ref}/performance", operation_id="get_release_performance")
    def get_release_performance(ref: str, _caller: Viewer) -> ListOf[Performance]:
        """Compare what was predicted of a release with what devices reported, one item a profile."""
        items = costs.performance(registry.release(registry.resolve(ref)).bundles)
        return ListOf.whole(items)

    @router.get("/models/{name}/compare", operation_id="compare_versions")
    def compare_versions(name: str, a: Version, b: Version, _caller: Viewer) -> Comparison:
        """Compare two versions of a model, `a` and `b` (also by alias), profile by profile: what got better, what got worse."""
        return comparisons.compare(name, a, b)

    @router.get("/profiles/{name}/cost", operation_id="get_profile_cost")
    def get_profile_cost(name: str, _caller: Viewer) -> CostState:
        """Show what the cost model of a profile rests on, and its error."""
        return costs.state(registry.profile(parse_profile_name(name)))

    return router


def build_watch_router(watching: LivePredictions, clock: Clock) -> APIRouter:
    """Return the routes of watched devices, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["telemetry"], route_class=ListRoute)

    @router.post("/devices/{device_id}:watch", operation_id="watch_device")
    def watch_device(device_id: str, _caller: Operator) -> WatchView:
        """Watch a device: it shows its newest answers for some minutes, and longer while somebody looks."""
        return watching.begin(device_id)

    @router.get("/devices/{device_id}/predictions", operation_id="list_predictions")
    async def list_predictions(
        device_id: str,
        _caller: Operator,
        after_id: Annotated[int, Query(ge=0, lt=2**63)] = 0,
        model: Annotated[str, Query(max_length=63)] = "",
        wait_s: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0.0,
    ) -> PredictionsView:
        """Return what a watched device has shown after message `after_id`, waiting up to `wait_s` for something new."""
        until_s = clock.monotonic_s() + wait_s
        while True:  # holds a connection and no thread
            found = await run_in_threadpool(watching.look, device_id, after_id, model)
            if found.last_id > after_id or clock.monotonic_s() >= until_s:
                return found
            await asyncio.sleep(LOOK_S)

    return router


def build_capture_router(captures: CaptureService, access: AccessService) -> APIRouter:
    """Return the routes of captured records, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["telemetry"], route_class=ListRoute)

    @router.post("/devices/{device_id}/captures:fetch", operation_id="fetch_captures", status_code=202)
    def fetch_captures(device_id: str, wanted: CaptureFetchIn, response: Response, caller: Operator) -> CaptureFetch:
        """Ask a device for its newest captured records; it answers when it is connected."""
        asked = captures.ask(
            device_id, model=wanted.model, reason=wanted.reason, limit=wanted.limit, by=f"{caller.name} ({caller.id})"
        )
        put_location(response, f"/devices/{device_id}/captures:fetch/{asked.id}")
        return asked

    @router.get("/devices/{device_id}/captures:fetch/{fetch_id}", operation_id="get_capture_fetch")
    def get_capture_fetch(device_id: str, fetch_id: str, _caller: Operator) -> CaptureFetch:
        """Return how a fetch stands: asked, done or expired."""
        return captures.fetch(device_id, fetch_id)

    @router.get("/devices/{device_id}/captures", operation_id="list_captures")
    def list_captures(
        device_id: str, page: ById, _caller: Operator, fetch: Annotated[str | None, Query(max_length=32)] = None
    ) -> ListOf[CaptureView]:
        """List the records that came from a device, without their content."""
        found, total = captures.records(device_id, fetch, page.after, page.limit + 1)
        return ListOf.cut(found, page, total, lambda one: one.id)

    @router.get("/devices/{device_id}/captures/{record}", operation_id="get_capture")
    def get_capture(device_id: str, record: str, caller: Operator, request: Request) -> CaptureOut:
        """Return one record as its device sealed it. Reading one is audited."""
        view, sealed = captures.record(device_id, record)
        access.record(
            f"{caller.name} ({caller.id})", "get_capture", request.url.path, 200, problems.request_id_of(request)
        )
        return CaptureOut(**asdict(view), sealed=base64.b64encode(sealed).decode())

    return router
