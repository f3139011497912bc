"""Whether others confirm a failure: whom the server draws, what they answer, and that no device alone takes a release back from others."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis import confirmation, plain_rules
from edgefleet_server.rollout.analysis.confirmation import Pool, drawn, judged
from edgefleet_server.rollout.model import (
    LOST,
    Answer,
    Confirmation,
    Draw,
    How,
    Proof,
    Verdict,
)
from edgefleet_server.rollout.spec.model import Mode
from tests.server.rollout.explored import START
from tests.server.rollout.fleet_sim import SOUND

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
