"""The stream of events. Its own file because it is the one route that is asynchronous: it holds a connection open."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import StreamingResponse

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.access.dependency import require
from edgefleet_server.access.model import Principal, Role
from edgefleet_server.composition.container import Parts
from edgefleet_server.events.model import EventFilter
from edgefleet_server.events.stream import EventHub, Form, StreamFilter, stream
from edgefleet_server.events.types import is_pattern

MAX_STREAM_S = 900.0
"""A stream ends by then, and its viewer comes back: so a token that was revoked does not look on for long."""

_FORMS: dict[str, Any] = {
    "description": "events, until `max_s` is over",
    "content": {form.value: {"schema": {"type": "string"}} for form in Form},
}
Viewer = Annotated[Principal, Depends(require(Role.VIEWER))]


class BadStreamError(EdgefleetError):
    """A stream cannot be opened as asked."""

    code = "fleet.bad_stream"


def _stream_filter(
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
                f"{one[:80]!r} is no type of event",
                next_step="take one of docs/reference/events.md, or `edgefleet.rollout.*`",
            )
    return StreamFilter(EventFilter(device, rollout, tuple(_listed(kind))), tuple(types))


def add_stream_route(router: APIRouter, parts: Parts) -> None:
    """Add the route."""
    hub: EventHub = parts.fleet.stream

    @router.get(
        "/events/stream", operation_id="stream_events", response_class=StreamingResponse, responses={200: _FORMS}
    )
    async def stream_events(
        _caller: Viewer,
        wish: Annotated[StreamFilter, Depends(_stream_filter)],
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
        body = stream(hub, wish, _number(last_event_id, after_id), max_s, form)
        first = await anext(body)  # a refusal is an answer, not a broken stream
        headers = {"cache-control": "no-store", "x-accel-buffering": "no", "vary": "Accept"}
        return StreamingResponse(_with_first(first, body), media_type=form.value, headers=headers)


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


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _number(last_event_id: str, after_id: int | None) -> int | None:
    if not last_event_id:
        return after_id
    if not last_event_id.isascii() or not last_event_id.isdigit() or len(last_event_id) > 18:
        raise BadStreamError(
            f"Last-Event-ID {last_event_id!r} is no id of this feed", next_step="leave the header out to begin now"
        )
    return int(last_event_id)
