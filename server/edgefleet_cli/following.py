"""Following the events: the last ones, then each new one as it comes, in order and once."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
_WIDTHS = (19, 10, 18, 10)


class Follower:
    """Yields events. `filters` are those of the API: `rollout`, `kind`, `device`, `since`.

    The list of the last events may hold one whose forerunner is not committed yet; what comes after an id never does. So
    following begins before the last events, goes by its own answers only, and what was seen already is left out.
    """

    def __init__(self, api: ApiClient, out: Output, clock: SystemClock, filters: Json) -> None:
        self._api = api
        self._clock = clock
        self._filters = filters
        self._patience = Patience(out.note, clock)
        self._seen: set[int] = set()
        self._after_id = 0

    def follow(self, *, limit: int, wait_s: float | None = None) -> Iterator[Json]:
        """Yield the last `limit` events (oldest first), then new ones, for `wait_s` seconds or without end.

        Raises what the first request raises; later a server that is away is waited for.
        """
        items: list[Json] = self._api.pages("/events", limit=limit, **self._filters)["items"]
        deadline_s = math.inf if wait_s is None else self._clock.monotonic_s() + wait_s
        self._seen = {int(item["id"]) for item in items}
        self._after_id = min(self._seen, default=1) - 1
        yield from reversed(items)
        while (left_s := deadline_s - self._clock.monotonic_s()) > 0:
            self._clock.sleep(min(POLL_S, left_s))
            yield from self._poll(deadline_s)

    def _poll(self, deadline_s: float) -> Iterator[Json]:
        """Yield what came after the last answer. Stops at once when the server is away; the next poll goes on from there."""
        while True:
            question = partial(self._api.get, "/events", after_id=self._after_id, limit=PAGE_SIZE, **self._filters)
            items: list[Json] = (self._patience.ask(question, until_s=deadline_s) or {}).get("items") or []
            for item in items:
                self._after_id = max(self._after_id, int(item["id"]))
                if int(item["id"]) not in self._seen:
                    yield item
            self._seen = {number for number in self._seen if number > self._after_id}
            if len(items) < PAGE_SIZE:
                break


def event_line(event: Json) -> str:
    """Return an event as one line of text: time, kind, device, model, what; a stream has no table to fit in."""
    *heads, _last = (column.cell(event) for column in EVENTS.columns[:5])
    padded = [f"{head:<{width}}" for head, width in zip(heads, _WIDTHS, strict=True)]
    return visible(" ".join("  ".join([*padded, text(what(event))]).split("\n")))


def show_line(out: Output, event: Json) -> None:
    """Write an event for eyes: on a terminal, what does not fit goes on below the second column."""
    line = event_line(event)
    indent = " " * (_WIDTHS[0] + 2)
    if out.is_live and len(indent) + 20 <= out.data.width < len(line):
        import textwrap

        line = textwrap.fill(line, out.data.width, subsequent_indent=indent, break_on_hyphens=False)
    out.line(line)
