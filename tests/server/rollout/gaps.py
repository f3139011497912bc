"""Facts with something missing in them: what a lost report, a silent device or a wrong count would leave behind."""

import random
from collections.abc import Callable
from functools import cache

import msgspec

from edgefleet_server.rollout.analysis.metrics import scale_of
from edgefleet_server.rollout.analysis.model import Counts, DriftFacts, Facts, MetricFacts, QualityFacts, Rule
from edgefleet_server.rollout.spec.model import Bound, Control, Metric, OnBreach, OnFail, QualityMetric

Gap = Callable[[random.Random, Facts], Facts]


def evidence_gap(chance: random.Random) -> tuple[Facts, str]:
    """Return facts that would promote but for one gap, and what the gap is."""
    name = chance.choice(list(GAPS))
    rule = chance.choice([Rule.EVIDENCE] if name in ONLY_EVIDENCE else list(Rule))
    facts = _perfect(chance, rule)
    if name in ONLY_QUALITY or chance.random() < 0.5:
        facts = with_quality(chance, facts)
    return GAPS[name](chance, facts), name


def with_quality(chance: random.Random, facts: Facts) -> Facts:
    """Return facts whose metrics pass, too: every device has values, all of them well within. Small strata become larger."""
    n = facts.counts.exposed
    if n < QUALITY_LEAST:
        n = QUALITY_LEAST
        facts = msgspec.structs.replace(
            facts,
            counts=Counts(members=n, exposed=n, healthy=n),
            population=n,
            pooled_exposed=n + facts.pooled_exposed - facts.counts.exposed,
        )
    names = chance.choice([("latency",), ("latency", "errors"), ("agreement", "latency"), ("errors",)])
    has_drift = chance.random() < 0.5
    own = chance.randint(1, n)
    quality = QualityFacts(
        control=chance.choice([Control.HOLDOUT, Control.PREVIOUS]),
        expected=n,
        measured=n,
        own_expected=own,
        own_measured=own,
        metrics=[_metric(name, n) for name in names],
        drift=DriftFacts(floor=0.02, on_breach=OnBreach.HOLD, judged=n, drifted=0, control_judged=n, control_drifted=0)
        if has_drift
        else None,
    )
    return msgspec.structs.replace(facts, quality=quality)


METRICS = {
    "latency": QualityMetric(Metric.LATENCY_P95_MS, Bound.NON_INFERIOR_REL, 0.1, OnBreach.FAIL),
    "errors": QualityMetric(Metric.INFERENCE_ERROR_RATE, Bound.NON_INFERIOR_ABS, 0.002, OnBreach.HOLD),
    "agreement": QualityMetric(Metric.SHADOW_AGREEMENT, Bound.MIN, 0.97, OnBreach.FAIL),
}
QUALITY_LEAST = 24
"""So few devices that are all as before show that the mean is within its margin."""


@cache
def _metric(name: str, n: int) -> MetricFacts:
    metric = METRICS[name]
    scale = scale_of(metric)
    as_before = round((0.0 - scale.low) / scale.step)
    return MetricFacts(
        name=metric.name,
        bound=metric.bound,
        value=metric.value,
        on_breach=metric.on_breach,
        low=scale.low,
        high=scale.high,
        at=scale.at,
        step=scale.step,
        bins=[(as_before, n)],
    )


def _perfect(chance: random.Random, rule: Rule) -> Facts:
    """Return facts on which `rule` promotes."""
    n = chance.randint(73, 500) if rule is Rule.EVIDENCE else chance.randint(2, 72)
    others = chance.randint(0, 200)
    return Facts(
        stage=chance.randint(0, 3),
        stratum="x86",
        population=chance.randint(n, 5000) if rule is Rule.EVIDENCE else chance.randint(n, 72),
        counts=Counts(members=n, exposed=n, healthy=n),
        pooled_exposed=n + others,
        rule=rule,
        on_fail=chance.choice(list(OnFail)),
        open_for_s=chance.choice([0.0, 3600.0, 200_000.0]),
    )


def _counts(facts: Facts, **values: int) -> Facts:
    return msgspec.structs.replace(facts, counts=msgspec.structs.replace(facts.counts, **values))


def _without_outcome(chance: random.Random, facts: Facts) -> Facts:
    """So many devices still owe their outcome that the rest is no evidence."""
    n = facts.counts.exposed
    pending = chance.randint(max(1, n // 10), n)
    gap = _counts(facts, pending=pending, healthy=n - pending)
    return msgspec.structs.replace(gap, soaking=chance.randint(0, pending))


def _not_taken_up(chance: random.Random, facts: Facts) -> Facts:
    """Offered, or only below the cut: so many that most of the stage is unknown."""
    n = facts.counts.members
    more = chance.randint(n // 3 + 1, 2 * n)
    return _counts(facts, members=n + more, offered=chance.choice([0, more, chance.randint(0, more)]))


def _out_of_reach(chance: random.Random, facts: Facts) -> Facts:
    n = facts.counts.exposed
    gone = chance.randint(n // 4 + 1, 3 * n)
    return _counts(facts, members=n + gone, unreachable=gone)


def _nobody(chance: random.Random, facts: Facts) -> Facts:
    n = facts.counts.members
    fit = chance.randint(0, n)
    return msgspec.structs.replace(facts, counts=Counts(members=n, unreachable=fit, incompatible=n - fit))


def _nothing(_chance: random.Random, facts: Facts) -> Facts:
    return msgspec.structs.replace(facts, counts=Counts(), pooled_exposed=0)


def _lost_count(chance: random.Random, facts: Facts) -> Facts:
    """One of the counts was not made, or twice."""
    name = chance.choice(["exposed", "healthy", "failed", "pending"])
    was = getattr(facts.counts, name)
    now = chance.choice([value for value in (0, was + 1, was - 1, -was) if value != was])
    return _counts(facts, **{name: now})


def _lost_classes(chance: random.Random, facts: Facts) -> Facts:
    """A failure is counted but its class is not there, or the other way round."""
    if chance.random() < 0.5:
        return _counts(facts, failed=1, healthy=facts.counts.healthy - 1)
    return msgspec.structs.replace(facts, failures={"slow": chance.randint(1, 3)})


def _lost_pool(chance: random.Random, facts: Facts) -> Facts:
    return msgspec.structs.replace(facts, pooled_exposed=chance.randint(0, facts.counts.exposed - 1))


def _lost_population(chance: random.Random, facts: Facts) -> Facts:
    return msgspec.structs.replace(facts, population=chance.choice([0, -1]))


def _untried_stage(chance: random.Random, facts: Facts) -> Facts:
    """All the evidence is of earlier stages."""
    own = chance.randint(1, 500)
    tried = chance.randint(0, (4 * own - 1) // 5)
    return msgspec.structs.replace(facts, stage_members=own, stage_tried=tried)


def _lost_gate(chance: random.Random, facts: Facts) -> Facts:
    name = chance.choice(["max_failure", "promote_below", "alpha_abort", "alpha_promote"])
    return msgspec.structs.replace(facts, **{name: chance.choice([0.0, 1.0, -0.1, float("nan"), float("inf")])})


# ---- gaps of the quality gate


def _quality(facts: Facts, **values: object) -> Facts:
    assert facts.quality is not None
    return msgspec.structs.replace(facts, quality=msgspec.structs.replace(facts.quality, **values))


def _one_metric(chance: random.Random, facts: Facts, change: Callable[[MetricFacts], MetricFacts]) -> Facts:
    assert facts.quality is not None
    metrics = list(facts.quality.metrics)
    which = chance.randrange(len(metrics))
    metrics[which] = change(metrics[which])
    return _quality(facts, metrics=metrics)


def _metric_without_values(chance: random.Random, facts: Facts) -> Facts:
    """No device has a value of one metric: no joules, no shadow, no telemetry."""
    n = facts.counts.exposed
    return _one_metric(chance, facts, lambda one: msgspec.structs.replace(one, bins=[], missing=chance.choice([0, n])))


def _values_lost(chance: random.Random, facts: Facts) -> Facts:
    """So many devices of one metric have no value that the rest is no evidence."""
    n = facts.counts.exposed
    gone = chance.randint(n // 2, n)

    def lose(one: MetricFacts) -> MetricFacts:
        return msgspec.structs.replace(one, bins=[(one.bins[0][0], n - gone)] if n > gone else [], missing=gone)

    return _one_metric(chance, facts, lose)


def _stage_unmeasured(chance: random.Random, facts: Facts) -> Facts:
    """All the values are of earlier stages."""
    n = facts.counts.exposed
    own = chance.randint(1, n)
    have = chance.randint(0, (4 * own - 1) // 5)
    assert facts.quality is not None
    metrics = [
        msgspec.structs.replace(one, bins=[(one.bins[0][0], n - own + have)], missing=own - have)
        for one in facts.quality.metrics
        if n > own - have
    ]
    if not metrics or n == own - have:
        return _metric_without_values(chance, facts)
    return _quality(facts, own_expected=own, own_measured=have, measured=n - own + have, metrics=metrics)


def _values_forgotten(chance: random.Random, facts: Facts) -> Facts:
    """Devices without a value were not counted as such: a bug of whoever counts."""
    n = facts.counts.exposed
    return _quality(facts, measured=n - chance.randint(1, n))


def _no_metric(_chance: random.Random, facts: Facts) -> Facts:
    return _quality(facts, metrics=[], drift=None)


def _broken_scale(chance: random.Random, facts: Facts) -> Facts:
    name = chance.choice(["low", "high", "at", "step"])
    return _one_metric(
        chance, facts, lambda one: msgspec.structs.replace(one, **{name: chance.choice([float("nan"), float("inf")])})
    )


def _drift_unknown(chance: random.Random, facts: Facts) -> Facts:
    """Of too few devices it can be told whether they drifted."""
    n = facts.counts.exposed
    assert facts.quality is not None
    told = chance.randint(0, (4 * n - 1) // 5)
    drift = DriftFacts(floor=0.02, on_breach=OnBreach.HOLD, judged=told, control_judged=chance.choice([told, n]))
    return _quality(facts, drift=drift)


def _world_drifted(chance: random.Random, facts: Facts) -> Facts:
    """Control devices answer otherwise than before."""
    n = facts.counts.exposed
    drift = DriftFacts(
        floor=0.02,
        on_breach=chance.choice(list(OnBreach)),
        judged=n,
        drifted=chance.randint(0, n),
        control_judged=n,
        control_drifted=chance.randint(n // 2, n),
    )
    return _quality(facts, drift=drift)


ONLY_QUALITY = {
    "metric without values",
    "values lost",
    "stage unmeasured",
    "values forgotten",
    "no metric",
    "broken scale",
    "drift unknown",
    "world drifted",
}
ONLY_EVIDENCE = {"untried stage"}
GAPS: dict[str, Gap] = {
    "without outcome": _without_outcome,
    "not taken up": _not_taken_up,
    "out of reach": _out_of_reach,
    "nobody": _nobody,
    "nothing": _nothing,
    "lost count": _lost_count,
    "lost classes": _lost_classes,
    "lost pool": _lost_pool,
    "lost population": _lost_population,
    "untried stage": _untried_stage,
    "lost gate": _lost_gate,
    "metric without values": _metric_without_values,
    "values lost": _values_lost,
    "stage unmeasured": _stage_unmeasured,
    "values forgotten": _values_forgotten,
    "no metric": _no_metric,
    "broken scale": _broken_scale,
    "drift unknown": _drift_unknown,
    "world drifted": _world_drifted,
}
