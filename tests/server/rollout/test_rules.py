"""What `decide` says: a case for every code."""

import re
from typing import Any

import msgspec
import pytest

from edgefleet_server.rollout.analysis import decide as analysis_decide
from edgefleet_server.rollout.analysis import plain_rules
from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.model import (
    Advance,
    Counts,
    Facts,
    KeepWaiting,
    Pause,
    RollBack,
    Rule,
    WordFacts,
)
from edgefleet_server.rollout.spec.model import InstallGate, OnFail

GATE = InstallGate()


def facts(
    *,
    healthy: int = 0,
    failures: dict[str, int] | None = None,
    installing: int = 0,
    soaking: int = 0,
    offered: int = 0,
    unreachable: int = 0,
    incompatible: int = 0,
    population: int = 10,
    **more: Any,
) -> Facts:
    """Return facts that add up."""
    classes = failures or {}
    failed = sum(classes.values())
    pending = installing + soaking
    exposed = healthy + failed + pending
    counts = Counts(
        members=exposed + offered + unreachable + incompatible,
        offered=offered,
        exposed=exposed,
        pending=pending,
        healthy=healthy,
        failed=failed,
        unreachable=unreachable,
        incompatible=incompatible,
    )
    values = {"pooled_exposed": exposed, "pooled_failed": failed, **more}
    return Facts(
        stage=0, stratum="x86", population=population, counts=counts, failures=classes, soaking=soaking, **values
    )


def large(**more: Any) -> Facts:
    return facts(**{"population": 2000, "rule": Rule.EVIDENCE, **more})


def asked(verdict: str, error_class: str, **more: Any) -> WordFacts:
    """Return what is known of a question about a failure, and that nothing else is to be asked."""
    code = plain_rules.GUARD_CLASS if error_class in ("signature", "golden") else plain_rules.SMALL_CLASS
    return WordFacts(verdict=verdict, code=code, error_class=error_class, **more)


# ---- a case for every code

CASES: list[tuple[str, Facts, type[Any], str, str]] = [
    (
        "a forged bundle stops a large stratum at once",
        large(healthy=500, failures={"signature": 1}),
        RollBack,
        plain_rules.GUARD_CLASS,
        "1 of 501 devices failed (signature ×1): one signature failure stops a stage of any size",
    ),
    (
        "so does a golden mismatch",
        large(healthy=500, failures={"golden": 1}),
        RollBack,
        plain_rules.GUARD_CLASS,
        "golden",
    ),
    (
        "three silent devices stop a large stratum",
        large(healthy=500, failures={"lost": 3}),
        RollBack,
        plain_rules.GUARD_LOST,
        "3 devices took it up and fell silent, at most 2 may",
    ),
    ("two do not", large(healthy=500, failures={"lost": 2}), Advance, analysis_decide.EVIDENCE, "500 of 502 healthy"),
    (
        "the first non-finite answer stops a small stratum",
        facts(healthy=6, failures={"nonfinite": 1}),
        RollBack,
        plain_rules.SMALL_CLASS,
        "1 of 7 devices failed (nonfinite ×1): one nonfinite failure stops a stratum of fewer than 73 devices",
    ),
    (
        "so does a crash",
        facts(failures={"crash": 1}, installing=5),
        RollBack,
        plain_rules.SMALL_CLASS,
        "1 of 6 devices",
    ),
    ("so does one that cannot be loaded", facts(failures={"load": 1}), RollBack, plain_rules.SMALL_CLASS, "load"),
    (
        "72 devices are a small stratum",
        facts(failures={"load": 1}, population=72),
        RollBack,
        plain_rules.SMALL_CLASS,
        "73",
    ),
    (
        "73 are not",
        facts(failures={"load": 1}, population=73, rule=Rule.EVIDENCE),
        KeepWaiting,
        analysis_decide.MORE_EVIDENCE,
        "0 of 1 devices healthy",
    ),
    (
        "two failures of any class stop few devices",
        facts(healthy=7, failures={"disk": 1, "slow": 1}),
        RollBack,
        plain_rules.SMALL_TWO,
        "2 of 9 devices failed (disk ×1, slow ×1): two failures among fewer than 10 devices",
    ),
    (
        "but not ten",
        facts(healthy=8, failures={"slow": 2}, population=30),
        KeepWaiting,
        analysis_decide.NOT_ALL_HEALTHY,
        "2 of 10 devices failed (slow ×2): too little to take the release back",
    ),
    (
        "the evidence of a stratum",
        large(failures={"internal": 2}),
        RollBack,
        analysis_decide.ABORT_EVIDENCE,
        "2 of 2 devices failed (internal ×2): evidence 122 (100 suffices) that more than 3 % of the devices fail",
    ),
    (
        "the evidence of all strata",
        large(healthy=200, pooled_exposed=260, pooled_failed=40),
        RollBack,
        analysis_decide.ABORT_POOLED,
        "40 of 260 devices of all strata failed: evidence 10^",
    ),
    (
        "nothing offered yet",
        facts(),
        KeepWaiting,
        analysis_decide.NOTHING_EXPOSED,
        "no device has taken the release up yet",
    ),
    (
        "nobody can take part",
        facts(unreachable=2, incompatible=1),
        KeepWaiting,
        analysis_decide.NOTHING_EXPOSED,
        "no device has taken the release up yet (2 unreachable, 1 incompatible)",
    ),
    (
        "an offer that nobody took up yet",
        facts(healthy=3, offered=2),
        KeepWaiting,
        analysis_decide.WAITING,
        "waiting for 2 of 5 devices to take the release up",
    ),
    (
        "devices at work",
        facts(healthy=2, installing=1, soaking=1),
        KeepWaiting,
        analysis_decide.PENDING,
        "waiting for 1 of 4 devices to install and prove the release",
    ),
    (
        "devices in their soak",
        facts(healthy=2, soaking=2),
        KeepWaiting,
        analysis_decide.SOAKING,
        "waiting for 2 of 4 devices, healthy so far, to get through their soak",
    ),
    (
        "too many out of reach",
        facts(healthy=3, unreachable=1),
        KeepWaiting,
        analysis_decide.UNREACHABLE_CAP,
        "1 of 4 devices never took the release up, at most 20 % may",
    ),
    (
        "just few enough out of reach",
        facts(healthy=4, unreachable=1),
        Advance,
        analysis_decide.ALL_HEALTHY,
        "4 of 4 healthy",
    ),
    (
        "too many out of reach, however strong the evidence",
        large(healthy=1000, unreachable=251),
        KeepWaiting,
        analysis_decide.UNREACHABLE_CAP,
        "251 of 1251",
    ),
    (
        "a stage whose own devices were not tried",
        large(healthy=200, offered=100, stage_members=100, stage_tried=0),
        KeepWaiting,
        analysis_decide.STAGE_UNTRIED,
        "0 of the 100 devices of this stage took the release up, at least 80 must",
    ),
    (
        "the same without that count",
        large(healthy=200, offered=100),
        KeepWaiting,
        analysis_decide.STAGE_UNTRIED,
        "200 of the 300",
    ),
    (
        "79 of a stage's 100 devices are too few",
        large(healthy=200, stage_members=100, stage_tried=79),
        KeepWaiting,
        analysis_decide.STAGE_UNTRIED,
        "79 of the 100 devices of this stage took the release up, at least 80 must",
    ),
    (
        "80 are not",
        large(healthy=200, stage_members=100, stage_tried=80),
        Advance,
        analysis_decide.EVIDENCE,
        "200 of 200",
    ),
    (
        "without that count 240 of 300 are enough",
        large(healthy=240, offered=60),
        Advance,
        analysis_decide.EVIDENCE,
        "240 of 240",
    ),
    (
        "one device of several is too few",
        facts(healthy=1),
        KeepWaiting,
        analysis_decide.TOO_FEW,
        "1 of 1 devices healthy: at least 2 must be",
    ),
    (
        "the only device there is",
        facts(healthy=1, population=1),
        Advance,
        analysis_decide.ALL_HEALTHY,
        "1 of 1 healthy: failure below 95 % at 95 %",
    ),
    (
        "all healthy",
        facts(healthy=4),
        Advance,
        analysis_decide.ALL_HEALTHY,
        "4 of 4 healthy: failure below 53 % at 95 %",
    ),
    (
        "72 clean devices of a large stratum",
        large(healthy=72),
        KeepWaiting,
        analysis_decide.MORE_EVIDENCE,
        "72 of 72 devices healthy: evidence 19.9 (20 needed) that fewer than 5 % fail",
    ),
    (
        "73 clean devices of a large stratum",
        large(healthy=73),
        Advance,
        analysis_decide.EVIDENCE,
        "73 of 73 healthy: failure below 5 % at 95 % (evidence 20.8, 20 needed)",
    ),
    (
        "evidence although some are at work",
        large(healthy=200, installing=1),
        Advance,
        analysis_decide.EVIDENCE,
        "200 of 201",
    ),
    ("but they count as bad", large(healthy=73, installing=1), KeepWaiting, analysis_decide.MORE_EVIDENCE, "73 of 74"),
    (
        "so does a soak that is not over",
        large(healthy=73, soaking=1),
        KeepWaiting,
        analysis_decide.MORE_EVIDENCE,
        "73 of 74",
    ),
    (
        "contradictory counts",
        msgspec.structs.replace(facts(healthy=4), counts=Counts(exposed=5, healthy=4)),
        KeepWaiting,
        analysis_decide.FACTS_INCONSISTENT,
        "the counts contradict each other (exposed is not its parts): nothing is promoted on them",
    ),
    (
        "no verdict for too long",
        facts(healthy=3, offered=2, open_for_s=172_800),
        Pause,
        analysis_decide.INCONCLUSIVE,
        "no verdict within 2 d: waiting for 2 of 5 devices to take the release up",
    ),
    (
        "no verdict for too long, to be taken back",
        facts(healthy=3, installing=2, open_for_s=5400, inconclusive_after_s=5400, inconclusive_do=OnFail.ROLLBACK),
        RollBack,
        analysis_decide.INCONCLUSIVE,
        "no verdict within 90 min: waiting for 2 of 5 devices",
    ),
    ("a verdict on the last moment", facts(healthy=4, open_for_s=1e9), Advance, analysis_decide.ALL_HEALTHY, "4 of 4"),
    (
        "a failure with on_fail: pause",
        facts(failures={"crash": 1}, on_fail=OnFail.PAUSE),
        Pause,
        plain_rules.SMALL_CLASS,
        "stops a stratum of fewer than 73 devices (on_fail: pause)",
    ),
    (
        "eight of fifty stop it, and liars may have invented some of them",
        large(healthy=30, failures={"internal": 8}, installing=12, liars=0.01),
        Pause,
        analysis_decide.STOP_EVIDENCE,
        "more than 3 % of the devices fail; too little to take the release back while 1 % of the devices may report failures falsely",
    ),
    (
        "so do failures of all strata together",
        large(healthy=98, failures={"slow": 2}, pooled_exposed=260, pooled_failed=21, liars=0.05),
        Pause,
        analysis_decide.STOP_POOLED,
        "21 of 260 devices of all strata failed",
    ),
    (
        "more than liars explain take it back",
        large(healthy=30, failures={"internal": 9}, installing=11, liars=0.01),
        RollBack,
        analysis_decide.ABORT_EVIDENCE,
        "more than 3.97 % of the devices fail",
    ),
    (
        "one device reports a crash in a small stratum: others are asked",
        facts(healthy=6, failures={"crash": 1}, words=WordFacts(fresh={"crash": 1})),
        KeepWaiting,
        analysis_decide.WORD_OPEN,
        "1 of 7 devices failed (crash ×1): waiting for other devices to confirm that",
    ),
    (
        "so they are about a forged bundle in a large one, however many are healthy",
        large(healthy=500, failures={"signature": 1}, words=asked("open", "signature", drawn=3, healthy=1)),
        KeepWaiting,
        analysis_decide.WORD_OPEN,
        "waiting for other devices to confirm the signature failure (1 of 3 drawn devices is healthy)",
    ),
    (
        "three silent devices of one site are one: nobody need confirm that",
        large(healthy=500, failures={"lost": 3}, words=WordFacts(fresh={"lost": 1})),
        Advance,
        analysis_decide.EVIDENCE,
        "500 of 503 healthy",
    ),
    (
        "others confirm it",
        facts(healthy=4, failures={"crash": 3}, words=asked("confirmed", "crash", drawn=3, failed=2, healthy=1)),
        RollBack,
        plain_rules.SMALL_CLASS,
        "the crash failure is confirmed (2 of 3 drawn devices failed, 1 healthy)",
    ),
    (
        "the server's own check fails: every stratum goes back",
        large(healthy=500, failures={"golden": 1}, words=asked("proved", "golden", proof="vector 3 differs")),
        RollBack,
        plain_rules.GUARD_CLASS,
        "the server's own check of the bundle failed: vector 3 differs",
    ),
    (
        "nobody answers in time",
        large(healthy=500, failures={"golden": 1}, words=asked("timed_out", "golden")),
        Pause,
        analysis_decide.UNCONFIRMED,
        "the golden failure is not confirmed (no other device could be asked); somebody must decide",
    ),
    (
        "a small stratum never promotes itself over a failure: a person says what it means",
        facts(healthy=6, failures={"crash": 1}, words=asked("unconfirmed", "crash", drawn=3, healthy=3)),
        Pause,
        analysis_decide.UNCONFIRMED,
        "the crash failure is not confirmed (3 of 3 drawn devices are healthy)",
    ),
    (
        "a large one goes on: what was refuted is one failure of many",
        large(healthy=500, failures={"golden": 1}, words=asked("refuted", "golden", drawn=3, healthy=3)),
        Advance,
        analysis_decide.EVIDENCE,
        "500 of 501 healthy",
    ),
    (
        "the evidence takes back whatever drawn devices say",
        large(healthy=30, failures={"golden": 40}, liars=0.01, words=asked("open", "golden", drawn=3, healthy=3)),
        RollBack,
        analysis_decide.ABORT_EVIDENCE,
        "40 of 70",
    ),
    (
        "evidence that only stops waits for the answer first",
        large(healthy=30, failures={"golden": 8}, installing=12, liars=0.01, words=asked("open", "golden")),
        KeepWaiting,
        analysis_decide.WORD_OPEN,
        "8 of 50",
    ),
    (
        "a fleet that trusts its devices takes back on one failure",
        facts(healthy=6, failures={"crash": 1}, words=WordFacts(fresh={"crash": 1}, acts_alone=True)),
        RollBack,
        plain_rules.SMALL_CLASS,
        "one crash failure stops a stratum",
    ),
    (
        "a lone device speaks for itself",
        facts(failures={"crash": 1}, population=1, words=WordFacts(fresh={"crash": 1})),
        RollBack,
        plain_rules.SMALL_CLASS,
        "one crash failure stops a stratum",
    ),
    (
        "after a person went on, a small stratum waits as it does for any failure",
        facts(healthy=6, failures={"crash": 1}, words=asked("unconfirmed", "crash", healthy=3, is_answered=True)),
        KeepWaiting,
        analysis_decide.NOT_ALL_HEALTHY,
        "crash",
    ),
    (
        "after the end nobody is bothered by what others do not confirm",
        facts(healthy=6, failures={"crash": 1}, words=asked("unconfirmed", "crash", healthy=3, is_over=True)),
        KeepWaiting,
        analysis_decide.NOT_ALL_HEALTHY,
        "crash",
    ),
]


@pytest.mark.parametrize(("name", "given_facts", "kind", "code", "words"), CASES, ids=[case[0] for case in CASES])
def test_each_case_has_its_verdict_code_and_reason(
    name: str, given_facts: Facts, kind: type[Any], code: str, words: str
) -> None:
    decision = decide(given_facts)
    assert isinstance(decision, kind), decision
    assert decision.code == code
    assert words in decision.reason
    assert decision.figures["exposed"] == given_facts.counts.exposed


def test_every_code_has_a_case_and_a_message() -> None:
    assert {case[3] for case in CASES} == set(analysis_decide.MESSAGES)
    assert all(re.fullmatch(r"[a-z_]+", code) for code in analysis_decide.MESSAGES)
