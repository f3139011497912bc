"""Routes of figures over time, as JSON and as CSV. They only translate."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import parse_model_name
from edgefleet_server.access.dependency import Viewer
from edgefleet_server.telemetry.errors import BadSpanError
from edgefleet_server.telemetry.rollups.model import KEPT, SCALES
from edgefleet_server.telemetry.timelines.csv_table import csv_lines
from edgefleet_server.telemetry.timelines.model import MOST_POINTS, LinesBy, Scope, Timeline
from edgefleet_server.telemetry.timelines.service import TimelineReader
from edgefleet_server.web.sparse_fields import ListRoute
from edgefleet_server.web.strict_types import Moment

USUAL: Final = timedelta(days=1)
MEDIA_TYPE: Final = "text/csv"
_CSV: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": "a row for each step and line"}
}
Since = Annotated[Moment | None, Query(description="Beginning; without it a day before the end.")]
Until = Annotated[Moment | None, Query(description="End; without it now.")]
Points = Annotated[int, Query(ge=2, le=MOST_POINTS, description="At most so many steps.")]
ByQuery = Annotated[
    LinesBy | None,
    Query(description="By what lines are told apart; without it the versions of a model, and models elsewhere."),
]


@dataclass(frozen=True)
class Asked:
    """A span of time and how finely it is cut."""

    since: datetime | None
    until: datetime | None
    points: int
    by: LinesBy | None


def span_of(clock: Clock, since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    """Return beginning and end, not before what roll-ups keep and not after the next day: clocks differ. Raises BadSpanError."""
    now = clock.now()
    oldest = now - KEPT[SCALES[-1]]
    end = min(max(until or now, oldest), now + USUAL)
    begin = max(since or end - USUAL, oldest)
    if begin >= end:
        kept = f"; figures are kept since {oldest.isoformat()}" if begin == oldest else ""
        raise BadSpanError(f"{(since or begin).isoformat()} is not before {end.isoformat()}{kept}")
    return begin, end


async def _asked(since: Since = None, until: Until = None, points: Points = MOST_POINTS, by: ByQuery = None) -> Asked:
    return Asked(since, until, points, by)


Span = Annotated[Asked, Depends(_asked)]
Read = Callable[[Scope, str, Asked], Timeline]


def build_router(timelines: TimelineReader, clock: Clock) -> APIRouter:
    """Return the routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["telemetry"], route_class=ListRoute)

    def read(scope: Scope, name: str, span: Asked) -> Timeline:
        since, until = span_of(clock, span.since, span.until)
        return timelines.read(scope, name, since, until, by=span.by, points=span.points)

    _add_json(router, read)
    _add_csv(router, read)
    return router


def _add_json(router: APIRouter, read: Read) -> None:
    @router.get("/fleet/metrics", operation_id="get_fleet_metrics")
    def get_fleet_metrics(span: Span, _caller: Viewer) -> Timeline:
        """Return requests, errors, latency and figures of all devices over time, a line a model, with what happened meanwhile."""
        return read(Scope.FLEET, "", span)

    @router.get("/models/{name}/metrics", operation_id="get_model_metrics")
    def get_model_metrics(name: str, span: Span, _caller: Viewer) -> Timeline:
        """Return requests, errors, latency, classes and drift of a model over time, a line a version, with what happened meanwhile."""
        return read(Scope.MODEL, parse_model_name(name), span)

    @router.get("/groups/{name}/metrics", operation_id="get_group_metrics")
    def get_group_metrics(name: str, span: Span, _caller: Viewer) -> Timeline:
        """Return what a group's devices did over time, a line a model, with what happened meanwhile."""
        return read(Scope.GROUP, name, span)

    @router.get("/devices/{device_id}/metrics", operation_id="get_device_metrics")
    def get_device_metrics(device_id: str, span: Span, _caller: Viewer) -> Timeline:
        """Return what a device did over time, a line a model and lane, with what happened to it meanwhile."""
        return read(Scope.DEVICE, device_id, span)


def _add_csv(router: APIRouter, read: Read) -> None:
    def file(scope: Scope, name: str, span: Asked) -> Response:
        headers = {"content-disposition": f'attachment; filename="{name or scope.value}-metrics.csv"'}
        return Response("".join(csv_lines(read(scope, name, span))), media_type=MEDIA_TYPE, headers=headers)

    @router.get("/fleet/metrics.csv", operation_id="get_fleet_metrics_csv", response_class=Response, responses=_CSV)
    def get_fleet_metrics_csv(span: Span, _caller: Viewer) -> Response:
        """Return the same as CSV."""
        return file(Scope.FLEET, "", span)

    @router.get(
        "/models/{name}/metrics.csv",
        operation_id="get_model_metrics_csv",
        response_class=Response,
        responses=_CSV,
    )
    def get_model_metrics_csv(name: str, span: Span, _caller: Viewer) -> Response:
        """Return the same as CSV."""
        return file(Scope.MODEL, parse_model_name(name), span)

    @router.get(
        "/groups/{name}/metrics.csv",
        operation_id="get_group_metrics_csv",
        response_class=Response,
        responses=_CSV,
    )
    def get_group_metrics_csv(name: str, span: Span, _caller: Viewer) -> Response:
        """Return the same as CSV."""
        return file(Scope.GROUP, name, span)

    @router.get(
        "/devices/{device_id}/metrics.csv",
        operation_id="get_device_metrics_csv",
        response_class=Response,
        responses=_CSV,
    )
    def get_device_metrics_csv(device_id: str, span: Span, _caller: Viewer) -> Response:
        """Return the same as CSV."""
        return file(Scope.DEVICE, device_id, span)
