"""Following the events: the last ones, then each new one as it comes, in order and once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from edgefleet_cli.api_client import PAGE_SIZE, ApiClient
from edgefleet_cli.clock import SystemClock
from edgefleet_cli.event_view import EVENTS, what
from edgefleet_cli.figures import text
from edgefleet_cli.output import Output, visible
from edgefleet_cli.patience import Patience

Json = dict[str, Any]

POLL_S = 1.0
SETTLE_S = 5.0
"""Ids are given before they are committed: an event may become visible after one with a higher id. So the last seconds
are asked for again, and what was seen already is left out."""
_WIDTHS = (19, 10, 16, 12)


class Follower:
    """Yields events. `filters` are those of the API: `rollout`, `kind`, `device`, `since`."""

    def __init__(self, api: ApiClient, out: Output, clock: SystemClock, filters: Json) -> None:
        self._api = api
        self._clock = clock
        self._filters = filters
        self._patience = Patience(out.note, clock)
        self._seen: set[int] = set()
        self._marks: deque[tuple[float, int]] = deque()
        self._after_id = 0

    def follow(self, *, limit: int, wait_s: float | None = None) -> Iterator[Json]:
        """Yield the last `limit` events (oldest first), then new ones, for `wait_s` seconds or without end.

        Raises what the first request raises; later a server that is away is waited for.
        """
        deadline_s = math.inf if wait_s is None else self._clock.monotonic_s() + wait_s
        yield from self._last(limit)
        while (left_s := deadline_s - self._clock.monotonic_s()) > 0:
            self._clock.sleep(min(POLL_S, left_s))
            yield from self._poll(deadline_s)

    def _last(self, limit: int) -> Iterator[Json]:
        """Yield the last events; what is older than the oldest of them is never asked for."""
        items: list[Json] = self._api.pages("/events", limit=limit, **self._filters)["items"]
        self._after_id = min((int(item["id"]) for item in items), default=1) - 1
        yield from self._new(reversed(items))

    def _poll(self, deadline_s: float) -> Iterator[Json]:
        self._forget()
        after_id = self._after_id
        while True:
            start_id = after_id
            question = partial(self._api.get, "/events", after_id=start_id, limit=PAGE_SIZE, **self._filters)
            page = self._patience.ask(question, until_s=deadline_s)
            items: list[Json] = (page or {}).get("items") or []
            yield from self._new(items)
            after_id = max([after_id, *(int(item["id"]) for item in items)])
            if len(items) < PAGE_SIZE or after_id == start_id:
                break

    def _new(self, items: Iterable[Json]) -> Iterator[Json]:
        for item in items:
            number = int(item["id"])
            if number > self._after_id and number not in self._seen:
                self._seen.add(number)
                yield item

    def _forget(self) -> None:
        """Move the point up to which all is known: the highest id that was seen SETTLE_S ago."""
        now_s = self._clock.monotonic_s()
        highest = max(self._seen, default=self._after_id)
        if not self._marks or self._marks[-1][1] < highest:
            self._marks.append((now_s, highest))
        while self._marks and now_s - self._marks[0][0] >= SETTLE_S:
            self._after_id = self._marks.popleft()[1]
        self._seen = {number for number in self._seen if number > self._after_id}


def event_line(event: Json) -> str:
    """Return an event as one line of text: time, kind, device, model, what; a stream has no table to fit in."""
    *heads, _last = (column.cell(event) for column in EVENTS.columns[:5])
    padded = [f"{head:<{width}}" for head, width in zip(heads, _WIDTHS, strict=True)]
    return visible(" ".join("  ".join([*padded, text(what(event))]).split("\n")))


def show_line(out: Output, event: Json) -> None:
    """Write an event for eyes: on a terminal, what does not fit goes on below the last column."""
    line = event_line(event)
    width = out.data.width if out.is_live else 0
    indent = sum(_WIDTHS) + 2 * len(_WIDTHS)
    if width <= len(line) and width >= indent + 20:
        import textwrap

        line = textwrap.fill(line, width, subsequent_indent=" " * indent, break_on_hyphens=False)
    out.line(line)
