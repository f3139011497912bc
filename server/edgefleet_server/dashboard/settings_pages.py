"""Pages of settings: this server, tokens, webhooks, and how a browser likes its pages."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.login import own_page, redirect
from edgefleet_server.dashboard.preferences import remember
from edgefleet_server.dashboard.settings_views import server_facts, tokens_page, webhook_page
from edgefleet_server.dashboard.shell import Shell
from edgefleet_server.fleet.event_types import all_types
from edgefleet_server.pages import decode_cursor
from edgefleet_server.parts import Parts

Cursor = Annotated[str | None, Query(max_length=256)]
Choice = Annotated[str, Query(max_length=16)]
Delivery = Annotated[int, Path(ge=1, lt=2**63)]


def add_pages(router: APIRouter, shell: Shell, parts: Parts) -> None:
    """Add the pages."""
    _add_server(router, shell, parts)
    _add_preferences(router, shell)
    _add_tokens(router, shell, parts)
    _add_webhooks(router, shell, parts)


def _add_server(router: APIRouter, shell: Shell, parts: Parts) -> None:
    @router.get("/settings", operation_id="show_settings")
    def show_settings(request: Request) -> Response:
        """Show who is signed in, whether the server is ready, and what it is."""
        return shell.shown(request, "settings/server.html", lambda: {"server": server_facts(parts)}, tab="settings")


def _add_preferences(router: APIRouter, shell: Shell) -> None:
    @router.get("/preferences", operation_id="set_preferences")
    def set_preferences(
        request: Request,
        theme: Choice = "",
        zone: Choice = "",
        to: Annotated[str, Query(max_length=512, alias="next")] = "/",
    ) -> Response:
        """Remember in this browser how it likes its pages, and go back. Changes nothing of the fleet, so a link may ask for it."""
        answer = redirect(own_page(to))
        remember(answer, theme=theme, zone=zone, secure=shell.gate.is_secure(request))
        return answer


def _add_tokens(router: APIRouter, shell: Shell, parts: Parts) -> None:
    @router.get("/settings/tokens", operation_id="show_tokens")
    def show_tokens(request: Request, cursor: Cursor = None) -> Response:
        """Show tokens without their secrets, with the form that makes one."""
        session = shell.gate.session_of(request)
        own_id = "" if session is None else session.principal.id

        def build() -> dict[str, Any]:
            after = None if cursor is None else decode_cursor(cursor)
            return {"page": tokens_page(parts, own_id, after), "is_first": cursor is None}

        return shell.shown(request, "settings/tokens.html", build, tab="settings", role=Role.ADMIN)


def _add_webhooks(router: APIRouter, shell: Shell, parts: Parts) -> None:
    @router.get("/settings/webhooks", operation_id="show_webhooks")
    def show_webhooks(request: Request) -> Response:
        """Show webhooks: where they go, what waits, what is dead."""

        def build() -> dict[str, Any]:
            return {"webhooks": parts.webhooks.webhooks(), "known_types": all_types()}

        return shell.shown(request, "settings/webhooks.html", build, tab="settings", role=Role.OPERATOR)

    @router.get("/settings/webhooks/{webhook_id}", operation_id="show_webhook")
    def show_webhook(request: Request, webhook_id: str, state: Choice = "", cursor: Cursor = None) -> Response:
        """Show one webhook with its log."""

        def build() -> dict[str, Any]:
            return {
                "page": webhook_page(parts, webhook_id, state, cursor), "state": state, "is_first": cursor is None,
            }  # fmt: skip

        return shell.shown(request, "settings/webhook.html", build, tab="settings", role=Role.OPERATOR)

    @router.get("/settings/webhooks/{webhook_id}/deliveries/{delivery_id}", operation_id="show_webhook_delivery")
    def show_delivery(request: Request, webhook_id: str, delivery_id: Delivery) -> Response:
        """Show one delivery with every try."""

        def build() -> dict[str, Any]:
            return {
                "webhook": parts.webhooks.webhook(webhook_id),
                "delivery": parts.webhooks.delivery(webhook_id, delivery_id),
            }

        return shell.shown(request, "settings/delivery.html", build, tab="settings", role=Role.OPERATOR)
