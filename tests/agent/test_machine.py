"""The install machine: its table, and what follows from wishes, without any I/O."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.install import machine, trial, wishes
from edgefleet_agent.install.machine import InstallEvent
from edgefleet_agent.install.records import ModelRecord, Quarantine, SlotRef, Tally, Wanted
from edgefleet_protocol.messages import ErrorClass, Phase

NOW = 1_764_072_000
LIMITS = trial.Limits(
    crash_limit=3,
    crash_window_s=300,
    probation_s=60,
    probation_min_s=2,
    probation_inferences=500,
    replace_s=10,
    nonfinite_ratio=0.001,
    error_ratio=0.01,
    error_min_n=200,
    slow_factor=2.0,
    slow_margin_ms=5.0,
    slow_min_n=200,
)
GOOD = trial.Facts(serving=True, golden_ok=True)
SILENT = trial.Facts(serving=False, golden_ok=False)


def wanted(digest: str = "a", gen: int = 2, attempt: int = 1, not_before_s: int = 0) -> Wanted:
    """Return a wish for the bundle whose digest is this letter, repeated."""
    target = f"digits/{gen}.0.0/p.bundle"
    return Wanted(
        model="digits",
        target=target,
        sha256=digest * 64,
        length=9,
        leaves="c" * 64,
        gen=gen,
        attempt=attempt,
        not_before_s=not_before_s,
    )


def ref(slot: str, digest: str) -> SlotRef:
    """Return a slot with the bundle of this letter."""
    return SlotRef(slot=slot, target=f"digits/{digest}/p.bundle", sha256=digest * 64, version=digest)


def serving(digest: str = "a", slot: str = "A", phase: Phase = Phase.COMMITTED) -> ModelRecord:
    """Return the record of a model that serves."""
    return ModelRecord(
        model="digits",
        phase=phase,
        active=ref(slot, digest),
        wanted=wanted(digest),
        served=wanted(digest),
        seen=Tally(sha256=digest * 64, since_s=NOW),
    )


def test_every_phase_has_a_row_and_a_recovery_that_has_one() -> None:
    assert set(machine.TRANSITIONS) == set(Phase)
    for row in machine.TRANSITIONS.values():
        assert row.recovery in machine.TRANSITIONS
        assert set(row.on.values()) <= set(Phase)


def test_recovery_never_goes_beyond_what_was_done() -> None:
    order = list(Phase)
    for phase, row in machine.TRANSITIONS.items():
        assert order.index(row.recovery) <= order.index(phase)
        assert machine.TRANSITIONS[row.recovery].recovery == row.recovery


def test_an_event_without_a_row_is_a_bug() -> None:
    with pytest.raises(machine.IllegalTransitionError):
        machine.step(Phase.DOWNLOADING, InstallEvent.SWITCHED)


def test_the_way_of_a_good_install() -> None:
    record = serving("a", "A")
    decision = wishes.decide(record, wanted("b"), now_s=NOW, held=False)
    assert decision == wishes.Begin(wanted("b"), "B")
    record = machine.begun(record, decision.wanted, decision.slot, now_s=NOW)
    for event in (
        InstallEvent.FETCHED,
        InstallEvent.VERIFIED,
        InstallEvent.FITS,
        InstallEvent.GOLDEN_OK,
        InstallEvent.READY,
    ):
        assert record.active == ref("A", "a")
        record = machine.advanced(record, event, now_s=NOW)
    assert record.phase is Phase.SWITCHING
    record = machine.switched(record, ref("B", "b"), now_s=NOW)
    assert (record.phase, record.active, record.previous) == (Phase.PROBATION, ref("B", "b"), ref("A", "a"))
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 59) == trial.KeepWatching()
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 60) == trial.Commit()
    assert machine.advanced(record, InstallEvent.SOAKED, now_s=NOW).phase is Phase.COMMITTED


@pytest.mark.parametrize("phase", sorted(machine.INSTALLING))
def test_a_fault_before_the_switch_leaves_what_serves(phase: Phase) -> None:
    record = msgspec.structs.replace(serving(phase=phase), wanted=wanted("b"), installing="B")
    after = machine.failed(record, ErrorClass.GOLDEN, "trial.golden", "differs")
    assert (after.phase, after.active, after.installing) == (Phase.FAILED, ref("A", "a"), "")
    assert wishes.quarantined(after, wanted("b")) is not None


def test_a_failed_digest_is_tried_again_only_for_a_new_gen_or_attempt() -> None:
    record = machine.failed(
        msgspec.structs.replace(serving(phase=Phase.GOLDEN), wanted=wanted("b", gen=5), gen=5),
        ErrorClass.CRASH,
        "c",
        "r",
    )
    assert isinstance(wishes.decide(record, wanted("b", gen=5), now_s=NOW, held=False), wishes.Stay)
    assert isinstance(wishes.decide(record, wanted("b", gen=5, attempt=2), now_s=NOW, held=False), wishes.Begin)
    assert isinstance(wishes.decide(record, wanted("b", gen=6), now_s=NOW, held=False), wishes.Begin)


@pytest.mark.parametrize("error_class", sorted(machine.TRANSIENT))
def test_a_fault_of_the_moment_is_not_held_against_the_bundle(error_class: ErrorClass) -> None:
    record = msgspec.structs.replace(serving(phase=Phase.DOWNLOADING), wanted=wanted("b"))
    assert machine.failed(record, error_class, "c", "r").quarantine == []


def test_held_and_not_yet_wishes_wait() -> None:
    assert wishes.decide(serving(), wanted("b"), now_s=NOW, held=True) == wishes.HELD
    later = wanted("b", not_before_s=NOW + 5)
    assert wishes.decide(serving(), later, now_s=NOW, held=False) == wishes.Stay("not yet")
    assert isinstance(wishes.decide(serving(), later, now_s=NOW + 5, held=False), wishes.Begin)


def test_a_crash_loop_goes_back_and_names_the_version_that_crashed() -> None:
    record = msgspec.structs.replace(serving("b", "B", Phase.PROBATION), previous=ref("A", "a"))
    for i in range(3):
        assert trial.judge(record, GOOD, LIMITS, now_s=NOW + i) == trial.KeepWatching()
        record = trial.crashed(record, now_s=NOW + i, window_s=300)
    verdict = trial.judge(record, GOOD, LIMITS, now_s=NOW + 3)
    assert isinstance(verdict, trial.RollBack)
    after = machine.rolled_back(record, verdict.error_class, verdict.code, verdict.reason, now_s=NOW)
    assert (after.phase, after.active, after.previous) == (Phase.ROLLED_BACK, ref("A", "a"), None)
    assert [q.sha256 for q in after.quarantine] == ["b" * 64]


def test_crashes_outside_the_window_are_forgotten() -> None:
    record = serving("b", "B", Phase.PROBATION)
    for at in (NOW, NOW + 400, NOW + 800):
        record = trial.crashed(record, now_s=at, window_s=300)
    assert record.crashes_s == [NOW + 800]


@pytest.mark.parametrize(("serves", "golden_ok"), [(False, True), (True, False), (False, False)])
def test_missing_evidence_never_commits(serves: bool, golden_ok: bool) -> None:
    record = serving(phase=Phase.PROBATION)
    seen = trial.Facts(serving=serves, golden_ok=golden_ok)
    assert trial.judge(record, seen, LIMITS, now_s=NOW + 1_000) == trial.KeepWatching()
    # nor may it stay on trial for ever: its wish gives it `verify_s`
    ended = trial.judge(record, seen, LIMITS, now_s=NOW + 1_800 + trial.UNPROVEN_S)
    assert isinstance(ended, trial.RollBack)
    assert ended.code == "trial.unproven"


def test_a_loop_of_restarts_ends() -> None:
    record = msgspec.structs.replace(serving(phase=Phase.GOLDEN), wanted=wanted("b"), steps=machine.MAX_STEPS)
    assert machine.recovered(record, now_s=NOW).phase is Phase.FAILED


@given(st.lists(st.sampled_from(list(InstallEvent)), max_size=40), st.lists(st.booleans(), max_size=40))
def test_whatever_happens_the_serving_slot_is_never_the_one_being_written(
    events: list[InstallEvent], cuts: list[bool]
) -> None:
    record = serving()
    for i, event in enumerate(events):
        if i < len(cuts) and cuts[i]:
            record = machine.recovered(record, now_s=NOW)
        if event not in machine.TRANSITIONS[record.phase].on:
            continue
        if event is InstallEvent.WANTED:
            record = machine.begun(record, wanted("b", gen=i + 3), wishes.idle_slot(record), now_s=NOW)
        elif event is InstallEvent.SWITCHED:
            record = machine.switched(record, ref(record.installing, "b"), now_s=NOW)
        elif event is InstallEvent.DROPPED:
            record = machine.dropped(record, now_s=NOW)
        elif event is InstallEvent.WENT_BACK:
            record = machine.rolled_back(record, ErrorClass.CRASH, "c", "r", now_s=NOW)
        elif event is InstallEvent.FAULT:
            record = machine.failed(record, ErrorClass.LOAD, "c", "r")
        elif event in (InstallEvent.KEPT_PROVEN, InstallEvent.KEPT_UNPROVEN):
            if record.phase in machine.INSTALLING:
                record = machine.withdrawn(record, now_s=NOW)
        else:
            record = machine.advanced(record, event, now_s=NOW)
        if record.installing and record.active is not None:
            assert record.installing != record.active.slot
        if record.previous is not None and record.active is not None:
            assert record.previous.slot != record.active.slot


def on_probation(previous_proven: bool = True, **changes: object) -> ModelRecord:
    """Return version b on probation in slot B, with version a to go back to."""
    previous = msgspec.structs.replace(ref("A", "a"), proven=previous_proven)
    record = ModelRecord(
        model="digits", phase=Phase.PROBATION, active=ref("B", "b"), previous=previous, wanted=wanted("b"), gen=2
    )
    seen = Tally(sha256="b" * 64, since_s=NOW)
    before = Tally(sha256="a" * 64, n=300)
    record = msgspec.structs.replace(record, served=wanted("b"), seen=seen, before=before)
    return msgspec.structs.replace(record, **changes)


def test_a_third_version_waits_for_the_trial_rather_than_overwrite_the_proven_one() -> None:
    record = on_probation()
    assert wishes.decide(record, wanted("c", gen=3), now_s=NOW, held=False) == wishes.Wait(wanted("c", gen=3))
    # healthy: proven sooner, then there is room
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 9, replaced=True) == trial.KeepWatching()
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 10, replaced=False) == trial.KeepWatching()
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 10, replaced=True) == trial.Commit()
    record = machine.proven(record, now_s=NOW + 10)
    assert record.phase is Phase.COMMITTED
    assert wishes.decide(record, wanted("c", gen=3), now_s=NOW, held=False) == wishes.Begin(wanted("c", gen=3), "A")


def test_back_to_the_proven_version_needs_no_waiting_and_keeps_its_proof() -> None:
    decision = wishes.decide(on_probation(), wanted("a", gen=3), now_s=NOW, held=False)
    assert decision == wishes.Begin(wanted("a", gen=3), "A")
    record = machine.begun(on_probation(), decision.wanted, decision.slot, now_s=NOW)
    assert record.previous is not None
    # a newer wish in the middle of it must not overwrite it either
    assert isinstance(wishes.decide(record, wanted("c", gen=4), now_s=NOW, held=False), wishes.Wait)
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
    assert isinstance(wishes.decide(record, wanted("c", gen=4), now_s=NOW, held=False), wishes.Begin)


def test_first_versions_of_a_model_do_not_wait_for_each_other() -> None:
    record = on_probation(previous_proven=False)
    assert isinstance(wishes.decide(record, wanted("c", gen=3), now_s=NOW, held=False), wishes.Begin)
    first = msgspec.structs.replace(record, previous=None)
    assert isinstance(wishes.decide(first, wanted("c", gen=3), now_s=NOW, held=False), wishes.Begin)


def test_a_crash_delays_the_early_proof_and_the_wait_is_bounded() -> None:
    record = trial.crashed(on_probation(), now_s=NOW, window_s=300)
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 30, replaced=True) == trial.KeepWatching()
    at = NOW + wanted("b").verify_s
    assert trial.judge(record, SILENT, LIMITS, now_s=at - 1, replaced=True) == trial.KeepWatching()
    verdict = trial.judge(record, SILENT, LIMITS, now_s=at, replaced=True)
    assert isinstance(verdict, trial.RollBack)
    assert (verdict.error_class, verdict.code) == (ErrorClass.DEADLINE, "trial.unproven")
    after = machine.rolled_back(record, verdict.error_class, verdict.code, verdict.reason, now_s=at)
    assert after.active is not None
    assert after.active.sha256 == "a" * 64
    assert isinstance(wishes.decide(after, wanted("c", gen=3), now_s=at, held=False), wishes.Begin)


def test_what_serves_is_judged_on_when_its_successor_failed() -> None:
    record = msgspec.structs.replace(on_probation(previous_proven=False), phase=Phase.FAILED, previous=None)
    assert machine.is_on_trial(record)
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 60) == trial.Commit()
    after = machine.proven(record, now_s=NOW + 60)
    assert (after.phase, machine.is_proven(after)) == (Phase.FAILED, True)
    assert not machine.is_on_trial(after)


def test_a_record_of_an_older_agent_counts_as_proven_when_it_was_committed() -> None:
    assert machine.is_proven(serving(phase=Phase.COMMITTED))
    assert not machine.is_proven(serving(phase=Phase.PROBATION))


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
        decision = wishes.decide(record, wanted(digest, gen=i + 2, attempt=i + 1), now_s=now_s, held=False)
        if isinstance(decision, wishes.Wait):
            record = machine.proven(record, now_s=now_s)
        elif isinstance(decision, wishes.Follow):
            record = machine.followed(record, decision.wanted, now_s=now_s)
            assert machine.followed(record, decision.wanted, now_s=now_s) is record
        elif isinstance(decision, wishes.Begin):
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
    busy = machine.begun(before, wanted("c", gen=9), wishes.idle_slot(before), now_s=NOW + 50)
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
    assert isinstance(wishes.decide(record, again, now_s=NOW, held=False), wishes.Withdraw)
    # what is switched is not held any more
    assert isinstance(wishes.decide(record, again, now_s=NOW, held=True), wishes.Withdraw)
    record = machine.withdrawn(record, now_s=NOW)
    assert wishes.decide(record, again, now_s=NOW, held=True) == wishes.Follow(again)
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
    decision = wishes.decide(record, wish, now_s=NOW, held=held)
    assert isinstance(decision, wishes.Withdraw)
    assert decision.code == code


def test_a_newer_wish_for_what_is_being_installed_is_only_noted() -> None:
    record = machine.begun(serving(), wanted("c", gen=9), "B", now_s=NOW)
    newer = wanted("c", gen=10, attempt=2)
    assert wishes.decide(record, newer, now_s=NOW, held=False) == wishes.Follow(newer)
    after = machine.followed(record, newer, now_s=NOW + 5)
    assert (after.phase, after.gen, after.wanted) == (Phase.DOWNLOADING, 10, newer)
    assert after.phase_since_s == record.phase_since_s
    assert machine.followed(after, newer, now_s=NOW + 9) is after


# ---- after a rollback


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
    decision = wishes.decide(record, wanted("b", gen=gen, attempt=attempt), now_s=NOW, held=False)
    assert isinstance(decision, wishes.Stay if blocked else wishes.Begin)


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


def test_what_a_way_back_leaves_behind_is_no_way_back() -> None:
    record = machine.begun(on_probation(), wanted("a", gen=3), "A", now_s=NOW)
    record = msgspec.structs.replace(record, phase=Phase.SWITCHING)
    record = machine.switched(record, ref("A", "a"), now_s=NOW)
    assert record.previous is None
    assert (record.seen.n, record.before) == (300, Tally())
    # nothing to prove but that it serves again
    assert trial.judge(record, SILENT, LIMITS, now_s=NOW + 2) == trial.KeepWatching()
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 1) == trial.KeepWatching()
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 2) == trial.Commit()
    loud = trial.crashed(record, now_s=NOW, window_s=300)
    assert trial.judge(loud, GOOD, LIMITS, now_s=NOW + 2) == trial.KeepWatching()


def test_both_versions_proven_stay_each_others_way_back() -> None:
    active = msgspec.structs.replace(ref("B", "b"), proven=True)
    record = msgspec.structs.replace(on_probation(), phase=Phase.COMMITTED, active=active)
    record = machine.begun(record, wanted("a", gen=3), "A", now_s=NOW)
    record = machine.switched(msgspec.structs.replace(record, phase=Phase.SWITCHING), ref("A", "a"), now_s=NOW)
    assert record.previous == active


# ---- bounded attempts, removal, modes


def test_a_version_that_never_gets_through_its_trial_is_quarantined_in_the_end() -> None:
    record, wish = serving(), wanted("b")
    for attempt in range(machine.MAX_BAD_TRIALS):
        assert isinstance(wishes.decide(record, wish, now_s=NOW, held=False), wishes.Begin), attempt
        record = machine.begun(record, wish, "B", now_s=NOW)
        record = msgspec.structs.replace(record, phase=Phase.GOLDEN)
        record = machine.failed(record, ErrorClass.MEMORY, "trial.memory", "out of memory")
    assert isinstance(wishes.decide(record, wish, now_s=NOW, held=False), wishes.Stay)
    # another attempt counts anew
    again = wanted("b", attempt=2)
    assert machine.begun(record, again, "B", now_s=NOW).bad_trials == 0
    # faults before its trial do not count
    record = machine.failed(machine.begun(serving(), wish, "B", now_s=NOW), ErrorClass.NETWORK, "c", "r")
    assert record.bad_trials == 0


def test_more_memory_than_declared_is_a_property_of_the_bundle() -> None:
    record = msgspec.structs.replace(machine.begun(serving(), wanted("b"), "B", now_s=NOW), phase=Phase.GOLDEN)
    record = machine.failed(record, ErrorClass.MEMORY, machine.OVER_MEMORY_CODE, "r")
    assert wishes.quarantined(record, wanted("b")) is not None


@pytest.mark.parametrize("phase", sorted(Phase))
@pytest.mark.parametrize(("is_wanted", "running"), [(False, False), (True, False), (False, True)])
def test_slots_go_only_when_what_follows_is_safe(phase: Phase, is_wanted: bool, running: bool) -> None:
    gone = machine.dropped(serving(), now_s=NOW)
    other = serving("c", phase=phase)
    is_calm = phase not in machine.INSTALLING and phase is not Phase.PROBATION
    allowed = machine.may_purge(gone, [other], wanted=is_wanted, running=running)
    assert allowed == (is_calm and not is_wanted and not running)
    assert not machine.may_purge(serving(), [], wanted=False, running=False)


@pytest.mark.parametrize(
    ("record", "mode"),
    [
        (ModelRecord(model="digits"), "none"),
        (machine.begun(ModelRecord(model="digits"), wanted("a"), "A", now_s=NOW), "none"),
        (serving(), "normal"),
        (on_probation(), "trial"),
        (msgspec.structs.replace(serving(), crashes_s=[NOW] * 3), "degraded"),
        (msgspec.structs.replace(serving(), crashes_s=[NOW - 301] * 3), "normal"),
        (msgspec.structs.replace(serving(), active=None), "safe"),
        (machine.begun(msgspec.structs.replace(serving(), active=None), wanted("a"), "A", now_s=NOW), "safe"),
    ],
)
def test_how_a_model_does_in_one_word(record: ModelRecord, mode: str) -> None:
    assert machine.mode(record, crash_limit=3, crash_window_s=300, now_s=NOW) == mode


EVENTS = st.sampled_from(["ok", "ok", "ok", "fault", "moment", "cut", "cut and clock", "withdrawn"])


@given(st.lists(EVENTS, max_size=60), st.booleans())
def test_cuts_anywhere_end_in_an_old_or_a_new_version_and_never_in_neither(fates: list[str], had_one: bool) -> None:
    """A reboot in any phase goes on, or back, by the table: what served before serves until the switch, and the steps are bounded."""
    way = {
        Phase.DOWNLOADING: InstallEvent.FETCHED,
        Phase.VERIFYING: InstallEvent.VERIFIED,
        Phase.PREFLIGHT: InstallEvent.FITS,
        Phase.GOLDEN: InstallEvent.GOLDEN_OK,
        Phase.WARMING: InstallEvent.READY,
    }
    before = machine.proven(serving(), now_s=NOW) if had_one else ModelRecord(model="digits")
    record = machine.begun(before, wanted("b", gen=3), wishes.idle_slot(before), now_s=NOW)
    for i, fate in enumerate(fates):
        now_s = NOW + i
        if record.phase not in machine.INSTALLING:
            break
        if fate == "ok" and record.phase is Phase.SWITCHING:
            record = machine.switched(record, ref(record.installing, "b"), now_s=now_s)
        elif fate == "ok":
            record = machine.advanced(record, way[record.phase], now_s=now_s)
        elif fate in ("fault", "moment"):
            error = ErrorClass.GOLDEN if fate == "fault" else ErrorClass.DISK
            record = machine.failed(record, error, "c", "r")
        elif fate == "withdrawn":
            record = machine.withdrawn(record, now_s=now_s)
        else:
            record = machine.recovered(record, now_s=now_s if fate == "cut" else 0)
            assert machine.TRANSITIONS[record.phase].recovery is record.phase
        assert record.steps <= machine.MAX_STEPS
        deadline = machine.phase_deadline_s(record)
        assert (deadline is not None) == (record.phase in machine.INSTALLING)
        new = record.phase in (Phase.PROBATION, Phase.COMMITTED) and record.active != before.active
        assert record.active == (ref("B" if had_one else "A", "b") if new else before.active)
        assert record.previous == (before.active if new else before.previous)
    assert machine.recovered(machine.recovered(record, now_s=NOW), now_s=NOW) == machine.recovered(record, now_s=NOW)
