"""Routes of the telemetry feature. They only translate."""

from typing import Annotated

from fastapi import APIRouter, Depends

from edgefleet_protocol.ids import ReleaseRef, parse_profile_name
from edgefleet_server.access.dependency import require
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.paging import ListOf, Paging, cut_page
from edgefleet_server.parts import Parts
from edgefleet_server.telemetry.model import CostState, Performance, WindowView

Viewer = Annotated[Principal, Depends(require(Role.VIEWER))]


def build_router(parts: Parts) -> APIRouter:
    """Return the telemetry routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["telemetry"])

    @router.get("/devices/{device_id}/telemetry", operation_id="list_device_telemetry")
    def list_device_telemetry(device_id: str, page: Paging, _caller: Viewer) -> ListOf[WindowView]:
        """List the telemetry windows of one device, newest first."""
        parts.fleet.reader.check(device_id)
        found, total = parts.telemetry.windows(device_id, page.after_number(), page.limit + 1)
        cut = cut_page(found, page, total, lambda one: str(one[0]))
        return ListOf(items=[view for _, view in cut.items], next_cursor=cut.next_cursor, total=total)

    @router.get("/releases/{ref}/performance", operation_id="get_release_performance")
    def get_release_performance(ref: str, _caller: Viewer) -> ListOf[Performance]:
        """Compare what was predicted of a release with what devices reported, one item a profile."""
        items = parts.costs.performance(parts.registry.release(ReleaseRef.parse(ref)).bundles)
        return ListOf(items=items, next_cursor=None, total=len(items))

    @router.get("/profiles/{name}/cost", operation_id="get_profile_cost")
    def get_profile_cost(name: str, _caller: Viewer) -> CostState:
        """Show what the cost model of a profile rests on, and its error."""
        return parts.costs.state(parts.registry.profile(parse_profile_name(name)))

    return router
