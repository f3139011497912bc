"""Who gets a notice, and what it says. Pure.

A contact point gets the alerts that are at least as severe as it asks for and, where it has a selector, about one of its devices; alerts
about no device (the server, the whole fleet) go to contact points without a selector. The subject says what and where; the text says since
when, on what evidence, what to do next, and where to look.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from edgefleet_server.alerting.active_alerts.model import ActiveAlert
from edgefleet_server.alerting.active_alerts.notices import Notice
from edgefleet_server.alerting.alert_rules.figure_text import duration_text, sentence_of
from edgefleet_server.alerting.alert_rules.fleet_facts import Severity
from edgefleet_server.alerting.alert_rules.rule_table import RULES, next_step_of
from edgefleet_server.alerting.contact_points.model import Message

NAMED: Final = 20
"""Alerts that a message names; of more it says how many."""
TOLD: Final = 100
ORDER: Final = (Severity.INFO, Severity.WARNING, Severity.CRITICAL)
FIRING: Final = "edgefleet.alert.firing"
ENDED: Final = "edgefleet.alert.resolved"
TEST: Final = "edgefleet.alert.test"


def for_contact(notice: Notice, severity: Severity, devices: frozenset[str] | None, *, resolved: bool) -> Notice | None:
    """Return the part of a notice that a contact point gets, None when there is none. devices: of its selector, None: it has none."""

    def wanted(one: ActiveAlert) -> bool:
        is_severe = ORDER.index(one.severity) >= ORDER.index(severity)
        return is_severe and (devices is None or not devices.isdisjoint(one.devices))

    firing = [one for one in notice.firing if wanted(one)]
    ended = [one for one in notice.ended if wanted(one)] if resolved else []
    if not ended and not any(one.id in notice.new for one in firing):
        return None
    return replace(notice, firing=firing, ended=ended)


def type_of(notice: Notice) -> str:
    """Return the type of the event of a notice."""
    return ENDED if notice.is_over else FIRING


def severity_of(notice: Notice) -> Severity:
    """Return the highest severity in a notice."""
    return max((one.severity for one in (*notice.firing, *notice.ended)), key=ORDER.index, default=Severity.INFO)


def message_of(notice: Notice, address: str) -> Message:
    """Return a notice for people. address: of the dashboard, without a slash at the end."""
    rule = RULES[notice.rule]
    shown = notice.firing or notice.ended
    where = shown[0].shown if len(shown) == 1 else f"{len(shown)} in {notice.group}"
    word = "ended" if notice.is_over else severity_of(notice).value
    lines = _listed(notice.firing, notice.new, notice.at)
    if notice.ended:
        lines += [*([""] if lines else []), "Ended:"]
        lines += [f"- {one.shown}, after {_lasted(one, notice.at)}" for one in notice.ended[:NAMED]]
        lines += _more(len(notice.ended))
    if notice.firing:
        one = notice.firing[0]
        step = next_step_of(one.rule, one.devices, one.labels) if len(notice.firing) == 1 else rule.next_step
        lines += ["", f"What to do: {step}"]
    if notice.is_again:
        lines += [f"Nobody has acknowledged it: `edgectl alert ack {notice.firing[0].id}`, or on the page below."]
    place = f"/alerts/{shown[0].id}" if len(shown) == 1 else "/alerts"
    again = " (again, not acknowledged)" if notice.is_again else ""
    return Message(f"[{word}] {rule.title}: {where}{again}", "\n".join([*lines, "", f"{address}{place}"]))


def test_message(name: str, address: str, by: str) -> Message:
    """Return the message that tries a contact point out."""
    text = f"{by} asked the server to try out the contact point {name}. Nothing is wrong: messages about alerts arrive here."
    return Message(f"[test] Contact point {name}", f"{text}\n\n{address}/settings/contacts")


def event_detail(notice: Notice, message: Message) -> dict[str, Any]:
    """Return the detail of the event of a notice: for webhooks."""
    return {
        "to": "resolved" if notice.is_over else "firing",
        "rule": notice.rule,
        "group": notice.group,
        "severity": severity_of(notice).value,
        "title": message.subject,
        "reason": message.subject,
        "text": message.text,
        "firing": len(notice.firing),
        "alerts": [_plain(one, one.id in notice.new) for one in notice.firing[:TOLD]],
        "ended": [_plain(one, is_new=False) for one in notice.ended[:TOLD]],
    }


def _plain(one: ActiveAlert, is_new: bool) -> Mapping[str, Any]:
    return {
        "id": one.id, "subject": one.subject, "model": one.labels.get("model", ""), "shown": one.shown, "summary": one.summary,
        "severity": one.severity.value, "since": one.since.isoformat(timespec="seconds"), "value": one.value,
        "threshold": one.threshold, "new": is_new,
    }  # fmt: skip


def _listed(alerts: Sequence[ActiveAlert], new: frozenset[int], now: datetime) -> list[str]:
    lines: list[str] = []
    for one in sorted(alerts, key=lambda each: each.id not in new)[:NAMED]:
        again = "" if one.id in new or len(alerts) == 1 else " (not new)"
        lines.append(f"{sentence_of(one.shown, one.summary)}{again}")
        since = one.fired_at or one.since
        lines.append(f"  fires since {since:%Y-%m-%d %H:%M} UTC, {duration_text((now - since).total_seconds())} ago")
        lines += [f"  {text}" for text in one.evidence if text]
    return lines + _more(len(alerts))


def _more(count: int) -> list[str]:
    return [f"and {count - NAMED} more"] if count > NAMED else []


def _lasted(one: ActiveAlert, now: datetime) -> str:
    return duration_text(((one.resolved_at or now) - one.since).total_seconds())
