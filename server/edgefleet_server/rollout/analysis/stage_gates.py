"""What the gates of a stage add to its decision: the quality gate, the budget gate, and webhook gates. Pure.

`decide` is about devices that fail, the quality gate about devices that get worse. In that order:
1. The evidence against the release is the weighted mean of that of installation and that of the metrics: one error probability for
   all. What installation shows alone has to be a sixth stronger for it (`abort_at`). With `liars` there are two such means: with the
   evidence that more than `max_failure` fail it stops, with the evidence that more fail than liars explain it takes back.
2. A stage that would pass is held while one metric does not pass; whatever else holds a stage is named first.

Webhook gates: names and meaning are those of Flagger's webhooks.
- `confirm-rollout`, `pre-rollout`: the stage opens only when they pass.
- `rollout`: asked again and again while the stage is open; it does not pass unless the latest answer does.
- `confirm-promotion`: asked when everything else is there; the stage passes only then.
- `rollback`: asked again and again while the stage is open; a status that passes means *roll back*, anything else means
  nothing. Rules:
1. HTTP 200 to 202 pass, as in Flagger, whose own load tester answers 202. Another status, an error, silence, an answer that
   is too old or none at all: hold, never pass.
2. What was answered is part of the facts of a decision, with its status and its time: it is stored with it, and decides again
   the same.
"""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from edgefleet_server.rollout.analysis import metrics as analysis_metrics
from edgefleet_server.rollout.analysis.budget_facts import BUDGET_LOW, BudgetFact, figures_of_budget
from edgefleet_server.rollout.analysis.metrics import INSTALL_WEIGHT, MetricVerdicts
from edgefleet_server.rollout.analysis.model import (
    PASSES_TO,
    Advance,
    Decision,
    DriftFacts,
    Facts,
    Figures,
    GateFact,
    KeepWaiting,
    Pause,
    RollBack,
)
from edgefleet_server.rollout.bounded_mean import log_average
from edgefleet_server.rollout.failure_ratio import threshold
from edgefleet_server.rollout.model import Answered
from edgefleet_server.rollout.spec.model import OPENING, GateKind, OnBreach, Spec, WebhookGate

# ---- the quality gate

STOP_QUALITY: Final = "stop_quality"

LOG_MAX: Final = math.log(sys.float_info.max)


def abort_at(facts: Facts) -> float | None:
    """Return the natural log that the evidence of installation alone must reach to abort; None: the gate has no such level."""
    if not 0 < facts.alpha_abort < 1:
        return None
    is_judged = facts.quality is not None and analysis_metrics.can_fail(facts.quality)
    return _level(facts.alpha_abort, is_judged or facts.beside_metrics)


def abort_level(spec: Spec) -> float:
    """Return the same for a spec, as it is shown: 100 at the defaults, 118 with metrics that may fail a stage."""
    return math.exp(_level(spec.gates.install.alpha_abort, has_failing_metrics(spec)))


def has_failing_metrics(spec: Spec) -> bool:
    """Return whether a metric may fail a stage: one error probability is for all stages, also those that it does not judge."""
    metrics = () if spec.gates.quality is None else spec.gates.quality.metrics
    return any(one.on_breach is OnBreach.FAIL for one in metrics)


def _level(alpha: float, has_company: bool) -> float:
    return threshold(alpha) - (math.log(INSTALL_WEIGHT) if has_company else 0.0)


def flaw_of(facts: Facts) -> str:
    """Return what contradicts itself in the facts of the quality gate, "" when nothing does."""
    if facts.quality is None:
        return ""
    if facts.quality.expected > facts.counts.exposed:
        return "more devices should have values than are exposed"
    return analysis_metrics.flaw_of(facts.quality)


def judged(facts: Facts) -> MetricVerdicts | None:
    """Return what is known of the metrics; None without a gate, and where the facts allow no calculation."""
    is_sound = 0 < facts.alpha_abort < 1 and 0 < facts.alpha_promote < 1
    if facts.quality is None or not is_sound or flaw_of(facts):
        return None
    return analysis_metrics.judge(facts.quality, threshold(facts.alpha_abort), threshold(facts.alpha_promote))


def against(
    facts: Facts, metrics: MetricVerdicts | None, log_install: float | None, figures: Figures
) -> RollBack | None:
    """Return what the metrics, together with the failures of installation, say against the release."""
    found = _together(facts, metrics, log_install)
    if found is None:
        return None
    reason, log = found
    return RollBack(analysis_metrics.QUALITY_BREACH, reason, {**figures, "e_together": plain_number(log)})


def stopped(facts: Facts, metrics: MetricVerdicts | None, log_install: float | None, figures: Figures) -> Pause | None:
    """Return the same where it suffices only with failures that liars may have invented: a person is to look at it."""
    found = _together(facts, metrics, log_install)
    if found is None:
        return None
    reason, log = found
    return Pause(STOP_QUALITY, f"{reason}; too little to take it back", {**figures, "e_together": plain_number(log)})


def _together(facts: Facts, metrics: MetricVerdicts | None, log_install: float | None) -> tuple[str, float] | None:
    """Return the words and the log of the evidence of metrics and installation together, None where it does not suffice."""
    if metrics is None or metrics.log_fail is None or metrics.worst is None or log_install is None:
        return None
    at = threshold(facts.alpha_abort)
    log = log_average([(INSTALL_WEIGHT, log_install), (1 - INSTALL_WEIGHT, metrics.log_fail)])
    return None if log < at else (analysis_metrics.breach_text(metrics.worst, short(log), short(at)), log)


def checked(facts: Facts, metrics: MetricVerdicts | None, verdict: Advance | KeepWaiting) -> Advance | KeepWaiting:
    """Return the verdict of installation, held back by a metric that does not pass. Never lets pass what was held."""
    if facts.quality is None or isinstance(verdict, KeepWaiting):
        return verdict
    if metrics is None:
        return KeepWaiting(analysis_metrics.QUALITY_NO_DATA, "nothing is known of the quality gate", verdict.figures)
    obstacle = metrics.obstacle
    if obstacle is not None:
        return KeepWaiting(obstacle.code, obstacle.reason, verdict.figures)
    message = "; ".join(one.reason for one in metrics.metrics)
    return Advance(verdict.code, f"{verdict.reason}; {message}", verdict.figures, verdict.strength, verdict.bound)


def figures_of(metrics: MetricVerdicts | None, budget: BudgetFact | None = None) -> dict[str, float | int | str | None]:
    """Return every number of the budget and of the metrics: `metric.what`, value and what it lies between in the unit of the bound."""
    figures = figures_of_budget(budget)
    if metrics is None:
        return figures
    for one in metrics.metrics:
        facts = one.facts
        if isinstance(facts, DriftFacts):
            figures |= {
                "drift.verdict": one.verdict.value,
                "drift.drifted": facts.drifted,
                "drift.judged": facts.judged,
                "drift.control_drifted": facts.control_drifted,
                "drift.control_judged": facts.control_judged,
                "drift.e": plain_number(one.log_fail),
            }
            continue
        ends = [None if end is None else analysis_metrics.shown_value(facts, end) for end in (one.low, one.high)]
        low, high = sorted(ends, key=lambda end: (end is None, end)) if None not in ends else ends
        figures |= {
            f"{facts.name.value}.{what}": value
            for what, value in (
                ("verdict", one.verdict.value),
                ("value", None if one.value is None else analysis_metrics.shown_value(facts, one.value)),
                ("low", low),
                ("high", high),
                ("threshold", analysis_metrics.shown_value(facts, facts.at)),
                ("devices", one.n),
                ("missing", facts.missing),
                ("clipped", facts.clipped),
                ("e_fail", plain_number(one.log_fail)),
                ("e_pass", None if one.log_pass is None else plain_number(one.log_pass)),
            )
        }
    if metrics.log_fail is not None:
        figures["quality_e_fail"] = plain_number(metrics.log_fail)
    return figures


def short(log: float) -> str:
    """Return a number as people read it, of its natural log: 12.3, 0.04, 10^15."""
    if abs(log) < math.log(1e6):
        return f"{math.exp(log):.3g}"
    return f"10^{math.floor(log / math.log(10))}"


def plain_number(log: float) -> float:
    """Return exp(log), at most the greatest float: JSON has no infinity."""
    return math.exp(log) if log <= LOG_MAX else sys.float_info.max


# ---- webhook gates


def asked_back_by_gate(facts: Facts, figures: Figures) -> RollBack | None:
    """Return the roll-back that a gate asks for, None when none does."""
    asked = asks_for_rollback(facts.gates)
    return RollBack(GATE_ROLLBACK, asked, figures) if asked else None


def held_by_gate(facts: Facts, verdict: Decision) -> Decision:
    """Return an advance that a gate does not let through as a Hold, every other verdict as it is; a low budget stops a stage once.

    A closed `rollout` gate comes first: a device that confirms is asked only when everything else is there.
    """
    lack = "" if facts.budget is None else facts.budget.lack
    if facts.budget is not None and lack and not facts.budget.is_answered:
        return Pause(BUDGET_LOW, lack, verdict.figures)
    if not isinstance(verdict, Advance):
        return verdict
    for code, waits in (
        (BUDGET_LOW, lack),
        (GATE_CLOSED, is_closed(facts.gates)),
        (GATE_CONFIRM, waits_for_confirmation(facts.gates)),
    ):
        if waits:
            return KeepWaiting(code, f"{verdict.reason}; {waits}", verdict.figures)
    return verdict


# ---- codes of what a cell waits for, or was stopped by: public and stable

GATE_OPENING: Final = "gate_opening"

GATE_CLOSED: Final = "gate_closed"

GATE_CONFIRM: Final = "gate_confirm"

GATE_ROLLBACK: Final = "gate_rollback"


def facts_of_gates(gates: Sequence[WebhookGate], answers: Mapping[int, Answered], now: datetime) -> list[GateFact]:
    """Return the gates of a stage with what they last said."""
    found = []
    for place, gate in enumerate(gates):
        answer = answers.get(place)
        age_s = None if answer is None else round(now.timestamp() - answer.at, 3)
        found.append(
            GateFact(
                name=gate.name,
                kind=gate.kind,
                status=None if answer is None else answer.status,
                error="" if answer is None else answer.error,
                body="" if answer is None else answer.body,
                age_s=age_s,
                fresh_s=gate.fresh.total_seconds(),
                passes_to=PASSES_TO,
            )
        )
    return found


def waits_to_open(facts: Iterable[GateFact]) -> str:
    """Return why a stage may not open yet, "" when it may."""
    return _waits(facts, OPENING)


def asks_for_rollback(facts: Iterable[GateFact]) -> str:
    """Return which gate asks to roll back, "" when none does."""
    asking = [one for one in facts if one.kind is GateKind.ROLLBACK and one.passes]
    return "; ".join(f"gate {one.name} asks to roll back{_quoted(one.body)}" for one in asking)


def is_closed(facts: Iterable[GateFact]) -> str:
    """Return which gate holds an open stage, "" when none does."""
    return _waits(facts, frozenset({GateKind.ROLLOUT}))


def waits_for_confirmation(facts: Iterable[GateFact]) -> str:
    """Return which gate has to confirm that the stage passes, "" when all did."""
    return _waits(facts, frozenset({GateKind.CONFIRM_PROMOTION}))


def _waits(facts: Iterable[GateFact], kinds: frozenset[GateKind]) -> str:
    waiting = [one for one in facts if one.kind in kinds and not one.passes]
    return "; ".join(f"gate {one.name} ({one.kind.value}): {one.answer}" for one in waiting)


def _quoted(body: str) -> str:
    text = " ".join(body.split())[:120]
    return f": {text}" if text else ""
