"""What is in force of each rule: its defaults, and what people changed of them."""

from collections.abc import Mapping
from typing import Any, Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.alerting.active_alerts import store
from edgefleet_server.alerting.active_alerts.errors import BadRuleError, RuleUnknownError
from edgefleet_server.alerting.active_alerts.model import AlertState, RuleSetting, RuleView
from edgefleet_server.alerting.active_alerts.tables import AlertRule
from edgefleet_server.alerting.alert_rules.figure_text import number_text
from edgefleet_server.alerting.alert_rules.fleet_facts import Rule, Severity
from edgefleet_server.alerting.alert_rules.rule_table import RULES
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.selectors.device_selector import DeviceSelector

FIELDS: Final = ("is_enabled", "threshold", "for_s", "severity", "selector")


class RuleBook:
    """Reads and changes rules. Thread-safe; calls block."""

    def __init__(self, db: Database, devices: DeviceSelector, clock: Clock) -> None:
        """Wire the parts."""
        self._db = db
        self._devices = devices
        self._clock = clock

    def settings(self) -> dict[str, RuleSetting]:
        """Return what is in force of each rule."""
        with self._db.read() as session:
            rows = store.rule_rows(session)
        return {name: _setting(rule, rows.get(name)) for name, rule in RULES.items()}

    def selected(self, selector: str) -> frozenset[str]:
        """Return the ids of the devices that a selector matches. Raises BadSelectorError."""
        return frozenset(one.id for one in self._devices.select(selector))

    def rules(self) -> list[RuleView]:
        """Return all rules in the order of the table."""
        with self._db.read() as session:
            rows, counts = store.rule_rows(session), store.counts(session)
        firing: dict[str, int] = {}
        for state, _severity, is_quiet, rule, n in counts:
            if state == AlertState.FIRING and not is_quiet:
                firing[rule] = firing.get(rule, 0) + n
        return [_view(rule, _setting(rule, rows.get(name)), firing.get(name, 0)) for name, rule in RULES.items()]

    def rule(self, name: str) -> RuleView:
        """Return one rule. Raises RuleUnknownError."""
        known_rule(name)
        return next(one for one in self.rules() if one.name == name)

    def change(self, name: str, changes: Mapping[str, Any], by: str) -> RuleView:
        """Change a rule; a field that is None goes back to its default. Raises RuleUnknownError, BadRuleError, BadSelectorError."""
        rule = known_rule(name)
        _check(rule, changes)
        if changes.get("selector"):
            self._devices.select(str(changes["selector"]))
        with self._db.session() as session:
            now = self._clock.now()
            row = store.rule_rows(session).get(name) or AlertRule(rule=name, changed_at=now, changed_by=by)
            for field in FIELDS:
                if field in changes:
                    value = changes[field]
                    setattr(row, field, value.value if isinstance(value, Severity) else value)
            row.changed_at, row.changed_by = now, by[:80]
            session.add(row)
            session.flush()
        return self.rule(name)


def known_rule(name: str) -> Rule:
    """Return a rule. Raises RuleUnknownError."""
    if name not in RULES:
        raise RuleUnknownError(
            f"there is no rule {name[:40]!r}", next_step="`edgectl alert rules list` shows all rules"
        )
    return RULES[name]


def _check(rule: Rule, changes: Mapping[str, Any]) -> None:
    if rule.is_fixed and any(value is not None for value in changes.values()):
        raise BadRuleError(
            f"the rule {rule.name} stays as it is: who gets past a protection rule must not do it unseen",
            next_step="acknowledge its alert: `edgectl alert ack ID` says that you look after it",
        )
    threshold = changes.get("threshold")
    if threshold is not None and rule.least == rule.most:
        raise BadRuleError(
            f"the rule {rule.name} has no threshold", next_step="change its severity or selector, or switch it off"
        )
    if threshold is not None and not rule.least <= threshold <= rule.most:
        least, most = number_text(rule.least), number_text(rule.most)
        raise BadRuleError(
            f"the threshold of {rule.name} cannot be {number_text(threshold)}",
            next_step=f"give one from {least} to {most} ({rule.unit}); the default is {number_text(rule.threshold)}",
        )
    if changes.get("selector") and not rule.has_devices:
        raise BadRuleError(
            f"the rule {rule.name} is not about single devices, so a selector cannot narrow it",
            next_step="change its threshold or severity, or switch it off",
        )


def _setting(rule: Rule, row: AlertRule | None) -> RuleSetting:
    if row is None:
        return RuleSetting(rule.name, True, rule.threshold, rule.for_s, rule.severity, "")
    return RuleSetting(
        rule=rule.name,
        is_enabled=True if row.is_enabled is None else row.is_enabled,
        threshold=rule.threshold if row.threshold is None else row.threshold,
        for_s=rule.for_s if row.for_s is None else row.for_s,
        severity=rule.severity if row.severity is None else Severity(row.severity),
        selector=row.selector or "",
        changed_at=row.changed_at,
        changed_by=row.changed_by,
    )


def _view(rule: Rule, setting: RuleSetting, firing: int) -> RuleView:
    return RuleView(
        name=rule.name, title=rule.title, description=rule.description, is_enabled=setting.is_enabled,
        threshold=setting.threshold, unit=rule.unit, default=rule.threshold, least=rule.least, most=rule.most,
        source=rule.source, for_s=setting.for_s, severity=setting.severity, selector=setting.selector,
        next_step=rule.next_step, firing=firing, changed_at=setting.changed_at, changed_by=setting.changed_by,
    )  # fmt: skip
