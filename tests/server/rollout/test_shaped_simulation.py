"""Rollouts of every form in virtual time: they reach everybody or end with a reason, whatever devices and people do."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout.effects import Plan, RolloutTransitioned, StageRunTransitioned
from edgefleet_server.rollout.errors import BadSpecError
from edgefleet_server.rollout.lint.preview import plan
from edgefleet_server.rollout.lint.quality_findings import OUT_OF_REACH
from edgefleet_server.rollout.model import RolloutState, StageRun, StageState
from edgefleet_server.rollout.planner.completion import LOOK_AGAIN
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_server.rollout.spec.strategies import STRATEGIES
from tests.server.rollout.scenarios import scenario_of
from tests.server.rollout.shaped_simulation import FAILS_UNOPENED, People, ShapedWorld, world_with
from tests.server.rollout.simulated_checks import BrokenPromiseError
from tests.server.rollout.simulated_devices import Kind, Scenario
from tests.server.rollout.simulated_state import START
from tests.server.rollout.simulated_telemetry import Shows

BASE: dict[str, Any] = {
    "release": "digits@1.2.0",
    "selector": "",
    "device": {"ack_deadline": "8h", "download_deadline": "1h"},
}
REST: dict[str, Any] = {"name": "rest", "size": {"percent": 100}, "soak": "1m"}
SHADOW: dict[str, Any] = {"name": "shadow", "size": {"count": 3}, "mode": "shadow", "soak": "30m"}
APPROVED: dict[str, Any] = {**REST, "approval": {"role": "approver", "timeout": "4h"}}


def world(*stages: dict[str, Any], fleet: dict[str, int] | None = None, seed: int = 1, **more: Any) -> ShapedWorld:
    names = ("on_fail", "rollback_to", "on_inconclusive", "gates")
    fields: dict[str, Any] = {name: more.pop(name) for name in names if name in more}
    return world_with({**BASE, "stages": list(stages), **fields}, fleet or {"rpi": 8}, seed, **more)


def serving(made: ShapedWorld) -> set[DeviceId]:
    return {d.id for d in made.devices.values() if d.active == made.bundles[d.stratum]}


def stages_of(made: ShapedWorld, stratum: str = "rpi") -> list[StageState]:
    return [c.state for c in sorted(made.cells.values(), key=lambda c: c.stage) if c.stratum == stratum]


# ---- shadow


def test_a_shadow_is_judged_then_its_devices_get_the_release_with_the_rest() -> None:
    made = world(SHADOW, {"name": "canary", "size": {"count": 3}, "soak": "10m"}, REST)
    ended = made.run()
    assert ended.state is RolloutState.FINISHED
    assert serving(made) == set(made.devices)
    assert stages_of(made) == [StageState.PASSED] * 3
    by_rank = [made.assignments[device.id] for device in made.by_rank("rpi")]
    assert [(one.stage, one.attempt) for one in by_rank] == [(1, 2)] * 3 + [(2, 1)] * 5
    opened = [ended.cells[stage, made.by_rank("rpi")[0].stratum].opened_at for stage in range(2)]
    assert opened[1] is not None
    assert opened[0] is not None
    assert opened[1] - opened[0] > timedelta(minutes=30), "the soak of the shadow was kept"


@pytest.mark.parametrize("kind", [Kind.FAILS_INSTALL, Kind.FAILS_PROBATION, Kind.REGRESSES])
def test_a_release_that_fails_beside_what_serves_never_serves(kind: Kind) -> None:
    made = world({**SHADOW, "soak": "1d"}, REST, scenario=Scenario(seed=3, mix={kind: 1.0}))
    ended = made.run()
    assert ended.state is RolloutState.ROLLED_BACK
    assert stages_of(made) == [StageState.FAILED, StageState.PENDING]
    assert not any(device.switched_at for device in made.devices.values()), "nothing that serves was touched"


def test_a_candidate_that_is_suspended_again_and_again_shows_nothing() -> None:
    made = world(
        {**SHADOW, "soak": "10d"},
        REST,
        scenario=Scenario(seed=4, mix={Kind.FLAPPING: 1.0}, person=("abort",)),
        on_inconclusive={"after": "2d", "do": "pause"},
    )
    ended = made.run()
    assert ended.state is RolloutState.CANCELLED
    assert serving(made) == set()


def test_where_nothing_runs_there_is_no_shadow_and_the_release_goes_out() -> None:
    made = world(SHADOW, REST, idle=1.0)
    assert made.run().state is RolloutState.FINISHED
    assert stages_of(made) == [StageState.SKIPPED, StageState.PASSED]
    assert serving(made) == set(made.devices)


def test_a_split_goes_on_to_serve() -> None:
    made = world({**SHADOW, "mode": "split", "share_pct": 10}, REST)
    assert made.run().state is RolloutState.FINISHED
    assert serving(made) == set(made.devices)


# ---- quality


AGREEMENT: dict[str, Any] = {"quality": {"metrics": [{"name": "shadow_agreement", "min": 0.95}], "after": "1h"}}
BOTH: dict[str, Any] = {
    "quality": {
        "metrics": [
            *AGREEMENT["quality"]["metrics"],
            {"name": "latency_p95_ms", "non_inferior_rel": 0.1},
            {"name": "drift"},
        ],
        "after": "1h",
    }
}
"""Windows that are as long as `after`, and ten of them before."""
SHADOWS: dict[str, Any] = {**SHADOW, "size": {"count": 80}}


@pytest.mark.parametrize("gates", [AGREEMENT, BOTH], ids=["agreement", "all"])
def test_a_shadow_that_agrees_goes_on_to_serve_everywhere(gates: dict[str, Any]) -> None:
    """Of what serves nobody can say how far it agrees: that is asked of the shadow alone."""
    half = {"name": "half", "size": {"percent": 50}, "soak": "10m"}
    made = world(
        SHADOWS, half, REST, fleet={"rpi": 180}, gates=gates, shows=Shows(), scenario=Scenario(seed=7, person=())
    )
    ended = made.run()
    assert ended.state is RolloutState.FINISHED
    assert serving(made) == set(made.devices)
    assert stages_of(made) == [StageState.PASSED] * 3
    assert "inconclusive" not in ended.verdicts
    shadow, first, last = (ended.cells[index, ProfileName("rpi")] for index in range(3))
    assert "shadow_agreement is" in shadow.reason
    assert ("shadow_agreement" in first.reason, "latency_p95_ms is" in first.reason) == (False, gates is BOTH)
    assert "shadow_agreement" not in last.reason


def test_a_shadow_that_disagrees_never_serves() -> None:
    made = world(SHADOWS, REST, fleet={"rpi": 180}, gates=AGREEMENT, shows=Shows(agreed=0.8))
    ended = made.run()
    assert ended.state is RolloutState.ROLLED_BACK
    assert "shadow_agreement is 0.8" in ended.cells[0, ProfileName("rpi")].reason
    assert not any(device.switched_at for device in made.devices.values())


# ---- match, pins


def test_only_who_matches_is_in_a_stage_before_the_last() -> None:
    made = world({"name": "site-a", "size": {"percent": 100}, "match": "site=a", "soak": "5m"}, REST, fleet={"rpi": 20})
    assert made.run().state is RolloutState.FINISHED
    stages = {device: made.assignments[device].stage for device in made.devices}
    assert stages == {device: 0 if made.sites[device] == "a" else 1 for device in made.devices}


def test_a_pinned_device_is_left_alone_and_says_why() -> None:
    made = world(REST, fleet={"rpi": 20}, pinned=0.3)
    assert made.run().state is RolloutState.FINISHED
    pinned = {one.device for one in made.members.values() if one.pinned}
    assert 0 < len(pinned) < 20
    assert serving(made) == set(made.devices) - pinned
    assert {(made.assignments[one].state, made.assignments[one].reason) for one in pinned} == {
        (AssignmentState.CANCELLED, "pinned: rig")
    }


# ---- approvals


def test_a_stage_opens_at_somebodys_word_only() -> None:
    canary = {"name": "canary", "size": {"count": 2}, "soak": "10m"}
    made = world(canary, APPROVED, people=People(("silence",)))
    made.settle(timedelta(hours=3))
    assert (made.state, "waits for the word" in made.reason) == (RolloutState.AWAITING_APPROVAL, True)
    assert len(serving(made)) == 2
    made._answer("approve")
    assert made.run().state is RolloutState.FINISHED
    assert serving(made) == set(made.devices)


def test_silence_is_no_approval() -> None:
    canary = {"name": "canary", "size": {"count": 2}, "soak": "10m"}
    made = world(canary, APPROVED, people=People(()), on_inconclusive={"after": "48h", "do": "rollback"})
    ended = made.run()
    assert ended.state is RolloutState.ROLLED_BACK
    assert "nobody with the role approver answered about rest within 4h" in ended.reason
    assert serving(made) == set()


def test_a_denial_takes_the_canaries_back_and_one_at_the_start_cancels() -> None:
    canary = {"name": "canary", "size": {"count": 2}, "soak": "10m"}
    made = world(canary, APPROVED, people=People(("deny",)))
    assert made.run().state is RolloutState.ROLLED_BACK
    assert serving(made) == set()
    first = world(APPROVED, people=People(("deny",)))
    assert first.run().state is RolloutState.CANCELLED
    assert first.assignments == {}


def test_a_release_that_goes_bad_while_somebody_thinks_is_stopped() -> None:
    canary = {"name": "canary", "size": {"count": 2}, "soak": "1m"}
    late = Scenario(seed=6, mix={Kind.REGRESSES: 1.0})
    made = world(canary, {**APPROVED, "approval": {"timeout": "30d"}}, scenario=late, people=People(()))
    ended = made.run()
    assert ended.state is RolloutState.ROLLED_BACK
    assert ended.took < timedelta(days=1)


def test_a_stage_that_nobody_of_a_stratum_can_be_in_fails_unopened_with_the_others() -> None:
    first = {"name": "a", "size": {"percent": 100}, "match": "site=a", "soak": "5m", "approval": {"timeout": "4h"}}
    made = world(first, REST, fleet={"rpi": 9, "jet": 2})
    for device in made.devices.values():
        made.sites[device.id] = "b" if device.stratum == "jet" else "a"
        device.kind = Kind.FAILS_INSTALL
        barred = frozenset({0}) if device.stratum == "jet" else frozenset[int]()
        made.members[device.id] = replace(made.members[device.id], barred=barred)
    assert made.run().state is RolloutState.ROLLED_BACK
    codes = {stratum: made.cells[0, stratum].code for stratum in made.bundles}
    assert codes["jet"] == "no_canary"  # type: ignore[index]
    assert not made.cells[0, made.by_rank("jet")[0].stratum].approved_by


def opening(made: ShapedWorld, code: str, **changes: Any) -> StageRun:
    """Return the second stage of the one stratum as one that is just opened without anybody's word."""
    stored = made.cells[1, ProfileName("rpi")]
    return replace(stored, state=StageState.EXPOSING, cut=2**64, code=code, **changes)


@pytest.mark.parametrize(
    "code", ["", "opened", "awaiting_approval", "approved", "resumed", "empty", "inconclusive", "new"]
)
def test_no_other_code_lets_a_stage_leave_pending_without_its_approval(code: str) -> None:
    made = world({"name": "canary", "size": {"count": 2}, "soak": "10m"}, APPROVED, people=People(("silence",)))
    made.settle(timedelta(hours=3))
    stored = made.cells[1, ProfileName("rpi")]
    with pytest.raises(BrokenPromiseError, match=r"opened with the code|without its approval"):
        made._check_order(stored, opening(made, code))
    if code == "opened":
        made._check_order(stored, opening(made, code, approved_by="ann"))


@pytest.mark.parametrize("code", sorted(FAILS_UNOPENED))
def test_what_is_opened_to_fail_has_failed_by_the_end_of_its_plan(code: str) -> None:
    made = world({"name": "canary", "size": {"count": 2}, "soak": "10m"}, APPROVED, people=People(("silence",)))
    made.settle(timedelta(hours=3))
    opened = StageRunTransitioned(StageState.PENDING, opening(made, code))
    with pytest.raises(BrokenPromiseError, match="was to fail unopened and is open"):
        made.carry(Plan((opened,), None))
    made._failing.clear()
    failed = StageRunTransitioned(StageState.EXPOSING, replace(opened.cell, state=StageState.FAILED))
    made.carry(Plan((failed,), None))


# ---- ways back


def test_without_a_way_back_what_runs_it_keeps_it_and_is_named() -> None:
    # the release fails in a tenth of the devices; those that took it stay as they are
    made = world({"name": "all", "size": {"percent": 100}, "soak": "1h"}, fleet={"rpi": 9}, rollback_to="none")
    for device in made.by_rank("rpi")[:2]:
        device.kind = Kind.FAILS_PROBATION
    ended = made.run()
    assert ended.state is RolloutState.ROLLBACK_INCOMPLETE
    kept = {one.device for one in made.assignments.values() if "keeps the release" in one.reason}
    assert kept == serving(made)


def test_a_named_release_is_what_devices_go_back_to() -> None:
    made = world({"name": "all", "size": {"percent": 100}, "soak": "1h"}, fleet={"rpi": 9}, rollback_to="digits@1.0.0")
    for device in made.by_rank("rpi")[:2]:
        device.kind = Kind.FAILS_PROBATION
    made.run()
    exposed = [one for one in made.assignments.values() if one.state is AssignmentState.ROLLED_BACK and one.switched_at]
    assert exposed
    assert {made.documents[one.device].active for one in exposed} == {
        made.rollback_bundles[made.by_rank("rpi")[0].stratum]
    }


# ---- the queue


def test_a_queued_rollout_waits_for_those_before_it_and_then_only_begins() -> None:
    snapshot = replace(world(REST).snapshot(), state=RolloutState.VALIDATING, members=())
    waits = plan_tick(replace(snapshot, behind=("r-0",)), START)
    assert (waits.effects, waits.next_at) == ((), START + LOOK_AGAIN)
    begins = plan_tick(snapshot, START)
    told = "no older rollout is before it any more"
    assert begins.effects == (RolloutTransitioned(RolloutState.VALIDATING, RolloutState.RUNNING, "started", told),)
    assert begins.next_at == START, "its devices are looked up in the next tick"


# ---- everything


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_reaches_all_devices(name: str) -> None:
    made = world_with({**BASE, "strategy": name}, {"rpi": 9, "jet/site=a": 4}, seed=11)
    assert made.run().state is RolloutState.FINISHED
    assert serving(made) == set(made.devices)


SIZES = st.sampled_from([{"count": 1}, {"count": 2}, {"count": 3, "count_total": True}, {"percent": 25, "min": 2}])
APPROVALS = st.sampled_from(["none", "none", {"role": "operator", "timeout": "2h"}, {"role": "approver"}])


TOLD: list[dict[str, Any]] = [
    {"name": "latency_p95_ms", "non_inferior_rel": 0.1},
    {"name": "inference_error_rate", "max": 0.05, "on_breach": "hold"},
    {"name": "shadow_agreement", "min": 0.95},
    {"name": "drift"},
]


def gates(metrics: list[dict[str, Any]], befores: list[str], afters: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    chosen = st.lists(st.sampled_from(metrics), min_size=1, unique_by=lambda metric: str(metric["name"]))
    controls = st.sampled_from(["holdout", "previous"])
    periods = {"before": st.sampled_from(befores), "after": st.sampled_from(afters)}
    return st.fixed_dictionaries({"metrics": chosen, "control": controls, **periods})


ANY_GATE = st.none() | gates(
    [*TOLD, {"name": "joules_per_inference", "non_inferior_rel": 0.2}], ["2h", "7d"], ["10m", "1h", "13h"]
)
JUDGES = st.sampled_from([None, None, ["install"], ["install", "quality"]])


RATES = st.sampled_from([None, None, {"start": "1/min"}, {"start": "2/min", "factor": 3, "max": "20/min"}])
PACES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "limits": st.sampled_from([{"concurrent_downloads": 2}, {"per_site": 1}, {"bandwidth": "1Mbps"}]),
        "windows": st.sampled_from(
            [[{"cron": "0 1 * * *", "duration": "4h"}], [{"cron": "0 */2 * * *", "duration": "30m"}]]
        ),
        "offline": st.sampled_from([{"after": "2h"}, {"after": "6h", "count": "failed"}]),
    },
)
RETRIES = st.sampled_from([None, {"max": 2, "backoff": "1m..10m", "on": ["network", "disk"]}])


@st.composite
def shaped_specs(
    draw: st.DrawFn,
    sizes: st.SearchStrategy[dict[str, Any]] = SIZES,
    gate: st.SearchStrategy[dict[str, Any] | None] = ANY_GATE,
    least: int = 0,
) -> dict[str, Any]:
    """Documents of any form; not all of them can be read."""
    stages = []
    quality = draw(gate)
    for index in range(draw(st.integers(least, 3))):
        mode = draw(st.sampled_from(["shadow", "split", "active", "active"]))
        stage = {
            "name": f"s{index}",
            "size": draw(sizes),
            "mode": mode,
            "match": draw(st.sampled_from(["", "", "site=a", "site=b"])),
            "soak": draw(st.sampled_from(["0s", "5m", "3h"])),
            "approval": draw(APPROVALS),
            "promote": draw(st.sampled_from(["auto", "all_healthy"])),
        }
        judges = draw(JUDGES) if quality is not None else None
        stage |= {} if judges is None else {"gates": judges}
        stages.append({**stage, "share_pct": 20} if mode == "split" else stage)
    order = ["shadow", "split", "active"]
    stages.sort(key=lambda stage: order.index(str(stage["mode"])))
    return {
        **BASE,
        "stages": [*stages, {**REST, "approval": draw(APPROVALS)}],
        "on_fail": draw(st.sampled_from(["rollback", "pause"])),
        "on_inconclusive": {"after": "12h", "do": draw(st.sampled_from(["rollback", "pause"]))},
        "rollback_to": draw(st.sampled_from(["previous", "none", "digits@1.0.0"])),
        **({} if quality is None else {"gates": {"quality": quality}}),
    }


FLEETS = st.sampled_from([{"rpi": 8}, {"rpi/site=a": 5, "rpi/site=-": 3}, {"rpi": 1, "jet": 2, "x86": 9}])
ANSWERS = st.lists(st.sampled_from(["approve", "approve", "deny", "silence"]), max_size=6)


A_PAUSE_NOBODY_HEARD_OF: dict[str, Any] = {
    "release": "digits@1.2.0",
    "selector": "",
    "device": {"ack_deadline": "8h", "download_deadline": "1h"},
    "stages": [
        {"name": "s0", "size": {"count": 1}, "mode": "shadow", "soak": "3h"},
        {"name": "rest", "size": {"percent": 100}, "soak": "1m"},
    ],
    "on_inconclusive": {"after": "12h", "do": "rollback"},
}
"""With seed 373 a shadow rests for twenty minutes, and the reports of it are lost."""


SHOWN = st.builds(
    Shows,
    slower=st.sampled_from([1.0, 1.5]),
    agreed=st.sampled_from([1.0, 0.8]),
    silent=st.sampled_from([0.0, 0.3, 1.0]),
    joules=st.sampled_from([-1.0, 0.5]),
)


@settings(deadline=None, max_examples=60)
@given(
    shaped_specs(),
    st.integers(0, 2**32 - 1),
    FLEETS,
    ANSWERS,
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0, 0.2]),
    st.none() | SHOWN,
)
@example(A_PAUSE_NOBODY_HEARD_OF, 373, {"rpi": 8}, [], 0.0, 0, None)
def test_every_accepted_form_reaches_everybody_or_ends_with_a_reason(
    document: dict[str, Any],
    seed: int,
    fleet: dict[str, int],
    answers: list[str],
    idle: float,
    pinned: float,
    shows: Shows | None,
) -> None:
    """The world checks its promises after each tick and at the end."""
    try:
        parse_spec(document)
    except BadSpecError:
        return
    made = world_with(
        document,
        fleet,
        seed,
        scenario=scenario_of(seed),
        people=People(tuple(answers)),
        idle=idle,
        pinned=pinned,
        shows=shows,
    )
    assert made.run().reason


@st.composite
def paced_specs(draw: st.DrawFn) -> dict[str, Any]:
    """Documents of any form that also say how fast and when."""
    made = draw(shaped_specs())
    stages = [{**stage, "rate": rate} if (rate := draw(RATES)) else stage for stage in made["stages"]]
    retries = draw(RETRIES)
    device = {**made["device"], **({} if retries is None else {"retries": retries})}
    return {**made, **draw(PACES), "stages": stages, "device": device}


@settings(deadline=None, max_examples=40)
@given(paced_specs(), st.integers(0, 2**32 - 1), FLEETS, ANSWERS, st.sampled_from([0.0, 0.3]))
def test_every_accepted_form_at_any_pace_reaches_everybody_or_ends_with_a_reason(
    document: dict[str, Any], seed: int, fleet: dict[str, int], answers: list[str], idle: float
) -> None:
    try:
        parse_spec(document)
    except BadSpecError:
        return
    made = world_with(document, fleet, seed, scenario=scenario_of(seed), people=People(tuple(answers)), idle=idle)
    assert made.run().reason


LARGER = st.sampled_from([{"count": 20}, {"count": 25}, {"percent": 60, "min": 20}])
AGREES_THEN_SERVES: dict[str, Any] = {
    **BASE,
    "stages": [{**SHADOW, "size": {"count": 20}}, {"name": "few", "size": {"count": 20}, "soak": "5m"}, REST],
    "gates": AGREEMENT,
}
SHARES_ITS_CONTROLS: dict[str, Any] = {**AGREES_THEN_SERVES, "gates": BOTH}
"""Most of who is compared with the shadows is to be compared with those that serve, too."""


@settings(deadline=None, max_examples=40)
@given(shaped_specs(LARGER, gates(TOLD, ["7d"], ["10m", "1h"]), 1), st.integers(0, 2**32 - 1))
@example(AGREES_THEN_SERVES, 1)
@example(SHARES_ITS_CONTROLS, 1)
def test_what_the_lint_accepts_reaches_everybody_where_nothing_is_wrong(document: dict[str, Any], seed: int) -> None:
    """Devices are fine, send what they should, and somebody approves: then a stage without a verdict is a flaw of the lint."""
    try:
        spec = parse_spec(document)
    except BadSpecError:
        return
    made = world_with(document, {"rpi": 48}, seed, scenario=Scenario(seed=seed), shows=Shows())
    planned = plan(spec, made.salt, list(made.members.values()), made.bundles, with_power=False)
    if not planned.ok:
        return
    ended = made.run()
    if any(finding.code == OUT_OF_REACH for finding in planned.findings):
        # as a warning it says that a stage waits until a person promotes it, and nobody does here
        assert ended.reason
        return
    assert (ended.state, ended.verdicts["inconclusive"]) == (RolloutState.FINISHED, 0), ended.reason
    assert serving(made) == set(made.devices)
