"""Operator routes of webhooks. They only translate."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from edgefleet_server.access.dependency import Admin, Operator
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import PageRequest, rest_of
from edgefleet_server.web.pagination import ListOf, NewestFirst, paged
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_location, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute
from edgefleet_server.webhook.model import DeliveryState, DeliveryView, WebhookView
from edgefleet_server.webhook.schemas import NewSecretOut, RotateIn, WebhookIn
from edgefleet_server.webhook.service import WebhookService

WebhookPage = Annotated[PageRequest, paged("created_at", "-created_at")]
Delivery = Annotated[int, Path(ge=1, lt=2**63)]


def build_router(webhooks: WebhookService, db: Database) -> APIRouter:
    """Return the webhooks' routes, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["webhook"], route_class=ListRoute)
    _add_making(router, webhooks, db)
    _add_deliveries(router, webhooks)
    return router


def _add_making(router: APIRouter, webhooks: WebhookService, db: Database) -> None:
    @router.post("/webhooks", operation_id="create_webhook", status_code=201)
    def create_webhook(wanted: WebhookIn, response: Response, caller: Admin) -> NewSecretOut:
        """Send events to a URL from now on; the secret that signs them is in this answer and nowhere else."""
        made = webhooks.create(wanted.name, wanted.url, wanted.types, caller.name)
        put_location(response, f"/webhooks/{made.webhook.id}")
        put_tag(response, _tag(made.webhook))
        return NewSecretOut.of(made)

    @router.get("/webhooks", operation_id="list_webhooks")
    def list_webhooks(page: WebhookPage, _caller: Operator) -> ListOf[WebhookView]:
        """List webhooks: where they go, what waits, what is dead."""
        found = webhooks.webhooks()
        return ListOf.cut(rest_of(found, page, _place), page, len(found), _place)

    @router.get("/webhooks/{webhook_id}", operation_id="get_webhook")
    def get_webhook(webhook_id: str, response: Response, _caller: Operator) -> WebhookView:
        """Return one webhook. The ETag names its address, types and secrets, not what waits."""
        found = webhooks.webhook(webhook_id)
        put_tag(response, _tag(found))
        return found

    @router.delete("/webhooks/{webhook_id}", operation_id="delete_webhook", status_code=204, response_class=Response)
    def delete_webhook(webhook_id: str, expected: IfMatch, dry_run: DryRun, _caller: Admin) -> Response:
        """Remove a webhook and its log; nothing more is sent to it."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(webhooks.webhook(webhook_id)))
            webhooks.delete(webhook_id)
        return Response(status_code=204)

    @router.post("/webhooks/{webhook_id}:rotate", operation_id="rotate_webhook")
    def rotate_webhook(webhook_id: str, wanted: RotateIn, _caller: Admin) -> NewSecretOut:
        """Make a new secret, in this answer and nowhere else; for the overlap both sign."""
        return NewSecretOut.of(webhooks.rotate(webhook_id, wanted.overlap))

    @router.post("/webhooks/{webhook_id}:ping", operation_id="ping_webhook", status_code=202)
    def ping_webhook(webhook_id: str, response: Response, _caller: Operator) -> DeliveryView:
        """Send a message that says nothing; the delivery tells what came of it."""
        made = webhooks.ping(webhook_id)
        put_location(response, f"/webhooks/{webhook_id}/deliveries/{made.id}")
        return made


def _add_deliveries(router: APIRouter, webhooks: WebhookService) -> None:
    @router.get("/webhooks/{webhook_id}/deliveries", operation_id="list_webhook_deliveries")
    def list_webhook_deliveries(
        webhook_id: str, page: NewestFirst, _caller: Operator, state: Annotated[DeliveryState | None, Query()] = None
    ) -> ListOf[DeliveryView]:
        """List what was or will be sent, newest first."""
        found, total = webhooks.deliveries(webhook_id, state=state, before=page.after_number(), limit=page.limit + 1)
        return ListOf.cut(found, page, total, lambda one: str(one.id))

    @router.get("/webhooks/{webhook_id}/deliveries/{delivery_id}", operation_id="get_webhook_delivery")
    def get_webhook_delivery(webhook_id: str, delivery_id: Delivery, _caller: Operator) -> DeliveryView:
        """Return one delivery with every try."""
        return webhooks.delivery(webhook_id, delivery_id)

    @router.post("/webhooks/{webhook_id}/deliveries/{delivery_id}:redeliver", operation_id="redeliver_webhook")
    def redeliver_webhook(webhook_id: str, delivery_id: Delivery, _caller: Operator) -> DeliveryView:
        """Send it again at once, with the same id."""
        return webhooks.redeliver(webhook_id, delivery_id)


def _place(webhook: WebhookView) -> str:
    return f"{webhook.created_at:%Y-%m-%dT%H:%M:%S.%f} {webhook.id}"


def _tag(webhook: WebhookView) -> str:
    secrets = [(one.created_at, one.expires_at) for one in webhook.secrets]
    return tag_of(webhook.id, webhook.name, webhook.url, list(webhook.types), webhook.is_enabled, secrets)
