"""Pages of settings: this server, tokens, and how a browser shows its pages."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import own_page, redirect
from edgefleet_server.dashboard.core.preferences import Preferences, remember
from edgefleet_server.dashboard.settings.saved_view_pages import add_view_pages
from edgefleet_server.dashboard.settings.views import SettingsPages
from edgefleet_server.dashboard.settings.webhook_pages import Choice, Cursor, add_webhook_pages
from edgefleet_server.db.keyset import decode_cursor
from edgefleet_server.webhook.service import WebhookService


def add_pages(router: APIRouter, shell: Shell, pages: SettingsPages, webhooks: WebhookService) -> None:
    """Add the pages."""
    _add_server(router, shell, pages)
    _add_preferences(router, shell)
    add_view_pages(router, shell)
    _add_people(router, shell, pages)
    _add_tokens(router, shell, pages)
    add_webhook_pages(router, shell, webhooks)


def _add_server(router: APIRouter, shell: Shell, pages: SettingsPages) -> None:
    @router.get("/settings", operation_id="show_settings")
    def show_settings(request: Request) -> Response:
        """Show who is signed in, whether the server is ready, and what it is."""
        return shell.shown(request, "settings/server.html", lambda: {"server": pages.server()}, tab="settings")


def _add_preferences(router: APIRouter, shell: Shell) -> None:
    @router.get("/settings/preferences", operation_id="show_preferences")
    def show_preferences(request: Request) -> Response:
        """Show who is signed in and how this browser shows its pages, to be changed by links."""
        return shell.shown(request, "settings/preferences.html", lambda: {"is_still": True}, tab="settings")

    @router.get("/preferences", operation_id="set_preferences")
    def set_preferences(
        request: Request,
        theme: Choice = "",
        zone: Choice = "",
        density: Choice = "",
        to: Annotated[str, Query(max_length=512, alias="next")] = "/",
    ) -> Response:
        """Remember in this browser how it likes its pages, and go back. Changes nothing of the fleet, so a link may ask for it."""
        answer = redirect(own_page(to))
        remember(answer, Preferences(theme, zone, density), secure=shell.gate.is_secure(request))
        return answer


def _add_people(router: APIRouter, shell: Shell, pages: SettingsPages) -> None:
    @router.get("/settings/people", operation_id="show_people")
    def show_people(request: Request, cursor: Cursor = None) -> Response:
        """Show people and services, the owners of tokens, with the form that adds one."""
        session = shell.gate.session_of(request)
        own = "" if session is None else session.principal.person

        def build() -> dict[str, Any]:
            after = None if cursor is None else decode_cursor(cursor)
            return {"page": pages.people(after), "own": own, "is_first": cursor is None}

        return shell.shown(request, "settings/people.html", build, tab="settings", role=Role.ADMIN)


def _add_tokens(router: APIRouter, shell: Shell, pages: SettingsPages) -> None:
    @router.get("/settings/tokens", operation_id="show_tokens")
    def show_tokens(request: Request, cursor: Cursor = None) -> Response:
        """Show tokens without their secrets, with the form that makes one."""
        session = shell.gate.session_of(request)
        own_id = "" if session is None else session.principal.id

        def build() -> dict[str, Any]:
            after = None if cursor is None else decode_cursor(cursor)
            return {"page": pages.tokens(own_id, after), "is_first": cursor is None}

        return shell.shown(request, "settings/tokens.html", build, tab="settings", role=Role.ADMIN)
