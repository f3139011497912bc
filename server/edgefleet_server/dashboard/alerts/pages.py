"""Pages of alerts: firing, suppressed and ended ones, one alert with its chart, rules, silences and maintenance windows."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from edgefleet_protocol.clock import Clock
from edgefleet_server.alerting.active_alerts.model import AlertState, AlertView
from edgefleet_server.alerting.active_alerts.rule_settings import RuleBook
from edgefleet_server.alerting.active_alerts.service import OPEN, ActiveAlerts, AlertQuery
from edgefleet_server.alerting.active_alerts.silences import SilenceBook
from edgefleet_server.alerting.alert_rules.rule_table import RULES
from edgefleet_server.dashboard.alerts.alert_words import (
    STRIP,
    chart_of,
    ends_when,
    figure_of,
    headline,
    limit_of,
    story,
    strips,
)
from edgefleet_server.dashboard.core.layout import Shell
from edgefleet_server.dashboard.core.line_chart import Limit
from edgefleet_server.dashboard.timelines.charts import SPANS, Chart
from edgefleet_server.dashboard.timelines.views import TimelineViews

TAB: Final = "alerts"
SHOWN: Final = 50
"""Each with its forms."""
SHOWN_ENDED: Final = 20
SHOWN_OTHERS: Final = 5
MOST_DRAWN: Final = 500
"""Alerts that strips are drawn of."""
LENGTHS: Final = [("3600", "1 hour"), ("14400", "4 hours"), ("86400", "1 day"), ("604800", "7 days")]
AlertId = Annotated[int, Path(ge=1, lt=2**63)]


def add_pages(
    router: APIRouter,
    shell: Shell,
    alerts: ActiveAlerts,
    rules: RuleBook,
    silences: SilenceBook,
    timelines: TimelineViews,
    clock: Clock,
) -> None:
    """Add the pages of alerts and rules."""
    _add_list(router, shell, alerts, rules, silences, clock)
    _add_rules(router, shell, alerts, rules, clock)

    @router.get("/alerts/{alert_id:int}", operation_id="show_alert")
    def show_alert(request: Request, alert_id: AlertId) -> Response:
        """Show one alert: why, over its time, what would end it, and what happened to it."""

        def build() -> dict[str, Any]:
            alert = alerts.get(alert_id)
            begin = clock.now() - STRIP
            own = alerts.since(begin, MOST_DRAWN, rule=alert.rule, subject=alert.subject)
            return {
                "strip": strips(own, clock.now()).get(alert.rule, []),
                "others": [one for one in own if one.id != alert.id][:SHOWN_OTHERS],
                "alert": alert,
                "ends": ends_when(alert),
                "story": story(alert),
                "charts": _charts_of(alert, timelines, clock),
                **_of_rows(),
            }

        return shell.shown(request, "alerts/alert.html", build, tab=TAB)


def _add_list(
    router: APIRouter, shell: Shell, alerts: ActiveAlerts, rules: RuleBook, silences: SilenceBook, clock: Clock
) -> None:
    @router.get("/alerts", operation_id="show_alerts")
    def show_alerts(request: Request) -> Response:
        """Show what fires, what is suppressed or pending, the rules, silences, and what ended lately."""

        def build() -> dict[str, Any]:
            quiet = alerts.page(AlertQuery(OPEN, suppressed=True), before=None, limit=SHOWN)[0]
            pending = alerts.page(AlertQuery((AlertState.PENDING.value,), suppressed=False), before=None, limit=SHOWN)[
                0
            ]
            ended, _ = alerts.page(AlertQuery((AlertState.RESOLVED.value,)), before=None, limit=SHOWN_ENDED)
            counts = alerts.counts()
            return {
                "head": headline(counts, alerts.care(), clock.now()),
                "open": counts.open,
                "firing": alerts.firing(SHOWN),
                "quiet": [*quiet, *pending],
                "held": counts.suppressed + counts.pending,
                "ended": ended,
                "rules": rules.rules(),
                **_strips(alerts, clock),
                "silences": [one for one in silences.silences() if not one.is_over],
                **_of_rows(),
            }

        return shell.shown(request, "alerts/firing.html", build, tab=TAB)


def _add_rules(router: APIRouter, shell: Shell, alerts: ActiveAlerts, rules: RuleBook, clock: Clock) -> None:
    @router.get("/alerts/rules", operation_id="show_alert_rules")
    def show_alert_rules(request: Request) -> Response:
        """Show the rules, what is in force of each, and when each fired lately."""

        def build() -> dict[str, Any]:
            fixed = [name for name, rule in RULES.items() if rule.is_fixed]
            return {"rules": rules.rules(), "fixed": fixed, **_strips(alerts, clock)}

        return shell.shown(request, "alerts/rules.html", build, tab=TAB)


def add_quiet_pages(router: APIRouter, shell: Shell, silences: SilenceBook) -> None:
    """Add the page of what suppresses alerts."""

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


def matchers_of(alert: AlertView) -> list[str]:
    """Return the matchers of a silence for just this alert, none where nobody can silence it."""
    rule = RULES.get(alert.rule)
    if rule is not None and rule.is_fixed:
        return []
    return [f'rule="{alert.rule}"', 'subject="{}"'.format(alert.subject.replace("\\", "\\\\").replace('"', '\\"'))]


def _of_rows() -> dict[str, Any]:
    return {"lengths": LENGTHS, "matchers_of": matchers_of}


def _strips(alerts: ActiveAlerts, clock: Clock) -> dict[str, Any]:
    """Return when rules fired. is_cut: only the newest alerts are drawn."""
    found = alerts.fired(clock.now() - STRIP, MOST_DRAWN)
    return {"strips": strips(found, clock.now()), "is_cut": len(found) == MOST_DRAWN}


def _charts_of(alert: AlertView, timelines: TimelineViews, clock: Clock) -> Sequence[Chart]:
    """Return the charts that show an alert over its time; none where no chart does."""
    asked = figure_of(alert, SPANS, clock.now())
    if asked is None:
        return ()
    shown = timelines.view(asked.scope, asked.name, asked.span)
    chart, limit = chart_of(asked, shown.charts), limit_of(alert)
    if chart is None:
        return ()
    return [chart if limit is None else replace(chart, limits=[*chart.limits, Limit("alert above", limit)])]
