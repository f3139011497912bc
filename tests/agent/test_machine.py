"""The install machine: its table, and the records after each event, without any I/O."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.install import desired_diff, machine
from edgefleet_agent.install.machine import InstallEvent
from edgefleet_agent.install.probation import trial
from edgefleet_agent.install.records import ModelRecord, Refusal, Tally, Wanted
from edgefleet_agent.verifier.errors import TargetUnknownError
from edgefleet_protocol.messages import OVER_MEMORY_CODE, TRANSIENT, ErrorClass, Phase
from tests.agent.records import GOOD, LIMITS, NOW, SILENT, on_probation, ref, serving, wanted


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
    decision = desired_diff.decide(record, wanted("b"), now_s=NOW, held=False)
    assert decision == desired_diff.Begin(wanted("b"), "B")
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
    assert desired_diff.quarantined(after, wanted("b")) is not None


@pytest.mark.parametrize("error_class", sorted(TRANSIENT))
def test_a_fault_of_the_moment_is_not_held_against_the_bundle(error_class: ErrorClass) -> None:
    record = msgspec.structs.replace(serving(phase=Phase.DOWNLOADING), wanted=wanted("b"))
    assert machine.failed(record, error_class, "c", "r").quarantine == []


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
            record = machine.begun(record, wanted("b", gen=i + 3), desired_diff.idle_slot(record), now_s=NOW)
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


def test_more_memory_than_declared_is_a_property_of_the_bundle() -> None:
    record = msgspec.structs.replace(machine.begun(serving(), wanted("b"), "B", now_s=NOW), phase=Phase.GOLDEN)
    record = machine.failed(record, ErrorClass.MEMORY, OVER_MEMORY_CODE, "r")
    assert desired_diff.quarantined(record, wanted("b")) is not None


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


@pytest.mark.parametrize(
    ("wish", "is_same"),
    [
        (wanted("b", gen=3), True),
        (wanted("b", gen=2), True),  # an older document says nothing new
        (wanted("b", gen=4), False),
        (wanted("b", gen=3, attempt=2), False),
        (wanted("c", gen=3), False),
        (None, False),
    ],
)
def test_a_wish_is_the_one_tried_last_unless_it_is_newer_or_another(wish: Wanted | None, is_same: bool) -> None:
    record = msgspec.structs.replace(serving(), wanted=wanted("b", gen=3), gen=3)
    assert machine.is_same_try(record, wish) == is_same
    assert not machine.is_same_try(msgspec.structs.replace(record, wanted=None), wish)


def test_trials_that_failed_are_counted_for_one_wish_and_anew_for_the_next() -> None:
    record = machine.begun(serving(), wanted("b", gen=3), "B", now_s=NOW)
    record = machine.failed(msgspec.structs.replace(record, phase=Phase.GOLDEN), ErrorClass.DISK, "c", "r")
    assert record.bad_trials == 1
    assert machine.begun(record, wanted("b", gen=3), "B", now_s=NOW).bad_trials == 1
    for other in (wanted("b", gen=4), wanted("b", gen=3, attempt=2), wanted("c", gen=3)):
        assert machine.begun(record, other, "B", now_s=NOW).bad_trials == 0


def test_the_last_step_that_an_install_may_take_is_taken() -> None:
    record = msgspec.structs.replace(serving(phase=Phase.GOLDEN), wanted=wanted("b"), steps=machine.MAX_STEPS - 1)
    after = machine.advanced(record, InstallEvent.GOLDEN_OK, now_s=NOW)
    assert (after.phase, after.steps) == (Phase.WARMING, machine.MAX_STEPS)
    assert machine.advanced(after, InstallEvent.READY, now_s=NOW).error_code == "install.loop"


AGES = [(0, True), (machine.MAX_AGE_S, True), (machine.MAX_AGE_S + 1, False), (-1, False)]


@pytest.mark.parametrize(("age_s", "is_possible"), AGES)
def test_an_install_whose_time_cannot_be_right_begins_now(age_s: int, is_possible: bool) -> None:
    record = msgspec.structs.replace(serving(phase=Phase.PREFLIGHT), wanted=wanted("b"), phase_since_s=NOW - age_s)
    assert machine.recovered(record, now_s=NOW).phase_since_s == (NOW - age_s if is_possible else NOW)
    rests = msgspec.structs.replace(serving(), phase_since_s=NOW - age_s)
    assert machine.recovered(rests, now_s=NOW).phase_since_s == NOW - age_s


@pytest.mark.parametrize(("age_s", "is_possible"), AGES)
def test_a_trial_whose_time_cannot_be_right_begins_now_and_a_proven_version_keeps_its_time(
    age_s: int, is_possible: bool
) -> None:
    seen = Tally(sha256="b" * 64, since_s=NOW - age_s, n=7)
    after = machine.recovered(on_probation(seen=seen), now_s=NOW)
    assert after.seen == (seen if is_possible else msgspec.structs.replace(seen, since_s=NOW))
    proven = machine.proven(on_probation(seen=seen), now_s=NOW)
    assert machine.recovered(proven, now_s=NOW).seen == seen


@pytest.mark.parametrize("wish", [None, wanted("c", gen=4)])
def test_what_went_back_is_held_against_the_wish_that_brought_it(wish: Wanted | None) -> None:
    brought = wanted("b", gen=3, attempt=2)
    record = on_probation(wanted=wish, served=brought, gen=4)
    after = machine.rolled_back(record, ErrorClass.CRASH, "c", "r", now_s=NOW)
    assert (after.wanted, after.gen, after.served) == (brought, 3, None)
    assert [(one.sha256, one.attempt) for one in after.quarantine] == [("b" * 64, 2)]


def test_going_back_from_nothing_holds_nothing_against_anybody() -> None:
    record = on_probation(active=None, wanted=wanted("c", gen=4), phase=Phase.FAILED)
    after = machine.rolled_back(record, ErrorClass.CRASH, "c", "r", now_s=NOW)
    assert (after.phase, after.active, after.quarantine) == (Phase.ROLLED_BACK, record.previous, [])
    assert (after.wanted, after.gen) == (wanted("c", gen=4), 4)


def test_a_digest_that_fails_again_has_one_entry_and_the_others_keep_theirs() -> None:
    record = serving()
    for digest, reason in (("b", "first"), ("c", "other"), ("b", "second")):
        record = machine.begun(record, wanted(digest, gen=3), "B", now_s=NOW)
        record = machine.failed(record, ErrorClass.GOLDEN, "c", reason)
    assert [(one.sha256[0], one.reason) for one in record.quarantine] == [("c", "other"), ("b", "second")]


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
    record = machine.begun(before, wanted("b", gen=3), desired_diff.idle_slot(before), now_s=NOW)
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


@pytest.mark.parametrize(
    ("record", "digest", "code", "goes_on"),
    [
        (serving("a"), "a", machine.TARGET_UNKNOWN_CODE, True),
        (serving("a"), "b", machine.TARGET_UNKNOWN_CODE, False),
        (serving("a"), "a", "install.target_mismatch", False),
        (serving("a", phase=Phase.PROBATION), "a", machine.TARGET_UNKNOWN_CODE, False),
        (ModelRecord(model="digits"), "a", machine.TARGET_UNKNOWN_CODE, False),
    ],
)
def test_what_serves_goes_on_when_it_was_withdrawn_and_nothing_else_does(
    record: ModelRecord, digest: str, code: str, goes_on: bool
) -> None:
    refusal = Refusal(model="digits", target="digits/1.0.0/p.bundle", sha256=digest * 64, code=code, reason="")
    assert machine.is_withdrawn(record, refusal) is goes_on


def test_the_code_of_an_unknown_target_is_the_verifiers() -> None:
    assert TargetUnknownError.code == machine.TARGET_UNKNOWN_CODE
