"""Rollouts of every form in virtual time: they reach everybody or end with a reason, whatever devices and people do."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgefleet_protocol.ids import ProfileName
from edgefleet_protocol.messages import AssignmentState, ErrorClass
from edgefleet_server.rollout.effects import Plan, RolloutTransitioned, StageRunTransitioned
from edgefleet_server.rollout.errors import BadSpecError
from edgefleet_server.rollout.lint.preview import plan
from edgefleet_server.rollout.lint.quality_findings import OUT_OF_REACH
from edgefleet_server.rollout.model import RolloutState, StageRun, StageState
from edgefleet_server.rollout.planner.completion import LOOK_AGAIN
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_server.rollout.spec.strategies import STRATEGIES
from edgefleet_sim.checks import FAILS_UNOPENED, BrokenPromiseError, about_opening, check_plan
from edgefleet_sim.scenario import Scenario
from edgefleet_sim.world import START, World
from tests.server.rollout.scenarios import (
    assigned,
    behave,
    by_rank,
    ended,
    plain,
    scenario_of,
    serving,
    silence,
    stages_of,
    verdicts,
)
from tests.server.rollout.simulated_telemetry import Shows, SimulatedTelemetry

BASE: dict[str, Any] = {
    "release": "digits@1.2.0",
    "selector": "",
    "device": {"ack_deadline": "8h", "download_deadline": "1h"},
}
REST: dict[str, Any] = {"name": "rest", "size": {"percent": 100}, "soak": "1m"}
CANARY: dict[str, Any] = {"name": "canary", "size": {"count": 2}, "soak": "10m"}
ALL: dict[str, Any] = {"name": "all", "size": {"percent": 100}, "soak": "1h"}
SHADOW: dict[str, Any] = {"name": "shadow", "size": {"count": 3}, "mode": "shadow", "soak": "30m"}
APPROVED: dict[str, Any] = {**REST, "approval": {"role": "approver", "timeout": "4h"}}
RPI = ProfileName("rpi")
SITES = {"site": ("a", "b"), "tz": ("UTC",)}


def world(
    *stages: dict[str, Any], fleet: dict[str, int] | None = None, shows: Shows | None = None, **more: Any
) -> World:
    """Return a world of these stages. more: fields of the spec, and of the scenario."""
    names = ("on_fail", "rollback_to", "on_inconclusive", "gates")
    fields: dict[str, Any] = {name: more.pop(name) for name in names if name in more}
    patient = {"on_inconclusive": {"after": "2d"}}
    spec = {**BASE, **patient, "stages": list(stages), **fields}
    return of(plain(more.pop("seed", 1), devices=fleet or {"rpi": 8}, spec=spec, labels=SITES, **more), shows)


def of(scenario: Scenario, shows: Shows | None = None) -> World:
    return World(scenario, silence if shows is None else SimulatedTelemetry(shows).take)


# ---- shadow


def test_a_shadow_is_judged_then_its_devices_get_the_release_with_the_rest() -> None:
    made = world(SHADOW, {**CANARY, "size": {"count": 3}}, REST)
    assert ended(made).state == "finished"
    assert serving(made) == set(made.devices)
    assert stages_of(made) == ["passed"] * 3
    ones = [assigned(made, place) for place in range(8)]
    assert [(one.stage, one.attempt) for one in ones] == [(1, 2)] * 3 + [(2, 1)] * 5
    opened = [made.rows.cells[stage, RPI].opened_at for stage in range(2)]
    assert opened[1] is not None
    assert opened[0] is not None
    assert opened[1] - opened[0] > timedelta(minutes=30), "the soak of the shadow was kept"


@pytest.mark.parametrize(("fails", "late"), [("golden", 0.0), ("crash", 0.0), ("crash", 1.0)])
def test_a_release_that_fails_beside_what_serves_never_serves(fails: str, late: float) -> None:
    made = world({**SHADOW, "soak": "1d"}, REST, seed=3, bad=1.0, classes=(fails,), late=late)
    assert ended(made).state == "rolled_back"
    assert stages_of(made) == ["failed", "pending"]
    assert not any(device.switched_at for device in made.devices.values()), "nothing that serves was touched"


def test_a_candidate_that_is_suspended_again_and_again_shows_nothing() -> None:
    pause = {"after": "2d", "do": "pause"}
    made = world({**SHADOW, "soak": "10d"}, REST, seed=4, tight=1.0, person=("abort",), on_inconclusive=pause)
    assert ended(made).state == "cancelled"
    assert serving(made) == set()
    assert {device.candidate_process.rests for device in made.devices.values()} == {0, 3}, "those of the stage"


@pytest.mark.parametrize("seed", range(3))
def test_a_pause_of_which_no_report_arrived_is_none_that_the_server_could_know_of(seed: int) -> None:
    made = world(
        {**SHADOW, "soak": "3h"},
        REST,
        seed=seed,
        tight=1.0,
        loss=0.6,
        on_inconclusive={"after": "12h", "do": "rollback"},
    )
    assert ended(made).state in {"finished", "rolled_back"}


def test_where_nothing_runs_there_is_no_shadow_and_the_release_goes_out() -> None:
    made = world(SHADOW, REST, idle=1.0)
    assert ended(made).state == "finished"
    assert stages_of(made) == ["skipped", "passed"]
    assert serving(made) == set(made.devices)


def test_a_split_goes_on_to_serve() -> None:
    made = world({**SHADOW, "mode": "split", "share_pct": 10}, REST)
    assert ended(made).state == "finished"
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
MANY: dict[str, Any] = {"fleet": {"rpi": 180}, "look_s": 120.0}


@pytest.mark.parametrize("gates", [AGREEMENT, BOTH], ids=["agreement", "all"])
def test_a_shadow_that_agrees_goes_on_to_serve_everywhere(gates: dict[str, Any]) -> None:
    """Of what serves nobody can say how far it agrees: that is asked of the shadow alone."""
    half = {"name": "half", "size": {"percent": 50}, "soak": "10m"}
    made = world(SHADOWS, half, REST, gates=gates, shows=Shows(), seed=7, person=(), **MANY)
    assert ended(made).state == "finished"
    assert serving(made) == set(made.devices)
    assert stages_of(made) == ["passed"] * 3
    assert "inconclusive" not in verdicts(made)
    shadow, first, last = (made.rows.cells[index, RPI] for index in range(3))
    assert "shadow_agreement is" in shadow.reason
    assert ("shadow_agreement" in first.reason, "latency_p95_ms is" in first.reason) == (False, gates is BOTH)
    assert "shadow_agreement" not in last.reason


def test_a_shadow_that_disagrees_never_serves() -> None:
    made = world(SHADOWS, REST, gates=AGREEMENT, shows=Shows(agreed=0.8), **MANY)
    assert ended(made).state == "rolled_back"
    assert "shadow_agreement is 0.8" in made.rows.cells[0, RPI].reason
    assert not any(device.switched_at for device in made.devices.values())


# ---- match, pins


def test_only_who_matches_is_in_a_stage_before_the_last() -> None:
    made = world({"name": "site-a", "size": {"percent": 100}, "match": "site=a", "soak": "5m"}, REST, fleet={"rpi": 20})
    assert ended(made).state == "finished"
    stages = {device: one.stage for device, one in made.rows.assignments.items()}
    assert stages == {device: 0 if where.site == "a" else 1 for device, where in made.rows.where.items()}
    assert set(stages.values()) == {0, 1}


def test_a_pinned_device_is_left_alone_and_says_why() -> None:
    made = world(REST, fleet={"rpi": 20}, pinned=0.3)
    assert ended(made).state == "finished"
    pinned = {one.device for one in made.rows.members.values() if one.pinned}
    assert 0 < len(pinned) < 20
    assert serving(made) == set(made.devices) - pinned
    assert {(made.rows.assignments[one].state, made.rows.assignments[one].reason) for one in pinned} == {
        (AssignmentState.CANCELLED, "pinned: rig")
    }


# ---- approvals


def test_a_stage_opens_at_somebodys_word_only() -> None:
    made = world(CANARY, APPROVED, approval=(), commands=((10_860.0, "approve"),))
    made.settle(timedelta(hours=3))
    assert (made.rows.state, "waits for approval" in made.rows.reason) == (RolloutState.AWAITING_APPROVAL, True)
    assert len(serving(made)) == 2
    assert ended(made).state == "finished"
    assert serving(made) == set(made.devices)


def test_silence_is_no_approval() -> None:
    made = world(CANARY, APPROVED, approval=(), on_inconclusive={"after": "48h", "do": "rollback"})
    result = ended(made)
    assert result.state == "rolled_back"
    assert "nobody with the role approver answered about rest within 4h" in result.reason
    assert serving(made) == set()


def test_a_denial_takes_the_canaries_back_and_one_at_the_start_cancels() -> None:
    made = world(CANARY, APPROVED, approval=("deny",))
    assert ended(made).state == "rolled_back"
    assert serving(made) == set()
    first = world(APPROVED, approval=("deny",))
    assert ended(first).state == "cancelled"
    assert first.rows.assignments == {}


def test_a_release_that_goes_bad_while_somebody_thinks_is_stopped() -> None:
    slow = {**APPROVED, "approval": {"timeout": "30d"}}
    made = world({**CANARY, "soak": "1m"}, slow, seed=6, bad=1.0, classes=("crash",), late=1.0, approval=())
    result = ended(made)
    assert result.state == "rolled_back"
    assert result.took_s < 86_400


def test_a_stage_that_nobody_of_a_stratum_can_be_in_fails_unopened_with_the_others() -> None:
    first = {"name": "a", "size": {"percent": 100}, "match": "site=a", "soak": "5m", "approval": {"timeout": "4h"}}
    made = world(first, REST, fleet={"rpi": 9, "jet": 2})
    for device in made.devices.values():
        behave(made, device, fails=ErrorClass.GOLDEN)
        barred = frozenset({0}) if device.stratum == "jet" else frozenset[int]()
        made.rows.members[device.id] = replace(made.rows.members[device.id], barred=barred)
    assert ended(made).state == "rolled_back"
    jet = made.rows.cells[0, ProfileName("jet")]
    assert (jet.code, jet.approved_by) == ("no_canary", "")


@pytest.fixture(scope="module")
def waiting() -> World:
    """A world whose second stage waits for somebody's word. It is only looked at."""
    made = world(CANARY, APPROVED, approval=())
    made.settle(timedelta(hours=3))
    return made


def opening(made: World, code: str, **changes: Any) -> StageRun:
    """Return the second stage of the one stratum as one that is just opened without anybody's word."""
    return replace(made.rows.cells[1, RPI], state=StageState.EXPOSING, cut=2**64, code=code, **changes)


@pytest.mark.parametrize(
    "code", ["", "opened", "awaiting_approval", "approved", "resumed", "empty", "inconclusive", "new"]
)
def test_no_other_code_lets_a_stage_leave_pending_without_its_approval(waiting: World, code: str) -> None:
    opened = StageRunTransitioned(StageState.PENDING, opening(waiting, code))
    with pytest.raises(BrokenPromiseError, match=r"opened with the code|without its approval"):
        check_plan(waiting.rows, Plan((opened,), None), waiting.devices, waiting.now)
    earlier = [waiting.rows.cells[0, RPI]]
    found = list(about_opening(waiting.rows, opening(waiting, code, approved_by="ann"), earlier))
    assert (found == []) is (code == "opened")


@pytest.mark.parametrize("code", sorted(FAILS_UNOPENED))
def test_what_is_opened_to_fail_has_failed_by_the_end_of_its_plan(waiting: World, code: str) -> None:
    opened = StageRunTransitioned(StageState.PENDING, opening(waiting, code))
    with pytest.raises(BrokenPromiseError, match="was to fail unopened and is open"):
        check_plan(waiting.rows, Plan((opened,), None), waiting.devices, waiting.now)
    failed = StageRunTransitioned(StageState.EXPOSING, replace(opened.cell, state=StageState.FAILED))
    check_plan(waiting.rows, Plan((opened, failed), None), waiting.devices, waiting.now)


# ---- ways back


@pytest.mark.parametrize("rollback_to", ["none", "digits@1.0.1"])
def test_devices_keep_the_release_or_go_back_to_a_named_one(rollback_to: str) -> None:
    """The release fails on two of nine devices; the others took it."""
    made = world(ALL, fleet={"rpi": 9}, rollback_to=rollback_to, seed=2)
    for device in by_rank(made)[:2]:
        behave(made, device, fails=ErrorClass.CRASH)
    result, ones = ended(made), made.rows.assignments.values()
    if rollback_to == "none":
        assert result.state == "rollback_incomplete"
        assert {one.device for one in ones if "keeps the release" in one.reason} == serving(made) != set()
        return
    back = [one for one in ones if one.state is AssignmentState.ROLLED_BACK and one.switched_at]
    assert back
    assert {made.rows.documents[one.device].active for one in back} == {made.rows.rollback_bundles[RPI]}


# ---- the queue


def test_a_queued_rollout_waits_for_those_before_it_and_then_only_begins() -> None:
    snapshot = replace(world(REST).rows.snapshot(), state=RolloutState.VALIDATING, members=())
    waits = plan_tick(replace(snapshot, behind=("r-0",)), START)
    assert (waits.effects, waits.next_at) == ((), START + LOOK_AGAIN)
    begins = plan_tick(snapshot, START)
    told = "no older rollout is before it any more"
    assert begins.effects == (RolloutTransitioned(RolloutState.VALIDATING, RolloutState.RUNNING, "started", told),)
    assert begins.next_at == START, "its devices are looked up in the next tick"


# ---- everything


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_reaches_all_devices(name: str) -> None:
    spec = {**BASE, "strategy": name, "strata": ["profile", "site"], "on_inconclusive": {"after": "48h"}}
    made = World(plain(11, devices={"rpi": 9, "jet": 4}, spec=spec, labels=SITES))
    assert ended(made).state == "finished"
    assert serving(made) == set(made.devices)
    assert {device.stratum for device in made.devices.values()} > {"rpi/site=a", "rpi/site=b"}


SIZES = st.sampled_from([{"count": 1}, {"count": 2}, {"count": 3, "count_total": True}, {"percent": 25, "min": 2}])
STRATA = st.sampled_from([["profile"], ["profile", "site"]])
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
    strata: st.SearchStrategy[list[str]] = STRATA,
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
        "strata": draw(strata),
        "stages": [*stages, {**REST, "approval": draw(APPROVALS)}],
        "on_fail": draw(st.sampled_from(["rollback", "pause"])),
        "on_inconclusive": {"after": "12h", "do": draw(st.sampled_from(["rollback", "pause"]))},
        "rollback_to": draw(st.sampled_from(["previous", "none", "digits@1.0.0"])),
        **({} if quality is None else {"gates": {"quality": quality}}),
    }


FLEETS = st.sampled_from([{"rpi": 8}, {"rpi": 5, "jet": 3}, {"rpi": 1, "jet": 2, "x86": 9}])
ANSWERS = st.lists(st.sampled_from(["approve", "approve", "deny", ""]), max_size=6).map(tuple)


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
def test_every_accepted_form_reaches_everybody_or_ends_with_a_reason(
    document: dict[str, Any],
    seed: int,
    fleet: dict[str, int],
    answers: tuple[str, ...],
    idle: float,
    pinned: float,
    shows: Shows | None,
) -> None:
    """The world checks its promises after each tick and at the end."""
    end(document, shows, seed=seed, devices=fleet, approval=answers, idle=idle, pinned=pinned)


def end(document: dict[str, Any], shows: Shows | None, seed: int, **fields: Any) -> None:
    """Run a rollout to its end, if its document can be read."""
    try:
        parse_spec(document)
    except BadSpecError:
        return
    ended(of(scenario_of(seed, spec=document, labels=SITES, **fields), shows))


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
    document: dict[str, Any], seed: int, fleet: dict[str, int], answers: tuple[str, ...], idle: float
) -> None:
    end(document, None, seed=seed, devices=fleet, approval=answers, idle=idle)


LARGER = st.sampled_from([{"count": 20}, {"count": 25}, {"percent": 60, "min": 20}])
AGREES_THEN_SERVES: dict[str, Any] = {
    **BASE,
    "stages": [{**SHADOW, "size": {"count": 20}}, {"name": "few", "size": {"count": 20}, "soak": "5m"}, REST],
    "gates": AGREEMENT,
}
SHARES_ITS_CONTROLS: dict[str, Any] = {**AGREES_THEN_SERVES, "gates": BOTH}
"""Most of who is compared with the shadows is to be compared with those that serve, too."""


@settings(deadline=None, max_examples=40)
@given(shaped_specs(LARGER, gates(TOLD, ["7d"], ["10m", "1h"]), 1, st.just(["profile"])), st.integers(0, 2**32 - 1))
@example(AGREES_THEN_SERVES, 1)
@example(SHARES_ITS_CONTROLS, 1)
def test_what_the_lint_accepts_reaches_everybody_where_nothing_is_wrong(document: dict[str, Any], seed: int) -> None:
    """Devices are fine, send what they should, and somebody approves: then a stage without a verdict is a flaw of the lint."""
    try:
        spec = parse_spec(document)
    except BadSpecError:
        return
    made = of(plain(seed, devices={"rpi": 48}, spec=document, labels=SITES, look_s=300.0), Shows())
    rows = made.rows
    planned = plan(spec, rows.salt, list(rows.members.values()), made.new, with_power=False)
    if not planned.ok:
        return
    result = ended(made)
    if any(finding.code == OUT_OF_REACH for finding in planned.findings):
        return  # as a warning it says that a stage waits until a person promotes it, and nobody does here
    assert (result.state, verdicts(made)["inconclusive"]) == ("finished", 0), result.reason
    assert serving(made) == set(made.devices)
