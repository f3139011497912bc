"""Following the events: the last ones, then each new one as it comes, in order and once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final

from edgefleet_cli.core.api.fleet import Event
from edgefleet_cli.core.clock import SystemClock
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.core.transport.server_retry import ServerRetry
from edgefleet_cli.fleet.render import what
from edgefleet_cli.render.format import moment, named, text
from edgefleet_cli.render.output import Output, visible

AGAIN_S = 1.0
"""After a stream has ended so long is waited before the next one."""
SILENT_S = 45.0
"""The server sends something every 15 s; after so long without a line it counts as away."""
LONGEST_S = 900.0
LATE_IDS = 1000
"""An event may be committed after this many later ones (10 s of a busy server), and is not missed all the same."""
_WIDTHS = (19, 10, 18, 10)
_END: Final = Reply({}, Event)


class Follower:
    """Yields events. `filters` are those of the API: `rollout`, `kind`, `device`, `type`, and `since`, a time in RFC 3339.
    note: called when the server is away, and when it is back.

    The list of the last events may hold one whose forerunner is not committed yet; what the stream sends after an id never does. So
    following begins before the last events, goes by the stream only, and what was seen already is left out.
    """

    def __init__(
        self, api: ApiClient, note: Callable[[str], None], clock: SystemClock, filters: Mapping[str, Any]
    ) -> None:
        self._api = api
        self._clock = clock
        self._filters = {name: value for name, value in filters.items() if name != "type"}
        self._stream_filters = {name: value for name, value in filters.items() if name != "since"}
        self._since = datetime.fromisoformat(filters["since"]) if filters.get("since") else None
        self._retry = ServerRetry(note, clock)
        self._seen: set[int] = set()
        self._after_id = 0

    def follow(self, *, limit: int | None, wait_s: float | None = None) -> Iterator[Reply[Event]]:
        """Yield the last `limit` events (None: all since `since`), oldest first, then new ones, for `wait_s` seconds or without end.

        With a `type` the list cannot be asked: the last events are left out, and with `since` the stream begins before them. Raises
        what the first request raises; later a server that is away is waited for.
        """
        items = self._api.pages("/events", Event, limit=limit, **self._filters).replies
        deadline_s = math.inf if wait_s is None else self._clock.monotonic_s() + wait_s
        numbers = {item.value.id for item in items}
        if self._stream_filters.get("type"):
            self._after_id = min(numbers) - 1 if numbers and self._since else max(numbers, default=0)
        else:
            self._seen = numbers
            self._after_id = min(numbers, default=1) - 1
            yield from reversed(items)
        if self._since and not numbers:
            self._after_id = self._before_the_newest()
        yield from self._new_ones(deadline_s)

    def _before_the_newest(self) -> int:
        """Return an id shortly before the newest event of all: where to begin when nothing has happened since `since`."""
        newest = list(self._api.page("/events", Event, limit=1))
        return max(0, newest[0].id - LATE_IDS) if newest else 0

    def _is_wanted(self, event: Event) -> bool:
        received_at = event.received_at
        return self._since is None or not received_at or datetime.fromisoformat(received_at) >= self._since

    def _new_ones(self, deadline_s: float) -> Iterator[Reply[Event]]:
        """Yield what the stream sends; when it ends or the server is away, another one goes on from there."""
        stream: Iterator[Reply[Event]] | None = None
        while (left_s := deadline_s - self._clock.monotonic_s()) > 0:
            if stream is None:
                stream = self._stream(left_s)
            item = self._retry.ask(partial(next, stream, _END), until_s=deadline_s)
            if item is None or item is _END:
                if item is _END:
                    self._clock.sleep(min(AGAIN_S, max(0.0, deadline_s - self._clock.monotonic_s())))
                stream = None
                continue
            number = item.value.id
            is_new = number > self._after_id and number not in self._seen
            self._after_id = max(self._after_id, number)
            self._seen = {one for one in self._seen if one > self._after_id}
            if is_new and self._is_wanted(item.value):
                yield item

    def _stream(self, left_s: float) -> Iterator[Reply[Event]]:
        events = self._api.stream(
            "/events/stream",
            wait_s=min(SILENT_S, left_s + AGAIN_S),
            after_id=self._after_id,
            max_s=round(min(left_s, LONGEST_S), 3),
            **self._stream_filters,
        )
        return (Reply(one, Event) for one in events)


def event_line(event: Event) -> str:
    """Return an event as one line of text: time, kind, device, model, what; a stream has no table to fit in."""
    heads = (moment(event.at), text(event.kind), named(event.device, event.display_name), text(event.model))
    padded = [f"{head:<{width}}" for head, width in zip(heads, _WIDTHS, strict=True)]
    return visible(" ".join("  ".join([*padded, text(what(event))]).split("\n")))


def show_line(out: Output, event: Event) -> None:
    """Write an event for eyes: on a terminal, what does not fit goes on below the second column."""
    line = event_line(event)
    indent = " " * (_WIDTHS[0] + 2)
    if out.is_live and len(indent) + 20 <= out.data.width < len(line):
        import textwrap

        line = textwrap.fill(line, out.data.width, subsequent_indent=indent, break_on_hyphens=False)
    out.line(line)
