"""Pages of what happened: the audit trail with its export, and the feed of events."""

from dataclasses import dataclass
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard import page as pages
from edgefleet_server.dashboard.audit_views import AuditWish, BadTimeError, audit_page, exported, moment_in
from edgefleet_server.dashboard.login import to_login
from edgefleet_server.dashboard.shell import Shell
from edgefleet_server.dashboard.views import event_line
from edgefleet_server.fleet.event_types import DEVICE
from edgefleet_server.pages import PageRequest, cut_page, decode_cursor
from edgefleet_server.parts import Parts

PAGE_EVENTS: Final = 50
KINDS: Final = ("rollout", "stage", "assignment", *DEVICE)
SIGN_INS: Final = ("login_by_link", "login_by_token", "logout")
"""Actions of the audit trail that are no operations of the API."""
Cursor = Annotated[str | None, Query(max_length=256)]
Text = Annotated[str, Query(max_length=255)]


@dataclass(frozen=True, slots=True)
class EventWish:
    """A filter of events as it was typed."""

    device: str = ""
    rollout: str = ""
    kind: str = ""
    since: str = ""

    def query(self) -> dict[str, str]:
        """Return it as fields of an address, those that are filled in."""
        fields = {"device": self.device, "rollout": self.rollout, "kind": self.kind, "since": self.since}
        return {name: text for name, text in fields.items() if text}


def _audit_wish(
    actor: Text = "",
    action: Text = "",
    target: Annotated[str, Query(max_length=255, alias="object")] = "",
    since: Text = "",
    until: Text = "",
) -> AuditWish:
    return AuditWish(actor, action, target, since, until)


def _event_wish(device: Text = "", rollout: Text = "", kind: Text = "", since: Text = "") -> EventWish:
    return EventWish(device.strip(), rollout.strip(), kind, since)


def add_pages(router: APIRouter, shell: Shell, parts: Parts) -> None:
    """Add the pages."""
    _add_audit(router, shell, parts)
    _add_export(router, shell, parts)
    _add_events(router, shell, parts)


def _add_audit(router: APIRouter, shell: Shell, parts: Parts) -> None:
    @router.get("/audit", operation_id="show_audit")
    def show_audit(
        request: Request, wish: Annotated[AuditWish, Depends(_audit_wish)], cursor: Cursor = None
    ) -> Response:
        """Show who changed what, of all or of what is chosen."""

        def build() -> dict[str, Any]:
            after = None if cursor is None else decode_cursor(cursor)
            chosen, wrong = wish, None
            try:
                found = audit_page(parts.access, chosen, after)
            except BadTimeError as error:
                chosen, wrong = AuditWish(), error
                found = audit_page(parts.access, chosen, None)
            query = urlencode(chosen.query())
            changing = [one.id for one in shell.operations(request) if one.is_changing]
            return {
                "page": found,
                "wish": wish,
                "wrong": wrong,
                "is_first": cursor is None or wrong is not None,
                "known_actions": sorted([*changing, *SIGN_INS]),
                "address": f"/audit?{query}" if query else "/audit",
                "export_query": f"{query}&" if query else "",
                "api_fields": {f"query.{name}": text for name, text in chosen.api_query().items()},
            }

        return shell.shown(request, "audit/list.html", build, tab="audit", role=Role.ADMIN)


def _add_export(router: APIRouter, shell: Shell, parts: Parts) -> None:
    @router.get("/audit/export", operation_id="export_audit")
    def export_audit(
        request: Request,
        wish: Annotated[AuditWish, Depends(_audit_wish)],
        form: Annotated[str, Query(pattern="^(csv|json)$")] = "csv",
    ) -> Response:
        """Return the chosen rows as a file."""
        session = shell.gate.session_of(request)
        if session is None:
            return to_login(request)
        shell.check_role(session, Role.ADMIN)
        ending, kind = ("csv", "text/csv") if form == "csv" else ("jsonl", "application/x-ndjson")
        named = f'attachment; filename="audit-{parts.clock.now():%Y-%m-%d}.{ending}"'
        headers = {**pages.HEADERS, "content-disposition": named}
        return StreamingResponse(exported(parts.access, wish.filter(), form), media_type=kind, headers=headers)


def _add_events(router: APIRouter, shell: Shell, parts: Parts) -> None:
    @router.get("/events", operation_id="show_events")
    def show_events(
        request: Request, wish: Annotated[EventWish, Depends(_event_wish)], cursor: Cursor = None
    ) -> Response:
        """Show what happened in the fleet, newest first."""

        def build() -> dict[str, Any]:
            chosen, wrong = wish, None
            try:
                since = moment_in(wish.since)
            except BadTimeError as error:
                chosen, wrong, since = EventWish(), error, None
            asked = PageRequest(PAGE_EVENTS, None if cursor is None or wrong is not None else decode_cursor(cursor))
            found, total = parts.fleet.reader.events(
                device_id=chosen.device or None,
                rollout=chosen.rollout or None,
                kinds=[chosen.kind] if chosen.kind else (),
                since=since,
                before=asked.after_number(),
                limit=PAGE_EVENTS,
            )
            cut = cut_page(found, asked, total, lambda one: str(one.id))
            query = urlencode(chosen.query())
            return {
                "lines": [event_line(one) for one in cut.items],
                "total": total,
                "next_cursor": cut.next_cursor,
                "is_first": asked.after is None,
                "is_filtered": bool(query),
                "wish": wish,
                "wrong": wrong,
                "kinds": KINDS,
                "address": f"/events?{query}" if query else "/events",
            }

        return shell.shown(request, "events/list.html", build, tab="events")
