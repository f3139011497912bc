"""What people see of failures that wait for confirmation: one sentence, what follows, and each device by its name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_server.rollout.analysis.decide import UNCONFIRMED, WORD_OPEN
from edgefleet_server.rollout.lint.findings import ONE_REPORT_ROLLS_BACK
from edgefleet_server.rollout.model import (
    Answer,
    Confirmation,
    Draw,
    How,
    Proof,
    RolloutState,
    Snapshot,
    StageRun,
    StageState,
    Verdict,
)
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_server.rollout.status.confirmation_views import (
    MOST_REPORTERS,
    ConfirmationView,
    confirmation_views,
    named_in,
)
from edgefleet_server.rollout.status.outlook import outlook
from tests.server.rollout.test_planning import codes, planned

NOON = datetime(2026, 1, 3, 12, tzinfo=UTC)
P = ProfileName("rpi")
STAGES = [{"name": "canary", "size": {"count": 3}, "soak": "10m"}, {"name": "rest", "size": {"percent": 100}}]
DECIDE = (
    "`edgectl rollout promote r-1 --reason R` accepts the failure, `edgectl rollout resume r-1` continues and keeps counting it, "
    "`edgectl rollout abort r-1 --rollback` rolls it back"
)


def asked(*answers: Answer, how: How = How.SOAK, kind: str = "crash", **changes: Any) -> Confirmation:
    draws = [Draw(device=DeviceId(f"d{n}"), at=NOON, answer=answer) for n, answer in enumerate(answers)]
    one = Confirmation(
        number=0,
        stratum=P,
        stage=0,
        how=how,
        code="small_class",
        error_class=kind,
        sha256="a" * 64,
        words=[DeviceId("liar")],
        seed="5eed" * 8,
        most=3,
        opened_at=NOON,
        deadline=NOON + timedelta(minutes=40),
        draws=draws,
    )
    return msgspec.structs.replace(one, **changes)


def seen(one: Confirmation, *, is_held: bool = False, **spec: Any) -> ConfirmationView:
    run = StageRun(0, P, StageState.HELD if is_held else StageState.EXPOSING, code=UNCONFIRMED if is_held else "")
    (view,) = confirmation_views(_snapshot(run, one, **spec), run, {"liar": "door cam"})
    return view


def _snapshot(run: StageRun, one: Confirmation, **spec: Any) -> Snapshot:
    asked_for = parse_spec({"release": "digits@1.1.0", "selector": "", "stages": STAGES, **spec})
    return Snapshot(RolloutId("r-1"), RolloutState.RUNNING, asked_for, "salt", {}, (), (run,), (), confirmations=(one,))


_N, _F, _H, _G = Answer.NONE, Answer.FAILED, Answer.HEALTHY, Answer.GONE
PASSED, BAD = Proof(is_ok=True, what="the bytes are those signed"), Proof(is_ok=False, what="2 of 8 vectors differ")
SUSPECT = "The devices that reported it are suspect until a person clears them: `edgectl device clear-suspicion ID`"
RESTS = (
    "No other device of the stratum is offered the release meanwhile. Without enough answers in time a person decides"
)
COUNTS = "It still counts as one failure in the evidence"


@pytest.mark.parametrize(
    ("one", "text", "then"),
    [
        (asked(_N, _N), "The crash failure waits for confirmation: none of 2 drawn devices has answered; both must fail", RESTS),
        (asked(_N, _F, _H), "The crash failure waits for confirmation: 1 of 3 drawn devices failed, 1 healthy; 2 must fail", RESTS),
        (asked(_N, _G), "The crash failure waits for confirmation: the drawn device has not answered", RESTS),
        (
            asked(_N, how=How.FETCH, kind="signature"),
            "The signature failure waits for confirmation: the drawn device has not answered; the server is checking the bundle",
            RESTS,
        ),
        (
            asked(_F, _F, _H, verdict=Verdict.CONFIRMED),
            "The crash failure is confirmed: 2 of 3 drawn devices failed, 1 healthy",
            "The stratum is rolled back",
        ),
        (
            asked(_N, verdict=Verdict.CONFIRMED),
            "The crash failure is confirmed by devices of another stratum",
            "The stratum is rolled back",
        ),
        (
            asked(_N, how=How.VECTORS, kind="golden", verdict=Verdict.PROVED, proof=BAD),
            "The server's own check of the bundle failed: 2 of 8 vectors differ",
            "Every stratum is rolled back",
        ),
        (
            asked(_H, _H, how=How.VECTORS, kind="golden", verdict=Verdict.REFUTED, proof=PASSED),
            "The golden failure is refuted: the bundle passed the server's check, and 2 of 2 drawn devices are healthy",
            f"{SUSPECT}. {COUNTS}",
        ),
        (asked(_H, verdict=Verdict.UNCONFIRMED), "The crash failure is not confirmed: the drawn device is healthy", COUNTS),
        (
            asked(kind="lost", verdict=Verdict.TIMED_OUT),
            "The loss of devices was not confirmed in time: no other device could be asked",
            f"{COUNTS}. An answer that comes later still counts",
        ),
    ],
)  # fmt: skip
def test_each_verdict_is_a_sentence_and_what_follows(one: Confirmation, text: str, then: str) -> None:
    view = seen(one)
    assert (view.text, view.next, view.verdict) == (text, then, one.verdict.value)
    assert (view.reports, view.reported_by[0].device, view.reported_by[0].display_name) == (1, "liar", "door cam")


def test_a_held_stratum_names_what_a_person_can_do() -> None:
    assert seen(asked(_H, verdict=Verdict.UNCONFIRMED), is_held=True).next == f"A person decides: {DECIDE}"
    timed_out = seen(asked(_N, verdict=Verdict.TIMED_OUT), is_held=True).next
    assert timed_out == f"A person decides: {DECIDE}. An answer that comes later still counts"
    paused = seen(asked(_F, verdict=Verdict.CONFIRMED), on_fail="pause").next
    assert paused == f"on_fail is pause: a person decides: {DECIDE}"


def test_each_drawn_device_says_what_it_showed() -> None:
    assert [one.text for one in seen(asked(_N, _F, _H, _G)).drawn] == [
        "no answer yet", "failed, too", "healthy for a whole soak", "does not count: it left or cannot answer",
    ]  # fmt: skip
    assert seen(asked(_H, how=How.FETCH)).drawn[0].text == "healthy: it passed the check"
    assert seen(asked(_N, verdict=Verdict.UNCONFIRMED)).drawn[0].text == "gave no answer"


def test_no_view_has_the_seed_and_many_reporters_are_counted() -> None:
    many = asked(_N, words=[DeviceId(f"w{n:03}") for n in range(300)])
    view = seen(many)
    assert (view.reports, len(view.reported_by)) == (300, MOST_REPORTERS)
    assert many.seed not in repr(view)
    assert len(named_in([many])) == MOST_REPORTERS + 1


def test_a_running_rollout_says_that_a_failure_waits_for_confirmation_and_no_time_of_a_verdict() -> None:
    run = StageRun(0, P, StageState.SOAKING, code=WORD_OPEN, reason="long", soak_until=NOON + timedelta(minutes=1))
    now = outlook(_snapshot(run, asked(_N)), (), NOON)
    assert now is not None
    assert now.text == "Soaking; a failure waits for confirmation", "of no device nothing is counted"
    assert now.next_decision_at is None


# ---- before it starts


def test_a_spec_that_asks_nobody_is_warned_of_what_one_device_can_do() -> None:
    view = planned({"rpi": 12}, on_unconfirmed="rollback")
    assert (ONE_REPORT_ROLLS_BACK, None, None) in codes(view, "warning")
    (message,) = [one.message for one in view.findings if one.code == ONE_REPORT_ROLLS_BACK]
    assert (
        "one device that reports a crash, NaN, or a load, golden or signature failure rolls its whole stratum back"
        in message
    )
    large = planned({"rpi": 200}, on_unconfirmed="rollback")
    assert any("one device that reports a golden or signature failure rolls" in one.message for one in large.findings)
    for other in (planned({"rpi": 12}), planned({"rpi": 1}, on_unconfirmed="rollback")):
        assert ONE_REPORT_ROLLS_BACK not in {one.code for one in other.findings}


def test_a_plan_says_what_one_failure_does_where_few_devices_can_confirm_it() -> None:
    fleet = {"a": 1, "b": 2, "c": 3, "d": 4}
    said = {one.stratum: one.after_failure for one in planned(fleet).strata}
    assert said == {
        "a": "if its one device fails, the stage fails there; no other device is affected",
        "b": "if one of 2 devices fails, the stratum is rolled back only if the other fails, too; otherwise a person decides",
        "c": "if one of 3 devices fails, another one is drawn: if it fails, too, the stratum is rolled back; otherwise a person decides",
        "d": "",
    }
    trusting = {one.stratum: one.after_failure for one in planned(fleet, on_unconfirmed="rollback").strata}
    assert trusting["c"] == "if one of 3 devices fails, the stratum is rolled back without asking the others"
    asking = {one.stratum: one.after_failure for one in planned(fleet, on_fail="pause").strata}
    assert asking["b"].startswith("if one of 2 devices fails, the stratum stops for a person only if")
