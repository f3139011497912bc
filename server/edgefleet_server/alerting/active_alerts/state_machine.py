"""From findings to alerts: pending, firing, resolved, one of each rule and subject. Pure.

Rules:
1. A finding at or over the limit starts a pending alert; after `for_s` it fires, at once where that is 0.
2. A `near` finding starts nothing, ends a pending alert, and keeps one that fires.
3. An alert that fires and has no finding ends after `settle_s`; one that comes back meanwhile was never gone.
4. A rule that is switched off ends its alerts at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from edgefleet_server.alerting.active_alerts.model import ActiveAlert, AlertState, RuleSetting
from edgefleet_server.alerting.alert_rules.fleet_facts import Finding, Rule

MAX_DEVICES = 10_000
"""Devices that an alert is about at most."""


def stepped(
    alert: ActiveAlert | None, finding: Finding | None, rule: Rule, setting: RuleSetting, now: datetime
) -> ActiveAlert | None:
    """Return how an alert goes on; None: there is none, or the pending one is forgotten."""
    if finding is None:
        return None if alert is None else _without(alert, rule, setting, now)
    if alert is None:
        return None if finding.near else _matured(_new(finding, rule, setting, now), setting, now)
    if alert.state is AlertState.PENDING and finding.near:
        return None
    told = _described(replace(alert, clear_since=None, severity=setting.severity, seen_at=now), finding)
    return _matured(told, setting, now)


def all_stepped(
    alerts: Sequence[ActiveAlert],
    findings: Mapping[str, Sequence[Finding]],
    rules: Mapping[str, Rule],
    settings: Mapping[str, RuleSetting],
    now: datetime,
) -> tuple[list[ActiveAlert], list[ActiveAlert]]:
    """Return all alerts as they go on (resolved ones of now included), and those that are forgotten. findings: by rule.

    A rule that is in `settings` and not in `findings` could not be asked: its alerts stay as they are.
    """
    known = {alert.key: alert for alert in alerts}
    kept, forgotten = [], []
    for name, setting in settings.items():
        if name not in findings or name not in rules:
            kept += [alert for alert in alerts if alert.rule == name]
            continue
        found = {(name, one.subject): one for one in findings[name]} if setting.is_enabled else {}
        for key in sorted({*found, *(key for key in known if key[0] == name)}):
            alert = known.get(key)
            after = stepped(alert, found.get(key), rules[name], setting, now)
            if after is not None:
                kept.append(after)
            elif alert is not None:
                forgotten.append(alert)
    return kept, forgotten


def _new(finding: Finding, rule: Rule, setting: RuleSetting, now: datetime) -> ActiveAlert:
    bare = ActiveAlert(
        rule=rule.name, subject=finding.subject, shown=finding.shown, state=AlertState.PENDING, severity=setting.severity,
        summary="", value=0.0, threshold=0.0, group="", since=now, seen_at=now,
    )  # fmt: skip
    return _described(bare, finding)


def _described(alert: ActiveAlert, finding: Finding) -> ActiveAlert:
    return replace(
        alert, shown=finding.shown[:200], summary=finding.summary, value=finding.value, threshold=finding.limit,
        group=finding.group, link=finding.link, evidence=tuple(finding.evidence), devices=tuple(finding.devices[:MAX_DEVICES]),
        labels=dict(finding.labels),
    )  # fmt: skip


def _matured(alert: ActiveAlert, setting: RuleSetting, now: datetime) -> ActiveAlert:
    if alert.state is AlertState.PENDING and now - alert.since >= timedelta(seconds=setting.for_s):
        return replace(alert, state=AlertState.FIRING, fired_at=now)
    return alert


def _without(alert: ActiveAlert, rule: Rule, setting: RuleSetting, now: datetime) -> ActiveAlert | None:
    if alert.state is AlertState.PENDING:
        return None
    clear_since = alert.clear_since or now
    if setting.is_enabled and now - clear_since < timedelta(seconds=rule.settle_s):
        return replace(alert, clear_since=clear_since)
    return replace(alert, state=AlertState.RESOLVED, clear_since=clear_since, resolved_at=now)
