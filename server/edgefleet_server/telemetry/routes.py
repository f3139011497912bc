"""Routes of the telemetry feature. They only translate."""

from typing import Annotated

from fastapi import APIRouter, Depends

from edgefleet_server.access.dependency import require
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.paging import BadCursorError, ListOf, Paging, encode_cursor
from edgefleet_server.parts import Parts
from edgefleet_server.telemetry.schemas import WindowOut

Viewer = Annotated[Principal, Depends(require(Role.VIEWER))]


def build_router(parts: Parts) -> APIRouter:
    """Return the telemetry routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["telemetry"])

    @router.get("/devices/{device_id}/telemetry", operation_id="list_device_telemetry")
    def list_device_telemetry(device_id: str, page: Paging, _caller: Viewer) -> ListOf[WindowOut]:
        """List the telemetry windows of one device, newest first."""
        parts.fleet.reader.device(device_id)
        if page.after is not None and not (page.after.isdigit() and len(page.after) <= 18):
            raise BadCursorError("this cursor is not of this list", next_step="start the list again without `cursor`")
        before = None if page.after is None else int(page.after)
        found, total = parts.telemetry.windows(device_id, before, page.limit + 1)
        items = [WindowOut.of(view) for _, view in found[: page.limit]]
        more = len(found) > page.limit
        cursor = encode_cursor(str(found[page.limit - 1][0])) if more else None
        return ListOf(items=items, next_cursor=cursor, total=total)

    return router
