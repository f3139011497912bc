"""How triggers and retrainings stand, in words, and what a new trigger's form offers. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgefleet_protocol.messages import CaptureReason
from edgefleet_server.dashboard.core.filters import duration
from edgefleet_server.retraining.model import (
    OPEN,
    DataWanted,
    LauncherKind,
    RetrainingView,
    RunState,
    TriggerOn,
    TriggerView,
)

ON: Final[Mapping[str, str]] = {
    TriggerOn.DRIFT.value: "drift on several devices",
    TriggerOn.ACCURACY.value: "accuracy below its objective",
    TriggerOn.OBJECTIVE.value: "an objective that burns its budget",
    TriggerOn.SCHEDULE.value: "a schedule",
    TriggerOn.HAND.value: "only when a person starts it",
}
LAUNCHERS: Final[Mapping[str, str]] = {
    LauncherKind.RUNNER.value: "a runner (edgectl retrain worker)",
    LauncherKind.GITHUB.value: "a workflow of GitHub",
    LauncherKind.GITLAB.value: "a pipeline of GitLab",
    LauncherKind.MLFLOW.value: "a job of Databricks, with MLflow",
    LauncherKind.WEBHOOK.value: "a webhook: Airflow, Argo, another program",
}
SETTINGS: Final[Mapping[str, Sequence[tuple[str, str, bool]]]] = {
    LauncherKind.GITHUB.value: (
        ("repository", "acme/digits", True),
        ("workflow", "retrain.yml", True),
        ("ref", "main", False),
    ),
    LauncherKind.GITLAB.value: (
        ("project", "acme/digits", True),
        ("ref", "main", False),
        ("server", "https://gitlab.com", False),
    ),
    LauncherKind.MLFLOW.value: (("host", "https://WORKSPACE.cloud.databricks.com", True), ("job", "4711", True)),
    LauncherKind.WEBHOOK.value: (
        ("url", "https://argo.example/retrain", True),
        ("shape", "event", False),
        ("dag", "", False),
        ("user", "", False),
    ),
}
"""Settings of each pushed launcher: name, example, whether it is needed."""
LASTING: Final = (("0", "at once"), ("3600", "1 hour"), ("21600", "6 hours"), ("86400", "1 day"), ("259200", "3 days"))
COOL_DOWN: Final = (("3600", "1 hour"), ("86400", "1 day"), ("604800", "7 days"), ("2592000", "30 days"))
PERIODS: Final = (("604800", "7 days"), ("2592000", "30 days"), ("7776000", "90 days"))
WAITS: Final = (
    *(("0", "not at all"), ("60", "1 minute"), ("600", "10 minutes"), ("3600", "1 hour"), ("21600", "6 hours")),
    *(("86400", "1 day"), ("604800", "7 days")),
)
DEADLINES: Final = (("3600", "1 hour"), ("21600", "6 hours"), ("86400", "1 day"), ("604800", "7 days"))
REASONS: Final[Mapping[str, str]] = {
    CaptureReason.DRIFT.value: "drift",
    CaptureReason.LOW_CONFIDENCE.value: "low confidence",
    CaptureReason.DISAGREEMENT.value: "disagreement of a candidate",
    CaptureReason.FLAG.value: "flagged by the application",
    CaptureReason.RANDOM.value: "chance, without a reason",
}
"""Why devices capture a record."""
STRATEGIES: Final = ("shadow", "canary", "blue-green", "all")
NOTHING: Final = "none"
_MOST_NAMED: Final = 63


@dataclass(frozen=True, slots=True)
class Choice:
    """What was picked for a new trigger. strategy: of the rollout of its new releases, `none`: they are only published."""

    model: str = ""
    on: str = TriggerOn.DRIFT.value
    launcher: str = LauncherKind.RUNNER.value
    strategy: str = "canary"

    @property
    def name(self) -> str:
        """A name that says what it is about."""
        return f"{self.model}-{self.on}"[:_MOST_NAMED].lower().replace("_", "-").replace(".", "-")


def picked(models: Sequence[str], model: str, on: str, launcher: str, strategy: str) -> Choice:
    """Return a choice of what there is; the usual where something else was asked for."""
    return Choice(
        model if model in models else next(iter(models), ""),
        on if on in ON else TriggerOn.DRIFT.value,
        launcher if launcher in LAUNCHERS else LauncherKind.RUNNER.value,
        strategy if strategy in (*STRATEGIES, NOTHING) else "canary",
    )


def waits(data: DataWanted | None) -> Sequence[tuple[str, str]]:
    """Return for how long records may be waited for; what a trigger has now is among them."""
    known = dict(WAITS)
    if data is None or str(data.wait_s) in known:
        return WAITS
    return (*WAITS, (str(data.wait_s), duration(data.wait_s)))


def headline(triggers: Sequence[TriggerView], runs: Sequence[RetrainingView]) -> tuple[str, str, str]:
    """Return the kind, title and sentence of the page. runs: the newest."""
    waiting = [one for one in runs if one.state is RunState.AWAITING_APPROVAL]
    going = [one for one in runs if one.state in OPEN and one.state is not RunState.AWAITING_APPROVAL]
    failed = next((one for one in runs if one.state not in OPEN), None)
    if waiting:
        lead = f"{waiting[0].model}: {waiting[0].cause.words}. A person who did not make the trigger approves it, or rejects it."
        return "warn", f"{_many(len(waiting), 'retraining')} {_verb(len(waiting), 'waits', 'wait')} for approval", lead
    if going:
        return "run", f"{_many(len(going), 'retraining')} under way", f"{going[0].model}: {going[0].says}."
    if not triggers:
        return (
            "off",
            "No trigger yet",
            "A trigger says when a model is trained again, how often at most, and what happens with the result.",
        )
    if failed is not None and failed.state in {RunState.FAILED, RunState.EXPIRED}:
        return "bad", f"The last retraining of {failed.model} failed", f"{failed.says}."
    active = sum(1 for one in triggers if one.enabled)
    return "ok", "Nothing to retrain now", f"{_many(active, 'trigger')} {_verb(active, 'watches', 'watch')} the fleet."


def terms_text(trigger: TriggerView) -> str:
    """Return how often a trigger fires at most, in words."""
    period = duration(trigger.budget_period_s)
    words = f"at most {trigger.budget} in {period}"
    if trigger.on is not TriggerOn.HAND and trigger.cool_down_s:
        words += f", {duration(trigger.cool_down_s)} between two"
    if trigger.lasting_s:
        words += f", after it has lasted {duration(trigger.lasting_s)}"
    return words


def budget_left(trigger: TriggerView) -> tuple[int, float, str]:
    """Return what is left of a budget: how many, as a percentage, and the fill of its bar."""
    left = max(trigger.budget - trigger.used, 0)
    share = 100 * left / trigger.budget if trigger.budget else 0.0
    return left, round(share, 1), "f-bad" if left == 0 else "f-warn" if share <= 25 else "f-ok"


def rollout_text(trigger: TriggerView) -> str:
    """Return what happens with a new release."""
    if trigger.rollout is None:
        return "only published"
    where = trigger.rollout.get("selector") or "all devices that run the model"
    how = trigger.rollout.get("strategy") or ("its own stages" if trigger.rollout.get("stages") else "canary")
    return f"rolled out by {how} to {where}"


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _verb(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
