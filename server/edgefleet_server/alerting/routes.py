"""Routes of alert receivers, and the one that Alertmanager calls: its token is in the URL, and it takes no other. They only translate."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from edgefleet_server.access.dependency import Admin, Operator
from edgefleet_server.alerting.model import ReceiverView
from edgefleet_server.alerting.schemas import AlertsOut, NewReceiverOut, ReceiverIn
from edgefleet_server.alerting.service import AlertService
from edgefleet_server.db.database import Database
from edgefleet_server.web.guarded_route import GuardedRoute
from edgefleet_server.web.pagination import ListOf
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute


def build_router(alerts: AlertService, db: Database) -> APIRouter:
    """Return the routes for people, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["alerting"], route_class=ListRoute)

    @router.post("/alert-receivers", operation_id="create_alert_receiver", status_code=201)
    def create_alert_receiver(wanted: ReceiverIn, caller: Admin) -> NewReceiverOut:
        """Let a monitoring system pause or roll back rollouts; the URL for it is in this answer and nowhere else."""
        return NewReceiverOut.of(alerts.create(wanted.name, wanted.action, wanted.matchers, wanted.model, caller.name))

    @router.get("/alert-receivers", operation_id="list_alert_receivers")
    def list_alert_receivers(_caller: Operator) -> ListOf[ReceiverView]:
        """List alert receivers, without their tokens."""
        found = alerts.receivers()
        return ListOf.whole(found)

    @router.get("/alert-receivers/{receiver_id}", operation_id="get_alert_receiver")
    def get_alert_receiver(receiver_id: str, response: Response, _caller: Operator) -> ReceiverView:
        """Return one alert receiver, without its token. The ETag names what it does, not its last use."""
        found = alerts.receiver(receiver_id)
        put_tag(response, _tag(found))
        return found

    @router.delete(
        "/alert-receivers/{receiver_id}", operation_id="delete_alert_receiver", status_code=204, response_class=Response
    )
    def delete_alert_receiver(receiver_id: str, expected: IfMatch, dry_run: DryRun, _caller: Admin) -> Response:
        """Remove an alert receiver; its URL is worth nothing from now on."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _tag(alerts.receiver(receiver_id)))
            alerts.delete(receiver_id)
        return Response(status_code=204)

    return router


def build_hook_router(alerts: AlertService) -> APIRouter:
    """Return the route for Alertmanager, to be mounted under `/api/v1` without the check of operator tokens."""

    class HookRoute(GuardedRoute):
        def guard(self, request: Request) -> None:
            alerts.check(request.path_params["token"])

    router = APIRouter(tags=["alerting"], route_class=HookRoute)

    @router.post("/hooks/alertmanager/{token}", operation_id="take_alerts")
    def take_alerts(token: str, body: dict[str, Any]) -> AlertsOut:
        """Take a notification of Alertmanager (webhook, version 4): firing alerts act on their rollout, each once."""
        return AlertsOut(results=alerts.take(token, body))

    return router


def _tag(receiver: ReceiverView) -> str:
    return tag_of({name: value for name, value in asdict(receiver).items() if name != "last_used_at"})
