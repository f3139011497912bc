"""Alerts as the rest of the server sees them: listed, shown, counted, acknowledged."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.alerting.active_alerts import store
from edgefleet_server.alerting.active_alerts.errors import AlertOverError
from edgefleet_server.alerting.active_alerts.model import (
    ActiveAlert,
    AlertCare,
    AlertCounts,
    AlertState,
    AlertView,
    Fired,
)
from edgefleet_server.alerting.alert_rules.fleet_facts import Severity
from edgefleet_server.alerting.alert_rules.rule_table import RULES, next_step_of
from edgefleet_server.db.database import Database

SHOWN_DEVICES: Final = 200
SEVERITIES: Final = tuple(Severity)
DEVICES: Final = "/devices/"
"""Where the page of a device begins, to which alerts about it lead."""
OPEN: Final = (AlertState.PENDING.value, AlertState.FIRING.value)


@dataclass(frozen=True, slots=True)
class AlertQuery:
    """Which alerts: empty texts and states are all; suppressed: None = both."""

    states: Sequence[str] = ()
    rule: str = ""
    severity: str = ""
    suppressed: bool | None = None


class ActiveAlerts:
    """Shows alerts and takes acknowledgements. Thread-safe; calls block."""

    def __init__(self, db: Database, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._clock = clock

    def page(self, query: AlertQuery, *, before: int | None, limit: int) -> tuple[list[AlertView], int]:
        """Return alerts, newest first, and how many there are."""
        with self._db.read() as session:
            found, total = store.alerts_page(
                session, states=query.states, rule=query.rule, severity=query.severity, suppressed=query.suppressed,
                before=before, limit=limit,
            )  # fmt: skip
        return [view_of(one) for one in found], total

    def get(self, alert_id: int) -> AlertView:
        """Return one alert. Raises AlertUnknownError."""
        with self._db.read() as session:
            return view_of(store.as_alert(store.known_alert(session, alert_id)))

    def firing(self, limit: int) -> list[AlertView]:
        """Return those that fire and are not suppressed, the most severe first, then the newest."""
        with self._db.read() as session:
            return [view_of(one) for one in store.worst_firing(session, [one.value for one in SEVERITIES], limit)]

    def of_device(self, device: str, since: datetime) -> list[AlertView]:
        """Return the alerts about a device and its models that have not ended before `since`: the most severe first, then the newest."""
        with self._db.read() as session:
            found = store.alerts_since(session, since, SHOWN_DEVICES, link=f"{DEVICES}{device}")
        return sorted(map(view_of, found), key=lambda one: (SEVERITIES.index(one.severity), -one.id))

    def since(self, moment: datetime, limit: int, *, rule: str = "", subject: str = "") -> list[AlertView]:
        """Return the alerts that have not ended before a moment, newest first: all, or those of a rule about a subject."""
        with self._db.read() as session:
            return [view_of(one) for one in store.alerts_since(session, moment, limit, rule=rule, subject=subject)]

    def fired(self, since: datetime, limit: int) -> list[Fired]:
        """Return when the alerts fired that have not ended before a moment, newest first."""
        with self._db.read() as session:
            return store.fired_since(session, since, limit)

    def loudest(self, devices: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Return (title, severity) of the worst alert that fires about each of these devices; those without one are left out."""
        links = {f"{DEVICES}{one}": one for one in devices}
        with self._db.read() as session:
            rows = store.firing_of_links(session, links)
        worst_last = sorted(rows, key=lambda row: SEVERITIES.index(Severity(row[2])), reverse=True)
        return {
            links[link]: (RULES[rule].title if rule in RULES else rule, severity) for link, rule, severity in worst_last
        }

    def loud_devices(self) -> list[str]:
        """Return the devices about which an alert fires that is not suppressed, by id."""
        with self._db.read() as session:
            return [link.removeprefix(DEVICES) for link in store.loud_pages(session, DEVICES)]

    def counts(self) -> AlertCounts:
        """Return how many alerts there are."""
        firing: Counter[str] = Counter()
        others: Counter[str] = Counter()
        for (_rule, severity, status), n in self.counts_by_rule().items():
            if status == AlertState.FIRING:
                firing[severity] += n
            else:
                others[status] += n
        return AlertCounts(dict(firing), others["suppressed"], others[AlertState.PENDING])

    def care(self) -> AlertCare:
        """Return who takes care of what fires and is not suppressed."""
        with self._db.read() as session:
            return store.care(session)

    def counts_by_rule(self) -> dict[tuple[str, str, str], int]:
        """Return how many open alerts there are by (rule, severity, status): pending, firing or suppressed."""
        found: dict[tuple[str, str, str], int] = {}
        with self._db.read() as session:
            for state, severity, is_quiet, rule, n in store.counts(session):
                status = "suppressed" if is_quiet and state == AlertState.FIRING else state
                found[rule, severity, status] = found.get((rule, severity, status), 0) + n
        return found

    def acknowledge(self, alert_id: int, comment: str, by: str) -> AlertView:
        """Write down that a person takes care of an alert; the first one stays, a later comment replaces the one before.

        Raises AlertUnknownError, AlertOverError.
        """
        with self._db.session() as session:
            row = store.known_alert(session, alert_id, lock=True)
            if row.state == AlertState.RESOLVED:
                raise AlertOverError(
                    f"alert {alert_id} has ended", next_step="`edgectl alert list` shows what fires now"
                )
            if row.acked_at is None:
                row.acked_at, row.acked_by = self._clock.now(), by[:80]
            row.ack_comment = comment
            session.add(row)
            session.flush()
            return view_of(store.as_alert(row))


def view_of(one: ActiveAlert) -> AlertView:
    """Return an alert as it is shown."""
    rule = RULES.get(one.rule)
    return AlertView(
        id=one.id, rule=one.rule, title=one.rule if rule is None else rule.title, subject=one.subject, shown=one.shown,
        state=one.state, severity=one.severity, summary=one.summary, value=one.value, threshold=one.threshold,
        unit="" if rule is None else rule.unit, group=one.group, since=one.since, fired_at=one.fired_at,
        resolved_at=one.resolved_at, suppressed_by=one.suppressed_by, acked_at=one.acked_at, acked_by=one.acked_by,
        ack_comment=one.ack_comment, next_step=next_step_of(one.rule, one.devices, one.labels), link=one.link, evidence=one.evidence,
        devices=one.devices[:SHOWN_DEVICES], labels=one.labels,
    )  # fmt: skip
