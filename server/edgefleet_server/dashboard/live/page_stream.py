"""The route of live pages: one stream a page (Server-Sent Events), at most one message a second.

- Each viewer gets the key of its own session where the room wrote a mark (`hub`), and of parts that differ by person its own.
- A hidden tab closes its stream (the script does that). A stream ends after 15 minutes, with its session, or when the user's rights
  change, which is looked at every HEARTBEAT_S; the browser connects again by itself.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import own_page
from edgefleet_server.dashboard.live.hub import KEY_MARK, LiveHub, Viewer
from edgefleet_server.dashboard.live.own_parts import own_parts

HEARTBEAT_S: Final = 15.0

MAX_STREAM_S: Final = 900.0

MAX_VIEWERS: Final = 1000

_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}


def add_live_route(router: APIRouter, shell: Shell, is_closing: Callable[[], bool]) -> None:
    """Add the stream. is_closing: whether this server is ending."""
    hub = LiveHub(is_closing)

    @router.get("/live", operation_id="stream_page")
    async def stream_page(request: Request, page: str = Query(max_length=700)) -> Response:
        """Stream the live parts of one of our pages as they change."""
        session = await asyncio.to_thread(shell.gate.session_of, request)
        if session is None:
            return Response(status_code=401, headers=_HEADERS)
        if hub.viewers >= MAX_VIEWERS or is_closing():
            return Response(status_code=503, headers=_HEADERS | {"retry-after": "10"})
        address = own_page(page)
        viewer = Viewer(session, request.scope)
        preferences = tuple(
            sorted((k, v) for k, v in request.cookies.items() if k.startswith("edgefleet_") and "session" not in k)
        )
        key = (address, session.principal.rights, preferences)

        def is_valid() -> bool:
            now = shell.gate.session_of(request)
            return now is not None and now.principal.rights == session.principal.rights

        body = _stream(hub, request, key, address, viewer, is_valid)
        return StreamingResponse(body, media_type="text/event-stream", headers=_HEADERS)


async def _stream(
    hub: LiveHub, request: Request, key: tuple[object, ...], address: str, viewer: Viewer, is_valid: Callable[[], bool]
) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    end_s = loop.time() + MAX_STREAM_S
    look_s = loop.time() + HEARTBEAT_S
    room = hub.join(request.app, key, address, viewer)
    try:
        yield "retry: 2000\n: live parts of a page\n\n"
        while loop.time() < end_s and not viewer.is_over:
            if loop.time() >= look_s:  # also of a page that changes each second
                if not await asyncio.to_thread(is_valid):
                    return
                look_s = loop.time() + HEARTBEAT_S
            viewer.news.clear()
            if viewer.waiting:
                parts, viewer.waiting = viewer.waiting, {}
                yield _message(
                    own_parts(as_swap(parts), viewer.session.principal).replace(KEY_MARK, viewer.session.form_key)
                )
                continue
            try:
                await asyncio.wait_for(viewer.news.wait(), HEARTBEAT_S)
            except TimeoutError:
                yield ": still here\n\n"
    finally:
        room.viewers.discard(viewer)


def _message(text: str) -> str:
    return "".join(f"data: {line}\n" for line in text.splitlines()) + "\n"


def as_swap(parts: dict[str, str]) -> str:
    """Return elements as one message that htmx puts into the page: each over the element of its id, keeping focus."""
    return "\n".join(text.replace(" data-live", ' data-live hx-swap-oob="innerMorph"', 1) for text in parts.values())
