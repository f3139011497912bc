"""What may reopen a finished rollout, and what may not."""

import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState, ErrorClass, Phase
from edgefleet_server.rollout.effects import (
    AssignmentTransitioned,
    AssignmentUpdated,
    DecisionMade,
    Revert,
    RolloutTransitioned,
    StageRunTransitioned,
    StageRunUpdated,
)
from edgefleet_server.rollout.model import (
    Assignment,
    DeviceQuality,
    Report,
    RolloutState,
    Snapshot,
    Span,
    StageRun,
    StageState,
    Strength,
    VerdictKind,
)
from edgefleet_server.rollout.planner.completion import LOOK_AT_HUGE
from edgefleet_server.rollout.planner.document_state import HUGE
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.model import (
    WATCH,
    Bound,
    Gates,
    Metric,
    OnBreach,
    OnFail,
    QualityGate,
    QualityMetric,
)
from tests.server.rollout.planner_gaps import NEW, NOW, OLD, STRATUM, whole

GATE = QualityGate(metrics=(QualityMetric(Metric.LATENCY_P95_MS, Bound.NON_INFERIOR_REL, 0.1, OnBreach.FAIL),))
ENDED = NOW - timedelta(hours=1)


def finished(*, failed: int = 0, ratio: float = 1.0, measured: int = 60, taken_at: datetime = NOW) -> Snapshot:
    """A rollout over 60 devices that finished an hour ago; what failed, and how slow it is, was heard since."""
    spec = replace(whole(random.Random(1)).spec, gates=Gates(quality=GATE))
    devices = [DeviceId(f"d-{number:02}") for number in range(60)]
    assignments = tuple(
        Assignment(
            device=device, stage=number >= 20, stratum=STRATUM, gen=3, attempt=1, previous=OLD, error_class="crash" * (number < failed),
            state=AssignmentState.REGRESSED if number < failed else AssignmentState.HEALTHY,
            exposed_at=ENDED - timedelta(hours=4), switched_at=ENDED - timedelta(hours=3), ended_at=ENDED,
        )
        for number, device in enumerate(devices)
    )  # fmt: skip
    cells = tuple(
        StageRun(
            stage, STRATUM, StageState.PASSED, 2**64, 60, NEW.sha256, opened_at=ENDED - timedelta(hours=5), ended_at=ENDED,
            verdict=VerdictKind.ADVANCE, strength=Strength.WEAK,
        )
        for stage in range(2)
    )  # fmt: skip
    values = tuple(
        DeviceQuality(
            device, STRATUM, 0, "c", ENDED, taken_at, {Metric.LATENCY_P95_MS: Span(100.0, 100.0 * ratio, 100.0, 100.0)}
        )
        for device in devices[:measured]
    )
    return replace(
        whole(random.Random(1)),
        spec=spec,
        state=RolloutState.FINISHED,
        code="finished",
        reason="every stage passed in every stratum",
        members=(),
        cells=cells,
        assignments=assignments,
        reports={},
        measured=values,
    )


def moves(snapshot: Snapshot, now: datetime = NOW) -> list[RolloutState]:
    return [effect.after for effect in plan_tick(snapshot, now).effects if isinstance(effect, RolloutTransitioned)]


def test_a_good_release_stays_finished_and_is_looked_at_until_its_watch_is_over() -> None:
    plan = plan_tick(finished(), NOW)
    assert plan.effects == ()
    assert plan.next_at == NOW + timedelta(minutes=1)
    late = ENDED + GATE.watch
    assert plan_tick(finished(failed=30, ratio=1.5), late).effects == ()
    assert plan_tick(finished(), late).next_at is None


@pytest.mark.parametrize("bad", [{"failed": 2}, {"ratio": 1.5}], ids=["devices-regressed", "slow-values"])
def test_evidence_that_comes_late_reopens_it(bad: dict[str, float]) -> None:
    snapshot = finished(**bad)  # type: ignore[arg-type]
    assert moves(snapshot) == [RolloutState.REGRESSED, RolloutState.ROLLING_BACK]
    effects = plan_tick(snapshot, NOW).effects
    assert any(isinstance(effect, DecisionMade) for effect in effects), "with its evidence"
    told = [effect.reason for effect in effects if isinstance(effect, RolloutTransitioned)]
    assert all("after it had finished" in reason for reason in told)


@pytest.mark.parametrize("measured", [1, 10, 19])
def test_few_devices_never_reopen_it_however_slow_they_are(measured: int) -> None:
    """Each device is measured once and has one vote: that one was bad once is no reason to look at it again, nor to go back."""
    assert moves(finished(ratio=100.0, measured=measured)) == []
    assert moves(finished(ratio=100.0, measured=20)) == [RolloutState.REGRESSED, RolloutState.ROLLING_BACK]


def test_with_on_fail_pause_a_person_decides() -> None:
    snapshot = finished(ratio=1.5)
    snapshot = replace(snapshot, spec=replace(snapshot.spec, on_fail=OnFail.PAUSE))
    assert moves(snapshot) == [RolloutState.REGRESSED]


def test_while_a_person_decides_it_is_looked_at_and_says_what_is_known_by_now() -> None:
    snapshot = finished(ratio=1.5)
    snapshot = replace(snapshot, spec=replace(snapshot.spec, on_fail=OnFail.PAUSE), state=RolloutState.REGRESSED)
    plan = plan_tick(snapshot, NOW)
    assert plan.next_at == NOW + timedelta(minutes=1)
    assert not [effect for effect in plan.effects if isinstance(effect, RolloutTransitioned)], (
        "it is the person's to decide"
    )
    assert [effect.decision.code for effect in plan.effects if isinstance(effect, DecisionMade)] == ["quality_breach"]
    noted = [effect.cell for effect in plan.effects if isinstance(effect, StageRunUpdated)]
    assert [(cell.stage, cell.state, cell.code) for cell in noted] == [(1, StageState.PASSED, "quality_breach")]
    again = replace(snapshot, cells=(snapshot.cells[0], noted[0]))
    assert plan_tick(again, NOW).effects == (), "said once"
    better = plan_tick(replace(again, measured=finished().measured), NOW)
    assert any(isinstance(effect, DecisionMade) for effect in better.effects), "also when it turned back"
    late = ENDED + GATE.watch
    assert (plan_tick(snapshot, late).effects, plan_tick(snapshot, late).next_at) == ((), None)


def test_what_is_missing_or_was_let_pass_by_a_person_reopens_nothing() -> None:
    assert moves(finished(measured=0)) == [], "a wait that led nowhere is over with the end"
    known = finished(ratio=1.5, taken_at=ENDED - timedelta(minutes=5))
    cells = tuple(replace(cell, strength=Strength.OVERRIDE) for cell in known.cells)
    assert moves(replace(known, cells=cells)) == []
    assert moves(replace(finished(ratio=1.5), cells=cells)) != [], "what came after that was not known then"


def without_gate(snapshot: Snapshot, **changes: Any) -> Snapshot:
    return replace(snapshot, spec=replace(snapshot.spec, gates=Gates()), **changes)


def test_without_a_quality_gate_devices_that_fall_back_within_a_day_reopen_it() -> None:
    snapshot = without_gate(finished(failed=2))
    assert moves(snapshot) == [RolloutState.REGRESSED, RolloutState.ROLLING_BACK]
    one, *others = snapshot.assignments
    mild = (
        one.but(error_class="disk"),
        *(o.but(state=AssignmentState.HEALTHY, error_class="") for o in others),
    )
    assert moves(replace(snapshot, assignments=mild)) == [], "one of sixty is no evidence against the release"
    assert plan_tick(without_gate(finished()), NOW).next_at == NOW + timedelta(minutes=1)
    assert plan_tick(snapshot, ENDED + WATCH).effects == ()
    assert plan_tick(without_gate(finished()), ENDED + WATCH).next_at is None


def test_a_huge_rollout_is_looked_at_seldom() -> None:
    snapshot = without_gate(finished())
    like = snapshot.assignments[0]
    many = tuple(like.but(device=DeviceId(f"d-{number:05}")) for number in range(HUGE + 1))
    assert plan_tick(replace(snapshot, assignments=many), NOW).next_at == NOW + LOOK_AT_HUGE


HOME = "4" * 64
"""Digest of a later release, which was taken back."""


@pytest.mark.parametrize(
    ("said", "falls_back"),
    [
        ({"phase": Phase.COMMITTED, "active_sha256": HOME, "wanted_sha256": HOME}, False),
        ({"phase": Phase.SWITCHING, "active_sha256": HOME, "wanted_sha256": NEW.sha256}, False),
        (
            {
                "phase": Phase.FAILED,
                "error_class": ErrorClass.DISK,
                "active_sha256": HOME,
                "wanted_sha256": NEW.sha256,
            },
            False,
        ),
        ({"phase": Phase.ROLLED_BACK, "active_sha256": OLD.sha256, "wanted_sha256": NEW.sha256}, True),
        ({"phase": Phase.IDLE, "active_sha256": "", "wanted_sha256": NEW.sha256}, True),
        ({"phase": Phase.COMMITTED, "active_sha256": OLD.sha256, "wanted_sha256": NEW.sha256}, True),
    ],
    ids=["has-not-heard", "on-its-way", "its-disk-is-full", "went-back", "runs-nothing", "runs-what-was-before"],
)
def test_who_comes_back_from_a_later_release_has_not_fallen_back(said: dict[str, Any], falls_back: bool) -> None:
    snapshot = without_gate(finished())
    report = Report(reported_gen=9, gen=9, attempt=1, is_online=True, wanted_by_server=NEW.sha256, set_by="r-1", **said)
    reports = {one.device: report for one in snapshot.assignments[:2]}
    after = plan_tick(replace(snapshot, reports=reports), NOW).effects
    fell = [one.assignment.device for one in after if isinstance(one, AssignmentTransitioned)]
    assert fell == (list(reports) if falls_back else [])


# ---- only what turned, and only what it wrote itself

JET = ProfileName("jet")
FAILED = {"state": AssignmentState.REGRESSED, "error_class": "crash"}


def on(*, set_by: str = "r-1", digest: str = NEW.sha256) -> Report:
    """A device that runs what its document asks for."""
    return Report(
        reported_gen=9, gen=9, attempt=1, phase=Phase.COMMITTED, active_sha256=digest, wanted_sha256=digest,
        is_online=True, wanted_by_server=digest, set_by=set_by,
    )  # fmt: skip


def in_two_strata(failed: dict[str, int], **changes: Any) -> Snapshot:
    """A finished rollout over 60 devices in each of two profiles, of which some fell back since."""
    one = without_gate(finished())
    both = [
        a.but(device=DeviceId(f"{stratum}-{number:02}"), stratum=stratum, **FAILED if number < failed[stratum] else {})
        for stratum in (STRATUM, JET)
        for number, a in enumerate(one.assignments)
    ]
    cells = (*one.cells, *(replace(cell, stratum=JET) for cell in one.cells))
    reports = {a.device: on() for a in both}
    return replace(
        one, assignments=tuple(both), cells=cells, bundles={STRATUM: NEW, JET: NEW}, reports=reports, **changes
    )


def overwritten(snapshot: Snapshot, stratum: str, numbers: range, **by: str) -> Snapshot:
    """Let something newer set the documents of these devices."""
    changed = {DeviceId(f"{stratum}-{number:02}"): on(**by) for number in numbers}
    return replace(snapshot, reports={**snapshot.reports, **changed})


def taken_back(snapshot: Snapshot) -> set[str]:
    return {one.device for one in plan_tick(snapshot, NOW).effects if isinstance(one, Revert)}


def carried(snapshot: Snapshot) -> Snapshot:
    """What the server stores after a look, but for the documents."""
    plan = plan_tick(snapshot, NOW)
    cells = {(one.stage, one.stratum): one for one in snapshot.cells}
    assignments = {one.device: one for one in snapshot.assignments}
    for effect in plan.effects:
        match effect:
            case RolloutTransitioned():
                snapshot = replace(snapshot, state=effect.after, code=effect.code, reason=effect.reason)
            case StageRunTransitioned() | StageRunUpdated():
                cells[effect.cell.stage, effect.cell.stratum] = effect.cell
            case AssignmentTransitioned() | AssignmentUpdated():
                assignments[effect.assignment.device] = effect.assignment
    return replace(snapshot, cells=tuple(cells.values()), assignments=tuple(assignments.values()))


def test_only_the_stratum_whose_evidence_turned_goes_back_and_it_is_finished_again() -> None:
    snapshot = in_two_strata({STRATUM: 12, JET: 0})
    assert moves(snapshot) == [RolloutState.REGRESSED, RolloutState.ROLLING_BACK]
    assert taken_back(snapshot) == {f"{STRATUM}-{number:02}" for number in range(60)}
    after = carried(snapshot)
    assert {one.stratum for one in after.cells if one.state is StageState.FAILED} == {STRATUM}
    home = on(digest=OLD.sha256, set_by="")
    confirmed = [a.but(back_gen=9, back_at=NOW) if a.stratum == STRATUM else a for a in after.assignments]
    reports = {a.device: home if a.stratum == STRATUM else on() for a in confirmed}
    ended = carried(replace(after, assignments=tuple(confirmed), reports=reports))
    assert (ended.state, ended.code) == (RolloutState.FINISHED, "partial")
    assert {a.state for a in ended.assignments if a.stratum == JET} == {AssignmentState.HEALTHY}
    assert moves(ended) == [], "what is left is watched on"
    assert plan_tick(ended, NOW).next_at == NOW + timedelta(minutes=1)
    worse = [a.but(**FAILED) if a.stratum == JET else a for a in ended.assignments]
    last = replace(ended, assignments=tuple(worse))
    assert moves(last)[:2] == [RolloutState.REGRESSED, RolloutState.ROLLING_BACK]
    assert taken_back(last) == {f"{JET}-{number:02}" for number in range(60)}
    gone = carried(last)
    confirmed = [a.but(back_gen=9, back_at=NOW) for a in gone.assignments]
    over = carried(replace(gone, assignments=tuple(confirmed), reports={a.device: home for a in confirmed}))
    assert over.state is RolloutState.ROLLED_BACK
    assert over.reason.startswith(f"after it had finished, {JET}: ")


def test_what_a_person_takes_back_goes_back_in_every_stratum() -> None:
    partly = carried(in_two_strata({STRATUM: 12, JET: 0}))
    assert taken_back(replace(partly, code="undone")) >= {f"{JET}-{number:02}" for number in range(60)}


@pytest.mark.parametrize(
    "by", [{"set_by": ""}, {"set_by": "r-2"}, {"digest": HOME}], ids=["deploy", "rollout", "other"]
)
def test_devices_that_something_newer_set_stay_as_they_are_and_count_nowhere(by: dict[str, str]) -> None:
    snapshot = overwritten(in_two_strata({STRATUM: 12, JET: 0}), STRATUM, range(30), **by)
    assert moves(snapshot) == [], "all that failed are no longer its devices"
    half = overwritten(in_two_strata({STRATUM: 12, JET: 0}), STRATUM, range(30, 60), **by)
    assert taken_back(half) == {f"{STRATUM}-{number:02}" for number in range(30)}
    (decision,) = [one for one in plan_tick(half, NOW).effects if isinstance(one, DecisionMade)]
    assert (decision.facts.counts.exposed, decision.facts.counts.failed) == (30, 12)


def test_evidence_of_all_strata_together_takes_back_those_in_which_a_device_failed_since() -> None:
    """Three failures of a kind that stops no small stratum; of three strata, two have such."""
    third = ProfileName("third")
    base = in_two_strata({STRATUM: 0, JET: 0})
    few = [a for a in base.assignments if int(a.device[-2:]) < 12]
    disk = {"state": AssignmentState.REGRESSED, "error_class": "disk"}
    strata: list[Assignment] = []
    for name, bad in ((STRATUM, 2), (JET, 2), (third, 0)):
        some = [a for a in few if a.stratum == STRATUM]
        strata += [
            a.but(device=DeviceId(f"{name}-{n:02}"), stratum=name, **disk if n < bad else {})
            for n, a in enumerate(some)
        ]
    cells = (*base.cells, *(replace(one, stratum=third) for one in base.cells if one.stratum == JET))
    snapshot = replace(
        base,
        assignments=tuple(strata),
        cells=cells,
        bundles={STRATUM: NEW, JET: NEW, third: NEW},
        reports={a.device: on() for a in strata},
    )
    gates = replace(snapshot.spec.gates.install, max_failure=0.01, liars=0.0)
    snapshot = replace(snapshot, spec=replace(snapshot.spec, gates=replace(snapshot.spec.gates, install=gates)))
    codes = [one.decision.code for one in plan_tick(snapshot, NOW).effects if isinstance(one, DecisionMade)]
    assert codes == ["abort_pooled", "abort_pooled"]
    assert {device.rpartition("-")[0] for device in taken_back(snapshot)} == {STRATUM, JET}


def test_healthy_devices_that_leave_do_not_make_old_failures_weigh_more() -> None:
    before = [
        a.but(state=AssignmentState.FAILED, error_class="disk", ended_at=ENDED - timedelta(hours=1)) if n < 5 else a
        for n, a in enumerate(in_two_strata({STRATUM: 0, JET: 0}).assignments)
    ]
    snapshot = replace(in_two_strata({STRATUM: 0, JET: 0}), assignments=tuple(before))
    assert moves(overwritten(snapshot, STRATUM, range(10, 60), set_by="r-2")) == []


def test_a_rollout_that_ends_with_its_only_stage_is_watched() -> None:
    snapshot = without_gate(finished())
    (cell,) = (replace(one, stage=0, state=StageState.JUDGING, ended_at=None) for one in snapshot.cells[:1])
    spec = replace(snapshot.spec, stages=snapshot.spec.stages[:1])
    ours = tuple(a.but(stage=0) for a in snapshot.assignments)
    running = replace(
        snapshot,
        state=RolloutState.RUNNING,
        spec=spec,
        cells=(cell,),
        assignments=ours,
        reports={a.device: on() for a in ours},
    )
    plan = plan_tick(running, NOW)
    assert moves(running) == [RolloutState.FINISHED]
    assert plan.next_at == NOW + timedelta(minutes=1)
