"""Facts with something missing in them: what a lost report, a silent device or a wrong count would leave behind."""

import random
from collections.abc import Callable

import msgspec

from edgefleet_server.rollout.model import Counts, Facts, OnFail, Rule

Gap = Callable[[random.Random, Facts], Facts]


def evidence_gap(chance: random.Random) -> tuple[Facts, str]:
    """Return facts that would promote but for one gap, and what the gap is."""
    name = chance.choice(list(GAPS))
    rule = chance.choice([Rule.EVIDENCE] if name in ONLY_EVIDENCE else list(Rule))
    return GAPS[name](chance, _perfect(chance, rule)), name


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
}
