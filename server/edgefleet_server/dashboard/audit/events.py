"""The page of events: what happened in the fleet as a story, newest first, filtered; and every event in a list."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from edgefleet_server.dashboard.audit.event_chips import (
    SEVERITIES,
    address_of,
    kind_chips,
    known_devices,
    only,
    severity_chips,
)
from edgefleet_server.dashboard.audit.views import BadTimeError, moment_in
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.rows import event_line
from edgefleet_server.dashboard.operations.catalog import BadFieldError
from edgefleet_server.dashboard.story.event_fold import folded, happening_of
from edgefleet_server.dashboard.story.event_ids import MAX_CHARS, unpacked
from edgefleet_server.db.keyset import PageRequest, cut_page, decode_cursor
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import EventFilter, EventView
from edgefleet_server.events.types import DEVICE

PAGE_EVENTS: Final = 50
STORY_EVENTS: Final = 500
"""Folded into a story at most."""
STORY_LINES: Final = 60
MOST_PICKED: Final = 100

KINDS: Final = ("rollout", "stage", "confirmation", "assignment", "release", *DEVICE)

Cursor = Annotated[str | None, Query(max_length=256)]

Text = Annotated[str, Query(max_length=255)]


@dataclass(frozen=True, slots=True)
class EventQuery:
    """A filter of events as it was typed. view: all = the list, story = the story, "" = what suits the rest.

    ids: of the events of a line of a story, as `story.event_ids` packs them.
    """

    device: str = ""
    model: str = ""
    rollout: str = ""
    kind: str = ""
    severity: str = ""
    since: str = ""
    view: str = ""
    ids: str = ""

    @property
    def fields(self) -> dict[str, str]:
        """Return it as fields of an address, those that are filled in, without the view."""
        fields = {
            "device": self.device, "model": self.model, "rollout": self.rollout, "kind": self.kind, "severity": self.severity,
            "since": self.since, "ids": self.ids,
        }  # fmt: skip
        return {name: text for name, text in fields.items() if text}

    @property
    def is_story(self) -> bool:
        """Say whether it asks for the story: a line of it leads to the list of its events."""
        return self.view == "story" or (self.view != "all" and not (self.fields.keys() - {"severity"}))


def _event_query(
    device: Text = "",
    model: Text = "",
    rollout: Text = "",
    kind: Text = "",
    severity: Text = "",
    since: Text = "",
    view: Text = "",
) -> EventQuery:
    return EventQuery(
        device.strip(),
        model.strip(),
        rollout.strip(),
        kind,
        severity if severity in SEVERITIES else "",
        since,
        view,
    )


def add_event_pages(router: APIRouter, shell: Shell, feed: EventLog, models: Callable[[], Sequence[str]]) -> None:
    """Add the page. models: returns the names of all."""

    @router.get("/events", operation_id="show_events")
    def show_events(
        request: Request,
        typed: Annotated[EventQuery, Depends(_event_query)],
        cursor: Cursor = None,
        ids: Annotated[str, Query(max_length=MAX_CHARS)] = "",
    ) -> Response:
        """Show what happened in the fleet, newest first, as a story or event by event."""
        query = replace(typed, ids=ids)

        def build() -> dict[str, Any]:
            chosen, wrong = query, None
            try:
                moment_in(query.since)
                _ids_in(query.ids)
            except (BadTimeError, BadFieldError) as error:
                chosen, wrong = EventQuery(view=query.view), error
            is_story = chosen.is_story and cursor is None
            shown = _told(feed, chosen) if is_story else _listed(feed, chosen, None if wrong is not None else cursor)
            return {
                **shown,
                "is_story": is_story,
                "is_filtered": bool(chosen.fields),
                "query": query,
                "wrong": wrong,
                "kinds": KINDS,
                "models": list(models()),
                "views": [
                    (address_of(chosen.fields | {"view": name}), words, is_story == (name == "story"))
                    for name, words in (("story", "Story"), ("all", "Every event"))
                ],
            }

        return shell.shown(request, "events/list.html", build, tab="events")


def _told(feed: EventLog, query: EventQuery) -> dict[str, Any]:
    """Return the story of the newest events, with the chips of what it has."""
    found, total = _read(feed, query, STORY_EVENTS)
    story = folded(map(happening_of, found), is_cut=total > len(found))
    every = found if not query.kind else _read(feed, replace(query, kind=""), STORY_EVENTS)[0]
    fields = query.fields | {"view": "story"}
    told = only(story, query.severity)
    return {
        "story": replace(told, lines=told.lines[:STORY_LINES], more=max(0, len(told.lines) - STORY_LINES)),
        "severities": severity_chips(story, query.severity, fields),
        "kind_chips": kind_chips(every, query.kind, fields),
        "devices": known_devices(every, MOST_PICKED),
        "total": total,
        "is_first": True,
    }


def _listed(feed: EventLog, query: EventQuery, cursor: str | None) -> dict[str, Any]:
    """Return a page of the list."""
    asked = PageRequest(PAGE_EVENTS, None if cursor is None else decode_cursor(cursor))
    found, total = _read(feed, query, PAGE_EVENTS, asked.after_number())
    cut = cut_page(found, asked, total, lambda one: str(one.id))
    fields = query.fields | {"view": "all"}
    every = _read(feed, replace(query, kind=""), STORY_EVENTS)[0]
    return {
        "lines": [event_line(one) for one in cut.items],
        "total": total,
        "next_cursor": cut.next_cursor,
        "is_first": asked.after is None,
        "severities": [],
        "kind_chips": kind_chips(every, query.kind, fields),
        "devices": known_devices(every, MOST_PICKED),
        "address": address_of(fields),
    }


def _read(feed: EventLog, query: EventQuery, limit: int, before: int | None = None) -> tuple[list[EventView], int]:
    what = EventFilter(
        device=query.device or None,
        rollout=query.rollout or None,
        model=query.model or None,
        kinds=[query.kind] if query.kind else (),
        since=moment_in(query.since),
        ids=_ids_in(query.ids),
    )
    return feed.page_of(what, limit, before)


def _ids_in(text: str) -> Sequence[int]:
    """Return the ids of an address, none without any. Raises BadFieldError."""
    try:
        return unpacked(text) if text else ()
    except ValueError as error:
        raise BadFieldError(
            f"{text[:40]!r} are no ids of events", next_step="follow the link of a story again"
        ) from error
