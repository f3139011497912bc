"""Operator routes of events: lists, and the stream, which holds a connection open. They only translate."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import StreamingResponse

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.dependency import Viewer
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import EventFilter, EventView
from edgefleet_server.events.stream import EventHub, Form, StreamFilter, stream
from edgefleet_server.events.types import is_pattern
from edgefleet_server.web.pagination import EitherWay, ListOf
from edgefleet_server.web.sparse_fields import ListRoute
from edgefleet_server.web.strict_types import Moment

MAX_STREAM_S = 900.0
"""A stream ends by then, and its viewer comes back: so a token that was revoked does not look on for long."""

_FORMS: dict[str, Any] = {
    "description": "events, until `max_s` is over",
    "content": {form.value: {"schema": {"type": "string"}} for form in Form},
}
AfterId = Annotated[int | None, Query(ge=0, lt=2**63)]


class BadStreamError(EdgefleetError):
    """The request for a stream is not valid."""

    code = "fleet.bad_stream"


async def _stream_filter(
    rollout: Annotated[str | None, Query(max_length=32)] = None,
    device: Annotated[str | None, Query(max_length=63)] = None,
    kind: Annotated[str, Query(max_length=512, description="kinds, separated by commas")] = "",
    event_type: Annotated[
        str,
        Query(alias="type", max_length=1024, description="types, or `edgefleet.rollout.*`, separated by commas"),
    ] = "",
) -> StreamFilter:
    types = _listed(event_type)
    for one in types:
        if not is_pattern(one):
            raise BadStreamError(
                f"{one[:80]!r} is not a type of event",
                next_step="use one of docs/reference/events.md, or `edgefleet.rollout.*`",
            )
    return StreamFilter(EventFilter(device, rollout, tuple(_listed(kind))), tuple(types))


async def _event_filter(
    since: Moment | None = None,
    rollout: Annotated[str | None, Query(max_length=32)] = None,
    kind: Annotated[str, Query(max_length=512, description="kinds, separated by commas")] = "",
    device: Annotated[str | None, Query(max_length=63)] = None,
) -> EventFilter:
    return EventFilter(device, rollout, tuple(filter(None, (one.strip() for one in kind.split(",")))), since)


Filter = Annotated[EventFilter, Depends(_event_filter)]


def build_router(feed: EventLog, check_device: Callable[[str], None]) -> APIRouter:
    """Return the lists, to be mounted under `/api/v1`. check_device: raises an error unless there is such a device."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)

    @router.get("/devices/{device_id}/events", operation_id="list_device_events")
    def list_device_events(
        device_id: str, page: EitherWay, _caller: Viewer, since: Moment | None = None
    ) -> ListOf[EventView]:
        """List what happened to one device, newest first unless `sort` says otherwise."""
        check_device(device_id)
        return _events(feed, EventFilter(device=device_id, since=since), page)

    @router.get("/events", operation_id="list_events")
    def list_events(page: EitherWay, _caller: Viewer, what: Filter, after_id: AfterId = None) -> ListOf[EventView]:
        """List what happened in the fleet, newest first unless `sort` says otherwise; with `after_id` what came after that event.

        Following (`after_id` = the last id that was returned, 0 from the beginning) is oldest first, misses nothing, and has no cursor.
        """
        if after_id is not None:
            found, total = feed.following(after_id, what, page.limit)
            return ListOf(items=found[: page.limit], next_cursor=None, total=total)
        return _events(feed, what, page)

    return router


def build_stream_router(hub: EventHub) -> APIRouter:
    """Return the stream, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["fleet"], route_class=ListRoute)

    @router.get(
        "/events/stream", operation_id="stream_events", response_class=StreamingResponse, responses={200: _FORMS}
    )
    async def stream_events(
        _caller: Viewer,
        chosen: Annotated[StreamFilter, Depends(_stream_filter)],
        after_id: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
        max_s: Annotated[float, Query(ge=0, le=MAX_STREAM_S)] = MAX_STREAM_S,
        last_event_id: Annotated[str, Header(max_length=40)] = "",
        accept: Annotated[str, Header(include_in_schema=False)] = "",
    ) -> StreamingResponse:
        """Stream events as they happen (Server-Sent Events): `id` of the feed, `event` its type, `data` as in `GET /events`.

        With `Accept: application/x-ndjson` the same feed as one such JSON object a line. With `Last-Event-ID` (or `after_id`) from the
        event after that one on, without a gap; else from now on. A comment (NDJSON: an empty line) comes every 15 s when nothing else
        does. Ends after `max_s` seconds; come back with the last id.
        """
        form = form_of(accept)
        body = stream(hub, chosen, _number(last_event_id, after_id), max_s, form)
        first = await anext(body)  # a refusal is an answer, not a broken stream
        headers = {"cache-control": "no-store", "x-accel-buffering": "no", "vary": "Accept"}
        return StreamingResponse(_with_first(first, body), media_type=form.value, headers=headers)

    return router


def form_of(accept: str) -> Form:
    """Return the form that an `Accept` header asks for: NDJSON where it is named and liked better than SSE, else SSE."""
    liking = {Form.SSE: 0.0, Form.NDJSON: 0.0}
    for entry in accept.split(","):
        media_type, *parameters = (word.strip().lower() for word in entry.split(";"))
        if media_type in liking:
            weights = [one.removeprefix("q=") for one in parameters if one.startswith("q=")]
            liking[Form(media_type)] = _weight(weights[0]) if weights else 1.0
    return Form.NDJSON if liking[Form.NDJSON] > liking[Form.SSE] else Form.SSE


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 1.0


async def _with_first(first: str, rest: Any) -> Any:
    try:
        yield first
        async for text in rest:
            yield text
    finally:
        await asyncio.shield(rest.aclose())


def _events(feed: EventLog, what: EventFilter, page: PageRequest) -> ListOf[EventView]:
    """Return the body of a list of events."""
    if page.is_turned:
        found, total = feed.oldest(what, page.after_number(), page.limit)
    else:
        found, total = feed.page(
            device_id=what.device,
            before=page.after_number(),
            since=what.since,
            limit=page.limit,
            rollout=what.rollout,
            kinds=what.kinds,
        )
    return ListOf.cut(found, page, total, lambda event: str(event.id))


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _number(last_event_id: str, after_id: int | None) -> int | None:
    if not last_event_id:
        return after_id
    if not last_event_id.isascii() or not last_event_id.isdigit() or len(last_event_id) > 18:
        raise BadStreamError(
            f"Last-Event-ID {last_event_id!r} is not an id of this feed", next_step="leave the header out to begin now"
        )
    return int(last_event_id)
