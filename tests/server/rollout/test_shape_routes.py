"""The form of a rollout over the API: stages beside what serves, approvals by role, older rollouts, strata, pins, strategies."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from edgefleet_protocol.desired import DESIRED_TYPE, decode_desired
from edgefleet_protocol.verify import verify_envelope
from edgefleet_server.access.model import Role
from edgefleet_server.rollout.spec.strategies import STRATEGIES
from edgefleet_terms.reserved_labels import PIN_LABEL
from tests.server.fleet.apps import Operators
from tests.server.rollout.fleet_sim import MODEL, SimDevice, World, spec_of, stages
from tests.server.rollout.shadowing_devices import can_shadow

HOST = "http://server.test/api/v1"
REST: dict[str, Any] = {"name": "rest", "size": {"percent": 100}, "soak": "0s"}
SHADOW: dict[str, Any] = {"name": "shadow", "size": {"count": 2}, "mode": "shadow", "soak": "1m"}
CANARY: dict[str, Any] = {"name": "canary", "size": {"count": 2}, "soak": "0s"}
APPROVED: dict[str, Any] = {**REST, "approval": {"role": "approver", "timeout": "1h"}}


def client_of(world: World, role: Role = Role.OPERATOR, name: str = "ann") -> TestClient:
    return Operators(world.house).as_role(role, name)


def ready(world: World, count: int = 6, **labels: str) -> list[SimDevice]:
    """Return devices that run 1.0.0 while 1.1.0 is published."""
    devices = world.enrol(count, **labels)
    world.settle("1.0.0")
    world.release("1.1.0")
    return devices


def candidate_of(world: World, device: SimDevice) -> tuple[str, str]:
    """Return version and mode of the candidate that a device's document names."""
    signed = world.fleet.documents.of_device(device.id)
    assert signed is not None
    model = decode_desired(verify_envelope(signed.envelope, DESIRED_TYPE, [world.house.signing.director_key()])).models[
        MODEL
    ]
    return ("", "") if model.candidate is None else (model.candidate.target.split("/")[1], str(model.mode))


# ---- beside what serves


def test_a_shadow_soaks_is_judged_and_then_the_release_serves(any_world: World) -> None:
    world = any_world
    devices = ready(world)
    can_shadow(world)
    rollout = world.create(stages=[SHADOW, REST])
    world.go_until(lambda: world.states(rollout).get("healthy") == 2)
    beside = [one for one in devices if candidate_of(world, one) == ("1.1.0", "shadow")]
    assert len(beside) == 2
    assert {one.running for one in devices} == {"1.0.0"}, "what serves is untouched"
    view = world.view(rollout)
    assert (view.stages[0].mode, view.stages[0].size_text) == ("shadow", "2 per stratum, as a shadow")
    world.clock.turn(seconds=30)
    world.go()
    assert world.view(rollout).stages[0].state in ("soaking", "judging")
    view = world.go_until_state(rollout, "finished", seconds=5)
    assert {one.running for one in devices} == {"1.1.0"}
    assert {candidate_of(world, one) for one in devices} == {("", "")}
    assert {one.stage for one in world.members(rollout).values()} == {"rest"}
    assert [stage.state for stage in view.stages] == ["passed", "passed"]


def test_a_shadow_that_fails_is_ended_everywhere_and_serves_nowhere(any_world: World) -> None:
    world = any_world
    devices = ready(world)
    can_shadow(world, fails_beside="install.golden")
    rollout = world.create(stages=[SHADOW, REST])
    view = world.go_until_state(rollout, "rolled_back", "rollback_incomplete", "finished")
    assert (view.state, view.code) == ("rolled_back", "guard_class")
    assert {candidate_of(world, one) for one in devices} == {("", "")}
    assert {one.running for one in devices} == {"1.0.0"}
    assert {one.downloads for one in devices} == {1}


def test_an_abort_ends_the_shadows_too(any_world: World) -> None:
    world = any_world
    devices = ready(world)
    can_shadow(world)
    rollout = world.create(stages=[{**SHADOW, "mode": "split", "share_pct": 25}, REST])
    world.go_until(lambda: world.states(rollout).get("healthy") == 2)
    world.service.abort(rollout, "ann", "no more", rollback=False)
    assert world.view(rollout).state == "cancelled"
    assert {candidate_of(world, one) for one in devices} == {("", "")}


# ---- who


def test_a_stage_takes_only_devices_that_match(any_world: World) -> None:
    world = any_world
    north = world.enrol(3, site="north")
    ready(world, 3, site="south")
    rollout = world.create(
        stages=[{"name": "north", "size": {"percent": 100}, "match": "site=north", "soak": "0s"}, REST]
    )
    world.go_until_state(rollout, "finished")
    places = {name: one.stage for name, one in world.members(rollout).items()}
    assert {name for name, stage in places.items() if stage == "north"} == {one.id for one in north}
    plan = client_of(world).get(f"{HOST}/rollouts/{rollout}/plan").json()
    assert [stage["strata"][0]["new"] for stage in plan["stages"]] == [3, 3]


def test_a_pinned_device_is_left_alone_and_shown_with_its_reason(any_world: World) -> None:
    world = any_world
    devices = ready(world)
    world.fleet.edits.update(devices[0].id, {PIN_LABEL: "calibration-rig"}, None)
    client = client_of(world)
    plan = client.post(f"{HOST}/rollouts:plan", json=spec_of()).json()
    assert [(one["device"], one["reason"]) for one in plan["excluded"]] == [(devices[0].id, "pinned: calibration-rig")]
    rollout = world.create(stages=stages("100%"))
    world.go_until_state(rollout, "finished")
    member = world.member(rollout, devices[0])
    assert (member.state, member.reason, devices[0].running) == ("cancelled", "pinned: calibration-rig", "1.0.0")


def test_a_snapshot_takes_in_nobody_who_comes_later(any_world: World) -> None:
    world = any_world
    ready(world, 4)
    rollout = world.create(stages=stages("100%", soak="1m"), membership="snapshot")
    world.go(3)
    late = world.enrol(1)[0]
    world.go_until_state(rollout, "finished", seconds=5)
    assert late.id not in world.members(rollout)
    assert late.running == ""
    world.house.fleet.revocation.revoke(late.id)


def test_strata_by_label_are_judged_alone(any_world: World) -> None:
    world = any_world
    good = world.enrol(3, site="north")
    bad = ready(world, 3, site="south")
    from tests.server.rollout.test_engine import CRASH

    for one in bad:
        one.habits["1.1.0"] = CRASH
    rollout = world.create(strata=["profile", "site"])
    view = world.go_until_state(rollout, "finished", "rolled_back", "cancelled")
    assert (view.state, view.is_partial) == ("finished", True)
    assert {cell.stratum.partition("/")[2]: cell.state for cell in view.stages[0].strata} == {
        "site=north": "passed",
        "site=south": "failed",
    }
    assert {one.running for one in good} == {"1.1.0"}
    assert {one.running for one in bad} == {"1.0.0"}


# ---- approvals


def asking(world: World) -> str:
    ready(world)
    rollout = world.create(stages=[CANARY, APPROVED])
    world.go_until_state(rollout, "awaiting_approval")
    return rollout


def test_only_the_named_role_approves_and_the_rollout_goes_on(any_world: World) -> None:
    world = any_world
    rollout = asking(world)
    view = world.view(rollout)
    assert "waits for approval by someone with the role approver" in view.reason
    asked = view.stages[1].strata[0].approval
    assert asked is not None
    assert asked.asked_at is not None
    assert asked.until == asked.asked_at + timedelta(hours=1)
    for verb in ("approve", "deny"):
        for role in (Role.VIEWER, Role.OPERATOR, Role.PUBLISHER):
            refused = client_of(world, role).post(f"{HOST}/rollouts/{rollout}:{verb}", json={"reason": "x"})
            assert (refused.status_code, refused.json()["code"]) == (403, "rollout.not_approver")
    assert world.view(rollout) == view
    approver = client_of(world, Role.APPROVER, "bob")
    answer = approver.post(f"{HOST}/rollouts/{rollout}:approve", json={"reason": "looks fine"})
    assert answer.status_code == 200
    assert answer.json()["stages"][1]["strata"][0]["approval"]["approved_by"] == "bob"
    assert world.go_until_state(rollout, "finished").state == "finished"
    again = approver.post(f"{HOST}/rollouts/{rollout}:approve", json={})
    assert (again.status_code, again.json()["code"]) == (409, "rollout.illegal_state")


def test_a_denial_takes_back_what_is_out(any_world: World) -> None:
    world = any_world
    rollout = asking(world)
    denied = client_of(world, Role.APPROVER).post(f"{HOST}/rollouts/{rollout}:deny", json={"reason": "not on Fridays"})
    assert denied.status_code == 200
    view = world.go_until_state(rollout, "rolled_back")
    assert "denied by ann: not on Fridays" in view.reason
    assert {one.running for one in world.devices.values()} == {"1.0.0"}


def test_nobody_answers_so_the_rollout_pauses_and_asks_again_after_a_resume(any_world: World) -> None:
    world = any_world
    rollout = asking(world)
    view = world.go_until_state(rollout, "paused", seconds=300)
    assert (view.code, "within 1h" in view.reason) == ("approval_timeout", True)
    assert len([one for one in world.devices.values() if one.running == "1.1.0"]) == 2
    world.service.resume(rollout, "ann", "now they are back")
    assert world.go_until_state(rollout, "awaiting_approval").state == "awaiting_approval"


# ---- rollouts that meet


def test_a_newer_rollout_supersedes_waits_or_is_refused(any_world: World) -> None:
    world = any_world
    ready(world)
    world.release("1.2.0")
    old = world.create(stages=[CANARY, APPROVED])
    world.go_until_state(old, "awaiting_approval")
    client = client_of(world)
    newer = spec_of("digits@1.2.0", stages=stages("100%"))
    refused = client.post(f"{HOST}/rollouts", json=newer)
    assert (refused.status_code, refused.json()["code"]) == (409, "rollout.active_exists")
    queued = client.post(f"{HOST}/rollouts", json={**newer, "supersede": "queue"}).json()
    assert (queued["state"], old in queued["reason"]) == ("validating", True)
    world.go(5)
    assert world.view(queued["id"]).state == "validating"
    world.service.abort(queued["id"], "ann", "no", rollback=False)
    made = client.post(f"{HOST}/rollouts", json={**newer, "supersede": "cancel-older"}).json()
    assert (world.view(old).state, world.view(old).code) == ("superseded", "superseded")
    assert world.go_until_state(made["id"], "finished").state == "finished"
    assert {one.running for one in world.devices.values()} == {"1.2.0"}


def test_a_queued_rollout_begins_when_the_older_one_has_ended(any_world: World) -> None:
    world = any_world
    ready(world)
    world.release("1.2.0")
    first = world.create(stages=stages("100%"))
    second = world.create("digits@1.2.0", stages=stages("100%"), supersede="queue")
    assert world.view(second).state == "validating"
    world.go_until_state(first, "finished")
    world.go_until_state(second, "finished")
    assert {one.running for one in world.devices.values()} == {"1.2.0"}


def test_a_release_to_go_back_to_must_exist_and_is_used(any_world: World) -> None:
    world = any_world
    devices = ready(world)
    world.release("0.9.0")
    from tests.server.rollout.test_engine import CRASH

    world.habits["1.1.0"] = CRASH
    client = client_of(world)
    unknown = client.post(f"{HOST}/rollouts", json=spec_of(rollback_to="digits@0.1.0"))
    assert (unknown.status_code, unknown.json()["code"]) == (404, "release.unknown")
    rollout = world.create(rollback_to="digits@0.9.0")
    assert world.go_until_state(rollout, "rolled_back").state == "rolled_back"
    wants = [world.wants(one) for one in devices]
    assert wants.count("0.9.0") == len(world.exposed(rollout)) >= 1
    assert set(wants) == {"0.9.0", "1.0.0"}


# ---- strategies and power


def test_a_strategy_is_a_spec_that_one_can_print_and_start(any_world: World) -> None:
    world = any_world
    ready(world)
    client = client_of(world)
    listed = client.get(f"{HOST}/rollout-strategies").json()["items"]
    assert [one["name"] for one in listed] == list(STRATEGIES)
    for name in STRATEGIES:
        shown = client.get(f"{HOST}/rollout-strategies/{name}").json()["spec"]
        mine = {"release": "digits@1.1.0", "selector": ""}
        by_name = client.post(f"{HOST}/rollouts:plan", json={**mine, "strategy": name}).json()
        by_stages = client.post(f"{HOST}/rollouts:plan", json={**shown["spec"], **mine}).json()
        assert [stage["size_text"] for stage in by_name["stages"]] == [
            stage["size_text"] for stage in by_stages["stages"]
        ]
        assert by_name["ok"]
    assert client.get(f"{HOST}/rollout-strategies/yolo").status_code == 404


def test_a_plan_says_what_each_stratum_can_find_out(world: World) -> None:
    ready(world)
    power = client_of(world).post(f"{HOST}/rollouts:plan", json=spec_of()).json()["power"]
    assert [(one["devices"], [stage["devices"] for stage in one["stages"]]) for one in power] == [(6, [2, 3, 6])]
    assert power[0]["to_stop"]["100"] == 2
    assert power[0]["stages"][0]["stops"]["100"] == 1.0


@pytest.mark.parametrize("role", [Role.VIEWER])
def test_strategies_may_be_looked_at_by_all(world: World, role: Role) -> None:
    assert client_of(world, role).get(f"{HOST}/rollout-strategies").status_code == 200
