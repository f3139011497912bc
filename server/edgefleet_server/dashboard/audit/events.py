"""The page of events: what happened in the fleet, newest first, filtered."""

from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.audit.views import BadTimeError, moment_in
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.rows import event_line
from edgefleet_server.db.keyset import PageRequest, cut_page, decode_cursor
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.types import DEVICE

PAGE_EVENTS: Final = 50

KINDS: Final = ("rollout", "stage", "confirmation", "assignment", "release", *DEVICE)

Cursor = Annotated[str | None, Query(max_length=256)]

Text = Annotated[str, Query(max_length=255)]


@dataclass(frozen=True, slots=True)
class EventQuery:
    """A filter of events as it was typed."""

    device: str = ""
    rollout: str = ""
    kind: str = ""
    since: str = ""

    def query(self) -> dict[str, str]:
        """Return it as fields of an address, those that are filled in."""
        fields = {"device": self.device, "rollout": self.rollout, "kind": self.kind, "since": self.since}
        return {name: text for name, text in fields.items() if text}


def _event_query(device: Text = "", rollout: Text = "", kind: Text = "", since: Text = "") -> EventQuery:
    return EventQuery(device.strip(), rollout.strip(), kind, since)


def add_event_pages(router: APIRouter, shell: Shell, feed: EventLog) -> None:
    @router.get("/events", operation_id="show_events")
    def show_events(
        request: Request, query: Annotated[EventQuery, Depends(_event_query)], cursor: Cursor = None
    ) -> Response:
        """Show what happened in the fleet, newest first."""

        def build() -> dict[str, Any]:
            chosen, wrong = query, None
            try:
                since = moment_in(query.since)
            except BadTimeError as error:
                chosen, wrong, since = EventQuery(), error, None
            asked = PageRequest(PAGE_EVENTS, None if cursor is None or wrong is not None else decode_cursor(cursor))
            found, total = feed.page(
                device_id=chosen.device or None,
                rollout=chosen.rollout or None,
                kinds=[chosen.kind] if chosen.kind else (),
                since=since,
                before=asked.after_number(),
                limit=PAGE_EVENTS,
            )
            cut = cut_page(found, asked, total, lambda one: str(one.id))
            text = urlencode(chosen.query())
            return {
                "lines": [event_line(one) for one in cut.items],
                "total": total,
                "next_cursor": cut.next_cursor,
                "is_first": asked.after is None,
                "is_filtered": bool(text),
                "query": query,
                "wrong": wrong,
                "kinds": KINDS,
                "address": f"/events?{text}" if text else "/events",
            }

        return shell.shown(request, "events/list.html", build, tab="events")
