"""The live pages that are open, and the viewers of each. One loop a page renders it again and sends the parts that changed.

- Viewers of the same page with the same rights share one room. The room renders the page once a second, for any number of
  viewers, by asking the page's own route, and sends what changed since the last time.
- Rendering costs time. All rooms together use at most half of one core: with expensive pages, or many, updates come less
  often.
- A viewer that is slow gets the newest text of each part, never a queue.
- Templates keep their live parts as they render them (`live_part`), so no page is read again to find them.
- The key of a viewer's session stands in forms; the room writes a mark in its place.
- A viewer whose rights are not those it came with leaves: its page must not be shown to the others, nor theirs to it.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.types import ASGIApp, Message, Scope

from edgefleet_server.access.model import BrowserSession, Principal
from edgefleet_server.dashboard.core.render import LIVE_PARTS_KEY

EVERY_S: Final = 1.0

SHARE: Final = 0.5
"""Of one core, for all rooms together."""

KEY_MARK: Final = "form-key-of-this-session"

_ASOF: Final = "asof"

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Viewer:
    """One open stream. `waiting`: the newest text of each part that is not sent yet."""

    session: BrowserSession
    scope: Scope
    waiting: dict[str, str] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: bool = False

    def give(self, parts: dict[str, str]) -> None:
        """Take parts, in place of older ones."""
        self.waiting.update(parts)
        self.news.set()

    def end(self) -> None:
        """End the stream."""
        self.is_over = True
        self.news.set()


@dataclass(eq=False, slots=True)
class Room:
    """The viewers of one page. `shown`: its parts as they were sent last; `cost_s`: seconds that the last rendering took."""

    address: str
    viewers: set[Viewer] = field(default_factory=set)
    shown: dict[str, str] = field(default_factory=dict)
    cost_s: float = 0.0
    task: asyncio.Task[None] | None = None


class LiveHub:
    """All rooms of this process. Lives in one event loop: that of the listener."""

    def __init__(self, is_closing: Callable[[], bool]) -> None:
        """Keep the function that says whether the server stops. Starts nothing."""
        self._is_closing = is_closing
        self._rooms: dict[tuple[object, ...], Room] = {}
        self._one_at_a_time = asyncio.Lock()
        self.renders = 0
        """How often a page was rendered: for tests and figures."""

    @property
    def viewers(self) -> int:
        """How many streams are open."""
        return sum(len(room.viewers) for room in self._rooms.values())

    def join(self, app: ASGIApp, key: tuple[object, ...], address: str, viewer: Viewer) -> Room:
        """Let a viewer into the room of a page; the first one opens it."""
        room = self._rooms.get(key)
        if room is None:
            room = self._rooms[key] = Room(address)
        elif room.shown:
            viewer.give(room.shown)
        room.viewers.add(viewer)
        if room.task is None:
            room.task = asyncio.get_running_loop().create_task(self._keep(app, key, room))
        return room

    async def _keep(self, app: ASGIApp, key: tuple[object, ...], room: Room) -> None:
        loop = asyncio.get_running_loop()
        try:
            while room.viewers and not self._is_closing():
                async with self._one_at_a_time:
                    start_s = loop.time()
                    parts = await self._rendered(app, room)
                    room.cost_s = loop.time() - start_s
                changed = {name: text for name, text in parts.items() if room.shown.get(name) != text}
                if changed.keys() - {_ASOF}:
                    room.shown = room.shown | parts
                    for viewer in room.viewers:
                        viewer.give(changed)
                wait_s = max(EVERY_S, sum(one.cost_s for one in self._rooms.values()) / SHARE)
                await asyncio.sleep(max(0.0, wait_s - room.cost_s))
        finally:
            self._rooms.pop(key, None)
            for viewer in room.viewers:
                viewer.end()

    async def _rendered(self, app: ASGIApp, room: Room) -> dict[str, str]:
        """Return the live parts of a page now, as one of its viewers gets them; nothing when it cannot be rendered now."""
        self.renders += 1
        viewer = next(iter(room.viewers), None)
        if viewer is None:
            return {}
        status, parts, caller = await _page(app, viewer.scope, room.address)
        if status in {303, 401, 403} or (caller is not None and caller.rights != viewer.session.principal.rights):
            room.viewers.discard(viewer)
            viewer.end()
            return {}
        if status != 200:
            _log.warning(
                "a live page could not be made", extra={"path": room.address.partition("?")[0], "status": status}
            )
            return {}
        return {name: text.replace(viewer.session.form_key, KEY_MARK) for name, text in parts.items()}


async def _page(app: ASGIApp, outer: Scope, address: str) -> tuple[int, dict[str, str], Principal | None]:
    """Return the status and the live parts of a page as the browser of this request would get it, and whose session it was made for."""
    path, _, query = address.partition("?")
    headers = [(name, value) for name, value in outer["headers"] if name in {b"cookie", b"host"}]
    kept = {key: outer[key] for key in ("asgi", "http_version", "scheme", "server", "client") if key in outer}
    parts: dict[str, str] = {}
    state: dict[str, Any] = {}
    scope: Scope = kept | {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"), "root_path": "", "headers": headers, LIVE_PARTS_KEY: parts,
        "state": state,
    }  # fmt: skip
    status = 500

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    await app(scope, receive, send)
    return status, parts, state.get("principal")
