"""Routes of conversions: the report of a release, ending what still converts, the tools there are. They only translate."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, Response

from edgefleet_server.access.dependency import Publisher, Viewer
from edgefleet_server.conversion.errors import NothingToCancelError
from edgefleet_server.conversion.reports import page_of, report_of
from edgefleet_server.conversion.schemas import ConverterToolsOut
from edgefleet_server.conversion.service import ConversionService
from edgefleet_server.conversion.tool_stock import ToolStock
from edgefleet_server.db.database import Database
from edgefleet_server.registry.schemas import ReleaseOut
from edgefleet_server.registry.service import RegistryService
from edgefleet_server.web.deferred_route import DeferredRoute

Attempt = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="the report of this attempt, not of the newest")]
PAGE_HEADERS: Final = {
    # The page's own policy allows exactly its style; this one stands even if the page were not what it should be.
    "content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "cache-control": "private, no-store",
}


def build_router(
    conversion: ConversionService, registry: RegistryService, db: Database, tool_stock: Callable[[], ToolStock]
) -> APIRouter:
    """Return the routes of conversions, to be mounted under `/api/v1`. tool_stock: looks which tools the converters have now."""
    router = APIRouter(tags=["conversion"], route_class=DeferredRoute)

    @router.get("/releases/{ref}/report", operation_id="get_release_report", response_model=dict[str, Any])
    def get_report(ref: str, _caller: Viewer, attempt: Attempt = None) -> Response:
        """Return the conversion report of a release: every candidate of every profile with its figures."""
        report = report_of(registry, registry.resolve(ref), attempt)
        # In ASCII: a name may hold half of a surrogate pair, which UTF-8 cannot say.
        return Response(json.dumps(report), media_type="application/json")

    @router.get("/releases/{ref}/report.html", operation_id="get_release_report_page", response_class=HTMLResponse)
    def get_report_page(ref: str, _caller: Viewer, attempt: Attempt = None) -> Response:
        """Return the conversion report as one page that needs nothing else."""
        page = page_of(report_of(registry, registry.resolve(ref), attempt))
        return HTMLResponse(page, headers=PAGE_HEADERS)

    @router.post("/releases/{ref}:cancel", operation_id="cancel_release")
    def cancel(ref: str, caller: Publisher) -> ReleaseOut:
        """End the waiting and running conversions of a release. What is signed stays signed."""
        wanted = registry.resolve(ref)
        with db.session():
            release = registry.release(wanted)
            if not conversion.cancel(wanted, caller.name):
                raise NothingToCancelError(
                    f"{wanted} is {release.state}: none of its conversions is queued or running",
                    next_step=f"`edgectl release show {wanted}` shows the result",
                )
            registry.refresh_state(wanted)
            return ReleaseOut.of(registry.release(wanted))

    @router.post("/releases/{ref}:end-search", operation_id="end_release_search")
    def end_search(ref: str, _caller: Publisher) -> ReleaseOut:
        """Ask the conversions of a release to end their search: each goes on with the best candidate found so far."""
        wanted = registry.resolve(ref)
        release = registry.release(wanted)
        if not conversion.end_search(wanted):
            raise NothingToCancelError(
                f"{wanted} is {release.state}: none of its conversions is queued or running",
                next_step=f"`edgectl release show {wanted}` shows the result",
            )
        return ReleaseOut.of(release)

    @router.get("/tools", operation_id="get_tools")
    def get_tools(_caller: Publisher) -> ConverterToolsOut:
        """Return the tools that read sources of other frameworks here, so that a publisher can ask before the upload."""
        return ConverterToolsOut.of(tool_stock())

    return router
