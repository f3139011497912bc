"""What reports and the passing of time mean for an assignment: every path, as a table."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId, ProfileName, RolloutId
from edgefleet_protocol.messages import AssignmentState, ErrorClass, Phase
from edgefleet_server.rollout.effects import AssignmentTransitioned
from edgefleet_server.rollout.model import Assignment, Report
from edgefleet_server.rollout.planner.observe import Steps, Terms, observe
from edgefleet_server.rollout.spec.model import DeviceTerms
from edgefleet_server.rollout.state_machines import (
    ASSIGNMENT_FINAL,
    ASSIGNMENT_TRANSITIONS,
    CHAIN,
    FAILED_STATES,
    is_failure,
)

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
NEW, OLD, OTHER = "a" * 64, "b" * 64, "c" * 64
ROLLOUT = RolloutId("r-1")
LIMITS = DeviceTerms(
    ack=timedelta(hours=1), download=timedelta(minutes=30), apply=timedelta(minutes=10), verify=timedelta(minutes=20)
)
TERMS = Terms(NEW, LIMITS, timedelta(minutes=5), ROLLOUT)
S = AssignmentState
GEN, ATTEMPT = 7, 2


def assignment(state: AssignmentState = S.OFFERED, **fields: Any) -> Assignment:
    """Return an assignment that was offered gen 7, attempt 2, a minute ago."""
    known: dict[str, Any] = {
        "attempt": ATTEMPT,
        "gen": GEN,
        "offered_at": NOW - timedelta(minutes=1),
        "entered_at": NOW - timedelta(minutes=1),
        "deadline": NOW + timedelta(minutes=10),
    }
    return Assignment(DeviceId("d1"), 0, ProfileName("p"), state, **known | fields)


def report(phase: Phase | None = Phase.IDLE, **fields: Any) -> Report:
    """Return a report of the offered attempt by a device that still runs the old release."""
    known: dict[str, Any] = {
        "reported_gen": GEN,
        "active_sha256": NEW if phase in (Phase.PROBATION, Phase.COMMITTED, Phase.SWITCHING) else OLD,
        "wanted_sha256": NEW,
        "attempt": ATTEMPT,
        "gen": GEN,
        "is_online": True,
        "last_seen": NOW,
        "wanted_by_server": NEW,
        "set_by": ROLLOUT,
    }
    return Report(phase=phase, **known | fields)


def after(a: Assignment, said: Report | None, now: datetime = NOW) -> Assignment:
    """Return the assignment after a report; its steps must tell the same story."""
    done, steps = observe(a, said, TERMS, now)
    check_story(a, done, steps)
    return done


def check_story(a: Assignment, done: Assignment, steps: Steps) -> None:
    """Assert that steps lead from one to the other, each by an edge of the table."""
    edges = {(before, to) for (before, _), to in ASSIGNMENT_TRANSITIONS.items()}
    at = a
    for step in steps:
        if isinstance(step, AssignmentTransitioned):
            assert step.before is at.state
            assert (step.before, step.assignment.state) in edges
        else:
            assert step.assignment.state is at.state
        at = step.assignment
    assert at == done


# ---- forward


@pytest.mark.parametrize(
    ("phase", "reached"),
    [
        (Phase.IDLE, S.ACKED),
        (Phase.DOWNLOADING, S.DOWNLOADING),
        (Phase.VERIFYING, S.DOWNLOADING),
        (Phase.PREFLIGHT, S.STAGED),
        (Phase.GOLDEN, S.STAGED),
        (Phase.WARMING, S.PARITY_OK),
        (Phase.SWITCHING, S.APPLYING),
        (Phase.PROBATION, S.VERIFYING),
        (Phase.COMMITTED, S.HEALTHY),
    ],
)
def test_a_report_may_skip_any_number_of_steps(phase: Phase, reached: AssignmentState) -> None:
    a = after(assignment(), report(phase))
    assert a.state is reached
    assert a.exposed_at == NOW
    assert (a.switched_at is not None) == (CHAIN.index(reached) >= CHAIN.index(S.VERIFYING))
    assert (a.ended_at is not None) == (reached is S.HEALTHY)
    assert after(a, report(phase), NOW + timedelta(seconds=1)) == a, "the same report again changes nothing"


@pytest.mark.parametrize("now", CHAIN[1:-1])
@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.DOWNLOADING, Phase.GOLDEN, Phase.WARMING, Phase.SWITCHING])
def test_a_report_that_is_behind_changes_nothing(now: AssignmentState, phase: Phase) -> None:
    a = assignment(now)
    done = after(a, report(phase))
    assert CHAIN.index(done.state) >= CHAIN.index(now)
    if CHAIN.index(done.state) == CHAIN.index(now):
        assert done == a


@pytest.mark.parametrize(
    "said",
    [
        report(Phase.COMMITTED, reported_gen=GEN - 1),
        report(Phase.FAILED, reported_gen=GEN - 1, error_class=ErrorClass.CRASH),
        report(Phase.ROLLED_BACK, reported_gen=GEN - 1),
        None,
    ],
    ids=["old-committed", "old-failed", "old-rolled-back", "silent"],
)
def test_what_was_said_before_the_document_was_taken_up_counts_for_nothing(said: Report | None) -> None:
    assert after(assignment(), said) == assignment()


def test_another_attempt_or_digest_only_shows_that_the_document_was_taken_up() -> None:
    for said in (
        report(Phase.WARMING, attempt=ATTEMPT - 1),
        report(Phase.FAILED, attempt=ATTEMPT - 1, error_class=ErrorClass.CRASH),
        report(Phase.ROLLED_BACK, attempt=ATTEMPT - 1),
        report(Phase.WARMING, wanted_sha256=OLD),
        report(Phase.COMMITTED, active_sha256=OLD, wanted_sha256=OLD),
        report(None, wanted_sha256="", attempt=0),
    ):
        assert after(assignment(), said).state is S.ACKED


def test_a_device_that_ran_the_release_before_is_healthy_at_once() -> None:
    assert after(assignment(), report(Phase.COMMITTED, attempt=0)).state is S.HEALTHY


# ---- failures


@pytest.mark.parametrize(
    "error_class", [c for c in ErrorClass if c.value not in ("network", "disk", "memory", "deadline")]
)
@pytest.mark.parametrize("now", CHAIN[1:-1])
def test_a_failure_counts_from_wherever_it_is_heard(error_class: ErrorClass, now: AssignmentState) -> None:
    a = after(assignment(now), report(Phase.FAILED, error_class=error_class, reason="why"))
    assert (a.state, a.error_class, a.reason, a.ended_at) == (S.FAILED, error_class.value, "why", NOW)
    assert a.exposed_at == NOW
    assert is_failure(a)


@pytest.mark.parametrize("error_class", [ErrorClass.NETWORK, ErrorClass.DISK, ErrorClass.MEMORY, ErrorClass.DEADLINE])
def test_trouble_that_passes_is_waited_for_until_the_deadline(error_class: ErrorClass) -> None:
    said = report(Phase.FAILED, error_class=error_class, reason="no room")
    a = after(assignment(S.DOWNLOADING), said)
    assert (a.state, a.error_class, a.reason) == (S.DOWNLOADING, error_class.value, "no room")
    assert after(a, said) == a
    went_on = after(a, report(Phase.WARMING))
    assert (went_on.state, went_on.error_class, went_on.reason) == (S.PARITY_OK, "", "")
    assert a.deadline is not None
    ended = after(a, said, a.deadline)
    assert (ended.state, ended.error_class, ended.reason) == (
        S.FAILED,
        error_class.value,
        "no room (still so at its deadline)",
    )


def test_trouble_is_seen_by_a_device_that_was_only_offered_the_release() -> None:
    a = after(assignment(), report(Phase.FAILED, error_class=ErrorClass.NETWORK, reason="no route"))
    assert (a.state, a.error_class, a.reason) == (S.ACKED, "network", "no route")


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.IDLE, Phase.COMMITTED])
@pytest.mark.parametrize("now", [S.OFFERED, S.ACKED, S.DOWNLOADING, S.PARITY_OK])
def test_what_our_own_brake_stopped_is_no_failure(phase: Phase, now: AssignmentState) -> None:
    said = report(phase, active_sha256=OLD, error_class=ErrorClass.DEADLINE, error_code="install.held", reason="held")
    a = after(assignment(now), said)
    assert a.state not in FAILED_STATES
    assert a.error_class == ""


def test_a_report_that_tells_of_a_step_and_of_the_brake_is_heard_whole_at_once() -> None:
    said = report(Phase.DOWNLOADING, error_code="install.held")
    once = after(assignment(S.OFFERED), said)
    assert (once.state, once.reason) == (S.DOWNLOADING, "stopped by a hold before its switch")
    assert after(once, said) == once


@pytest.mark.parametrize("now", CHAIN[1:-1])
def test_a_device_that_rolled_back_by_itself_failed(now: AssignmentState) -> None:
    a = after(assignment(now), report(Phase.ROLLED_BACK, error_class=ErrorClass.NONFINITE, reason="NaN"))
    assert (a.state, a.error_class, a.reason) == (S.ROLLED_BACK, "nonfinite", "NaN")
    assert is_failure(a)


def test_a_failure_without_words_still_has_a_class_and_a_reason() -> None:
    a = after(assignment(S.VERIFYING), report(Phase.ROLLED_BACK))
    assert (a.state, a.error_class, a.reason) == (S.ROLLED_BACK, "internal", "the device gives no reason")
    assert is_failure(a)


def test_a_bundle_with_a_bad_signature_fails_though_the_device_never_wanted_it() -> None:
    said = report(Phase.FAILED, wanted_sha256=OLD, attempt=1, error_class=ErrorClass.SIGNATURE, reason="forged")
    assert after(assignment(), said).state is S.FAILED
    assert after(assignment(), replace(said, gen=GEN - 1)).state is S.ACKED


@pytest.mark.parametrize(
    ("code", "error_class"),
    [("verify.signature", "signature"), ("verify.wrong_device", "signature"), ("verify.expired", "internal")],
)
def test_a_refused_document_is_a_failure(code: str, error_class: str) -> None:
    said = report(None, reported_gen=GEN - 1, refused_gen=GEN, refused_code=code, refused_reason="no")
    a = after(assignment(), said)
    assert (a.state, a.error_class) == (S.FAILED, error_class)
    assert code in a.reason
    assert after(assignment(), replace(said, refused_gen=GEN - 1)) == assignment(), "an older document was refused"


@pytest.mark.parametrize("code", ["verify.old_generation", "verify.old_hold"])
def test_a_document_that_comes_again_and_a_hold_are_no_failure_of_the_release(code: str) -> None:
    said = report(None, reported_gen=GEN - 1, refused_gen=GEN + 1_700_000_000, refused_code=code, refused_reason="no")
    assert after(assignment(), said) == assignment()


# ---- somebody else's doing


@pytest.mark.parametrize("now", CHAIN[1:-1])
def test_another_release_in_the_document_supersedes(now: AssignmentState) -> None:
    a = after(assignment(now), report(Phase.COMMITTED, active_sha256=OTHER, wanted_by_server=OTHER))
    assert (a.state, a.deadline, a.ended_at) == (S.SUPERSEDED, None, NOW)


def test_a_healthy_device_is_superseded_in_its_soak_only() -> None:
    fresh = assignment(S.HEALTHY, switched_at=NOW - timedelta(minutes=4), deadline=None)
    proven = fresh.but(switched_at=NOW - timedelta(minutes=5))
    said = report(Phase.COMMITTED, active_sha256=OTHER, wanted_by_server=OTHER)
    assert after(fresh, said).state is S.SUPERSEDED
    assert after(proven, said) == proven


def test_a_healthy_device_that_no_longer_runs_the_release_regressed() -> None:
    a = assignment(S.HEALTHY, switched_at=NOW - timedelta(hours=1), deadline=None)
    said = report(Phase.ROLLED_BACK, active_sha256=OLD, error_class=ErrorClass.NONFINITE, reason="NaN")
    done = after(a, said)
    assert (done.state, done.error_class, done.reason) == (S.REGRESSED, "nonfinite", "NaN")
    assert is_failure(done)
    assert after(done, report(Phase.COMMITTED)) == done, "what regressed stays so"
    assert after(a, replace(said, reported_gen=GEN - 1)) == a
    assert after(a, report(Phase.COMMITTED)) == a


@pytest.mark.parametrize("now", CHAIN[1:-1])
def test_a_revoked_device_is_out(now: AssignmentState) -> None:
    a = after(assignment(now), report(Phase.DOWNLOADING, is_revoked=True, wanted_by_server=""))
    assert (a.state, a.reason) == (S.CANCELLED, "the device was taken out of the fleet")


@pytest.mark.parametrize("now", sorted(ASSIGNMENT_FINAL - {S.HEALTHY}))
@pytest.mark.parametrize("phase", [Phase.COMMITTED, Phase.FAILED, Phase.DOWNLOADING])
def test_an_outcome_is_final(now: AssignmentState, phase: Phase) -> None:
    a = assignment(now, ended_at=NOW, deadline=None)
    assert after(a, report(phase, error_class=ErrorClass.CRASH)) == a
    assert after(a, None, NOW + timedelta(days=30)) == a


# ---- silence


def test_who_never_takes_up_the_offer_is_unreachable_and_may_come_back() -> None:
    a = assignment(deadline=NOW)
    assert after(a, None, NOW - timedelta(seconds=1)) == a
    missed = after(a, None)
    assert (missed.state, missed.reason) == (S.UNREACHABLE, "did not take up its document within 1 h")
    assert after(missed, report(Phase.COMMITTED, reported_gen=GEN - 1)) == missed
    back = after(missed, report(Phase.DOWNLOADING), NOW + timedelta(hours=5))
    assert (back.state, back.deadline) == (S.DOWNLOADING, NOW + timedelta(hours=5, minutes=30))
    assert (back.ended_at, back.reason) == (None, "")
    assert after(missed, report(Phase.FAILED, error_class=ErrorClass.LOAD)).state is S.FAILED


@pytest.mark.parametrize("now", [S.ACKED, S.DOWNLOADING, S.STAGED, S.PARITY_OK, S.APPLYING])
def test_who_took_it_up_and_fell_silent_is_lost(now: AssignmentState) -> None:
    a = assignment(now, deadline=NOW)
    gone = report(None, reported_gen=GEN, is_online=False, last_seen=NOW - timedelta(minutes=20))
    done = after(a, gone)
    assert (done.state, done.error_class, done.ended_at) == (S.LOST, "lost", NOW)
    assert is_failure(done)
    assert done.reason.endswith("then silent for 1 min"), done.reason
    assert after(a, replace(gone, is_online=True)).reason.endswith("then nothing until its deadline")


def test_the_deadlines_follow_the_steps() -> None:
    a = after(assignment(), report(Phase.IDLE))
    assert a.deadline == NOW + LIMITS.download
    later = NOW + timedelta(minutes=3)
    a = after(a, report(Phase.DOWNLOADING), later)
    assert a.deadline == NOW + LIMITS.download, "the download's time runs since the document was taken up"
    a = after(a, report(Phase.GOLDEN), later)
    assert a.deadline == later + LIMITS.apply
    a = after(a, report(Phase.WARMING), later + timedelta(minutes=1))
    assert a.deadline == later + LIMITS.apply
    a = after(a, report(Phase.SWITCHING), later)
    assert a.deadline == later + LIMITS.verify
    a = after(a, report(Phase.PROBATION), later + timedelta(minutes=1))
    assert a.deadline == later + LIMITS.verify
    assert after(a, report(Phase.COMMITTED), later).deadline is None


def test_a_device_on_probation_is_lost_only_when_it_is_not_heard_of_either() -> None:
    began = NOW - timedelta(minutes=20)
    a = assignment(S.VERIFYING, switched_at=began, deadline=NOW)
    assert after(a, report(Phase.PROBATION)) == a, "it is there: it gets more time"
    heard = report(Phase.PROBATION, is_online=False, last_seen=NOW - timedelta(minutes=5))
    assert after(a, heard) == a, "it was heard of a moment ago"
    gone = after(a, heard, NOW + timedelta(minutes=15))
    assert (gone.state, gone.reason) == (S.LOST, "switched, then silent for 20 min")
    stuck = after(a, report(Phase.PROBATION), began + 4 * LIMITS.verify)
    assert (stuck.state, stuck.error_class) == (S.FAILED, "deadline")
    assert "on probation for more than 80 min" in stuck.reason


# ---- the way back


@pytest.mark.parametrize("now", CHAIN[2:])
def test_who_was_told_to_go_back_confirms_it_once(now: AssignmentState) -> None:
    a = assignment(now, back_gen=GEN + 1, back_at=NOW, error_class="network", reason="no route")
    assert after(a, report(Phase.COMMITTED, reported_gen=GEN)) == a
    assert after(a, report(Phase.COMMITTED, reported_gen=GEN + 1)) == a, "it heard, but still runs the release"
    done = after(a, report(Phase.COMMITTED, reported_gen=GEN + 1, active_sha256=OLD))
    assert (done.state, done.back_done_at) == (S.ROLLED_BACK, NOW)
    assert not is_failure(done), "the server took it back: the release did not fail there"
    assert after(done, report(Phase.COMMITTED, reported_gen=GEN + 1, active_sha256=OLD)) == done


@pytest.mark.parametrize("now", [S.FAILED, S.LOST, S.ROLLED_BACK, S.UNREACHABLE])
def test_who_had_an_outcome_keeps_it_on_the_way_back(now: AssignmentState) -> None:
    a = assignment(now, back_gen=GEN + 1, back_at=NOW, error_class="crash", reason="why")
    done = after(a, report(Phase.ROLLED_BACK, reported_gen=GEN + 1, active_sha256=OLD))
    assert (done.state, done.reason, done.error_class, done.back_done_at) == (now, "why", "crash", NOW)


@pytest.mark.parametrize("reason", ["", "did not take its offer up in time"])
def test_who_had_only_an_offer_when_it_was_told_to_go_back_ends_with_a_reason(reason: str) -> None:
    a = assignment(S.OFFERED, back_gen=GEN + 1, back_at=NOW, reason=reason)
    done = after(a, report(reported_gen=GEN + 1, gen=GEN + 1, active_sha256=OLD, wanted_sha256=OLD))
    assert (done.state, done.reason, done.back_done_at) == (S.CANCELLED, reason or "taken back by the server", NOW)


def test_who_finds_out_before_it_hears_that_it_shall_go_back_is_a_failure_of_its_own() -> None:
    a = assignment(S.VERIFYING, back_gen=GEN + 1, back_at=NOW, switched_at=NOW)
    said = report(Phase.ROLLED_BACK, active_sha256=OLD, error_class=ErrorClass.NONFINITE, reason="2 of 8 answers")
    found = after(a, said)
    assert (found.state, found.error_class, found.reason) == (S.ROLLED_BACK, "nonfinite", "2 of 8 answers")
    assert found.back_done_at is None, "its new document may still be on the way"
    back = after(found, report(Phase.COMMITTED, reported_gen=GEN + 1, active_sha256=OLD, wanted_sha256=OLD))
    assert (back.state, back.error_class, back.back_done_at) == (S.ROLLED_BACK, "nonfinite", NOW)
    assert is_failure(back)


def test_a_regressed_device_that_went_back_stays_a_failure() -> None:
    a = assignment(S.REGRESSED, back_gen=GEN + 1, back_at=NOW, error_class="nonfinite", reason="NaN")
    done = after(a, report(Phase.COMMITTED, reported_gen=GEN + 1, active_sha256=OLD))
    assert done.state is S.ROLLED_BACK
    assert is_failure(done)


def test_a_revoked_device_is_not_waited_for_on_the_way_back() -> None:
    a = assignment(S.VERIFYING, back_gen=GEN + 1, back_at=NOW)
    assert after(a, report(Phase.PROBATION, is_revoked=True)).back_done_at == NOW


def test_time_says_nothing_of_a_device_that_was_told_to_go_back() -> None:
    a = assignment(S.VERIFYING, back_gen=GEN + 1, back_at=NOW, deadline=NOW, switched_at=NOW)
    assert after(a, None, NOW + timedelta(days=30)) == a


# ---- whatever is said, in whatever order

_REPORTS = st.builds(
    report,
    st.sampled_from([None, *Phase]),
    reported_gen=st.integers(GEN - 2, GEN + 2),
    active_sha256=st.sampled_from(["", OLD, NEW, OTHER]),
    wanted_sha256=st.sampled_from(["", OLD, NEW]),
    attempt=st.integers(0, 3),
    gen=st.integers(0, GEN + 1),
    error_class=st.sampled_from([None, *ErrorClass]),
    error_code=st.sampled_from(["", "install.held", "x"]),
    refused_gen=st.sampled_from([0, GEN - 1, GEN, GEN + 1]),
    refused_code=st.sampled_from(["", "verify.signature", "verify.expired"]),
    is_revoked=st.sampled_from([False] * 9 + [True]),
    is_online=st.booleans(),
    wanted_by_server=st.sampled_from([NEW] * 6 + [OTHER, ""]),
    set_by=st.sampled_from([ROLLOUT] * 6 + [RolloutId("r-2"), ""]),
)


@given(
    state=st.sampled_from(list(AssignmentState)),
    back_gen=st.sampled_from([0, 0, GEN + 1]),
    words=st.lists(st.tuples(st.one_of(st.none(), _REPORTS), st.integers(0, 40)), max_size=12),
)
def test_every_path_of_reports_is_a_path_of_the_table(
    state: AssignmentState, back_gen: int, words: list[tuple[Report | None, int]]
) -> None:
    a, now = assignment(state, back_gen=back_gen, back_at=NOW if back_gen else None), NOW
    for said, minutes in words:
        now += timedelta(minutes=minutes)
        before, a = a, after(a, said, now)
        assert a.state not in FAILED_STATES or a.reason or before.state is a.state or back_gen
        again = after(a, said, now)
        assert again == a, "the same word twice is the same as once"
