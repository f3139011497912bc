"""The page of alerts: the receivers that may stop rollouts from outside, and what alerts did."""

from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_server.access.model import Role
from edgefleet_server.alerting.model import AlertAction
from edgefleet_server.alerting.service import AlertService
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.registry.service import RegistryService

TAB: Final = "alerts"
SHOWN_DEEDS: Final = 50
_MODELS: Final = 200


def add_pages(router: APIRouter, shell: Shell, alerts: AlertService, registry: RegistryService) -> None:
    """Add the page."""

    @router.get("/alerts/receivers", operation_id="show_alert_receivers")
    def show_alert_receivers(request: Request) -> Response:
        """Show alert receivers and what alerts did. As in the API, receivers are an operator's to see."""

        def build() -> dict[str, Any]:
            return {
                "receivers": alerts.receivers(),
                "deeds": alerts.deeds(limit=SHOWN_DEEDS),
                "actions": [
                    (one.value, "roll back the rollout" if one is AlertAction.ROLLBACK else "pause the rollout")
                    for one in AlertAction
                ],
                "models": [one.name for one in registry.models(PageRequest(_MODELS)).items],
            }

        return shell.shown(request, "alerts/receivers.html", build, tab=TAB, role=Role.OPERATOR)
