"""Pages of webhooks: where they go, what waits, and one delivery with every try."""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from edgefleet_server.access.model import Role
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.settings.receiver_state import Standing, failing_of, webhook_standing
from edgefleet_server.dashboard.settings.views import PAGE_ROWS
from edgefleet_server.db.keyset import Page, PageRequest, cut_page, decode_cursor
from edgefleet_server.events.types import all_types
from edgefleet_server.webhook.model import DeliveryState, DeliveryView, WebhookView
from edgefleet_server.webhook.service import WebhookService

Cursor = Annotated[str | None, Query(max_length=256)]

Choice = Annotated[str, Query(max_length=16)]

Delivery = Annotated[int, Path(ge=1, lt=2**63)]

MOST_WAITING: Final = 500
"""So many of those that wait are looked at."""


def add_webhook_pages(router: APIRouter, shell: Shell, webhooks: WebhookService) -> None:
    @router.get("/settings/webhooks", operation_id="show_webhooks")
    def show_webhooks(request: Request) -> Response:
        """Show webhooks: where they go, what waits, what is dead."""

        def build() -> dict[str, Any]:
            found = webhooks.webhooks()
            standings = {one.id: _standing(webhooks, one)[0] for one in found}
            return {"webhooks": found, "standings": standings, "known_types": all_types()}

        return shell.shown(request, "settings/webhooks.html", build, tab="settings", role=Role.OPERATOR)

    @router.get("/settings/webhooks/{webhook_id}", operation_id="show_webhook")
    def show_webhook(request: Request, webhook_id: str, state: Choice = "", cursor: Cursor = None) -> Response:
        """Show one webhook with its log."""

        def build() -> dict[str, Any]:
            return {
                "page": webhook_page(webhooks, webhook_id, state, cursor), "state": state, "is_first": cursor is None,
            }  # fmt: skip

        return shell.shown(request, "settings/webhook.html", build, tab="settings", role=Role.OPERATOR)

    @router.get("/settings/webhooks/{webhook_id}/deliveries/{delivery_id}", operation_id="show_webhook_delivery")
    def show_delivery(request: Request, webhook_id: str, delivery_id: Delivery) -> Response:
        """Show one delivery with every try."""

        def build() -> dict[str, Any]:
            return {
                "webhook": webhooks.webhook(webhook_id),
                "delivery": webhooks.delivery(webhook_id, delivery_id),
            }

        return shell.shown(request, "settings/delivery.html", build, tab="settings", role=Role.OPERATOR)


@dataclass(frozen=True, slots=True)
class WebhookPage:
    """One webhook with a page of its deliveries, newest first. failing: how many of all wait for another attempt."""

    webhook: WebhookView
    deliveries: Page[DeliveryView]
    standing: Standing
    failing: int


def webhook_page(webhooks: WebhookService, webhook_id: str, state: str, cursor: str | None) -> WebhookPage:
    """Return one webhook with its deliveries. state: of deliveries, "" = all. Raises WebhookUnknownError, BadCursorError."""
    wanted = PageRequest(PAGE_ROWS, None if cursor is None else decode_cursor(cursor))
    chosen = state if state in tuple(DeliveryState) else None
    found, total = webhooks.deliveries(webhook_id, state=chosen, before=wanted.after_number(), limit=PAGE_ROWS + 1)
    page = cut_page(found, wanted, total, lambda one: str(one.id))
    webhook = webhooks.webhook(webhook_id)
    standing, failing = _standing(webhooks, webhook)
    return WebhookPage(webhook, page, standing, failing)


def _standing(webhooks: WebhookService, webhook: WebhookView) -> tuple[Standing, int]:
    """Return how a webhook stands and how many of its deliveries are failing, whichever are listed."""
    waiting: list[DeliveryView] = []
    if webhook.pending:
        waiting = list(webhooks.deliveries(webhook.id, state=DeliveryState.PENDING, before=None, limit=MOST_WAITING)[0])
    _newest, total = webhooks.deliveries(webhook.id, state=None, before=None, limit=1)
    failing = failing_of(waiting)
    return webhook_standing(webhook, failing, is_used=total > webhook.pending or failing > 0), failing
