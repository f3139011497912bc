"""What is done about a wish: begin, wait, follow, withdraw, stay; and what the record says afterwards. Without any I/O."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.install import desired_diff, machine
from edgefleet_agent.install.machine import InstallEvent
from edgefleet_agent.install.probation import trial
from edgefleet_agent.install.records import ModelRecord, Quarantine, Wanted
from edgefleet_protocol.messages import ErrorClass, Phase
from tests.agent.records import GOOD, LIMITS, NOW, on_probation, ref, serving, wanted


def test_held_and_not_yet_wishes_wait() -> None:
    assert desired_diff.decide(serving(), wanted("b"), now_s=NOW, held=True) == desired_diff.HELD
    later = wanted("b", not_before_s=NOW + 5)
    assert desired_diff.decide(serving(), later, now_s=NOW, held=False) == desired_diff.Stay("not yet")
    assert isinstance(desired_diff.decide(serving(), later, now_s=NOW + 5, held=False), desired_diff.Begin)


def test_a_wish_waits_for_its_part_of_the_span_unless_nobody_has_to_be_asked() -> None:
    early = msgspec.structs.replace(wanted("b", gen=5), start_s=NOW + 30, start_within_s=60)
    assert desired_diff.decide(serving(), early, now_s=NOW, held=False) == desired_diff.SPREAD
    assert isinstance(desired_diff.decide(serving(), early, now_s=NOW + 30, held=False), desired_diff.Begin)
    assert isinstance(desired_diff.decide(serving(), early, now_s=NOW, held=False, in_slot=True), desired_diff.Begin)
    assert desired_diff.decide(serving(), early, now_s=NOW, held=True) == desired_diff.HELD
    # an install of something else is under way: it ends at once, what serves goes on serving, and then it waits
    other = machine.begun(serving(), wanted("c", gen=4), "B", now_s=NOW)
    assert isinstance(desired_diff.decide(other, early, now_s=NOW, held=False), desired_diff.Withdraw)
    # this very bundle is being brought: it goes on
    same = machine.begun(serving(), wanted("b", gen=4), "B", now_s=NOW)
    assert isinstance(desired_diff.decide(same, early, now_s=NOW, held=False), desired_diff.Follow)


def test_what_failed_here_and_is_wanted_anew_does_not_wait() -> None:
    early = msgspec.structs.replace(wanted("b", gen=6), start_s=NOW + 30, start_within_s=60)
    record = msgspec.structs.replace(serving(phase=Phase.GOLDEN), wanted=wanted("b", gen=5), gen=5)
    for failed in (
        machine.failed(record, ErrorClass.NETWORK, "c", "r"),
        machine.failed(record, ErrorClass.CRASH, "c", "r"),
    ):
        assert isinstance(desired_diff.decide(failed, early, now_s=NOW, held=False), desired_diff.Begin)


def test_a_failed_digest_is_tried_again_only_for_a_new_gen_or_attempt() -> None:
    record = machine.failed(
        msgspec.structs.replace(serving(phase=Phase.GOLDEN), wanted=wanted("b", gen=5), gen=5),
        ErrorClass.CRASH,
        "c",
        "r",
    )
    assert isinstance(desired_diff.decide(record, wanted("b", gen=5), now_s=NOW, held=False), desired_diff.Stay)
    assert isinstance(
        desired_diff.decide(record, wanted("b", gen=5, attempt=2), now_s=NOW, held=False), desired_diff.Begin
    )
    assert isinstance(desired_diff.decide(record, wanted("b", gen=6), now_s=NOW, held=False), desired_diff.Begin)


def test_a_third_version_waits_for_the_trial_rather_than_overwrite_the_proven_one() -> None:
    record = on_probation()
    assert desired_diff.decide(record, wanted("c", gen=3), now_s=NOW, held=False) == desired_diff.Wait(
        wanted("c", gen=3)
    )
    # healthy: proven sooner, then there is room
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 9, replaced=True) == trial.KeepWatching()
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 10, replaced=False) == trial.KeepWatching()
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 10, replaced=True) == trial.Commit()
    record = machine.proven(record, now_s=NOW + 10)
    assert record.phase is Phase.COMMITTED
    assert desired_diff.decide(record, wanted("c", gen=3), now_s=NOW, held=False) == desired_diff.Begin(
        wanted("c", gen=3), "A"
    )


def test_back_to_the_proven_version_needs_no_waiting_and_keeps_its_proof() -> None:
    decision = desired_diff.decide(on_probation(), wanted("a", gen=3), now_s=NOW, held=False)
    assert decision == desired_diff.Begin(wanted("a", gen=3), "A")
    record = machine.begun(on_probation(), decision.wanted, decision.slot, now_s=NOW)
    assert record.previous is not None
    # a newer wish in the middle of it must not overwrite it either
    assert isinstance(desired_diff.decide(record, wanted("c", gen=4), now_s=NOW, held=False), desired_diff.Wait)
    for event in (
        InstallEvent.FETCHED,
        InstallEvent.VERIFIED,
        InstallEvent.FITS,
        InstallEvent.GOLDEN_OK,
        InstallEvent.READY,
    ):
        record = machine.advanced(record, event, now_s=NOW)
    record = machine.switched(record, ref("A", "a"), now_s=NOW)
    assert record.active is not None
    assert (record.active.slot, record.active.proven) == ("A", True)
    assert isinstance(desired_diff.decide(record, wanted("c", gen=4), now_s=NOW, held=False), desired_diff.Begin)


def test_first_versions_of_a_model_do_not_wait_for_each_other() -> None:
    record = on_probation(previous_proven=False)
    assert isinstance(desired_diff.decide(record, wanted("c", gen=3), now_s=NOW, held=False), desired_diff.Begin)
    first = msgspec.structs.replace(record, previous=None)
    assert isinstance(desired_diff.decide(first, wanted("c", gen=3), now_s=NOW, held=False), desired_diff.Begin)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.sampled_from(["young", "proven", "bad before", "bad after", "cut", "withdrawn", "by hand"]),
        ),
        max_size=12,
    )
)
def test_whatever_is_wished_a_proven_version_stays_on_the_device(wished: list[tuple[str, str]]) -> None:
    record, slots = ModelRecord(model="digits"), {"A": "", "B": ""}
    had_proven = False
    for i, (digest, fate) in enumerate(wished):
        now_s = NOW + i * 10_000
        record = machine.recovered(record, now_s=now_s) if fate == "cut" else record
        decision = desired_diff.decide(record, wanted(digest, gen=i + 2, attempt=i + 1), now_s=now_s, held=False)
        if isinstance(decision, desired_diff.Wait):
            record = machine.proven(record, now_s=now_s)
        elif isinstance(decision, desired_diff.Follow):
            record = machine.followed(record, decision.wanted, now_s=now_s)
            assert machine.followed(record, decision.wanted, now_s=now_s) is record
        elif isinstance(decision, desired_diff.Begin):
            record = machine.begun(record, decision.wanted, decision.slot, now_s=now_s)
            slots[decision.slot] = digest
            if fate == "bad before":
                record = machine.failed(record, ErrorClass.GOLDEN, "c", "r")
            elif fate == "withdrawn":
                record = machine.withdrawn(record, now_s=now_s)
            else:
                for event in (
                    InstallEvent.FETCHED,
                    InstallEvent.VERIFIED,
                    InstallEvent.FITS,
                    InstallEvent.GOLDEN_OK,
                    InstallEvent.READY,
                ):
                    record = machine.advanced(record, event, now_s=now_s)
                record = machine.switched(record, ref(decision.slot, digest), now_s=now_s)
            if fate in ("proven", "by hand"):
                record = machine.proven(record, now_s=now_s)
            if fate == "bad after" or (fate == "by hand" and record.previous is not None):
                assert record.active is not None
                had_proven = had_proven and not record.active.proven  # it was the proven one that failed now
                record = machine.rolled_back(record, ErrorClass.CRASH, "c", "r", now_s=now_s)
        assert record.active is None or record.seen.sha256 == record.active.sha256
        assert record.before.sha256 in ("", record.previous.sha256 if record.previous is not None else "")
        for known in (record.active, record.previous):
            # what the record names is what lies there
            assert known is None or slots[known.slot] == known.sha256[0]
        is_there = machine.is_proven(record) or (record.previous is not None and record.previous.proven)
        assert is_there or not had_proven
        had_proven = had_proven or is_there


# ---- an install that is not wanted any more


@pytest.mark.parametrize("phase", sorted(machine.INSTALLING))
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (serving(), Phase.COMMITTED),
        (on_probation(), Phase.PROBATION),
        (ModelRecord(model="digits"), Phase.IDLE),
        (msgspec.structs.replace(on_probation(), phase=Phase.ROLLED_BACK, previous=None), Phase.PROBATION),
    ],
    ids=["proven", "on trial", "nothing", "came back"],
)
def test_a_withdrawn_install_leaves_the_truth_about_what_serves(
    before: ModelRecord, after: Phase, phase: Phase
) -> None:
    if before.phase is Phase.COMMITTED:
        assert before.active is not None
        before = msgspec.structs.replace(before, active=msgspec.structs.replace(before.active, proven=True))
    before = trial.crashed(before, now_s=NOW, window_s=300)
    busy = machine.begun(before, wanted("c", gen=9), desired_diff.idle_slot(before), now_s=NOW + 50)
    busy = msgspec.structs.replace(busy, phase=phase)
    record = machine.withdrawn(busy, now_s=NOW + 60)
    assert (record.phase, record.active, record.installing) == (after, before.active, "")
    assert (record.seen, record.crashes_s) == (before.seen, before.crashes_s)
    assert record.wanted == before.served
    assert (record.error_code, record.quarantine) == ("", before.quarantine)
    # the slot of the way back was given up when the install began
    assert record.previous is None


def test_a_wish_for_what_serves_withdraws_what_is_under_way() -> None:
    record = machine.begun(on_probation(), wanted("c", gen=3), "A", now_s=NOW)
    again = wanted("b", gen=4)
    assert isinstance(desired_diff.decide(record, again, now_s=NOW, held=False), desired_diff.Withdraw)
    # what is switched is not held any more
    assert isinstance(desired_diff.decide(record, again, now_s=NOW, held=True), desired_diff.Withdraw)
    record = machine.withdrawn(record, now_s=NOW)
    assert desired_diff.decide(record, again, now_s=NOW, held=True) == desired_diff.Follow(again)
    record = machine.followed(record, again, now_s=NOW)
    assert (record.phase, record.gen, record.wanted, record.seen.since_s) == (Phase.PROBATION, 4, again, NOW)


@pytest.mark.parametrize(
    ("wish", "held", "code"),
    [
        (wanted("c", gen=9), True, "install.held"),
        (wanted("d", gen=10), True, "install.held"),
        (wanted("d", gen=10, not_before_s=NOW + 9), False, "install.withdrawn"),
        (wanted("e", gen=1), False, "install.withdrawn"),
    ],
)
def test_an_install_that_may_not_go_on_is_withdrawn(wish: Wanted, held: bool, code: str) -> None:
    record = machine.begun(serving(), wanted("c", gen=9), "B", now_s=NOW)
    entry = Quarantine(sha256="e" * 64, gen=1, attempt=1, error_class=ErrorClass.LOAD, code="c", reason="r")
    record = msgspec.structs.replace(record, quarantine=[entry])
    decision = desired_diff.decide(record, wish, now_s=NOW, held=held)
    assert isinstance(decision, desired_diff.Withdraw)
    assert decision.code == code


def test_a_newer_wish_for_what_is_being_installed_is_only_noted() -> None:
    record = machine.begun(serving(), wanted("c", gen=9), "B", now_s=NOW)
    newer = wanted("c", gen=10, attempt=2)
    assert desired_diff.decide(record, newer, now_s=NOW, held=False) == desired_diff.Follow(newer)
    after = machine.followed(record, newer, now_s=NOW + 5)
    assert (after.phase, after.gen, after.wanted) == (Phase.DOWNLOADING, 10, newer)
    assert after.phase_since_s == record.phase_since_s
    assert machine.followed(after, newer, now_s=NOW + 9) is after


# ---- after a rollback, or a fault


def gone_back(**changes: object) -> ModelRecord:
    """Return version b rolled back to a."""
    record = on_probation(**changes)  # type: ignore[arg-type]
    return machine.rolled_back(record, ErrorClass.NONFINITE, "trial.nonfinite", "2 of 20", now_s=NOW + 5)


def test_after_a_rollback_the_record_speaks_of_the_version_that_failed() -> None:
    tried = msgspec.structs.replace(wanted("b", gen=7, attempt=3), rollout="r-1")
    record = gone_back(wanted=tried, served=tried)
    assert (record.phase, record.wanted, record.gen) == (Phase.ROLLED_BACK, tried, 7)
    assert [(q.sha256, q.attempt, q.gen) for q in record.quarantine] == [("b" * 64, 3, 7)]
    assert (record.seen.sha256, record.seen.n) == ("a" * 64, 300)
    # also when another install had failed meanwhile
    later = msgspec.structs.replace(on_probation(), phase=Phase.FAILED, wanted=wanted("c", gen=9), served=tried)
    record = machine.rolled_back(later, ErrorClass.CRASH, "c", "r", now_s=NOW)
    assert (record.phase, record.wanted) == (Phase.ROLLED_BACK, tried)


@pytest.mark.parametrize(
    ("gen", "attempt", "blocked"), [(7, 3, True), (6, 3, True), (8, 3, False), (7, 4, False), (6, 2, False)]
)
def test_a_rolled_back_digest_is_tried_again_only_when_asked_anew(gen: int, attempt: int, blocked: bool) -> None:
    tried = wanted("b", gen=7, attempt=3)
    record = gone_back(wanted=tried, served=tried)
    decision = desired_diff.decide(record, wanted("b", gen=gen, attempt=attempt), now_s=NOW, held=False)
    assert isinstance(decision, desired_diff.Stay if blocked else desired_diff.Begin)


def test_the_answer_to_a_rollback_is_noted_and_the_rollback_stays_visible() -> None:
    back = wanted("a", gen=8)
    record = machine.followed(gone_back(), back, now_s=NOW + 9)
    assert (record.phase, record.error_code) == (Phase.ROLLED_BACK, "trial.nonfinite")
    assert (record.gen, record.wanted) == (8, back)
    # a document that was only signed anew changes nothing of it
    record = machine.followed(record, wanted("a", gen=9), now_s=NOW + 9)
    assert (record.phase, record.gen) == (Phase.ROLLED_BACK, 9)
    # an offer of a rollout is carried out
    offer = msgspec.structs.replace(wanted("a", gen=10), rollout="r-2")
    record = machine.followed(record, offer, now_s=NOW + 9)
    assert (record.phase, record.error_code, record.wanted) == (Phase.COMMITTED, "", offer)


@pytest.mark.parametrize(
    ("error_class", "after"), [(ErrorClass.NETWORK, Phase.COMMITTED), (ErrorClass.GOLDEN, Phase.FAILED)]
)
def test_a_fault_of_the_moment_is_forgotten_with_its_wish(error_class: ErrorClass, after: Phase) -> None:
    active = msgspec.structs.replace(ref("A", "a"), proven=True)
    record = msgspec.structs.replace(serving(), active=active)
    record = machine.begun(record, wanted("c", gen=3), "B", now_s=NOW)
    record = machine.followed(machine.failed(record, error_class, "c", "r"), wanted("a", gen=4), now_s=NOW)
    assert (record.phase, record.gen) == (after, 4)


def test_a_version_that_never_gets_through_its_trial_is_quarantined_in_the_end() -> None:
    record, wish = serving(), wanted("b")
    for attempt in range(machine.MAX_BAD_TRIALS):
        assert isinstance(desired_diff.decide(record, wish, now_s=NOW, held=False), desired_diff.Begin), attempt
        record = machine.begun(record, wish, "B", now_s=NOW)
        record = msgspec.structs.replace(record, phase=Phase.GOLDEN)
        record = machine.failed(record, ErrorClass.MEMORY, "trial.memory", "out of memory")
    assert isinstance(desired_diff.decide(record, wish, now_s=NOW, held=False), desired_diff.Stay)
    # another attempt counts anew
    again = wanted("b", attempt=2)
    assert machine.begun(record, again, "B", now_s=NOW).bad_trials == 0
    # faults before its trial do not count
    record = machine.failed(machine.begun(serving(), wish, "B", now_s=NOW), ErrorClass.NETWORK, "c", "r")
    assert record.bad_trials == 0
