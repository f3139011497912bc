"""What triggers look at: alerts that the server has judged already, with their statistics, silences and maintenance windows.

Only those count that fire and that nothing keeps quiet. Drift counts where several devices drift (`drift_spread`): one device, whatever it
says, starts no retraining.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from edgefleet_server.alerting.active_alerts.model import AlertState, AlertView
from edgefleet_server.alerting.alert_rules.fleet_facts import DriftVerdict
from edgefleet_server.objectives.model import Indicator, Slo
from edgefleet_server.retraining.model import DriftAfter, MovedSignal, RunCause, TriggerOn
from edgefleet_server.retraining.trigger_rules import CauseSeen

DRIFT: Final = "drift_spread"
BURNS: Final = ("slo_burn", "slo_burn_slow")
LOOKED_AT: Final = 200
MOST_SIGNALS: Final = 16
MOST_EVIDENCE: Final = 10


class Alerts(Protocol):
    """What is needed of alerts."""

    def since(self, moment: datetime, limit: int, *, rule: str = "", subject: str = "") -> list[AlertView]:
        """Return the alerts that have not ended before a moment, newest first."""
        ...


@dataclass(frozen=True, slots=True)
class AlertCauses:
    """Finds what is a cause now. verdicts: how the drift of models was judged last; slos: the objectives of a model."""

    alerts: Alerts
    verdicts: Callable[[], Sequence[DriftVerdict]]
    slos: Callable[[str], Sequence[Slo]]

    def find(self, on: TriggerOn, model: str, objective: str, now: datetime) -> tuple[RunCause, CauseSeen] | None:
        """Return the cause that a trigger of a model looks at, the one that has lasted longest; None: it is not there."""
        if on is TriggerOn.DRIFT:
            found = self._firing(now, DRIFT, f"model:{model}")
        elif on in (TriggerOn.ACCURACY, TriggerOn.OBJECTIVE):
            names = self._objectives(on, model, objective)
            found = [one for rule in BURNS for name in names for one in self._firing(now, rule, f"slo:{name}")]
        else:
            return None
        if not found:
            return None
        first = min(found, key=lambda one: (one.since, one.id))
        return self._cause(on, model, first), CauseSeen(first.since, f"{first.shown}: {first.summary}")

    def after(
        self, cause: RunCause, model: str, version: str, since: datetime, now: datetime
    ) -> tuple[DriftAfter, str]:
        """Return how the cause of a retraining stands since a moment: WAITING as long as nothing new was judged."""
        if self._firing(now, cause.rule, cause.subject):
            return DriftAfter.STILL_THERE, "the alert that started it fires still"
        if cause.rule != DRIFT:
            return DriftAfter.GONE, "the alert that started it has ended"
        verdict = next((one for one in self.verdicts() if one.model == model), None)
        if verdict is None or verdict.judged_at <= since or verdict.version != version:
            return DriftAfter.WAITING, f"the drift of {version} was not judged yet"
        return (
            DriftAfter.GONE,
            f"{verdict.version} was judged at {verdict.judged_at:%Y-%m-%d %H:%M} UTC: no drift on several devices",
        )

    def _firing(self, now: datetime, rule: str, subject: str) -> list[AlertView]:
        found = self.alerts.since(now, LOOKED_AT, rule=rule, subject=subject)
        return [one for one in found if one.state == AlertState.FIRING and not one.suppressed_by]

    def _objectives(self, on: TriggerOn, model: str, objective: str) -> list[str]:
        slos = [one for one in self.slos(model) if on is TriggerOn.OBJECTIVE or one.indicator is Indicator.ACCURACY]
        return [one.name for one in slos if objective in ("", one.name)]

    def _cause(self, on: TriggerOn, model: str, alert: AlertView) -> RunCause:
        verdict = next((one for one in self.verdicts() if one.model == model), None) if alert.rule == DRIFT else None
        signals = [] if verdict is None else [one for one in verdict.signals if one.moved > 1]
        return RunCause(
            on=on,
            words=f"{alert.shown}: {alert.summary}",
            alert=alert.id,
            rule=alert.rule,
            subject=alert.subject,
            since=alert.since.isoformat(),
            signals=[MovedSignal(one.name, one.said, one.moved, one.of) for one in signals[:MOST_SIGNALS]],
            devices=list(alert.devices),
            evidence=list(alert.evidence)[:MOST_EVIDENCE],
        )
