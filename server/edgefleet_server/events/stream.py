"""Streams of events for viewers, in either form: however many look, one thread of this process asks the database.

- The hub polls the feed once a second, and at once when this process committed an event. What it finds goes to every viewer
  whose filter takes it; each event is written as text once.
- A viewer that comes back with the last id that it saw (`Last-Event-ID`) reads what it missed from the database first, and is then
  fed by the hub from the very id on: nothing is lost, nothing comes twice, ids only grow (`events.log` says why they are safe).
- A viewer keeps at most MAX_WAITING events. One that does not take them in time loses its buffer, not its events: it reads on from
  the database, as if it had come back.
- The forms differ in nothing but how an event is written: Server-Sent Events, or a JSON object a line (NDJSON).
The event log itself knows no asyncio. Sources: the HTML standard, section "Server-sent events"; the NDJSON specification,
which lets a reader pass over an empty line.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import EventFilter, EventView
from edgefleet_server.events.types import is_chosen

MAX_VIEWERS: Final = 1000
MAX_WAITING: Final = 2000
PAGE: Final = 500
POLL_S: Final = 1.0
GATHER_S: Final = 0.1
"""So long is waited for more after news: a burst of commits is one question."""
HEARTBEAT_S: Final = 15.0
RETRY: Final = "retry: 2000\n: stream of edgefleet events\n\n"
HEARTBEAT: Final = ": still here\n\n"
EMPTY_LINE: Final = "\n"

_log = logging.getLogger(__name__)


class StreamUnavailableError(EdgefleetError):
    """This process streams to as many viewers as it may, or is about to stop."""

    code = "fleet.stream_unavailable"


@dataclass(frozen=True, slots=True)
class StreamFilter:
    """What a viewer wants to see: `types` are patterns, empty means all; the time of `what` is not looked at."""

    what: EventFilter = field(default_factory=EventFilter)
    types: Sequence[str] = ()

    def takes(self, event: EventView) -> bool:
        """Return whether the viewer wants an event."""
        what = self.what
        return (
            what.device in (None, event.device)
            and what.rollout in (None, event.rollout)
            and (not what.kinds or event.kind in what.kinds)
            and is_chosen(event.type, self.types)
        )


class Form(StrEnum):
    """How a stream is written: its media type."""

    SSE = "text/event-stream"
    NDJSON = "application/x-ndjson"

    @property
    def opening(self) -> str:
        """What a stream begins with; nothing in a form that knows no comments."""
        return RETRY if self is Form.SSE else ""

    @property
    def heartbeat(self) -> str:
        """What is written when nothing happens."""
        return HEARTBEAT if self is Form.SSE else EMPTY_LINE


@dataclass(frozen=True, slots=True)
class Frame:
    """An event as streams write it: made once for all viewers."""

    id: int
    sse: str
    line: str

    @classmethod
    def of(cls, event: EventView) -> "Frame":
        """Return an event in both forms: its id, its type, and the JSON that `GET /events` has; or that JSON alone."""
        data = msgspec.json.encode(event).decode()
        return cls(event.id, f"id: {event.id}\nevent: {event.type}\ndata: {data}\n\n", data + "\n")

    def text(self, form: Form) -> str:
        """Return it in one form."""
        return self.sse if form is Form.SSE else self.line


class Viewer:
    """One stream's buffer. Only its event loop touches it; `push` is called there."""

    def __init__(self, chosen: StreamFilter, since: int, loop: asyncio.AbstractEventLoop) -> None:
        self.chosen = chosen
        self.since = since
        """The hub's position when the viewer came: later events are pushed."""
        self.loop = loop
        self.waiting: deque[Frame] = deque()
        self.is_behind = False
        self.is_over = False
        self.news = asyncio.Event()

    def push(self, frames: Sequence[Frame]) -> None:
        """Take events; a full buffer is given up."""
        if self.is_behind:
            return
        if len(self.waiting) + len(frames) > MAX_WAITING:
            self.waiting.clear()
            self.is_behind = True
        else:
            self.waiting.extend(frames)
        self.news.set()

    def end(self) -> None:
        """End the stream: the server stops."""
        self.is_over = True
        self.news.set()


class EventHub:
    """Feeds all streams of this process. Thread-safe; its thread runs only while somebody looks."""

    def __init__(self, feed: EventLog) -> None:
        """Wire the feed. Touches nothing."""
        self._feed = feed
        self._lock = threading.Lock()
        self._viewers: set[Viewer] = set()
        self._position: int | None = None
        self._thread: threading.Thread | None = None
        self._woken = threading.Event()
        self._closing = threading.Event()
        self.polls = 0
        """How often the database was asked: for tests and figures."""
        feed.bell.subscribe(self._woken.set)

    @property
    def viewers(self) -> int:
        """How many streams are open."""
        return len(self._viewers)

    @property
    def is_closing(self) -> bool:
        """Whether the server is about to stop."""
        return self._closing.is_set()

    def close(self) -> None:
        """End all streams, for good. The thread ends by itself."""
        with self._lock:
            self._closing.set()
            viewers = list(self._viewers)
        self._woken.set()
        for viewer in viewers:
            _in_loop(viewer, viewer.end)

    def join(self, chosen: StreamFilter, loop: asyncio.AbstractEventLoop) -> Viewer:
        """Begin to feed a viewer. Asks the database when it is the first one. Raises StreamUnavailableError."""
        with self._lock:
            if self._closing.is_set() or len(self._viewers) >= MAX_VIEWERS:
                raise StreamUnavailableError(
                    f"this server streams to at most {MAX_VIEWERS} viewers and has reached that limit, or is about to stop",
                    next_step="try again in a while, or read `GET /events` with `after_id`",
                )
            if self._position is None:
                self._position = self._newest()
            viewer = Viewer(chosen, self._position, loop)
            self._viewers.add(viewer)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="event-hub", daemon=True)
                self._thread.start()
            return viewer

    def leave(self, viewer: Viewer) -> None:
        """Stop feeding a viewer."""
        with self._lock:
            self._viewers.discard(viewer)

    def again(self, viewer: Viewer) -> int:
        """Feed a viewer that fell behind again; return the id up to which it must read by itself. Call in its loop."""
        with self._lock:
            viewer.since = self._position or 0
            viewer.waiting.clear()
            viewer.is_behind = False
            return viewer.since

    def missed(self, chosen: StreamFilter, after_id: int, until: int) -> tuple[list[Frame], int | None]:
        """Return what a viewer missed after an id and not after `until`, a page of it, and where the next page begins."""
        page = self._feed.since(after_id, EventFilter(chosen.what.device, chosen.what.rollout, chosen.what.kinds), PAGE)
        found = [event for event in page if event.id <= until]
        frames = [Frame.of(event) for event in found if chosen.takes(event)]
        return frames, found[-1].id if found and len(page) == PAGE else None

    def _newest(self) -> int:
        """Return the id of the newest event that may be sent: what comes after it is new."""
        position = self._feed.position()
        while page := self._feed.since(position, EventFilter(), PAGE):
            position = page[-1].id
        return position

    def _run(self) -> None:
        while True:
            if self._woken.wait(POLL_S):
                self._closing.wait(GATHER_S)
            self._woken.clear()
            with self._lock:
                if not self._viewers or self._closing.is_set():
                    self._thread, self._position = None, None
                    return
            try:
                while self._poll() == PAGE:
                    pass
            except (SQLAlchemyError, EdgefleetError, OSError):
                _log.exception("the event stream could not read the feed; trying again")
                self._woken.wait(POLL_S)

    def _poll(self) -> int:
        assert self._position is not None, "it was set by the first viewer"
        self.polls += 1
        page = self._feed.since(self._position, EventFilter(), PAGE)
        if page:
            frames = [(event, Frame.of(event)) for event in page]
            with self._lock:
                self._position = page[-1].id
                viewers = list(self._viewers)
                for viewer in viewers:
                    wanted = [one for event, one in frames if viewer.chosen.takes(event)]
                    if wanted:
                        _in_loop(viewer, viewer.push, wanted)
        return len(page)


async def stream(
    hub: EventHub, chosen: StreamFilter, after_id: int | None, max_s: float, form: Form
) -> AsyncIterator[str]:
    """Yield a stream for at most `max_s` seconds: what came after an id (None: from now on), then what is new."""
    loop = asyncio.get_running_loop()
    viewer = await asyncio.to_thread(hub.join, chosen, loop)
    try:
        yield form.opening
        end_s = loop.time() + max_s
        sent, until = (viewer.since, viewer.since) if after_id is None else (after_id, viewer.since)
        is_reading = sent < until
        while loop.time() < end_s and not viewer.is_over:
            if is_reading:
                frames, then = await asyncio.to_thread(hub.missed, chosen, sent, until)
                for one in frames:
                    yield one.text(form)
                is_reading, sent = then is not None, until if then is None else then
            elif viewer.waiting:
                newest = viewer.waiting.popleft()
                if newest.id > sent:
                    sent = newest.id
                    yield newest.text(form)
            elif viewer.is_behind:
                until = hub.again(viewer)
                is_reading = sent < until
            elif not await _news(viewer, min(HEARTBEAT_S, end_s - loop.time())):
                yield form.heartbeat
    finally:
        hub.leave(viewer)


async def _news(viewer: Viewer, wait_s: float) -> bool:
    viewer.news.clear()
    if viewer.waiting or viewer.is_behind or viewer.is_over:
        return True
    try:
        await asyncio.wait_for(viewer.news.wait(), max(0.0, wait_s))
    except TimeoutError:
        return False
    return True


def _in_loop(viewer: Viewer, call: Callable[..., None], *arguments: object) -> None:
    try:
        viewer.loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:  # its loop is closed: the viewer is gone, and leaves the set when its generator ends
        _log.debug("a viewer's loop is closed")
