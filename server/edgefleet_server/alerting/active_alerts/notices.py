"""When a group of alerts becomes a message, and what is in it. Pure.

A group is the alerts of one rule and one site, model or group, so that 40 silent devices are one message. A change waits `wait` for
others of its group, and INTERVAL after the message before; then one message has all that began and ended since. A critical alert that
nobody acknowledges is sent again, to each contact point after the time that it asks for.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from edgefleet_server.alerting.active_alerts.model import ActiveAlert, AlertState
from edgefleet_server.alerting.alert_rules.fleet_facts import Severity

INTERVAL: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class NoticeGroup:
    """What was sent of a group. sent: ids of the alerts that the messages named as firing and not yet as ended. due_at: of the next one."""

    rule: str
    group: str
    due_at: datetime | None = None
    sent_at: datetime | None = None
    sent: frozenset[int] = frozenset()
    reminded: Mapping[str, datetime] = field(default_factory=dict)
    """When a contact point got the group again, by contact point."""

    @property
    def key(self) -> tuple[str, str]:
        """What names it."""
        return self.rule, self.group


@dataclass(frozen=True, slots=True)
class Notice:
    """One message about a group: what fires now (new: of it, what no message named before), and what ended."""

    rule: str
    group: str
    at: datetime
    firing: Sequence[ActiveAlert]
    new: frozenset[int]
    ended: Sequence[ActiveAlert]
    is_again: bool = False
    """Whether it only says again what fires and nobody acknowledged."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of the group fires any more."""
        return not self.firing


def planned(
    group: NoticeGroup, alerts: Sequence[ActiveAlert], now: datetime, wait: timedelta
) -> tuple[NoticeGroup, Notice | None]:
    """Return the group as it goes on, and the message that is due. alerts: those of the group, also those that just ended."""
    burning = {one.id for one in alerts if one.state is AlertState.FIRING}
    loud = {one.id for one in alerts if one.state is AlertState.FIRING and not one.suppressed_by}
    new, ended = loud - group.sent, group.sent - burning
    if not new and not ended:
        return replace(group, due_at=None), None
    earliest = now + wait if group.sent_at is None else max(now + wait, group.sent_at + INTERVAL)
    due_at = group.due_at or earliest
    if now < due_at:
        return replace(group, due_at=due_at), None
    notice = Notice(
        group.rule, group.group, now, _ordered(alerts, loud), frozenset(new), _ordered(alerts, ended),
    )  # fmt: skip
    return NoticeGroup(group.rule, group.group, None, now, frozenset((group.sent & burning) | loud)), notice


def reminded(
    group: NoticeGroup, alerts: Sequence[ActiveAlert], now: datetime, repeats: Mapping[str, timedelta]
) -> tuple[NoticeGroup, Notice | None, list[str]]:
    """Return the group as it goes on, and what is said again to which contact points: critical alerts that a message named before.

    They fire, nobody acknowledged them and nothing suppresses them. repeats: after how long, by contact point.
    """
    open_ids = {
        one.id
        for one in alerts
        if one.state is AlertState.FIRING
        and one.severity is Severity.CRITICAL
        and not one.suppressed_by
        and one.acked_at is None
        and one.id in group.sent
    }
    if not open_ids or group.sent_at is None:
        return replace(group, reminded={}), None, []
    last = {contact: max(group.reminded.get(contact, group.sent_at), group.sent_at) for contact in repeats}
    due = sorted(contact for contact, every in repeats.items() if now - last[contact] >= every)
    kept = {contact: at for contact, at in group.reminded.items() if contact in repeats}
    if not due:
        return replace(group, reminded=kept), None, []
    notice = Notice(
        group.rule, group.group, now, _ordered(alerts, open_ids), frozenset(open_ids), (), is_again=True,
    )  # fmt: skip
    return replace(group, reminded=kept | dict.fromkeys(due, now)), notice, due


def groups_of(alerts: Sequence[ActiveAlert], known: Mapping[tuple[str, str], NoticeGroup]) -> list[NoticeGroup]:
    """Return the groups that may have something to say: those of alerts, and those that something was sent of."""
    keys = {(one.rule, one.group) for one in alerts}
    keys |= {key for key, one in known.items() if one.sent or one.due_at is not None}
    return [known.get(key) or NoticeGroup(*key) for key in sorted(keys)]


def _ordered(alerts: Sequence[ActiveAlert], ids: Collection[int]) -> list[ActiveAlert]:
    return sorted((one for one in alerts if one.id in ids), key=lambda one: (one.fired_at or one.since, one.shown))
