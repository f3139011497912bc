"""What keeps alerts quiet: silences, maintenance windows, and an alert that explains others. Pure.

A suppressed alert is shown as such and sends no message. What it needs: all matchers of a silence hold and all its devices are in the
silence's selector; or all its devices are in maintenance; or all its devices are those of a firing alert of a rule that quiets its own.
An alert about no device is explained by one about the same subject. A rule that is fixed says what it has to say, whatever there is.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgefleet_server.alerting.active_alerts.model import ActiveAlert, AlertState
from edgefleet_server.alerting.alert_rules.rule_table import RULES
from edgefleet_server.alerting.model import Matcher
from edgefleet_server.alerting.rules import is_matched


@dataclass(frozen=True, slots=True)
class Silence:
    """A silence in force. devices: those of its selector, None: it has none."""

    id: str
    matchers: Sequence[Matcher]
    devices: frozenset[str] | None

    def covers(self, alert: ActiveAlert) -> bool:
        """Return whether an alert is silenced."""
        if self.matchers and not is_matched(alert.matched, self.matchers):
            return False
        if self.devices is None:
            return bool(self.matchers)
        return _is_inside(alert, self.devices)


@dataclass(frozen=True, slots=True)
class Maintenance:
    """A maintenance window that is open, and the devices for which it is."""

    name: str
    devices: frozenset[str]


def suppressed(
    alerts: Sequence[ActiveAlert], silences: Sequence[Silence], windows: Sequence[Maintenance]
) -> list[ActiveAlert]:
    """Return the alerts, each with what suppresses it now."""
    causes: dict[tuple[str, str], list[ActiveAlert]] = defaultdict(list)
    for one in alerts:
        rule = RULES.get(one.rule)
        if one.state is AlertState.FIRING and rule is not None and rule.quiets:
            for about in one.devices or [one.subject]:
                for quiet in rule.quiets:
                    causes[quiet, about].append(one)
    return [replace(one, suppressed_by=_reason(one, silences, windows, causes)) for one in alerts]


def _reason(
    alert: ActiveAlert,
    silences: Sequence[Silence],
    windows: Sequence[Maintenance],
    causes: Mapping[tuple[str, str], Sequence[ActiveAlert]],
) -> str:
    """Return what suppresses an alert, "" for nothing. causes: what explains alerts of a rule about a device or subject."""
    if alert.rule in RULES and RULES[alert.rule].is_fixed:
        return ""
    for silence in silences:
        if silence.covers(alert):
            return f"silence {silence.id}"
    for window in windows:
        if _is_inside(alert, window.devices):
            return f"maintenance {window.name}"
    found = [
        [one for one in causes.get((alert.rule, about), ()) if _has_model_of(one, alert)]
        for about in alert.devices or [alert.subject]
    ]
    if all(found):
        cause = found[0][-1]
        return f"{cause.shown} {RULES[cause.rule].quiet_word}"
    return ""


def _has_model_of(cause: ActiveAlert, alert: ActiveAlert) -> bool:
    """Return whether a cause may explain an alert: one about a model explains nothing of another model."""
    return "model" not in cause.labels or cause.labels["model"] == alert.labels.get("model")


def _is_inside(alert: ActiveAlert, devices: frozenset[str]) -> bool:
    return bool(alert.devices) and devices.issuperset(alert.devices)
