"""Pages of alerts: firing, suppressed and ended ones, one alert, rules, silences and maintenance windows, contact points."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from edgefleet_server.access.model import Role
from edgefleet_server.alerting.active_alerts.model import AlertState, AlertView
from edgefleet_server.alerting.active_alerts.rule_settings import RuleBook
from edgefleet_server.alerting.active_alerts.service import OPEN, ActiveAlerts, AlertQuery
from edgefleet_server.alerting.active_alerts.silences import SilenceBook
from edgefleet_server.alerting.contact_points.service import ContactBook
from edgefleet_server.dashboard.core.layout import Shell

TAB: Final = "alerts"
SHOWN: Final = 100
SHOWN_ENDED: Final = 20
SHOWN_MESSAGES: Final = 20
LENGTHS: Final = [("3600", "1 hour"), ("14400", "4 hours"), ("86400", "1 day"), ("604800", "7 days")]
AlertId = Annotated[int, Path(ge=1, lt=2**63)]


def add_pages(router: APIRouter, shell: Shell, alerts: ActiveAlerts, rules: RuleBook) -> None:
    """Add the pages of alerts and rules."""

    @router.get("/alerts", operation_id="show_alerts")
    def show_alerts(request: Request) -> Response:
        """Show what fires, what is suppressed or pending, and what ended lately."""

        def build() -> dict[str, Any]:
            quiet = alerts.page(AlertQuery(OPEN, suppressed=True), before=None, limit=SHOWN)[0]
            pending = alerts.page(AlertQuery((AlertState.PENDING.value,), suppressed=False), before=None, limit=SHOWN)[
                0
            ]
            ended, _ = alerts.page(AlertQuery((AlertState.RESOLVED.value,)), before=None, limit=SHOWN_ENDED)
            return {
                "firing": alerts.firing(SHOWN),
                "quiet": [*quiet, *pending],
                "ended": ended,
                "counts": alerts.counts(),
                "lengths": LENGTHS,
                "matchers_of": matchers_of,
            }

        return shell.shown(request, "alerts/firing.html", build, tab=TAB)

    @router.get("/alerts/rules", operation_id="show_alert_rules")
    def show_alert_rules(request: Request) -> Response:
        """Show the rules and what is in force of each."""
        return shell.shown(request, "alerts/rules.html", lambda: {"rules": rules.rules()}, tab=TAB)

    @router.get("/alerts/{alert_id:int}", operation_id="show_alert")
    def show_alert(request: Request, alert_id: AlertId) -> Response:
        """Show one alert."""

        def build() -> dict[str, Any]:
            return {"alert": alerts.get(alert_id), "lengths": LENGTHS, "matchers_of": matchers_of}

        return shell.shown(request, "alerts/alert.html", build, tab=TAB)


def add_quiet_pages(router: APIRouter, shell: Shell, silences: SilenceBook, contacts: ContactBook) -> None:
    """Add the pages of what suppresses alerts, and of contact points."""

    @router.get("/alerts/silences", operation_id="show_silences")
    def show_silences(request: Request) -> Response:
        """Show silences and maintenance windows, and make one."""

        def build() -> dict[str, Any]:
            found = silences.silences()
            return {
                "silences": [one for one in found if not one.is_over],
                "over": [one for one in found if one.is_over][:SHOWN_ENDED],
                "windows": silences.windows(),
                "lengths": LENGTHS,
            }

        return shell.shown(request, "alerts/silences.html", build, tab=TAB)

    @router.get("/alerts/contacts", operation_id="show_contacts")
    def show_contacts(request: Request) -> Response:
        """Show contact points, and make one."""
        return shell.shown(
            request, "alerts/contacts.html", lambda: {"contacts": contacts.contacts()}, tab=TAB, role=Role.OPERATOR
        )

    @router.get("/alerts/contacts/{contact_id}", operation_id="show_contact")
    def show_contact(request: Request, contact_id: str) -> Response:
        """Show one contact point with its newest messages."""

        def build() -> dict[str, Any]:
            messages, total = contacts.deliveries(contact_id, before=None, limit=SHOWN_MESSAGES)
            return {"contact": contacts.contact(contact_id), "messages": messages, "total": total}

        return shell.shown(request, "alerts/contact.html", build, tab=TAB, role=Role.OPERATOR)


def matchers_of(alert: AlertView) -> list[str]:
    """Return the matchers of a silence for just this alert."""
    return [f'rule="{alert.rule}"', 'subject="{}"'.format(alert.subject.replace("\\", "\\\\").replace('"', '\\"'))]
