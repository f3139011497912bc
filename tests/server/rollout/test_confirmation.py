"""Whether others confirm a failure: whom the server draws, what they answer, and that no device alone takes a release back from others."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState, ErrorClass, Phase
from edgefleet_server.rollout.analysis import confirmation, plain_rules
from edgefleet_server.rollout.analysis.confirmation import Pool, drawn, heard, judged
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
    Proof,
    Report,
    RolloutState,
    Snapshot,
    StageRun,
    StageState,
    Verdict,
)
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.model import Mode
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_sim.world import bundle_of
from tests.server.rollout.explored import START
from tests.server.rollout.fleet_sim import SMALL, SOUND, Habit, World, stages

RPI, X86 = ProfileName("rpi"), ProfileName("x86")
S = AssignmentState
SOAK = timedelta(minutes=10)
BROKEN = Proof(is_ok=False, what="golden vector 3 differs")
NOT_MADE = Proof(is_ok=None, what="the server could not check the bundle")
NAMES = [DeviceId(f"d-{number:03}") for number in range(20)]


def question(how: How = How.SOAK, **more: Any) -> Confirmation:
    """Return an open question about what the first device reported."""
    fields: dict[str, Any] = {
        "number": 0,
        "stratum": RPI,
        "stage": 0,
        "how": how,
        "code": plain_rules.SMALL_CLASS if how is How.SOAK else plain_rules.GUARD_CLASS,
        "error_class": {How.SOAK: "crash", How.VECTORS: "golden", How.FETCH: "signature"}[how],
        "sha256": "1" * 64,
        "words": NAMES[:1],
        "seed": "5eed",
        "most": 3,
        "opened_at": START,
        "deadline": START + timedelta(hours=1),
    }
    return Confirmation(**{**fields, **more})


def answered(how: How = How.SOAK, *answers: Answer, **more: Any) -> Confirmation:
    draws = [Draw(device=NAMES[1 + at], at=START, answer=answer) for at, answer in enumerate(answers)]
    return question(how, draws=draws, **more)


# ---- whom the server draws


DEVICES = st.sets(st.sampled_from(NAMES))


@settings(max_examples=30, deadline=None)
@given(DEVICES, DEVICES, DEVICES, DEVICES, st.sampled_from([How.SOAK, How.VECTORS]), st.sampled_from([1, 3]), st.text())
def test_a_draw_is_small_random_and_never_of_who_reported(
    own: set[DeviceId],
    elsewhere: set[DeviceId],
    new: set[DeviceId],
    away: set[DeviceId],
    how: How,
    most: int,
    seed: str,
) -> None:
    asked = question(how, most=most, seed=seed)
    pool = Pool(own=own, elsewhere=elsewhere, new=new, away=away, serving=own)
    one, fresh = drawn(asked, pool, START)
    names = [draw.device for draw in fresh]
    assert one.draws == fresh
    assert len(names) == len(set(names)) <= most
    assert asked.words[0] not in names
    assert sum(draw.is_new for draw in fresh) <= 1
    others = own - {asked.words[0]}
    if others:
        assert set(names) <= others, "those of the stratum that have it come first"
        assert len(names) == min(most, len(others))
    assert {draw.device for draw in fresh if draw.task} == (set(names) & own if how is How.VECTORS else set())
    shuffled = Pool(own=sorted(own, reverse=True), elsewhere=sorted(elsewhere), new=sorted(new), away=sorted(away))
    assert [draw.device for draw in drawn(asked, shuffled, START + SOAK)[1]] == names, "only the seed decides"


def test_no_device_knows_beforehand_who_is_drawn() -> None:
    counts = dict.fromkeys(NAMES[1:], 0)
    for seed in range(400):
        for draw in drawn(question(seed=f"{seed:032x}"), Pool(own=NAMES), START)[1]:
            counts[draw.device] += 1
    assert sum(counts.values()) == 1200
    assert min(counts.values()) > 30, counts
    assert max(counts.values()) < 100, counts


def test_one_that_is_gone_is_replaced_and_only_one_new_device_is_ever_drawn() -> None:
    one, _ = drawn(question(), Pool(own=NAMES[1:4]), START)
    gone = msgspec.structs.replace(
        one, draws=[msgspec.structs.replace(one.draws[0], answer=Answer.GONE), *one.draws[1:]]
    )
    after, fresh = drawn(gone, Pool(own=NAMES[1:6]), START)
    assert (len(fresh), len(after.draws)) == (1, 4)
    one, fresh = drawn(question(), Pool(own=[], new=NAMES[5:9]), START)
    assert [draw.is_new for draw in fresh] == [True]
    gone = msgspec.structs.replace(one, draws=[msgspec.structs.replace(fresh[0], answer=Answer.GONE)])
    assert drawn(gone, Pool(own=[], new=NAMES[5:9]), START)[1] == []
    assert [draw.is_new for draw in drawn(gone, Pool(own=NAMES[1:2], new=NAMES[5:9]), START)[1]] == [False]


def test_devices_that_fell_silent_do_not_confirm_one_another() -> None:
    silent = question(error_class=LOST, words=NAMES[:3])
    assert {draw.device for draw in drawn(silent, Pool(own=NAMES[:5]), START)[1]} == {*NAMES[3:5]}
    crashed = question(words=NAMES[:3], most=4)
    assert {draw.device for draw in drawn(crashed, Pool(own=NAMES[:5]), START)[1]} == {*NAMES[1:5]}


@pytest.mark.parametrize(
    ("error_class", "mode", "how"),
    [
        ("signature", Mode.ACTIVE, How.FETCH),
        ("golden", Mode.ACTIVE, How.VECTORS),
        ("golden", Mode.SHADOW, How.SOAK),
        ("crash", Mode.ACTIVE, How.SOAK),
        (LOST, Mode.ACTIVE, How.SOAK),
    ],
)
def test_how_a_failure_is_confirmed(error_class: str, mode: Mode, how: How) -> None:
    assert confirmation.how_to_confirm(error_class, mode) is how


# ---- the answer


F, H, G, N = Answer.FAILED, Answer.HEALTHY, Answer.GONE, Answer.NONE
VERDICTS: list[tuple[How, tuple[Answer, ...], Proof | None, Verdict]] = [
    (How.SOAK, (F, F, N), None, Verdict.CONFIRMED),
    (How.SOAK, (F, H, N), None, Verdict.OPEN),
    (How.SOAK, (F, H, H), None, Verdict.UNCONFIRMED),
    (How.SOAK, (N, H, H), None, Verdict.UNCONFIRMED),
    (How.SOAK, (F,), None, Verdict.CONFIRMED),
    (How.SOAK, (F, G, G), None, Verdict.CONFIRMED),
    (How.SOAK, (H,), None, Verdict.UNCONFIRMED),
    (How.SOAK, (F, F), None, Verdict.CONFIRMED),
    (How.SOAK, (F, H), None, Verdict.UNCONFIRMED),
    (How.SOAK, (N, N, N), None, Verdict.OPEN),
    (How.VECTORS, (H, H, H), SOUND, Verdict.REFUTED),
    (How.VECTORS, (H, H, N), SOUND, Verdict.REFUTED),
    (How.VECTORS, (H, H, H), None, Verdict.OPEN),
    (How.VECTORS, (H, H, H), NOT_MADE, Verdict.UNCONFIRMED),
    (How.VECTORS, (F, F, H), SOUND, Verdict.CONFIRMED),
    (How.VECTORS, (H, H, H), BROKEN, Verdict.PROVED),
    (How.VECTORS, (), BROKEN, Verdict.PROVED),
    (How.FETCH, (F, H, N), SOUND, Verdict.OPEN),
    (How.FETCH, (H,), SOUND, Verdict.REFUTED),
]


@pytest.mark.parametrize(("how", "answers", "proof", "verdict"), VERDICTS)
def test_each_set_of_answers_has_its_verdict(
    how: How, answers: tuple[Answer, ...], proof: Proof | None, verdict: Verdict
) -> None:
    one = answered(how, *answers, proof=proof)
    after = judged(one, START, can_draw=True)
    assert after.verdict is verdict
    assert (after.closed_at is None) is (verdict is Verdict.OPEN)


def test_without_answers_in_time_or_anybody_to_ask_it_times_out() -> None:
    late = START + timedelta(hours=1)
    assert judged(answered(How.SOAK, N, N), late, can_draw=True).verdict is Verdict.TIMED_OUT
    assert judged(answered(How.SOAK, G), START, can_draw=True).verdict is Verdict.OPEN
    assert judged(answered(How.SOAK, G), START, can_draw=False).verdict is Verdict.TIMED_OUT
    assert judged(question(How.VECTORS), START, can_draw=False).verdict is Verdict.OPEN, (
        "the server's check may yet end"
    )
    assert judged(question(How.VECTORS, proof=SOUND), START, can_draw=False).verdict is Verdict.TIMED_OUT


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(list(Answer)), max_size=4),
    st.sampled_from([How.SOAK, How.VECTORS]),
    st.sampled_from([None, SOUND, NOT_MADE]),
    st.booleans(),
    st.integers(0, 120),
)
def test_one_device_that_fails_never_confirms_where_two_healthy_ones_answered(
    answers: list[Answer], how: How, proof: Proof | None, can_draw: bool, minutes: int
) -> None:
    now = START + timedelta(minutes=minutes)
    after = judged(answered(how, *answers, proof=proof), now, can_draw=can_draw)
    if after.verdict is Verdict.CONFIRMED:
        assert answers.count(F) >= 1
        assert answers.count(F) >= 2 or H not in answers
    if after.verdict is Verdict.REFUTED:
        assert (how, proof) == (How.VECTORS, SOUND)
        assert H in answers
    again = judged(after, now + timedelta(days=9), can_draw=False)
    if after.verdict not in (Verdict.OPEN, Verdict.TIMED_OUT):
        assert again == after, "what is answered stays so"


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


# ---- with real services, documents and tasks


def fresh(world: World, count: int) -> None:
    world.enrol(count)
    world.settle("1.0.0")
    world.release("1.1.0")


LIE = Habit(fails_at=Phase.GOLDEN, error_class=ErrorClass.GOLDEN, reason="wrong outputs")


def test_a_refuted_report_makes_its_device_suspect_and_the_others_keep_the_release(any_world: World) -> None:
    world = any_world
    fresh(world, 4)
    liar, *others = world.devices.values()
    liar.habits["1.1.0"] = LIE
    rollout = world.create(stages=stages("100%"))
    view = world.go_until_state(rollout, "paused")
    (one,) = world.asked(rollout)
    assert (one.words, one.verdict, view.code) == ([liar.id], Verdict.REFUTED, UNCONFIRMED)
    assert {other.running for other in others} == {"1.1.0"}
    assert [event["to"] for event in world.events(rollout) if event["kind"] == "confirmation"][-1] == "refuted"
    assert world.fleet.offers.reports_of([liar.id], "digits")[liar.id].is_suspect
    world.service.resume(rollout, "ann", "the device is broken itself")
    world.go(12)
    assert world.view(rollout).state == "running"
    assert len(world.asked(rollout)) == 1


def test_what_drawn_devices_find_is_taken_back_although_the_server_could_not_look(world: World) -> None:
    fresh(world, 5)
    world.proof = None
    world.habits["1.1.0"] = Habit(fails_at=Phase.COMMITTED, error_class=ErrorClass.GOLDEN)
    for device in list(world.devices.values())[1:]:
        device.habits["1.1.0"] = Habit(
            stays_at=Phase.PROBATION, fails_at=Phase.COMMITTED, error_class=ErrorClass.GOLDEN
        )
    rollout = world.create(stages=stages("100%"))
    view = world.go_until_state(rollout, "rolled_back", rounds=60)
    (one,) = world.asked(rollout)
    assert (one.verdict, view.code) == (Verdict.CONFIRMED, plain_rules.GUARD_CLASS)
    assert all(draw.task for draw in one.draws), "checks said so: the devices themselves never failed"
    assert {device.running for device in world.devices.values()} == {"1.0.0"}


def test_a_release_that_is_bad_in_one_profile_goes_back_there_after_a_draw(world: World) -> None:
    world.enrol(3)
    bad = world.enrol(4, SMALL)
    world.settle("1.0.0", "generic-x86_64-ort", SMALL)
    world.release("1.1.0", "generic-x86_64-ort", SMALL)
    for device in bad:
        device.habits["1.1.0"] = Habit(fails_at=Phase.PROBATION)
    rollout = world.create(stages=stages(2, "100%", soak="10m"))
    world.tick()
    away, _ = [device for device in bad if device.id in world.members(rollout)]
    away.is_away = True
    world.presence(away, on=False)
    world.go(9)
    (one,) = world.asked(rollout)
    assert not {draw.device for draw in one.draws} & {device.id for device in bad}, (
        "of its own stratum nobody has it yet"
    )
    view = world.go_until_state(rollout, "finished", seconds=150, rounds=60)
    assert (view.is_partial, view.code) == (True, "partial")
    (one,) = world.asked(rollout)
    assert [(draw.answer, draw.is_new) for draw in one.draws] == [(G, False), (G, False), (F, True)]
    assert one.verdict is Verdict.CONFIRMED
    assert len([device for device in world.exposed(rollout) if device in bad]) == 2
    assert {device.running for device in bad} == {"1.0.0"}
