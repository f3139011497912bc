"""Where the form of a rollout meets its pace, its quality gate, webhook gates, undo and what people are told."""

import random
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.analysis.facts import facts_of
from edgefleet_server.rollout.commands.undo import KEEPS
from edgefleet_server.rollout.lint.findings import Finding
from edgefleet_server.rollout.lint.preview import plan
from edgefleet_server.rollout.lint.quality_findings import OUT_OF_REACH, comparable
from edgefleet_server.rollout.model import Assignment, DeviceQuality, Member, Snapshot, Span, StageRun, StageState
from edgefleet_server.rollout.placement import CountedStratum
from edgefleet_server.rollout.preparation.metric_collector import MetricCollector
from edgefleet_server.rollout.spec.model import (
    Approval,
    Bound,
    Control,
    Gates,
    Metric,
    Mode,
    OnBreach,
    OnFail,
    QualityGate,
    QualityMetric,
    StageGate,
)
from edgefleet_server.rollout.spec.parser import parse_spec
from tests.server.rollout.fleet_sim import MODEL, World, spec_of
from tests.server.rollout.planner_gaps import NEW, NOW, OLD, STRATUM, whole
from tests.server.rollout.shadowing_devices import can_shadow
from tests.server.rollout.test_gates import gated
from tests.server.rollout.test_shape_routes import APPROVED, CANARY, REST, SHADOW, asking, ready

if TYPE_CHECKING:
    from edgefleet_server.telemetry.service import TelemetryService

GATE = QualityGate(metrics=(QualityMetric(Metric.LATENCY_P95_MS, Bound.NON_INFERIOR_REL, 0.1, OnBreach.FAIL),))
ASKED = Gates(quality=GATE)


# ---- quality: what a device shows beside a version is no value of what serves


def shadowed(measured_in: int) -> Snapshot:
    """A rollout of a shadow and an active stage; its 30 devices serve the release and were measured in this stage only."""
    spec = whole(random.Random(1)).spec
    first, *rest = spec.stages
    spec = replace(spec, gates=ASKED, stages=(replace(first, mode=Mode.SHADOW), *rest))
    devices = [DeviceId(f"d-{number:02}") for number in range(30)]
    return replace(
        whole(random.Random(1)),
        spec=spec,
        members=(),
        assignments=tuple(
            Assignment(
                device, 1, STRATUM, AssignmentState.HEALTHY, gen=4, attempt=2, previous=OLD,
                exposed_at=NOW - timedelta(days=2), switched_at=NOW - timedelta(days=2),
            )
            for device in devices
        ),
        cells=(
            StageRun(0, STRATUM, StageState.PASSED, 2**64, 30, NEW.sha256, opened_at=NOW - timedelta(days=5)),
            StageRun(1, STRATUM, StageState.JUDGING, 2**64, 30, NEW.sha256, opened_at=NOW - timedelta(days=3)),
        ),
        measured=tuple(
            DeviceQuality(
                device, STRATUM, measured_in, "c", NOW, NOW, {Metric.LATENCY_P95_MS: Span(9.0, 9.0, 9.0, 9.0)}
            )
            for device in devices
        ),
    )  # fmt: skip


@pytest.mark.parametrize(("stage", "counted"), [(0, 0), (1, 30)])
def test_values_of_shadows_do_not_judge_the_stage_that_serves(stage: int, counted: int) -> None:
    snapshot = shadowed(stage)
    quality = facts_of(snapshot, snapshot.cells[1], snapshot.assignments, NOW).quality
    assert quality is not None
    assert (quality.expected, quality.measured, quality.own_measured) == (30, counted, counted)


@pytest.mark.parametrize(("stage", "due"), [(0, 30), (1, 0)])
def test_a_device_is_measured_once_in_each_mode(stage: int, due: int) -> None:
    assert len(list(MetricCollector(cast("TelemetryService", None))._due(shadowed(stage), GATE, NOW))) == due


BY_WORD = {"approval": Approval()}


def findings(*shapes: dict[str, Any], count: int = 40, do: OnFail = OnFail.PAUSE) -> list[Finding]:
    spec = whole(random.Random(1)).spec
    few = replace(spec.stages[0].size, percent=None, count=10, min=0)
    sizes = [few, *(replace(few, percent=100.0 / left, count=None) for left in range(len(shapes) - 1, 0, -1))]
    stages = [
        replace(spec.stages[0], name=f"s{index}", size=sizes[index], **shape) for index, shape in enumerate(shapes)
    ]
    spec = replace(spec, gates=ASKED, stages=tuple(stages), on_inconclusive=replace(spec.on_inconclusive, do=do))
    members = [Member(DeviceId(f"d-{number}"), STRATUM) for number in range(count)]
    made = plan(spec, "salt", members, {STRATUM: NEW}, with_power=False)
    return [one for one in made.findings if one.code == OUT_OF_REACH]


def test_an_approval_makes_a_gate_that_is_out_of_reach_a_warning() -> None:
    (refused,) = findings({}, {}, BY_WORD, count=100)
    assert (refused.level, refused.stage) == ("error", 0)
    (told,) = findings({}, BY_WORD, {}, count=100)
    assert (told.level, told.stage) == ("warning", 0)


def test_an_approval_excuses_nothing_where_the_stage_goes_back_before_somebody_comes() -> None:
    """Found by drawing rollouts: after 12 hours without a verdict it was rolled back, whatever the devices showed."""
    (refused,) = findings({}, BY_WORD, {}, count=100, do=OnFail.ROLLBACK)
    assert (refused.level, refused.stage) == ("error", 0)


def test_an_approval_does_not_excuse_the_stage_that_it_opens() -> None:
    (told,) = findings({}, BY_WORD, count=20)
    assert (told.level, told.stage) == ("error", 1)


@pytest.mark.parametrize(
    ("population", "lasts", "found"),
    [(40, {0, 1}, [20, 20]), (40, {1}, [0, 0]), (64, {1}, [0, 24]), (100, {1}, [0, 40])],
)
def test_a_holdout_that_gets_the_release_before_there_are_values_is_nobody_to_compare_with(
    population: int, lasts: set[int], found: list[int]
) -> None:
    """Found by drawing rollouts: the first stage asked for no quality, and the next opened before its devices had values."""
    gate = replace(GATE, control=Control.HOLDOUT)
    assert comparable(gate, CountedStratum(STRATUM, population, (20, 40)), range(2), lasts) == found


SITES = {"a": range(26), "b": range(26, 52)}


@pytest.mark.parametrize(
    ("serves_at", "is_far"), [("b", True), ("a", False), ("", False)], ids=["others", "the same", "whoever"]
)
def test_it_matters_who_ran_it_as_a_shadow(serves_at: str, *, is_far: bool) -> None:
    """Found by drawing rollouts: the shadows were counted by number, as if they were among those that serve it."""
    spec = whole(random.Random(1)).spec
    twenty = replace(spec.stages[0].size, percent=None, count=20, min=0)
    plain = replace(spec.stages[0], size=twenty)
    first, second = (
        replace(plain, mode=Mode.SHADOW, match="site=a"),
        replace(plain, match=serves_at and f"site={serves_at}"),
    )
    rest = replace(spec.stages[-1], judged_by=(StageGate.INSTALL,))
    spec = replace(spec, gates=ASKED, stages=(first, second, rest))
    barred = {
        number: frozenset(
            index for index, stage in enumerate((first, second)) if stage.match not in ("", f"site={site}")
        )
        for site, numbers in SITES.items()
        for number in numbers
    }
    members = [Member(DeviceId(f"d-{number:02}"), STRATUM, bars) for number, bars in barred.items()]
    made = plan(spec, "salt", members, {STRATUM: NEW}, with_power=False)
    assert [one.stage for one in made.findings if one.code == OUT_OF_REACH] == ([1] if is_far else [])


def test_who_ran_it_as_a_shadow_is_nobody_to_compare_with() -> None:
    (told,) = findings({"mode": Mode.SHADOW}, {}, count=40)
    assert told.stage == 0, "each mode is counted by itself"


# ---- gates and approvals


def test_a_stage_asks_its_gate_first_and_then_a_person(world: World) -> None:
    with gated(world) as gates:
        world.enrol(4)
        world.settle("1.0.0")
        world.release("1.1.0")
        hook = {"kind": "pre-rollout", "name": "go", "url": gates.url}
        rollout = world.create(stages=[CANARY, {**APPROVED, "webhook": [hook]}])
        gates.waits(rollout, "gate_opening")
        assert world.view(rollout).state == "running", "nobody is asked before the gate has passed"
        gates.says = 200
        gates.until(lambda: world.view(rollout).state == "awaiting_approval")
        gates.says = 403
        gates.go(5, seconds=30)
        assert gates.rest(rollout)[:2] == ("pending", "awaiting_approval"), "a gate is not asked a second time"


# ---- pace


def test_a_shadow_goes_on_under_limits_and_holds_no_lease_afterwards(any_world: World) -> None:
    world = any_world
    devices = ready(world)
    can_shadow(world)
    rollout = world.create(stages=[SHADOW, {**REST, "rate": {"start": "60/min"}}], limits={"concurrent_downloads": 2})
    world.go_until_state(rollout, "finished", seconds=5)
    assert {one.running for one in devices} == {"1.1.0"}
    world.go(3)
    assert world.view(rollout).downloads == 0


# ---- what people are told


def test_who_waits_for_an_approval_is_told_so(world: World) -> None:
    rollout = asking(world)
    view = world.view(rollout)
    (wait,) = view.waits
    asked = view.stages[1].strata[0].approval
    assert asked is not None
    assert (wait.code, wait.until) == ("person", asked.until)
    assert f"rollout approve {rollout}" in wait.moves
    assert [one.code for one in view.stages[1].waits] == ["person"]


def test_an_event_says_that_it_runs_again() -> None:
    from edgefleet_server.events.types import type_of

    detail: dict[str, Any] = {"from": "awaiting_approval", "to": "running"}
    assert type_of("rollout", "", detail) == "edgefleet.rollout.resumed"
    assert type_of("rollout", "", {**detail, "from": "validating"}) == "edgefleet.rollout.started"
    assert type_of("rollout", "", {**detail, "from": "finished"}) == "edgefleet.rollout.resumed"


# ---- undo


def test_undo_goes_where_the_rollout_says(any_world: World) -> None:
    world = any_world
    devices = ready(world, 3)
    world.release("0.9.0")
    rollout = world.create(stages=[REST], rollback_to="digits@0.9.0")
    world.go_until_state(rollout, "finished")
    shown = world.service.undo(MODEL, "ann", "slow", dry_run=True)
    assert [(one.back_to, one.devices, one.downloads) for one in shown.moves] == [(f"{MODEL}@0.9.0", 3, 3)]
    world.service.undo(MODEL, "ann", "slow", dry_run=False)
    world.go_until_state(rollout, "rolled_back")
    assert {one.running for one in devices} == {"0.9.0"}


def test_undo_leaves_alone_who_is_said_to_keep_it(world: World) -> None:
    from edgefleet_server.rollout.errors import NothingToUndoError

    ready(world, 3)
    rollout = world.create(stages=[REST], rollback_to="none")
    world.go_until_state(rollout, "finished")
    with pytest.raises(NothingToUndoError, match=KEEPS.partition("`")[0]):
        world.service.undo(MODEL, "ann", "slow", dry_run=True)
    assert world.view(rollout).state == "finished"


def test_undo_takes_back_a_rollout_that_waits_for_an_approval(any_world: World) -> None:
    world = any_world
    rollout = asking(world)
    made = world.service.undo(MODEL, "ann", "slow", dry_run=False)
    assert (made.devices, made.rollouts) == (2, (rollout,))
    world.go_until_state(rollout, "rolled_back")
    assert {one.running for one in world.devices.values()} == {"1.0.0"}


def test_a_spec_of_all_parts_is_read_as_it_is_written() -> None:
    from edgefleet_server.rollout.spec.parser import dump_spec

    document = spec_of(
        stages=[
            {**SHADOW, "rate": {"start": "5/min"}},
            {**APPROVED, "webhook": {"kind": "pre-rollout", "name": "go", "url": "https://hooks.example/go"}},
        ],
        limits={"concurrent_downloads": 3},
        gates={"quality": {"metrics": [{"name": "shadow_agreement", "min": 0.9}]}},
        strata=["profile", "site"],
        membership="snapshot",
    )
    spec = parse_spec(document)
    assert parse_spec(dump_spec(spec)) == spec
    assert spec.stages[0].mode is Mode.SHADOW
    assert spec.limits.concurrent_downloads == 3


# ---- rollouts that meet


def test_a_queued_rollout_waits_for_what_has_begun_whatever_the_ids_are(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.server.rollout.fleet_sim import stages

    world = any_world
    ready(world)
    world.release("1.2.0")
    ids = iter(["r-zzzzzzzzzzzzz", "r-aaaaaaaaaaaaa"])
    monkeypatch.setattr("edgefleet_server.rollout.service._new_id", lambda: next(ids))
    first = world.create(stages=stages("100%"))
    second = world.create("digits@1.2.0", stages=stages("100%"), supersede="queue")
    world.go(1)
    assert world.view(second).state == "validating", "made in the same moment, with the lower id"
    world.go_until_state(first, "finished")
    world.go_until_state(second, "finished")
    assert {one.running for one in world.devices.values()} == {"1.2.0"}
