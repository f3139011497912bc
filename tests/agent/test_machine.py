"""The install machine: its table and its decisions, without any I/O."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.install import machine
from edgefleet_agent.install.machine import InstallEvent, Limits, TrialFacts
from edgefleet_agent.install.records import ModelRecord, SlotRef, Wanted
from edgefleet_protocol.messages import ErrorClass, Phase

NOW = 1_764_072_000
LIMITS = Limits(
    crash_limit=3,
    crash_window_s=300,
    probation_s=60,
    probation_min_s=2,
    probation_inferences=500,
    replace_s=10,
    nonfinite_ratio=0.001,
    error_ratio=0.01,
    error_min_n=200,
)
GOOD = TrialFacts(serving=True, golden_ok=True, n=0, errors=0, nonfinite=0)


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
    return ModelRecord(model="digits", phase=phase, active=ref(slot, digest), wanted=wanted(digest))


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
    decision = machine.decide(record, wanted("b"), now_s=NOW, held=False)
    assert decision == machine.Begin(wanted("b"), "B")
    record = machine.begun(record, decision, now_s=NOW)
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
    assert machine.judge(record, GOOD, LIMITS, now_s=NOW + 59) == machine.KeepWatching()
    assert machine.judge(record, GOOD, LIMITS, now_s=NOW + 60) == machine.Commit()
    assert machine.advanced(record, InstallEvent.SOAKED, now_s=NOW).phase is Phase.COMMITTED


@pytest.mark.parametrize("phase", sorted(machine.INSTALLING))
def test_a_fault_before_the_switch_leaves_what_serves(phase: Phase) -> None:
    record = msgspec.structs.replace(serving(phase=phase), wanted=wanted("b"), installing="B")
    after = machine.failed(record, ErrorClass.GOLDEN, "trial.golden", "differs")
    assert (after.phase, after.active, after.installing) == (Phase.FAILED, ref("A", "a"), "")
    assert machine.quarantined(after, wanted("b")) is not None


def test_a_failed_digest_is_tried_again_only_for_a_new_gen_or_attempt() -> None:
    record = machine.failed(
        msgspec.structs.replace(serving(phase=Phase.GOLDEN), wanted=wanted("b", gen=5), gen=5),
        ErrorClass.CRASH,
        "c",
        "r",
    )
    assert isinstance(machine.decide(record, wanted("b", gen=5), now_s=NOW, held=False), machine.Stay)
    assert isinstance(machine.decide(record, wanted("b", gen=5, attempt=2), now_s=NOW, held=False), machine.Begin)
    assert isinstance(machine.decide(record, wanted("b", gen=6), now_s=NOW, held=False), machine.Begin)


@pytest.mark.parametrize("error_class", sorted(machine.TRANSIENT))
def test_a_fault_of_the_moment_is_not_held_against_the_bundle(error_class: ErrorClass) -> None:
    record = msgspec.structs.replace(serving(phase=Phase.DOWNLOADING), wanted=wanted("b"))
    assert machine.failed(record, error_class, "c", "r").quarantine == []


def test_held_and_not_yet_wishes_wait() -> None:
    assert machine.decide(serving(), wanted("b"), now_s=NOW, held=True) == machine.Stay("held by the server")
    later = wanted("b", not_before_s=NOW + 5)
    assert machine.decide(serving(), later, now_s=NOW, held=False) == machine.Stay("not yet")
    assert isinstance(machine.decide(serving(), later, now_s=NOW + 5, held=False), machine.Begin)


def test_a_crash_loop_goes_back_and_names_the_version_that_crashed() -> None:
    record = msgspec.structs.replace(serving("b", "B", Phase.PROBATION), previous=ref("A", "a"), phase_since_s=NOW)
    for i in range(3):
        assert machine.judge(record, GOOD, LIMITS, now_s=NOW + i) == machine.KeepWatching()
        record = machine.crashed(record, now_s=NOW + i, window_s=300)
    verdict = machine.judge(record, GOOD, LIMITS, now_s=NOW + 3)
    assert isinstance(verdict, machine.RollBack)
    after = machine.rolled_back(record, verdict.error_class, verdict.code, verdict.reason, now_s=NOW)
    assert (after.phase, after.active, after.previous) == (Phase.ROLLED_BACK, ref("A", "a"), None)
    assert [q.sha256 for q in after.quarantine] == ["b" * 64]


def test_crashes_outside_the_window_are_forgotten() -> None:
    record = serving("b", "B", Phase.PROBATION)
    for at in (NOW, NOW + 400, NOW + 800):
        record = machine.crashed(record, now_s=at, window_s=300)
    assert record.crashes_s == [NOW + 800]


@pytest.mark.parametrize(
    ("facts", "error_class"),
    [
        (TrialFacts(serving=True, golden_ok=True, n=100, errors=0, nonfinite=2), ErrorClass.NONFINITE),
        (TrialFacts(serving=True, golden_ok=True, n=300, errors=4, nonfinite=0), ErrorClass.CRASH),
    ],
)
def test_bad_answers_on_probation_go_back(facts: TrialFacts, error_class: ErrorClass) -> None:
    record = msgspec.structs.replace(serving(phase=Phase.PROBATION), phase_since_s=NOW)
    verdict = machine.judge(record, facts, LIMITS, now_s=NOW + 999)
    assert isinstance(verdict, machine.RollBack)
    assert verdict.error_class is error_class


@pytest.mark.parametrize(("serves", "golden_ok"), [(False, True), (True, False), (False, False)])
def test_missing_evidence_never_commits(serves: bool, golden_ok: bool) -> None:
    record = msgspec.structs.replace(serving(phase=Phase.PROBATION), phase_since_s=NOW)
    seen = TrialFacts(serving=serves, golden_ok=golden_ok, n=0, errors=0, nonfinite=0)
    assert machine.judge(record, seen, LIMITS, now_s=NOW + 10_000) == machine.KeepWatching()


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
            record = machine.begun(record, machine.Begin(wanted("b", gen=i + 3), machine.idle_slot(record)), now_s=NOW)
        elif event is InstallEvent.SWITCHED:
            record = machine.switched(record, ref(record.installing, "b"), now_s=NOW)
        elif event is InstallEvent.DROPPED:
            record = machine.dropped(record, now_s=NOW)
        elif event is InstallEvent.FAULT and record.phase in (Phase.PROBATION, Phase.COMMITTED):
            record = machine.rolled_back(record, ErrorClass.CRASH, "c", "r", now_s=NOW)
        elif event is InstallEvent.FAULT:
            record = machine.failed(record, ErrorClass.LOAD, "c", "r")
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
    return msgspec.structs.replace(record, phase_since_s=NOW, **changes)


def test_a_third_version_waits_for_the_trial_rather_than_overwrite_the_proven_one() -> None:
    record = on_probation()
    assert machine.decide(record, wanted("c", gen=3), now_s=NOW, held=False) == machine.Wait(wanted("c", gen=3))
    # healthy: proven sooner, then there is room
    assert machine.judge(record, GOOD, LIMITS, now_s=NOW + 9, replaced=True) == machine.KeepWatching()
    assert machine.judge(record, GOOD, LIMITS, now_s=NOW + 10, replaced=False) == machine.KeepWatching()
    assert machine.judge(record, GOOD, LIMITS, now_s=NOW + 10, replaced=True) == machine.Commit()
    record = machine.proven(record, now_s=NOW + 10)
    assert record.phase is Phase.COMMITTED
    assert machine.decide(record, wanted("c", gen=3), now_s=NOW, held=False) == machine.Begin(wanted("c", gen=3), "A")


def test_back_to_the_proven_version_needs_no_waiting_and_keeps_its_proof() -> None:
    decision = machine.decide(on_probation(), wanted("a", gen=3), now_s=NOW, held=False)
    assert decision == machine.Begin(wanted("a", gen=3), "A")
    record = machine.begun(on_probation(), decision, now_s=NOW)
    assert record.previous is not None
    # a newer wish in the middle of it must not overwrite it either
    assert isinstance(machine.decide(record, wanted("c", gen=4), now_s=NOW, held=False), machine.Wait)
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
    assert isinstance(machine.decide(record, wanted("c", gen=4), now_s=NOW, held=False), machine.Begin)


def test_first_versions_of_a_model_do_not_wait_for_each_other() -> None:
    record = on_probation(previous_proven=False)
    assert isinstance(machine.decide(record, wanted("c", gen=3), now_s=NOW, held=False), machine.Begin)
    first = msgspec.structs.replace(record, previous=None)
    assert isinstance(machine.decide(first, wanted("c", gen=3), now_s=NOW, held=False), machine.Begin)


def test_a_crash_delays_the_early_proof_and_the_wait_is_bounded() -> None:
    record = machine.crashed(on_probation(), now_s=NOW, window_s=300)
    assert machine.judge(record, GOOD, LIMITS, now_s=NOW + 30, replaced=True) == machine.KeepWatching()
    silent = TrialFacts(serving=False, golden_ok=False, n=0, errors=0, nonfinite=0)
    at = NOW + wanted("b").verify_s
    assert machine.judge(record, silent, LIMITS, now_s=at - 1, replaced=True) == machine.KeepWatching()
    verdict = machine.judge(record, silent, LIMITS, now_s=at, replaced=True)
    assert isinstance(verdict, machine.RollBack)
    assert (verdict.error_class, verdict.code) == (ErrorClass.DEADLINE, "trial.unproven")
    after = machine.rolled_back(record, verdict.error_class, verdict.code, verdict.reason, now_s=at)
    assert after.active is not None
    assert after.active.sha256 == "a" * 64
    assert isinstance(machine.decide(after, wanted("c", gen=3), now_s=at, held=False), machine.Begin)


def test_what_serves_is_judged_on_when_its_successor_failed() -> None:
    record = msgspec.structs.replace(on_probation(previous_proven=False), phase=Phase.FAILED, previous=None)
    assert machine.is_on_trial(record)
    assert machine.judge(record, GOOD, LIMITS, now_s=NOW + 60) == machine.Commit()
    after = machine.proven(record, now_s=NOW + 60)
    assert (after.phase, machine.is_proven(after)) == (Phase.FAILED, True)
    assert not machine.is_on_trial(after)


def test_a_record_of_an_older_agent_counts_as_proven_when_it_was_committed() -> None:
    assert machine.is_proven(serving(phase=Phase.COMMITTED))
    assert not machine.is_proven(serving(phase=Phase.PROBATION))


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["young", "proven", "bad before", "bad after", "cut"])),
        max_size=12,
    )
)
def test_whatever_is_wished_a_proven_version_stays_on_the_device(wishes: list[tuple[str, str]]) -> None:
    record, slots = ModelRecord(model="digits"), {"A": "", "B": ""}
    had_proven = False
    for i, (digest, fate) in enumerate(wishes):
        now_s = NOW + i * 10_000
        record = machine.recovered(record, now_s=now_s) if fate == "cut" else record
        decision = machine.decide(record, wanted(digest, gen=i + 2, attempt=i + 1), now_s=now_s, held=False)
        if isinstance(decision, machine.Wait):
            record = machine.proven(record, now_s=now_s)
        elif isinstance(decision, machine.Begin):
            record = machine.begun(record, decision, now_s=now_s)
            slots[decision.slot] = digest
            if fate == "bad before":
                record = machine.failed(record, ErrorClass.GOLDEN, "c", "r")
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
            if fate == "proven":
                record = machine.proven(record, now_s=now_s)
            if fate == "bad after":
                assert record.active is not None
                had_proven = had_proven and not record.active.proven  # it was the proven one that failed now
                record = machine.rolled_back(record, ErrorClass.CRASH, "c", "r", now_s=now_s)
        for known in (record.active, record.previous):
            # what the record names is what lies there
            assert known is None or slots[known.slot] == known.sha256[0]
        is_there = machine.is_proven(record) or (record.previous is not None and record.previous.proven)
        assert is_there or not had_proven
        had_proven = had_proven or is_there
