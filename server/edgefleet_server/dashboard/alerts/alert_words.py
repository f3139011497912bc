"""Alerts in words: the sentence at the top of the page, what ends one, what happened to it, and which chart shows it. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from edgefleet_server.alerting.active_alerts.model import AlertCare, AlertCounts, AlertState, AlertView, Fired
from edgefleet_server.alerting.alert_rules.figure_text import number_text
from edgefleet_server.alerting.alert_rules.rule_table import RULES
from edgefleet_server.dashboard.core.filters import SEVERITY_KINDS, duration
from edgefleet_server.dashboard.timelines.charts import Chart
from edgefleet_server.telemetry.timelines.model import Scope

BRIEF: Final = timedelta(seconds=5)
STRIP: Final = timedelta(days=30)
LEAST_WIDTH: Final = 0.6
"""Percent of a strip, so that a short alert can be seen."""
_ENDS: Final[Mapping[str, str]] = {
    "device_offline": "It ends by itself when the device connects again and stays for a minute.",
    "site_silent": "It ends by itself when a device of the site connects again and stays for a minute.",
    "update_failed": "It ends by itself when an update of this model succeeds on the device.",
    "device_suspect": "It ends when a person clears the suspicion, or revokes the device.",
    "drift": "It ends by itself when neither the device nor the server's figures say that it drifts.",
    "drift_spread": "It ends by itself when the figures are as before again, or a new period is chosen as normal.",
    "runs_missed": "It ends by itself a day after the last planned run that was missed or failed.",
    "certificate_ends": "It ends by itself when the device has renewed its certificate.",
    "token_ends": "It ends when the token is revoked, or a week after its end.",
    "device_ca_ends": "It ends by itself when a newer CA is there.",
    "signing_key_ends": "It ends by itself when the metadata is signed again.",
}
_MULTIPLES: Final = ("latency_up", "model_latency_up")
_USUAL: Final = re.compile(r"usually ([0-9.]+) ms")
_CHARTS: Final[Mapping[str, tuple[Scope, tuple[str, ...]]]] = {
    "latency_up": (Scope.DEVICE, ("latency",)),
    "error_share": (Scope.DEVICE, ("failed", "requests")),
    "not_finite": (Scope.DEVICE, ("requests",)),
    "disk_full": (Scope.DEVICE, ("disk",)),
    "model_latency_up": (Scope.MODEL, ("p95",)),
    "model_error_share": (Scope.MODEL, ("failed",)),
    "drift": (Scope.MODEL, ("drift",)),
    "drift_spread": (Scope.MODEL, ("drift",)),
}
"""Rules whose measure is drawn: of what, and the first part of the ids of the charts."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Which chart shows an alert: the charts of `scope` and `name` whose id begins with one of `ids`, of the lines of `model`."""

    scope: Scope
    name: str
    ids: Sequence[str]
    model: str
    span: str


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One thing that happened to an alert. kind: the colour and shape of its icon."""

    at: datetime
    kind: str
    what: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time in which an alert fired, on a strip: percents from its left, and wide."""

    left: float
    width: float


def headline(counts: AlertCounts, care: AlertCare, now: datetime) -> tuple[str, str, str]:
    """Return colour, sentence, and what stands below it."""
    quiet = _quiet(counts)
    if not counts.open:
        return (
            "ok",
            "No alert is firing",
            f"{quiet}." if quiet else "No rule that is switched on has found anything.",
        )
    title = f"{_alerts(counts.open)} {'is' if counts.open == 1 else 'are'} firing"
    if care.oldest is not None and now - care.oldest >= BRIEF:
        age = duration((now - care.oldest).total_seconds())
        title += f" for {age}" if counts.open == 1 else f"; the oldest for {age}"
    kind = next((SEVERITY_KINDS[name] for name in SEVERITY_KINDS if counts.firing.get(name)), "run")
    severities = [f"{n} {name}{_plural(name, n)}" for name in SEVERITY_KINDS if (n := counts.firing.get(name))]
    if not care.unseen:
        seen = "Each is taken care of"
    elif counts.open == 1:
        seen = "Nobody has acknowledged it yet"
    else:
        seen = f"{care.unseen} {'is' if care.unseen == 1 else 'are'} not acknowledged yet"
    parts = [", ".join(severities), quiet, seen.lower() if severities else seen]
    return kind, title, "; ".join(one for one in parts if one) + "."


def _plural(severity: str, n: int) -> str:
    return "s" if severity == "warning" and n != 1 else ""


def _alerts(n: int) -> str:
    return "1 alert" if n == 1 else f"{n} alerts"


def _quiet(counts: AlertCounts) -> str:
    parts = [f"{counts.suppressed} suppressed"] if counts.suppressed else []
    return ", ".join([*parts, *([f"{counts.pending} pending"] if counts.pending else [])])


def ends_when(alert: AlertView) -> str:
    """Return what it would take to end an alert, as a sentence; "" for one that has ended or whose rule is no more."""
    rule = RULES.get(alert.rule)
    if rule is None or alert.state is AlertState.RESOLVED:
        return ""
    if alert.rule in _ENDS or not rule.unit:
        return _ENDS.get(alert.rule, "It ends by itself when its condition is over.")
    side = "below" if alert.value >= alert.threshold else "above"
    settle = f" for {duration(rule.settle_s)}" if rule.settle_s else ""
    return f"It ends by itself when the figure is clearly {side} {number_text(alert.threshold)} {rule.unit}{settle}."


def story(alert: AlertView) -> list[StoryLine]:
    """Return what happened to an alert, newest first."""
    lines = [StoryLine(alert.since, "off", "Its condition began", alert.summary)]
    if alert.fired_at is not None:
        waited = (alert.fired_at - alert.since).total_seconds()
        why = f"The condition had held for {duration(waited)}." if waited >= 1 else "The rule waits for nothing."
        lines.append(StoryLine(alert.fired_at, SEVERITY_KINDS[alert.severity], "It fires", why))
    if alert.acked_at is not None:
        lines.append(StoryLine(alert.acked_at, "run", f"{alert.acked_by} takes care of it", alert.ack_comment))
    if alert.resolved_at is not None:
        lasted = duration((alert.resolved_at - alert.since).total_seconds())
        lines.append(StoryLine(alert.resolved_at, "ok", "It ended", f"It lasted {lasted}."))
    return sorted(lines, key=lambda one: one.at)[::-1]


def figure_of(alert: AlertView, spans: Mapping[str, tuple[timedelta, int]], now: datetime) -> Figure | None:
    """Return which chart shows an alert over its time, None where no chart does. spans: lengths by name, the shortest first."""
    if alert.rule not in _CHARTS:
        return None
    scope, ids = _CHARTS[alert.rule]
    model = alert.labels.get("model", "")
    name = model if scope is Scope.MODEL else alert.labels.get("device", "")
    reach = (now - alert.since) * 1.5
    span = next((key for key, (length, _) in spans.items() if length >= max(reach, timedelta(hours=1))), "")
    return Figure(scope, name, ids, model, span) if name and span else None


def chart_of(figure: Figure, charts: Sequence[Chart]) -> Chart | None:
    """Return the chart that shows an alert: of a device's charts of models that of its own model, None where that has no figures."""
    found = [one for one in charts if one.id.startswith(tuple(figure.ids))]
    if figure.scope is Scope.DEVICE and figure.model:
        found = [one for one in found if "-" not in one.id or one.title.startswith(f"{figure.model}: ")]
    return found[0] if found else None


def limit_of(alert: AlertView) -> float | None:
    """Return from which value on its chart an alert fires, where the rule's threshold is a multiple of what is usual.

    What is usual stands in the sentence of the alert alone: no other field keeps it.
    """
    found = _USUAL.search(alert.summary) if alert.rule in _MULTIPLES else None
    return None if found is None else round(float(found[1]) * alert.threshold, 3)


def strips(alerts: Iterable[AlertView | Fired], now: datetime) -> dict[str, list[Stretch]]:
    """Return of each rule when its alerts fired in the last STRIP, oldest first."""
    begin, found = now - STRIP, dict[str, list[Stretch]]()
    for one in alerts:
        end = one.resolved_at or now
        if one.fired_at is None or end < begin:
            continue
        left = 100 * max(0.0, (one.fired_at - begin) / STRIP)
        width = max(LEAST_WIDTH, 100 * (end - begin) / STRIP - left)
        found.setdefault(one.rule, []).append(Stretch(round(min(left, 100 - LEAST_WIDTH), 2), round(width, 2)))
    return {rule: sorted(mine, key=lambda one: one.left) for rule, mine in found.items()}
