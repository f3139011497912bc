"""What a promotion rests on: facts that contradict themselves, levels and bounds, small strata, and decisions as they are stored."""

import math
import re
from typing import Any

import msgspec
import pytest

from edgefleet_server.rollout.analysis import decide as analysis_decide
from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.facts import devices_needed, rule_for
from edgefleet_server.rollout.analysis.model import (
    SMALL_STRATUM,
    Advance,
    Counts,
    Decision,
    Facts,
    KeepWaiting,
    RollBack,
    Rule,
)
from edgefleet_server.rollout.analysis.replay import outcome_of, recompute, same
from edgefleet_server.rollout.failure_ratio import log_e_abort, log_e_promote, threshold
from edgefleet_server.rollout.model import Strength, VerdictKind
from edgefleet_server.rollout.spec.model import InstallGate, OnFail, Promote
from tests.server.rollout.test_rules import GATE, facts, large

FLAWS: list[dict[str, Any]] = [
    {"counts": Counts(exposed=-1, healthy=-1)},
    {"counts": Counts(exposed=4, healthy=5)},
    {"counts": Counts(exposed=4, healthy=4, failed=1)},
    {"population": 0},
    {"failures": {"slow": 1}},
    {"soaking": 1},
    {"pooled_exposed": 3},
    {"pooled_failed": 5},
    {"counts": Counts(exposed=4, healthy=3, failed=1), "failures": {"slow": 1}},
    {"stage_members": 3, "stage_tried": 4},
    {"promote_below": 0.0},
    {"alpha_promote": math.nan},
    {"alpha_abort": 1.0},
    {"max_failure": math.inf},
    {"liars": 1.0},
    {"liars": math.nan},
]


@pytest.mark.parametrize("flaw", FLAWS, ids=[str(sorted(flaw)) + str(place) for place, flaw in enumerate(FLAWS)])
@pytest.mark.parametrize("rule", list(Rule))
def test_facts_that_contradict_themselves_promote_nothing(flaw: dict[str, Any], rule: Rule) -> None:
    sound = facts(healthy=4, rule=rule, population=2000 if rule is Rule.EVIDENCE else 10)
    decision = decide(msgspec.structs.replace(sound, **flaw))
    assert isinstance(decision, KeepWaiting)
    assert decision.code == analysis_decide.FACTS_INCONSISTENT


def test_facts_that_contradict_themselves_do_not_hide_a_failure() -> None:
    broken = facts(failures={"nonfinite": 1}, population=0)
    assert isinstance(decide(broken), RollBack)
    assert isinstance(decide(msgspec.structs.replace(broken, counts=Counts(exposed=1, healthy=1))), RollBack)


def level_of(log: float) -> float:
    """Return the error rate whose level is exactly this evidence."""
    at = math.exp(-log) * (1 - 1e-13)
    while threshold(at) != log:
        at = math.nextafter(at, 1)
        assert threshold(at) >= log
    return at


def test_evidence_that_just_reaches_its_level_is_enough() -> None:
    failing = large(healthy=10, failures={"internal": 3})
    alpha = level_of(log_e_abort(3, 13, failing.max_failure))
    stopped = decide(msgspec.structs.replace(failing, alpha_abort=alpha))
    assert (stopped.code, isinstance(stopped, RollBack)) == (analysis_decide.ABORT_EVIDENCE, True)
    pooled = large(healthy=200, pooled_exposed=260, pooled_failed=40)
    alpha = level_of(log_e_abort(40, 260, pooled.max_failure))
    assert decide(msgspec.structs.replace(pooled, alpha_abort=alpha)).code == analysis_decide.ABORT_POOLED
    clean = large(healthy=100)
    alpha = level_of(log_e_promote(0, 100, clean.promote_below))
    assert decide(msgspec.structs.replace(clean, alpha_promote=alpha)).code == analysis_decide.EVIDENCE
    assert (
        decide(msgspec.structs.replace(clean, alpha_promote=alpha * (1 - 1e-9))).code == analysis_decide.MORE_EVIDENCE
    )


def test_a_pooled_abort_says_so_and_another_one_does_not() -> None:
    pooled = decide(large(healthy=200, pooled_exposed=260, pooled_failed=40))
    assert isinstance(pooled, RollBack)
    assert pooled.pooled
    own = decide(large(failures={"internal": 3}))
    assert isinstance(own, RollBack)
    assert not own.pooled


def test_strength_and_bound_say_what_a_promotion_rests_on() -> None:
    weak = decide(facts(healthy=4))
    assert isinstance(weak, Advance)
    assert (weak.strength, weak.bound) == (Strength.WEAK, "4 of 4 healthy: failure below 53 % at 95 %")
    assert weak.figures["bound_pct"] == pytest.approx(52.713, abs=1e-3)
    strong = decide(large(healthy=100, alpha_promote=0.025))
    assert isinstance(strong, Advance)
    assert strong.strength is Strength.EVIDENCE
    assert strong.bound == "100 of 100 healthy: failure below 5 % at 97.5 %"


@pytest.mark.parametrize(
    ("promote", "population", "rule"),
    [
        (Promote.AUTO, 1, Rule.ALL_HEALTHY),
        (Promote.AUTO, 72, Rule.ALL_HEALTHY),
        (Promote.AUTO, 73, Rule.EVIDENCE),
        (Promote.ALL_HEALTHY, 5000, Rule.ALL_HEALTHY),
        (Promote.EVIDENCE, 3, Rule.EVIDENCE),
    ],
)
def test_the_rule_of_a_stage_follows_the_spec_and_the_size(promote: Promote, population: int, rule: Rule) -> None:
    assert rule_for(promote, population, GATE) is rule


def test_a_stricter_gate_needs_a_larger_stratum_for_evidence() -> None:
    strict = InstallGate(promote_below=0.01, liars=0)
    assert devices_needed(Rule.EVIDENCE, 1000, strict) == 377
    assert rule_for(Promote.AUTO, 376, strict) is Rule.ALL_HEALTHY
    assert rule_for(Promote.AUTO, 377, strict) is Rule.EVIDENCE
    impossible = InstallGate(promote_below=1e-9)
    assert devices_needed(Rule.EVIDENCE, 10**6, impossible) == math.inf
    assert rule_for(Promote.AUTO, 10**6, impossible) is Rule.ALL_HEALTHY
    assert [devices_needed(Rule.ALL_HEALTHY, n, GATE) for n in (1, 2, 50)] == [1, 2, 2]


# ---- stored decisions


def test_a_changed_fact_no_longer_agrees() -> None:
    told = outcome_of(decide(large(healthy=72)))
    assert not same(told, outcome_of(decide(large(healthy=73))))
    off = msgspec.structs.replace(told, figures={**told.figures, "e_promote": 19.91})
    assert not same(told, off)
    for key, other in (("e_promote", None), ("e_promote", "19.9"), ("exposed", 72.1)):
        changed = msgspec.structs.replace(told, figures={**told.figures, key: other})
        assert not same(told, changed)
        assert not same(changed, told)
    for wrong in (
        {"verdict": VerdictKind.PAUSE},
        {"code": "other"},
        {"reason": "other"},
        {"figures": {**told.figures, "more": 1}},
    ):
        assert not same(told, msgspec.structs.replace(told, **wrong))
    last_digit = math.nextafter(float(told.figures["e_promote"] or 0), math.inf)
    assert same(told, msgspec.structs.replace(told, figures={**told.figures, "e_promote": last_digit}))


@pytest.mark.parametrize(
    ("facts_in", "verdict"),
    [
        (facts(healthy=4), VerdictKind.ADVANCE),
        (facts(), VerdictKind.HOLD),
        (facts(failures={"load": 1}), VerdictKind.ROLL_BACK),
        (facts(failures={"load": 1}, on_fail=OnFail.PAUSE), VerdictKind.PAUSE),
    ],
)
def test_each_verdict_is_stored_by_its_name(facts_in: Facts, verdict: VerdictKind) -> None:
    decision: Decision = decide(facts_in)
    assert outcome_of(decision).verdict is verdict


def test_evidence_beyond_the_range_of_floats_is_told_as_a_power_of_ten() -> None:
    decision = decide(large(failures={"internal": 2000}))
    assert isinstance(decision, RollBack)
    assert decision.figures["e_abort"] == pytest.approx(1.7976931348623157e308)
    power = decision.figures["e_abort_log10"]
    assert isinstance(power, float)
    assert power > 3000
    assert re.search(r"evidence 10\^3\d{3} \(100 suffices\)", decision.reason)


def test_facts_that_are_none_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        recompute({"stage": 1})
    with pytest.raises(msgspec.ValidationError):
        recompute(b'{"stage": "one"}')


def test_small_strata_are_what_the_evidence_cannot_reach() -> None:
    assert devices_needed(Rule.EVIDENCE, 10, GATE) == SMALL_STRATUM
