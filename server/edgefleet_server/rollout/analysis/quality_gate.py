"""How the quality gate joins the verdict on a cell: what it adds to `rules.decide`. Pure.

`decide` is about devices that fail, this about devices that get worse. In that order:
1. The evidence against the release is the weighted mean of that of installation and that of the metrics: one error probability for
   all. What installation shows alone has to be a sixth stronger for it (`abort_at`).
2. A stage that would pass is held while one metric does not pass; whatever else holds a stage is told first.
"""

import math
import sys
from typing import Final

from edgefleet_server.rollout.analysis import metrics as analysis_metrics
from edgefleet_server.rollout.analysis.metrics import INSTALL_WEIGHT, MetricVerdicts
from edgefleet_server.rollout.analysis.model import Advance, DriftFacts, Facts, Figures, KeepWaiting, RollBack
from edgefleet_server.rollout.bounded_mean import log_average
from edgefleet_server.rollout.failure_ratio import threshold
from edgefleet_server.rollout.spec.model import OnBreach, Spec

_LOG_MAX: Final = math.log(sys.float_info.max)


def abort_at(facts: Facts) -> float | None:
    """Return the natural log that the evidence of installation alone must reach to abort; None: the gate has no such level."""
    if not 0 < facts.alpha_abort < 1:
        return None
    is_judged = facts.quality is not None and analysis_metrics.can_fail(facts.quality)
    return _level(facts.alpha_abort, is_judged or facts.beside_metrics)


def abort_level(spec: Spec) -> float:
    """Return the same for a spec, as it is shown: 100 at the defaults, 118 beside metrics that may fail a stage."""
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
    if metrics is None or metrics.log_fail is None or metrics.worst is None or log_install is None:
        return None
    at = threshold(facts.alpha_abort)
    log = log_average([(INSTALL_WEIGHT, log_install), (1 - INSTALL_WEIGHT, metrics.log_fail)])
    if log < at:
        return None
    reason = analysis_metrics.breach_text(metrics.worst, short(log), short(at))
    return RollBack(analysis_metrics.QUALITY_BREACH, reason, {**figures, "e_together": _plain(log)})


def checked(facts: Facts, metrics: MetricVerdicts | None, verdict: Advance | KeepWaiting) -> Advance | KeepWaiting:
    """Return the verdict of installation, held back by a metric that does not pass. Never lets pass what was held."""
    if facts.quality is None or isinstance(verdict, KeepWaiting):
        return verdict
    if metrics is None:
        return KeepWaiting(analysis_metrics.QUALITY_NO_DATA, "nothing is known of the quality gate", verdict.figures)
    obstacle = metrics.obstacle
    if obstacle is not None:
        return KeepWaiting(obstacle.code, obstacle.reason, verdict.figures)
    told = "; ".join(one.reason for one in metrics.metrics)
    return Advance(verdict.code, f"{verdict.reason}; {told}", verdict.figures, verdict.strength, verdict.bound)


def figures_of(metrics: MetricVerdicts | None) -> dict[str, float | int | str | None]:
    """Return every number of the metrics, named `metric.what`: value and what it lies between in the unit of the bound."""
    figures: dict[str, float | int | str | None] = {}
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
                "drift.e": _plain(one.log_fail),
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
                ("e_fail", _plain(one.log_fail)),
                ("e_pass", None if one.log_pass is None else _plain(one.log_pass)),
            )
        }
    if metrics.log_fail is not None:
        figures["quality_e_fail"] = _plain(metrics.log_fail)
    return figures


def short(log: float) -> str:
    """Return a number as people read it, of its natural log: 12.3, 10^15."""
    if abs(log) < math.log(1e6):
        return f"{math.exp(log):.3g}"
    return f"10^{math.floor(log / math.log(10))}"


def _plain(log: float) -> float:
    """Return exp(log), at most the greatest float: JSON has no infinity."""
    return math.exp(log) if log <= _LOG_MAX else sys.float_info.max
