"""Pages of the audit trail: who changed what, filtered, and the same as a file."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse

from edgefleet_protocol.clock import Clock
from edgefleet_server.access.model import Role
from edgefleet_server.access.service import AccessService
from edgefleet_server.dashboard.audit.events import Cursor, Text, add_event_pages
from edgefleet_server.dashboard.audit.views import AuditQuery, BadTimeError, audit_page, device_in, exported
from edgefleet_server.dashboard.core import render as pages
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import to_login
from edgefleet_server.db.keyset import decode_cursor
from edgefleet_server.events.log import EventLog

SIGN_INS: Final = ("login_by_link", "login_by_token", "logout")
"""Actions of the audit trail that are no operations of the API."""


def _audit_query(
    actor: Text = "",
    action: Text = "",
    target: Annotated[str, Query(max_length=255, alias="object")] = "",
    since: Text = "",
    until: Text = "",
) -> AuditQuery:
    return AuditQuery(actor, action, target, since, until)


def add_pages(
    router: APIRouter,
    shell: Shell,
    access: AccessService,
    feed: EventLog,
    models: Callable[[], Sequence[str]],
    clock: Clock,
) -> None:
    """Add the pages. models: returns the names of all."""
    _add_audit(router, shell, access)
    _add_export(router, shell, access, clock)
    add_event_pages(router, shell, feed, models)


def _add_audit(router: APIRouter, shell: Shell, access: AccessService) -> None:
    @router.get("/audit", operation_id="show_audit")
    def show_audit(
        request: Request, query: Annotated[AuditQuery, Depends(_audit_query)], cursor: Cursor = None
    ) -> Response:
        """Show who changed what, of all or of what is chosen."""

        def build() -> dict[str, Any]:
            after = None if cursor is None else decode_cursor(cursor)
            chosen, wrong = query, None
            try:
                found = audit_page(access, chosen, after)
            except BadTimeError as error:
                chosen, wrong = AuditQuery(), error
                found = audit_page(access, chosen, None)
            text = urlencode(chosen.query())
            changing = [one.id for one in shell.operations(request) if one.is_changing]
            return {
                "page": found,
                "chain": (chain := access.chain.state()),
                "head_at": None if chain.head is None else datetime.fromisoformat(chain.head.at),
                "device_in": device_in,
                "query": query,
                "wrong": wrong,
                "is_first": cursor is None or wrong is not None,
                "known_actions": sorted([*changing, *SIGN_INS]),
                "address": f"/audit?{text}" if text else "/audit",
                "export_query": f"{text}&" if text else "",
                "api_fields": {f"query.{name}": text for name, text in chosen.api_query().items()},
            }

        return shell.shown(request, "audit/list.html", build, tab="audit", role=Role.AUDITOR)


def _add_export(router: APIRouter, shell: Shell, access: AccessService, clock: Clock) -> None:
    @router.get("/audit/export", operation_id="export_audit")
    def export_audit(
        request: Request,
        query: Annotated[AuditQuery, Depends(_audit_query)],
        form: Annotated[str, Query(pattern="^(csv|json)$")] = "csv",
    ) -> Response:
        """Return the chosen rows as a file."""
        session = shell.gate.session_of(request)
        if session is None:
            return to_login(request)
        shell.check_role(session, Role.AUDITOR)
        ending, kind = ("csv", "text/csv") if form == "csv" else ("jsonl", "application/x-ndjson")
        named = f'attachment; filename="audit-{clock.now():%Y-%m-%d}.{ending}"'
        headers = {**pages.HEADERS, "content-disposition": named}
        return StreamingResponse(exported(access, query.filter(), form), media_type=kind, headers=headers)
