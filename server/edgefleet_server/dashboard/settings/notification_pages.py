"""Pages of contact points (alerts go there) and alert receivers (alerts from outside come in); their old addresses redirect."""

from typing import Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgefleet_server.access.model import Role
from edgefleet_server.alerting.contact_points.model import ContactView
from edgefleet_server.alerting.contact_points.service import ContactBook
from edgefleet_server.alerting.model import AlertAction
from edgefleet_server.alerting.service import AlertService
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.login import own_page, redirect
from edgefleet_server.dashboard.settings.receiver_state import Standing, contact_standing
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.registry.service import RegistryService

TAB: Final = "settings"
SHOWN_MESSAGES: Final = 20
SHOWN_DEEDS: Final = 50
_MODELS: Final = 200


def add_pages(
    router: APIRouter, shell: Shell, contacts: ContactBook, alerts: AlertService, registry: RegistryService
) -> None:
    """Add the pages."""
    _add_contacts(router, shell, contacts)
    _add_receivers(router, shell, alerts, registry)
    _add_old_addresses(router)


def _add_contacts(router: APIRouter, shell: Shell, contacts: ContactBook) -> None:
    @router.get("/settings/contacts", operation_id="show_contacts")
    def show_contacts(request: Request) -> Response:
        """Show contact points, and make one."""

        def build() -> dict[str, Any]:
            found = contacts.contacts()
            return {"contacts": found, "standings": {one.id: _standing(contacts, one) for one in found}}

        return shell.shown(request, "settings/contacts.html", build, tab=TAB, role=Role.OPERATOR)

    @router.get("/settings/contacts/{contact_id}", operation_id="show_contact")
    def show_contact(request: Request, contact_id: str) -> Response:
        """Show one contact point with its newest messages."""

        def build() -> dict[str, Any]:
            messages, total = contacts.deliveries(contact_id, before=None, limit=SHOWN_MESSAGES)
            contact = contacts.contact(contact_id)
            standing = contact_standing(contact, messages)
            return {"contact": contact, "standing": standing, "messages": messages, "total": total}

        return shell.shown(request, "settings/contact.html", build, tab=TAB, role=Role.OPERATOR)


def _standing(contacts: ContactBook, contact: ContactView) -> Standing:
    return contact_standing(contact, contacts.deliveries(contact.id, before=None, limit=SHOWN_MESSAGES)[0])


def _add_receivers(router: APIRouter, shell: Shell, alerts: AlertService, registry: RegistryService) -> None:
    @router.get("/settings/receivers", operation_id="show_alert_receivers")
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

        return shell.shown(request, "settings/receivers.html", build, tab=TAB, role=Role.OPERATOR)


def _add_old_addresses(router: APIRouter) -> None:
    @router.get("/alerts/contacts", operation_id="redirect_contacts")
    def redirect_contacts(request: Request) -> Response:
        """Lead to where contact points are now: messages sent earlier link here."""
        return _moved(request, "/settings/contacts")

    @router.get("/alerts/contacts/{contact_id}", operation_id="redirect_contact")
    def redirect_contact(request: Request, contact_id: str) -> Response:
        """Lead to where the contact point is now."""
        return _moved(request, f"/settings/contacts/{quote(contact_id)}")

    @router.get("/alerts/receivers", operation_id="redirect_receivers")
    def redirect_receivers(request: Request) -> Response:
        """Lead to where alert receivers are now."""
        return _moved(request, "/settings/receivers")


def _moved(request: Request, path: str) -> Response:
    return redirect(own_page(f"{path}?{request.url.query}" if request.url.query else path))
