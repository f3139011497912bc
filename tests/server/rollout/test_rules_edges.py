"""What `decide` says at the edges: of contradictions, times, shares, and of figures that cannot be calculated."""

import math
from typing import Any

import msgspec
import pytest

from edgefleet_server.rollout.analysis import decide as analysis_decide
from edgefleet_server.rollout.analysis import replay
from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.doubt import LEAST_FAILED, doubt
from edgefleet_server.rollout.analysis.model import Counts, Facts, Pause, RollBack, Rule, WordFacts
from edgefleet_server.rollout.analysis.replay import outcome_of, recompute, same
from edgefleet_server.rollout.failure_ratio import log_e_abort, log_e_promote
from edgefleet_server.rollout.spec.model import OnFail
from tests.server.rollout.test_rules import CASES, GATE, facts, large


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ({"counts": Counts(exposed=4, healthy=4, offered=-1)}, "a count is negative"),
        ({"failures": {"slow": -1}}, "a count is negative"),
        ({"population": 0}, "the stratum has no device"),
        ({"counts": Counts(exposed=5, healthy=4)}, "exposed is not its parts"),
        ({"failures": {"slow": 1}}, "the classes are not all failures"),
        ({"soaking": 1}, "more in soak than without an outcome"),
        ({"pooled_exposed": 3}, "all strata have fewer devices than this one"),
        ({"pooled_failed": -1}, "all strata have fewer failures than this one"),
        ({"pooled_failed": 5}, "all strata have more failures than devices"),
        ({"stage_members": 3, "stage_tried": 4}, "more devices of this stage tried it than it has"),
        ({"stage_members": 3, "stage_tried": -1}, "more devices of this stage tried it than it has"),
        *(({gate: at}, "a ratio of the gate is not between 0 and 1") for gate in ("max_failure", "promote_below",
            "alpha_abort", "alpha_promote") for at in (-0.5, 0.0, 1.0, 1.5, math.nan)),
    ],
)  # fmt: skip
def test_a_contradiction_is_named(flaw: dict[str, Any], words: str) -> None:
    for rule, population in ((Rule.ALL_HEALTHY, 10), (Rule.EVIDENCE, 2000)):
        decision = decide(msgspec.structs.replace(facts(healthy=4, rule=rule, population=population), **flaw))
        assert decision.code == analysis_decide.FACTS_INCONSISTENT
        assert words in decision.reason


@pytest.mark.parametrize(
    "sound",
    [
        facts(healthy=2, soaking=2),
        facts(healthy=4, pooled_exposed=4, pooled_failed=0),
        facts(healthy=4, pooled_exposed=9, pooled_failed=0),
        facts(healthy=4, stage_members=4, stage_tried=4),
        facts(healthy=4, stage_members=4, stage_tried=0),
        facts(healthy=4, stage_members=4),
        facts(healthy=4, stage_tried=9),
        facts(healthy=1, population=1),
        facts(healthy=8, failures={"slow": 2}, population=30, pooled_exposed=10, pooled_failed=2),
    ],
)
def test_facts_at_the_edge_of_a_contradiction_are_none(sound: Facts) -> None:
    assert decide(sound).code != analysis_decide.FACTS_INCONSISTENT


@pytest.mark.parametrize(
    ("given_facts", "known"),
    [
        (large(healthy=4), {"e_abort", "abort_at", "pooled_e_abort", "e_promote", "promote_at"}),
        (facts(healthy=4), {"e_abort", "abort_at", "pooled_e_abort", "promote_at"}),
        (large(healthy=4, max_failure=1.0), {"abort_at", "e_promote", "promote_at"}),
        (large(healthy=4, max_failure=0.0), {"abort_at", "e_promote", "promote_at"}),
        (large(healthy=4, promote_below=1.0), {"e_abort", "abort_at", "pooled_e_abort", "promote_at"}),
        (large(healthy=4, promote_below=0.0), {"e_abort", "abort_at", "pooled_e_abort", "promote_at"}),
        (large(healthy=4, alpha_promote=1.0), {"e_abort", "abort_at", "pooled_e_abort", "e_promote"}),
        (large(healthy=4, alpha_promote=0.0), {"e_abort", "abort_at", "pooled_e_abort", "e_promote"}),
        (large(healthy=4, pooled_failed=-1), {"e_abort", "abort_at", "e_promote", "promote_at"}),
        (large(healthy=4, pooled_failed=5), {"e_abort", "abort_at", "e_promote", "promote_at"}),
        (large(healthy=0), {"e_abort", "abort_at", "pooled_e_abort", "e_promote", "promote_at"}),
        (large(failures={"slow": 1}), {"e_abort", "abort_at", "pooled_e_abort", "e_promote", "promote_at"}),
    ],
)
def test_what_cannot_be_calculated_is_null_in_the_figures(given_facts: Facts, known: set[str]) -> None:
    figures = decide(given_facts).figures
    evidence = {"e_abort", "abort_at", "pooled_e_abort", "e_promote", "promote_at"}
    assert {name for name in evidence if figures[name] is not None} == known


@pytest.mark.parametrize("half", [{"stage_members": 100}, {"stage_tried": 0}])
def test_a_stage_of_which_only_half_is_known_counts_its_stratum(half: dict[str, int]) -> None:
    assert decide(large(healthy=200, **half)).code == analysis_decide.EVIDENCE
    assert decide(large(healthy=200, offered=100, **half)).code == analysis_decide.STAGE_UNTRIED


def test_evidence_is_a_figure_as_it_is() -> None:
    figures = decide(large(healthy=72, failures={"slow": 1})).figures
    assert figures["e_promote"] == pytest.approx(math.exp(log_e_promote(1, 73, GATE.promote_below)))
    assert figures["e_abort"] == pytest.approx(math.exp(log_e_abort(1, 73, GATE.max_failure)))
    assert figures["promote_at"] == pytest.approx(20)


def test_classes_without_a_failure_are_not_named() -> None:
    counted = msgspec.structs.replace(facts(healthy=7, failures={"disk": 2}), failures={"slow": 0, "disk": 2})
    assert decide(counted).reason.startswith("2 of 9 devices failed (disk ×2): ")


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_stored_facts_are_decided_again_the_same_way(case: tuple[str, Facts, type[Any], str, str]) -> None:
    again = recompute(msgspec.json.encode(replay.stored(case[1])))
    assert same(outcome_of(again), outcome_of(decide(case[1])))


def test_the_share_out_of_reach_is_a_figure_where_anybody_was_reached_for() -> None:
    assert decide(facts(healthy=3, unreachable=1)).figures["unreachable_pct"] == 25
    assert decide(facts(unreachable=1)).figures["unreachable_pct"] == 100
    assert "unreachable_pct" not in decide(facts(offered=1)).figures


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172_799, "48 h"), (172_800, "2 d"), (0, "0 s")],
)
def test_how_long_a_stage_waited_is_told_in_the_unit_that_fits(seconds: float, words: str) -> None:
    reason = decide(facts(healthy=3, offered=2, open_for_s=seconds, inconclusive_after_s=seconds)).reason
    assert reason.startswith(f"no verdict within {words}: ")


def test_a_stage_waits_until_its_time_is_over_and_not_with_a_time_that_is_none() -> None:
    waits = facts(healthy=3, offered=2, inconclusive_after_s=60.0)
    for open_for_s, is_over in ((59.9, False), (60.0, True), (math.nan, False)):
        decision = decide(msgspec.structs.replace(waits, open_for_s=open_for_s))
        assert isinstance(decision, Pause) == is_over


def early(failed: int, *, healthy: int = 0, under_way: int = 48, **gate: Any) -> Facts:
    counts = Counts(exposed=failed + healthy + under_way, pending=under_way, healthy=healthy, failed=failed)
    made = facts(healthy=1, rule=Rule.EVIDENCE, population=2000)
    return msgspec.structs.replace(made, counts=counts, failures={"slow": failed}, soaking=0, **gate)


def test_offers_stop_when_the_first_devices_fail() -> None:
    assert doubt(early(2)) == (
        "2 of the first 2 devices with an outcome failed: no other device is offered it until more is known"
    )
    assert "3 of the first 4 devices" in doubt(early(3, healthy=1))


@pytest.mark.parametrize(
    "well",
    [
        early(LEAST_FAILED - 1, max_failure=1e-9),
        early(2, healthy=30),
        *(early(2, max_failure=at) for at in (-0.5, 0.0, 1.0, 1.5, math.nan)),
        *(early(2, alpha_abort=at) for at in (0.0, 1.0, math.nan)),
    ],
)
def test_one_failure_or_a_gate_without_a_ratio_stops_no_offer(well: Facts) -> None:
    assert doubt(well) == ""


@pytest.mark.parametrize("words", [WordFacts(), WordFacts(is_over=True)], ids=["while-it-runs", "after-its-end"])
def test_one_device_takes_nothing_back_however_little_evidence_a_gate_asks_for(words: WordFacts) -> None:
    """At `alpha_abort: 0.5` one failure of one device is evidence enough."""
    one = large(failures={"internal": 1}, alpha_abort=0.5, liars=0.01, words=words)
    assert isinstance(decide(one), Pause)
    several = msgspec.structs.replace(one, pooled_exposed=3, pooled_failed=2)
    assert decide(several).code == analysis_decide.ABORT_POOLED
    trusted = msgspec.structs.replace(one, words=WordFacts(acts_alone=True))
    assert decide(trusted).code == decide(msgspec.structs.replace(one, words=None)).code == "abort_evidence"


def test_one_device_that_holds_a_stage_until_its_time_is_over_takes_nothing_back() -> None:
    held = facts(
        population=8,
        healthy=7,
        failures={"internal": 1},
        rule=Rule.ALL_HEALTHY,
        open_for_s=90_000.0,
        inconclusive_after_s=86_400.0,
        inconclusive_do=OnFail.ROLLBACK,
        words=WordFacts(),
    )
    assert isinstance(decide(held), Pause)
    assert decide(held).code == analysis_decide.INCONCLUSIVE
    trusted = msgspec.structs.replace(held, words=WordFacts(acts_alone=True))
    alone = msgspec.structs.replace(held, population=1)
    assert all(isinstance(decide(one), RollBack) for one in (trusted, alone))
