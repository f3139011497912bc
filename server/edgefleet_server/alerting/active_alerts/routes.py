"""Routes of alerts, their rules, silences and maintenance windows. They only translate."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from edgefleet_server.access.dependency import Operator, Viewer
from edgefleet_server.alerting.active_alerts.model import (
    AlertState,
    AlertView,
    MaintenanceWindowView,
    RuleView,
    SilenceView,
)
from edgefleet_server.alerting.active_alerts.rule_settings import RuleBook
from edgefleet_server.alerting.active_alerts.schemas import AckIn, MaintenanceWindowIn, RuleChangeIn, SilenceIn
from edgefleet_server.alerting.active_alerts.service import OPEN, ActiveAlerts, AlertQuery
from edgefleet_server.alerting.active_alerts.silences import SilenceBook
from edgefleet_server.alerting.alert_rules.fleet_facts import Severity
from edgefleet_server.db.database import Database
from edgefleet_server.web.pagination import ListOf, NewestFirst
from edgefleet_server.web.preconditions import DryRun, IfMatch, acting, put_location, put_tag, tag_of
from edgefleet_server.web.sparse_fields import ListRoute

AlertId = Annotated[int, Path(ge=1, lt=2**63)]


def build_router(alerts: ActiveAlerts, rules: RuleBook, db: Database) -> APIRouter:
    """Return the routes of alerts and rules, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["alerting"], route_class=ListRoute)

    @router.get("/alerts", operation_id="list_alerts")
    def list_alerts(
        page: NewestFirst,
        _caller: Viewer,
        state: Annotated[
            list[AlertState] | None, Query(description="Only these states; without it pending and firing.")
        ] = None,
        rule: Annotated[str, Query(max_length=40)] = "",
        severity: Annotated[Severity | None, Query()] = None,
        suppressed: Annotated[bool | None, Query(description="Only suppressed ones, or only others.")] = None,
    ) -> ListOf[AlertView]:
        """List alerts, newest first: those that are pending or fire, unless `state` says otherwise."""
        states = OPEN if not state else tuple(one.value for one in state)
        query = AlertQuery(states, rule, "" if severity is None else severity.value, suppressed)
        found, total = alerts.page(query, before=page.after_number(), limit=page.limit + 1)
        return ListOf.cut(found, page, total, lambda one: str(one.id))

    @router.get("/alerts/{alert_id}", operation_id="get_alert")
    def get_alert(alert_id: AlertId, _caller: Viewer) -> AlertView:
        """Return one alert."""
        return alerts.get(alert_id)

    @router.post("/alerts/{alert_id}:ack", operation_id="ack_alert")
    def ack_alert(alert_id: AlertId, given: AckIn, caller: Operator) -> AlertView:
        """Say that somebody takes care of an alert; it goes on firing, and everybody sees who does."""
        return alerts.acknowledge(alert_id, given.comment, caller.name)

    @router.get("/alert-rules", operation_id="list_alert_rules")
    def list_alert_rules(_caller: Viewer) -> ListOf[RuleView]:
        """List the built-in rules with what is in force of each."""
        return ListOf.whole(rules.rules())

    @router.get("/alert-rules/{rule}", operation_id="get_alert_rule")
    def get_alert_rule(rule: str, response: Response, _caller: Viewer) -> RuleView:
        """Return one rule."""
        found = rules.rule(rule)
        put_tag(response, _rule_tag(found))
        return found

    @router.patch("/alert-rules/{rule}", operation_id="update_alert_rule")
    def update_alert_rule(
        rule: str, wanted: RuleChangeIn, response: Response, expected: IfMatch, dry_run: DryRun, caller: Operator
    ) -> RuleView:
        """Change threshold, time, severity or devices of a rule, or switch it off; null brings back a default."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: _rule_tag(rules.rule(rule)))
            changed = rules.change(rule, wanted.changes(), caller.name)
        put_tag(response, _rule_tag(changed))
        return changed

    return router


def build_silence_router(silences: SilenceBook, db: Database) -> APIRouter:
    """Return the routes of silences, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["alerting"], route_class=ListRoute)

    @router.post("/alert-silences", operation_id="create_alert_silence", status_code=201)
    def create_alert_silence(wanted: SilenceIn, response: Response, dry_run: DryRun, caller: Operator) -> SilenceView:
        """Keep matching alerts quiet until a time; they are shown as suppressed."""
        with acting(db, dry_run=dry_run):
            end = wanted.end(silences.now())
            made = silences.silence(wanted.matchers, wanted.selector, end, wanted.comment, caller.name)
        put_location(response, f"/alert-silences/{made.id}")
        return made

    @router.get("/alert-silences", operation_id="list_alert_silences")
    def list_alert_silences(_caller: Viewer) -> ListOf[SilenceView]:
        """List silences, newest first; those that are over stay for 30 days."""
        return ListOf.whole(silences.silences())

    @router.get("/alert-silences/{silence_id}", operation_id="get_alert_silence")
    def get_alert_silence(silence_id: str, response: Response, _caller: Viewer) -> SilenceView:
        """Return one silence."""
        found = silences.get_silence(silence_id)
        put_tag(response, tag_of(found.id, found.until))
        return found

    @router.delete(
        "/alert-silences/{silence_id}", operation_id="end_alert_silence", status_code=204, response_class=Response
    )
    def end_alert_silence(silence_id: str, expected: IfMatch, dry_run: DryRun, _caller: Operator) -> Response:
        """End a silence now; alerts that still fire send their message."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: tag_of(silence_id, silences.get_silence(silence_id).until))
            silences.end_silence(silence_id)
        return Response(status_code=204)

    return router


def build_window_router(silences: SilenceBook, db: Database) -> APIRouter:
    """Return the routes of maintenance windows, to be mounted under `/api/v1`."""
    router = APIRouter(tags=["alerting"], route_class=ListRoute)

    @router.post("/maintenance-windows", operation_id="create_maintenance_window", status_code=201)
    def create_maintenance_window(
        wanted: MaintenanceWindowIn, response: Response, dry_run: DryRun, caller: Operator
    ) -> MaintenanceWindowView:
        """Suppress the alerts of devices regularly, from each start that `cron` names, for `duration_s`."""
        with acting(db, dry_run=dry_run):
            made = silences.open_regularly(
                wanted.name, wanted.cron, wanted.duration, wanted.tz, wanted.selector, caller.name
            )
        put_location(response, f"/maintenance-windows/{made.id}")
        put_tag(response, tag_of(made.id))
        return made

    @router.get("/maintenance-windows", operation_id="list_maintenance_windows")
    def list_maintenance_windows(_caller: Viewer) -> ListOf[MaintenanceWindowView]:
        """List maintenance windows, oldest first."""
        return ListOf.whole(silences.windows())

    @router.get("/maintenance-windows/{window_id}", operation_id="get_maintenance_window")
    def get_maintenance_window(window_id: str, response: Response, _caller: Viewer) -> MaintenanceWindowView:
        """Return one maintenance window."""
        found = silences.get_window(window_id)
        put_tag(response, tag_of(found.id))
        return found

    @router.delete(
        "/maintenance-windows/{window_id}",
        operation_id="delete_maintenance_window",
        status_code=204,
        response_class=Response,
    )
    def delete_maintenance_window(window_id: str, expected: IfMatch, dry_run: DryRun, _caller: Operator) -> Response:
        """Remove a maintenance window; alerts that it suppresses now send their message."""
        with acting(db, dry_run=dry_run), db.session():
            expected.check(lambda: tag_of(silences.get_window(window_id).id))
            silences.delete_window(window_id)
        return Response(status_code=204)

    return router


def _rule_tag(rule: RuleView) -> str:
    return tag_of(rule.name, rule.is_enabled, rule.threshold, rule.for_s, rule.severity.value, rule.selector)
