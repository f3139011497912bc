"""The rules that a new version is held to: each with its figures, the edges, and what must raise no alarm."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.install import desired_diff, machine
from edgefleet_agent.install.probation import trial
from edgefleet_agent.install.records import ModelRecord, SlotInfo, Tally
from edgefleet_agent.reporting.reports import Reports
from edgefleet_agent.worker.control.protocol import Golden, Stats
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_protocol.sketch import LatencySketch
from tests.agent.records import GOOD, LIMITS, NOW, SILENT, on_probation, ref, serving, wanted
from tests.support.servers import HandClock


def latencies(n: int, ms: float, outliers: int = 0) -> list[int]:
    """Return the sketch of so many answers, some of which took ten seconds."""
    sketch = LatencySketch()
    for i in range(n):
        sketch.add(10.0 if i < outliers else ms / 1000)
    return sketch.packed()


def seen(**figures: object) -> ModelRecord:
    """Return a version in the middle of its trial with these figures."""
    record = on_probation()
    return msgspec.structs.replace(record, seen=msgspec.structs.replace(record.seen, **figures))


def verdict(record: ModelRecord, age_s: int = 1) -> str:
    """Return the code of the rule that is hit, "" when none is."""
    found = trial.judge(record, GOOD, LIMITS, now_s=NOW + age_s)
    return found.code if isinstance(found, trial.RollBack) else ""


@pytest.mark.parametrize(
    ("figures", "code"),
    [
        # one answer shows no rate, whatever share it is
        ({"n": 1, "nonfinite": 1}, ""),
        ({"n": 20, "nonfinite": 1}, ""),
        ({"n": 999, "nonfinite": 1}, ""),
        # two do, however few answers there are
        ({"n": 2, "nonfinite": 2}, "trial.nonfinite"),
        ({"n": 20, "nonfinite": 2}, "trial.nonfinite"),
        ({"n": 1_999, "nonfinite": 2}, "trial.nonfinite"),
        # from 2,000 on the ratio alone counts, and only above it
        ({"n": 2_000, "nonfinite": 2}, ""),
        ({"n": 10_000, "nonfinite": 10}, ""),
        ({"n": 10_000, "nonfinite": 11}, "trial.nonfinite"),
        ({"n": 199, "errors": 199}, ""),
        ({"n": 200, "errors": 2}, ""),
        ({"n": 200, "errors": 3}, "trial.errors"),
        # non-finite is said before errors: it tells more
        ({"n": 200, "errors": 3, "nonfinite": 3}, "trial.nonfinite"),
    ],
)
def test_bad_answers(figures: dict[str, int], code: str) -> None:
    assert verdict(seen(**figures)) == code
    # and no trial ends well with them, however long it has lasted
    ended = trial.judge(seen(**figures), GOOD, LIMITS, now_s=NOW + 10_000)
    assert isinstance(ended, trial.RollBack if code else trial.Commit)


@pytest.mark.parametrize(
    ("new", "old", "is_slow"),
    [
        (latencies(200, 30), latencies(200, 10), True),
        # too few answers of one of them
        (latencies(199, 30), latencies(200, 10), False),
        (latencies(200, 30), latencies(199, 10), False),
        (latencies(200, 30), [], False),
        ([], latencies(200, 10), False),
        # within the factor
        (latencies(200, 19), latencies(200, 10), False),
        # beyond the factor, but by less than a time slice
        (latencies(200, 0.5), latencies(200, 0.2), False),
        (latencies(200, 5.5), latencies(200, 1), False),
        (latencies(200, 7), latencies(200, 1), True),
        # a few hiccups do not reach the percentile
        (latencies(200, 10, outliers=9), latencies(200, 10), False),
        (latencies(200, 10, outliers=12), latencies(200, 10), True),
        # faster
        (latencies(400, 1), latencies(400, 50), False),
    ],
)
def test_slower_than_the_version_before(new: list[int], old: list[int], is_slow: bool) -> None:
    record = seen(n=200, latency=new)
    record = msgspec.structs.replace(record, before=Tally(sha256="a" * 64, n=200, latency=old))
    assert verdict(record) == ("trial.slow" if is_slow else "")
    if is_slow:
        found = trial.judge(record, GOOD, LIMITS, now_s=NOW)
        assert isinstance(found, trial.RollBack)
        assert found.error_class is ErrorClass.SLOW
        assert "with the previous version" in found.reason


def test_a_proven_version_is_held_to_crashes_only() -> None:
    record = seen(n=1_000, nonfinite=500, errors=500, latency=latencies(300, 900))
    assert record.active is not None
    active = msgspec.structs.replace(record.active, proven=True)
    record = msgspec.structs.replace(record, phase=Phase.COMMITTED, active=active)
    assert verdict(record) == ""


def came_back(**figures: object) -> ModelRecord:
    """Return version a, proven here before with these figures, gone back to from version b, which was proven as well."""
    record = on_probation()
    assert record.active is not None
    active = msgspec.structs.replace(record.active, proven=True)
    before = msgspec.structs.replace(record.before, **figures)
    seen = msgspec.structs.replace(record.seen, n=1_000, latency=latencies(300, 10))
    record = msgspec.structs.replace(record, phase=Phase.COMMITTED, active=active, before=before, seen=seen)
    record = machine.begun(record, wanted("a", gen=3), "A", now_s=NOW)
    record = machine.switched(msgspec.structs.replace(record, phase=Phase.SWITCHING), ref("A", "a"), now_s=NOW)
    assert (record.phase, record.previous, record.seen.n) == (Phase.PROBATION, active, before.n)
    return record


@pytest.mark.parametrize(
    "figures",
    [
        # why its successor was made: it is slower
        {"n": 1_000, "latency": latencies(300, 90)},
        # of a long life in which nobody counted: a camera that failed, a runtime that was short of memory for an hour
        {"n": 1_000, "nonfinite": 50},
        {"n": 1_000, "errors": 50},
    ],
)
def test_a_way_back_is_not_closed_by_what_the_version_was_proven_with(figures: dict[str, object]) -> None:
    record = came_back(**figures)
    assert verdict(record) == ""
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 2) == trial.Commit()
    # a version that does not even live does not become the answer
    record = msgspec.structs.replace(record, crashes_s=[NOW, NOW, NOW])
    assert verdict(record) == "trial.crash_loop"


def test_without_a_slot_that_is_whole_nothing_is_on_trial() -> None:
    """Both slots were damaged while the device was off, and what is wanted is held."""
    record = machine.recovered(msgspec.structs.replace(on_probation(), active=None, previous=None), now_s=NOW)
    assert not machine.is_on_trial(record)
    assert trial.judge(record, SILENT, LIMITS, now_s=NOW + 10_000) == trial.KeepWatching()
    assert isinstance(desired_diff.decide(record, wanted("b"), now_s=NOW, held=False), desired_diff.Begin)


@pytest.mark.parametrize(("starts", "crashes", "code"), [(3, 0, ""), (4, 0, "trial.restarts"), (5, 2, "")])
def test_starts_count_over_kills_of_agentd(starts: int, crashes: int, code: str) -> None:
    record = msgspec.structs.replace(on_probation(), starts=starts, crashes_s=[NOW] * crashes)
    assert verdict(record) == code


def test_enough_answers_end_a_trial_early_but_not_at_once() -> None:
    record = seen(n=500)
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 1) == trial.KeepWatching()
    assert trial.judge(record, GOOD, LIMITS, now_s=NOW + 2) == trial.Commit()


def test_how_far_a_probation_is_goes_by_the_rule_that_ends_it() -> None:
    assert trial.progress(seen(n=132), LIMITS) == {"answers": 132, "enough": 500, "within_s": 60}
    assert trial.progress(serving(), LIMITS) is None
    proven = msgspec.structs.replace(ref("B", "b"), proven=True)
    assert trial.progress(on_probation(active=proven), LIMITS) is None, (
        "a proven version that came back does not need them"
    )


def test_answers_alone_are_news_once_a_minute() -> None:
    clock, answers = HandClock(), [0]
    told = {"digits": {"answers": 0, "enough": 500, "within_s": 60}}
    runner: Any = SimpleNamespace(
        records={}, probation=lambda: {"digits": {**told["digits"], "answers": answers[0]}} if answers else {}
    )
    unused: Any = None
    reports = Reports(DeviceId("d-1"), "b", clock, unused, lambda: None)
    assert reports.state(runner, unused, {}).facts == {"probation": told}
    answers[0] = 7
    assert not reports.has_probation_news(runner, 60.0)
    clock.turn(seconds=60)
    assert reports.has_probation_news(runner, 60.0)
    assert reports.state(runner, unused, {}, count=False).facts["probation"]["digits"]["answers"] == 7
    assert reports.has_probation_news(runner, 60.0), "a look that is not sent tells nobody"
    reports.state(runner, unused, {})
    clock.turn(seconds=60)
    assert not reports.has_probation_news(runner, 60.0), "nothing has changed"
    answers.clear()
    assert reports.state(runner, unused, {}).facts == {}


def test_figures_go_to_the_version_they_are_of() -> None:
    record = on_probation()
    stats = Stats(n=10, errors=1, nonfinite=2, latency=latencies(9, 3))
    counted = trial.counted(record, "b" * 64, stats)
    assert (counted.seen.n, counted.seen.errors, counted.seen.nonfinite) == (10, 1, 2)
    assert counted.before == record.before
    # the last words of a worker that drains
    counted = trial.counted(record, "a" * 64, stats)
    assert (counted.before.n, counted.seen) == (310, record.seen)
    assert trial.counted(record, "c" * 64, stats) is record
    assert trial.counted(ModelRecord(model="digits"), "a" * 64, stats) == ModelRecord(model="digits")


def test_golden_checks_are_counted() -> None:
    record = trial.checked(trial.checked(on_probation(), ok=True), ok=False)
    assert (record.seen.golden_ok, record.seen.golden_bad) == (1, 1)


def test_a_bad_sketch_costs_only_itself() -> None:
    record = trial.counted(on_probation(), "b" * 64, Stats(n=3, latency=latencies(3, 1)))
    record = trial.counted(record, "b" * 64, Stats(n=2, latency=[5, -1]))
    assert (record.seen.n, LatencySketch.unpacked(record.seen.latency).n) == (5, 3)


@given(st.lists(st.tuples(st.integers(0, 9_000), st.sampled_from([1.0, 10.0])), max_size=12))
def test_latencies_fade_but_keep_their_shape(batches: list[tuple[int, float]]) -> None:
    record = ModelRecord(model="digits", active=ref("B", "b"))
    for n, ms in batches:
        sketch = LatencySketch({LatencySketch.unpacked(latencies(1, ms)).packed()[0]: n}) if n else LatencySketch()
        record = trial.counted(record, "b" * 64, Stats(n=n, latency=sketch.packed()))
        kept = LatencySketch.unpacked(record.seen.latency)
        assert kept.n <= trial.LATENCY_MEMORY_N
        assert len(record.seen.latency) <= 1_402
    assert record.seen.n == sum(n for n, _ in batches)


@given(
    n=st.integers(0, 5_000),
    bad=st.integers(0, 5_000),
    errors=st.integers(0, 5_000),
    more=st.integers(0, 50),
    age_s=st.integers(0, 5_000),
)
def test_more_bad_answers_never_help(n: int, bad: int, errors: int, more: int, age_s: int) -> None:
    order = {trial.Commit: 0, trial.KeepWatching: 0, trial.RollBack: 1}
    less = trial.judge(seen(n=n, nonfinite=bad, errors=errors), GOOD, LIMITS, now_s=NOW + age_s)
    worse = trial.judge(seen(n=n, nonfinite=bad + more, errors=errors + more), GOOD, LIMITS, now_s=NOW + age_s)
    assert order[type(less)] <= order[type(worse)]


# ---- what a bundle declares, and what memory does


INFO = SlotInfo(
    model="digits",
    version="b",
    profile="p",
    target="t",
    sha256="b" * 64,
    length=9,
    runtime="ort",
    latency_p95_ms=10.0,
    peak_memory_bytes=100 << 20,
)


@pytest.mark.parametrize(
    ("p50", "p95", "peak_mib", "code"),
    [
        (9, 20, 100, ""),
        # one hiccup among eight vectors is no property of the model
        (9, 90, 100, ""),
        (12, 19, 100, ""),
        (12, 21, 100, "trial.slow_golden"),
        (12, 21, 101, "trial.over_declared"),
        (9, 10, 101, "trial.over_declared"),
    ],
)
def test_the_golden_test_holds_a_bundle_to_what_it_declares(p50: float, p95: float, peak_mib: int, code: str) -> None:
    golden = Golden(ok=True, checked=8, latency_p50_ms=p50, latency_p95_ms=p95, peak_rss_bytes=peak_mib << 20)
    found = trial.over_declared(golden, INFO, LIMITS)
    assert (found.code if found is not None else "") == code
    silent = msgspec.structs.replace(INFO, latency_p95_ms=0.0, peak_memory_bytes=0)
    assert trial.over_declared(golden, silent, LIMITS) is None


def test_a_leak_ends_a_trial_and_only_a_trial() -> None:
    leaking = trial.Facts(serving=True, golden_ok=True, leak="rose by 9 MiB")
    found = trial.judge(on_probation(), leaking, LIMITS, now_s=NOW + 10_000)
    assert isinstance(found, trial.RollBack)
    assert (found.error_class, found.code) == (ErrorClass.MEMORY, "trial.memory")
    proven = machine.proven(on_probation(), now_s=NOW)
    assert trial.judge(proven, leaking, LIMITS, now_s=NOW) == trial.KeepWatching()


def test_whatever_sent_a_version_back_it_is_quarantined() -> None:
    """Of the class MEMORY, which before the switch speaks of the moment only: without this it would be begun again at once."""
    record = machine.rolled_back(on_probation(), ErrorClass.MEMORY, "trial.memory", "r", now_s=NOW)
    assert [entry.sha256 for entry in record.quarantine] == ["b" * 64]


@pytest.mark.parametrize(("starts", "previous", "code"), [(6, True, ""), (7, True, "serving.restarts"), (7, False, "")])
def test_a_proven_version_during_whose_starts_the_device_dies(starts: int, previous: bool, code: str) -> None:
    record = machine.proven(on_probation(), now_s=NOW)
    record = msgspec.structs.replace(record, starts=starts, previous=record.previous if previous else None)
    assert verdict(record) == code
    assert trial.settled(record).starts == 0


def test_a_stop_in_order_speaks_against_nobody() -> None:
    young = msgspec.structs.replace(on_probation(), starts=2)
    assert trial.left_in_order(young).starts == 1
    assert trial.settled(young) is young
    assert trial.left_in_order(machine.proven(young, now_s=NOW)).starts == 0


# ---- time, crashes and what is not known


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
    assert isinstance(desired_diff.decide(after, wanted("c", gen=3), now_s=at, held=False), desired_diff.Begin)
