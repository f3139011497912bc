"""Confirmation of failures in a rollout: what a check shows, and what the planner draws, asks and takes back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from edgefleet_protocol.ids import DeviceId, RolloutId
from edgefleet_protocol.messages import Phase
from edgefleet_server.rollout.analysis import plain_rules
from edgefleet_server.rollout.analysis.confirmation import heard, judged
from edgefleet_server.rollout.analysis.decide import INCONCLUSIVE, UNCONFIRMED, WORD_OPEN
from edgefleet_server.rollout.commands import steer
from edgefleet_server.rollout.effects import (
    AssignmentCreated,
    AssignmentTransitioned,
    AssignmentUpdated,
    CheckAsked,
    ConfirmationUpdated,
    DecisionMade,
    Offer,
    Plan,
    Revert,
    RolloutTransitioned,
    StageRunTransitioned,
    StageRunUpdated,
)
from edgefleet_server.rollout.model import (
    LOST,
    Answer,
    Assignment,
    CheckEnd,
    Confirmation,
    Draw,
    How,
    Member,
    Report,
    RolloutState,
    Snapshot,
    StageRun,
    StageState,
    Verdict,
)
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_sim.world import bundle_of
from tests.server.rollout.explored import START
from tests.server.rollout.fleet_sim import SOUND
from tests.server.rollout.test_confirmation import BROKEN, NAMES, NOT_MADE, RPI, X86, F, G, H, N, S, answered, question


def test_an_answer_after_the_time_still_counts() -> None:
    late = judged(answered(How.SOAK, N), START + timedelta(hours=2), can_draw=False)
    assert late.verdict is Verdict.TIMED_OUT
    draws = [msgspec.structs.replace(late.draws[0], answer=F)]
    assert judged(msgspec.structs.replace(late, draws=draws), START, can_draw=False).verdict is Verdict.CONFIRMED


CHECKS = [
    (CheckEnd(state="done"), H),
    (CheckEnd(state="failed", code="check.golden"), F),
    (CheckEnd(state="failed", code="check.signature"), F),
    (CheckEnd(state="failed", code="check.not_here"), G),
    (CheckEnd(state="expired"), G),
    (CheckEnd(state="cancelled"), G),
    (CheckEnd(state="queued"), N),
]


@pytest.mark.parametrize(("end", "answer"), CHECKS)
def test_what_a_check_shows(end: CheckEnd, answer: Answer) -> None:
    bench = Bench(4)
    one = question(How.VECTORS, draws=[Draw(device=NAMES[1], at=START, task="t-1")])
    snapshot = replace(bench.snapshot, checks={"t-1": end})
    (draw,) = heard(one, snapshot, bench.ones, START).draws
    assert draw.answer is answer


def test_a_healthy_device_must_be_heard_of_a_whole_soak_after_the_draw() -> None:
    bench = Bench(4)
    one = question(draws=[Draw(device=NAMES[1], at=START)])

    def answer(minutes: float, heard_at: float) -> Answer:
        reports = {NAMES[1]: bench.report(START + timedelta(minutes=heard_at))}
        snapshot = replace(bench.snapshot, reports=reports)
        return heard(one, snapshot, bench.ones, START + timedelta(minutes=minutes)).draws[0].answer

    assert answer(9, 9) is N
    assert answer(10, 9) is H
    assert answer(10, -1) is N, "it was not heard of since"


def test_a_device_that_left_or_failed_for_the_moment_shows_nothing() -> None:
    bench = Bench(4)
    one = question(draws=[Draw(device=NAMES[1], at=START)])
    a = bench.ones[NAMES[1]]
    for state, error_class, expected in (
        (S.SUPERSEDED, "", G),
        (S.UNREACHABLE, "", G),
        (S.FAILED, "network", G),
        (S.FAILED, "crash", F),
        (S.LOST, "", G),
    ):
        changed = a.but(state=state, error_class=error_class)
        assert heard(one, bench.snapshot, {a.device: changed}, START).draws[0].answer is expected, state
    silent = {a.device: a.but(state=S.LOST)}
    assert heard(one, bench.snapshot, silent, START).draws[0].answer is G, "silence has many causes"
    lost = msgspec.structs.replace(one, error_class=LOST)
    assert heard(lost, bench.snapshot, silent, START).draws[0].answer is F, "but it is what was reported here"
    assert heard(one, bench.snapshot, {}, START).draws[0].answer is G, "somebody else wrote its document since"
    assert heard(one, bench.snapshot, {a.device: a.but(back_gen=2)}, START).draws[0].answer is G


# ---- the planner: a rollout of one stage whose devices all have the release, unless told otherwise


class Bench:
    """A rollout in memory: plans are carried out on its snapshot, drawn devices answer, time passes."""

    def __init__(
        self, population: int, *, exposed: int | None = None, state: StageState = StageState.JUDGING, **spec: Any
    ) -> None:
        fields = {
            "release": "digits@1.2.0",
            "selector": "",
            "stages": [{"name": "all", "size": {"percent": 100}, "soak": "10m"}],
        }
        self.now = START
        self.proof = SOUND
        self.reverted: set[DeviceId] = set()
        self.codes: list[str] = []
        self.checks: dict[DeviceId, CheckEnd] = {}
        devices = [DeviceId(f"d-{number:03}") for number in range(population)]
        at = START - timedelta(hours=2)
        ones = [
            Assignment(
                device, 0, RPI, S.HEALTHY, attempt=1, gen=1, entered_at=at, offered_at=at, due_at=at, exposed_at=at,
                switched_at=at, ended_at=at,
            )
            for device in devices[: population if exposed is None else exposed]
        ]  # fmt: skip
        cut = 2**64 if exposed is None else max(rank("salt", a.device) for a in ones) + 1
        self.bundle = bundle_of("new", RPI)
        run = StageRun(0, RPI, state, cut, population, self.bundle.sha256, opened_at=at, soak_until=START)
        self.snapshot = Snapshot(
            RolloutId("r"), RolloutState.RUNNING, parse_spec(fields | spec), "salt", {RPI: self.bundle},
            tuple(Member(device, RPI) for device in devices), (run,), tuple(ones), seed="5eed",
        )  # fmt: skip
        self.ones: dict[DeviceId, Assignment] = {a.device: a for a in ones}

    def report(self, heard_at: Any) -> Report:
        digest = self.bundle.sha256
        return Report(
            reported_gen=1, phase=Phase.COMMITTED, active_sha256=digest, wanted_sha256=digest, attempt=1, gen=1,
            is_online=True, last_seen=heard_at, wanted_by_server=digest, set_by="r",
        )  # fmt: skip

    def fail(self, *devices: DeviceId, error_class: str = "crash") -> None:
        """Let the release fail on devices."""
        for device in devices:
            state = S.LOST if error_class == LOST else S.REGRESSED
            kind = "" if error_class == LOST else error_class
            self.ones[device] = self.ones[device].but(state=state, error_class=kind, ended_at=self.now)

    @property
    def asked(self) -> tuple[Confirmation, ...]:
        return self.snapshot.confirmations

    @property
    def run(self) -> StageRun:
        return self.snapshot.cells[0]

    def tick(self, **later: float) -> Plan:
        """Let the time pass, and plan and carry out what is to be done then."""
        self.now += timedelta(**later)
        reports = {device: self.report(self.now) for device, a in self.ones.items() if a.state is S.HEALTHY}
        ends = {
            draw.task: self.checks.get(draw.device, CheckEnd(state="done"))
            for one in self.asked
            for draw in one.draws
            if draw.task
        }
        proved = tuple(msgspec.structs.replace(one, proof=self.proof) if one.needs_proof else one for one in self.asked)
        self.snapshot = replace(
            self.snapshot, assignments=tuple(self.ones.values()), reports=reports, checks=ends, confirmations=proved
        )
        plan = plan_tick(self.snapshot, self.now)
        self.carry(plan)
        return plan

    def carry(self, plan: Plan) -> None:
        cells = {run.stage: run for run in self.snapshot.cells}
        asked = {(one.stratum, one.number): one for one in self.asked}
        for effect in plan.effects:
            match effect:
                case AssignmentCreated() | AssignmentTransitioned() | AssignmentUpdated():
                    self.ones[effect.assignment.device] = effect.assignment
                case StageRunTransitioned() | StageRunUpdated():
                    cells[effect.cell.stage] = effect.cell
                case RolloutTransitioned():
                    self.snapshot = replace(self.snapshot, state=effect.after, code=effect.code, reason=effect.reason)
                case ConfirmationUpdated():
                    asked[effect.confirmation.stratum, effect.confirmation.number] = effect.confirmation
                case DecisionMade():
                    self.codes.append(effect.decision.code)
                case Revert():
                    self.reverted.add(effect.device)
                case _:
                    pass
        self.snapshot = replace(self.snapshot, cells=tuple(cells.values()), confirmations=tuple(asked.values()))

    def pass_time(self, rounds: int = 8, **later: float) -> None:
        for _ in range(rounds):
            self.tick(**(later or {"minutes": 5}))


@pytest.mark.parametrize(("error_class", "verdict"), [("crash", Verdict.CONFIRMED), ("load", Verdict.OPEN)])
def test_what_is_confirmed_in_one_stratum_is_confirmed_where_the_same_was_reported(
    error_class: str, verdict: Verdict
) -> None:
    bench = Bench(8)
    bench.fail(NAMES[0], error_class=error_class)
    bench.tick()
    assert [one.verdict for one in bench.asked] == [Verdict.OPEN]
    there = answered(
        How.SOAK, Answer.FAILED, Answer.FAILED, stratum=X86, verdict=Verdict.CONFIRMED, closed_at=bench.now
    )
    bench.snapshot = replace(bench.snapshot, confirmations=(*bench.asked, there))
    bench.tick(seconds=1)
    ours = next(one for one in bench.asked if one.stratum == RPI)
    assert ours.verdict is verdict
    bench.tick(seconds=1)
    assert len(bench.reverted) == (8 if verdict is Verdict.CONFIRMED else 0)


@pytest.mark.parametrize("rollback", [True, False])
def test_no_question_stays_open_when_a_person_ends_the_rollout(rollback: bool) -> None:
    bench = Bench(8)
    bench.fail(NAMES[0])
    bench.tick()
    assert [one.verdict for one in bench.asked] == [Verdict.OPEN]
    bench.carry(steer.plan_abort(bench.snapshot, bench.now, "no longer needed", rollback=rollback))
    bench.tick(seconds=1)
    assert [(one.verdict, one.closed_at) for one in bench.asked] == [(Verdict.OVER, bench.now)]


def test_time_takes_nothing_back_where_all_hangs_on_a_device_that_a_person_let_pass() -> None:
    pair = [
        {"name": "two", "size": {"count": 2}, "soak": "10m"},
        {"name": "rest", "size": {"percent": 100}, "soak": "10m"},
    ]
    bench = Bench(8, exposed=2, stages=pair, on_inconclusive={"after": "1h", "do": "rollback"})
    liar = min(bench.ones)
    bench.fail(liar)
    bench.ones[liar] = bench.ones[liar].but(is_accepted=True)
    bench.pass_time(30)
    assert bench.reverted <= {liar}
    assert bench.snapshot.state is RolloutState.PAUSED
    assert bench.codes[-1] == INCONCLUSIVE


@pytest.mark.parametrize("error_class", ["golden", "signature", "crash", LOST])
@pytest.mark.parametrize("population", [1, 2, 3, 8, 200])
def test_one_liar_takes_the_release_back_from_nobody_else(population: int, error_class: str) -> None:
    bench = Bench(population)
    liar = NAMES[0]
    bench.fail(liar, error_class=error_class)
    bench.pass_time()
    assert bench.reverted <= {liar}
    assert {a.device for a in bench.ones.values() if a.back_gen or a.back_at} <= {liar}
    if population == 1:
        return
    is_asked = error_class in ("golden", "signature") or (error_class == "crash" and population < 73)
    assert [one.words for one in bench.asked] == ([[liar]] if is_asked else [])
    if is_asked:
        refuted = Verdict.UNCONFIRMED if error_class == "crash" else Verdict.REFUTED
        assert bench.asked[0].verdict is refuted
        assert len(bench.asked[0].draws) == (1 if population <= 3 else 3)
    is_stopped = is_asked and population < 73
    assert (bench.snapshot.state is RolloutState.PAUSED) is is_stopped
    assert (bench.run.code == UNCONFIRMED) is is_stopped


@pytest.mark.parametrize("error_class", ["golden", "crash"])
@pytest.mark.parametrize("population", [2, 3, 8])
def test_a_failure_that_drawn_devices_have_too_is_taken_back(population: int, error_class: str) -> None:
    bench = Bench(population)
    bench.fail(NAMES[0], error_class=error_class)
    bench.tick()
    assert bench.run.code == WORD_OPEN
    bench.fail(*[draw.device for draw in bench.asked[0].draws][:2], error_class=error_class)
    bench.tick(minutes=1)
    assert bench.asked[0].verdict is Verdict.CONFIRMED
    assert bench.run.state is StageState.FAILED
    assert bench.reverted >= {a.device for a in bench.ones.values() if a.state is S.HEALTHY}


def test_two_devices_with_the_same_failure_are_not_one() -> None:
    bench = Bench(2)
    bench.fail(*NAMES[:2])
    bench.tick()
    assert bench.asked[0].verdict is Verdict.CONFIRMED
    assert bench.run.state is StageState.FAILED


def test_what_the_server_proves_itself_goes_back_everywhere_at_once() -> None:
    bench = Bench(200)
    bench.proof = BROKEN
    bench.fail(NAMES[0], error_class="golden")
    bench.tick()
    bench.tick(seconds=1)
    assert bench.asked[0].verdict is Verdict.PROVED
    assert len(bench.reverted) >= 199
    assert "golden vector 3 differs" in bench.run.reason


def test_checks_confirm_what_the_server_cannot_prove() -> None:
    bench = Bench(8)
    bench.proof = NOT_MADE
    bench.checks = dict.fromkeys(NAMES, CheckEnd(state="failed", code="check.golden"))
    bench.fail(NAMES[0], error_class="golden")
    plan = bench.tick()
    assert {x.device for x in plan.effects if isinstance(x, CheckAsked)} == {x.device for x in bench.asked[0].draws}
    bench.tick(seconds=1)
    assert bench.asked[0].verdict is Verdict.CONFIRMED
    assert bench.reverted


def test_a_device_on_its_way_installs_the_bundle_and_is_not_asked_to_check_it() -> None:
    bench = Bench(8, state=StageState.EXPOSING)
    for device in NAMES[1:8]:
        bench.ones[device] = bench.ones[device].but(
            state=S.DOWNLOADING, switched_at=None, ended_at=None, deadline=START + timedelta(hours=1)
        )
    bench.fail(NAMES[0], error_class="golden")
    plan = bench.tick()
    one = bench.asked[0]
    assert not [x for x in plan.effects if isinstance(x, CheckAsked)]
    assert [draw.task for draw in one.draws] == ["", "", ""]
    limits = bench.snapshot.spec.device
    assert one.deadline == START + limits.verify + limits.download + limits.apply


def test_who_reported_something_else_is_neither_suspect_nor_hides_the_reporter() -> None:
    bench = Bench(200)
    bench.fail(NAMES[1], error_class="slow")
    bench.tick(minutes=-1)
    bench.fail(NAMES[0], error_class="golden")
    bench.pass_time(3)
    (one,) = bench.asked
    assert (one.words, one.error_class, one.verdict) == ([NAMES[0]], "golden", Verdict.REFUTED)
    assert NAMES[0] not in {draw.device for draw in one.draws}
    assert not bench.reverted


def test_lost_devices_of_one_site_count_once() -> None:
    bench = Bench(200)
    bench.fail(*NAMES[:5], error_class=LOST)
    bench.snapshot = replace(bench.snapshot, sites=dict.fromkeys(NAMES[:5], "berlin"))
    bench.pass_time(3)
    assert bench.asked == ()
    bench = Bench(200)
    bench.fail(*NAMES[:3], error_class=LOST)
    bench.snapshot = replace(bench.snapshot, sites={name: f"site-{name}" for name in NAMES})
    bench.tick()
    (one,) = bench.asked
    assert (one.code, one.words, one.how) == (plain_rules.GUARD_LOST, NAMES[:3], How.SOAK)
    assert not {draw.device for draw in one.draws} & {*NAMES[:3]}


@pytest.mark.parametrize("is_bad", [False, True])
def test_without_an_answer_in_time_it_pauses_and_a_late_answer_still_acts(is_bad: bool) -> None:
    bench = Bench(8, on_inconclusive={"after": "30d", "do": "rollback"})
    bench.proof = NOT_MADE
    bench.checks = dict.fromkeys(NAMES, CheckEnd(state="acked"))
    bench.fail(NAMES[0], error_class="golden")
    bench.tick()
    bench.tick(hours=1)
    assert bench.asked[0].verdict is Verdict.TIMED_OUT
    assert (bench.snapshot.state, bench.run.code) == (RolloutState.PAUSED, UNCONFIRMED)
    assert not bench.reverted
    bad = CheckEnd(state="failed", code="check.golden")
    bench.checks = dict.fromkeys(NAMES, bad if is_bad else CheckEnd(state="done"))
    bench.pass_time(2)
    assert bench.asked[0].verdict is (Verdict.CONFIRMED if is_bad else Verdict.UNCONFIRMED)
    assert bool(bench.reverted) is is_bad


def test_a_person_goes_on_and_is_not_asked_the_same_again() -> None:
    bench = Bench(8)
    bench.fail(NAMES[0])
    bench.pass_time(4)
    assert bench.run.code == UNCONFIRMED
    bench.carry(steer.plan_resume(bench.snapshot, bench.now, "it is broken itself"))
    bench.pass_time(4)
    assert bench.snapshot.state is RolloutState.RUNNING
    assert len(bench.asked) == 1
    bench.fail(NAMES[1])
    bench.tick()
    assert [one.words for one in bench.asked] == [[NAMES[0]], [NAMES[1]]], "another failure is another question"
    bench.pass_time(4)
    assert not bench.reverted


def test_failures_of_suspects_ask_nobody() -> None:
    bench = Bench(200)
    bench.snapshot = replace(bench.snapshot, suspects=frozenset({NAMES[0]}))
    bench.fail(NAMES[0], error_class="golden")
    bench.pass_time(2)
    assert bench.asked == ()


@pytest.mark.parametrize("is_over", [False, True])
def test_a_fleet_that_trusts_its_devices_needs_no_second_failure_while_it_runs(is_over: bool) -> None:
    bench = Bench(8, on_unconfirmed="rollback", state=StageState.PASSED if is_over else StageState.JUDGING)
    if is_over:
        ended = replace(bench.run, ended_at=START - timedelta(minutes=1))
        bench.snapshot = replace(bench.snapshot, state=RolloutState.FINISHED, cells=(ended,))
    bench.fail(NAMES[0])
    bench.pass_time()
    assert bool(bench.reverted - {NAMES[0]}) is not is_over
    assert len(bench.asked) == is_over


@pytest.mark.parametrize("error_class", ["golden", "crash"])
def test_after_the_end_a_liar_moves_nothing_and_what_others_confirm_goes_back(error_class: str) -> None:
    for is_bad in (False, True):
        bench = Bench(8, state=StageState.PASSED)
        ended = replace(bench.run, ended_at=START - timedelta(minutes=1))
        bench.snapshot = replace(bench.snapshot, state=RolloutState.FINISHED, cells=(ended,))
        bench.fail(NAMES[0], error_class=error_class)
        bench.tick()
        if is_bad:
            bench.fail(*[draw.device for draw in bench.asked[0].draws], error_class=error_class)
        bench.pass_time()
        assert bool(bench.reverted) is is_bad
        assert (bench.snapshot.state is RolloutState.FINISHED) is not is_bad


def test_a_canary_alone_draws_one_device_that_has_not_got_the_release() -> None:
    size = {"stages": [{"name": "one", "size": {"count": 1}, "soak": "10m"}, {"name": "all", "size": {"percent": 100}}]}
    bench = Bench(8, exposed=1, state=StageState.JUDGING, **size)
    bench.fail(NAMES[0])
    plan = bench.tick()
    (draw,) = bench.asked[0].draws
    assert draw.is_new
    assert [x.device for x in plan.effects if isinstance(x, Offer)] == [draw.device]
    assert bench.run.code == WORD_OPEN
