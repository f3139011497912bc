"""Protected devices take releases only by an approved rollout: each way in is tried, on the real services."""

from __future__ import annotations

import datetime as dt
import re
import threading
from contextlib import suppress
from typing import Any

import pytest
import yaml
from sqlalchemy import delete

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.ids import DeviceId, ReleaseRef
from edgefleet_server.access.grants.grant_scope import Scope
from edgefleet_server.access.model import Grant, Principal, Role
from edgefleet_server.events.model import EventFilter
from edgefleet_server.fleet.desired.model import CandidateOrder
from edgefleet_server.fleet.errors import GroupInUseError, ProtectedDeviceError
from edgefleet_server.fleet.protection.model import REMOVAL_DELAY, PersonWarrant
from edgefleet_server.fleet.tables import FleetProtectedDevice
from edgefleet_server.rollout.errors import IllegalStateError, LintError, NotApproverError, NothingToUndoError
from tests.house.tree import ROOT
from tests.server.fleet.house import FACTS, KeyedDevice
from tests.server.rollout.fleet_sim import MODEL, SimDevice, World, spec_of, stages

BOSS = Principal("t-boss", "boss", frozenset({Role.ADMIN}), person="p-boss")
EVE = Principal("t-eve", "eve", frozenset({Role.APPROVER}), person="p-eve")
APPROVED = {"role": "approver", "timeout": "1d"}
BREAK = dt.timedelta(minutes=30)


def protected(world: World, count: int = 3) -> list[SimDevice]:
    """Bring 1.0.0 to devices of production, protect them, and publish 1.1.0."""
    found = world.enrol(count, env="prod")
    world.settle("1.0.0")
    world.release("1.1.0")
    world.fleet.protection.add("pci", "env=prod", "boss")
    return found


def approved_stages(*sizes: Any) -> list[dict[str, Any]]:
    first, *rest = stages(*sizes)
    return [{**first, "approval": APPROVED}, *rest]


def wanted(world: World) -> set[str]:
    return {world.wants(one) for one in world.devices.values()}


def deploy(world: World, version: str = "1.1.0", **more: Any) -> Any:
    return world.fleet.deployer.deploy(ReleaseRef.parse(f"{MODEL}@{version}"), **{"selector": "", "by": "ann", **more})


def machine(world: World, hostname: str, **labels: str) -> DeviceId:
    """Enrol a machine that no other device was before."""
    claim = world.fleet.enrolment.create_claims(labels=labels)[0]
    return world.fleet.enrolment.enroll(claim.token, KeyedDevice().csr(), {**FACTS, "hostname": hostname}).device_id


def test_deploying_at_once_is_refused_with_the_rule_and_the_devices(any_world: World) -> None:
    world = any_world
    devices = protected(world)
    before = {one.id: one.gens[-1] for one in devices}
    for more in (
        {},
        {"dry_run": True},
        {"selector": None, "device": devices[0].id},
        {"warrant": PersonWarrant("t-ann")},
    ):
        with pytest.raises(ProtectedDeviceError, match="rule pci") as refused:
            deploy(world, **more)
        assert devices[0].id in refused.value.message or devices[1].id in refused.value.message
        assert "approval: {role: approver}" in refused.value.next_step
    for mode in ("shadow", "split", "measure"):
        for dry_run in (True, False):
            with pytest.raises(ProtectedDeviceError):
                deploy(world, order=CandidateOrder(mode, 10), dry_run=dry_run)
    world.step()
    assert {one.id: one.gens[-1] for one in devices} == before, "nothing was signed"
    assert deploy(world, "1.0.0").set, "what a device has already is no change"


def test_a_deployment_that_begins_while_a_rule_is_made_is_refused(any_world: World) -> None:
    """Neither can look past the other: who writes documents waits for the rule, which holds every device."""
    world = any_world
    world.enrol(2, env="prod")
    world.settle("1.0.0")
    world.release("1.1.0")
    refused: list[str] = []

    def try_it() -> None:
        with suppress(ProtectedDeviceError):
            deploy(world)
            return
        refused.append("pci")

    meanwhile = threading.Thread(target=try_it)
    with world.house.db.session():
        world.fleet.protection.add("pci", "env=prod", "boss")
        meanwhile.start()
        meanwhile.join(0.5)
        assert meanwhile.is_alive(), "it waits"
    meanwhile.join(30)
    world.step()
    assert (refused, wanted(world)) == (["pci"], {"1.0.0"})


def test_a_stage_is_answered_by_an_approver_whose_scope_has_the_rollout(world: World) -> None:
    """An approver of one group opens nothing elsewhere, whichever selector happens to find its devices only."""
    world.enrol(2, site="oslo")
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(selector="site=oslo", stages=approved_stages("100%"))
    world.go_until_state(rollout, "awaiting_approval")
    inside, outside = (
        Principal("t", site, frozenset(), f"p-{site}", scoped=(Grant(Role.APPROVER, Scope(sites=frozenset({site}))),))
        for site in ("oslo", "rome")
    )
    for answer in (world.service.approve, world.service.deny):
        with pytest.raises(NotApproverError, match=f"for model {MODEL} on devices of site oslo, by one grant alone"):
            answer(rollout, outside, "no", None)
    world.service.approve(rollout, inside, "", None)
    world.go_until_state(rollout, "finished")
    assert wanted(world) == {"1.1.0"}


@pytest.mark.parametrize(("membership", "first"), [("dynamic", "1.1.0"), ("snapshot", "1.0.0")])
def test_an_approval_is_for_a_rollout_and_reaches_who_matches_later(world: World, membership: str, first: str) -> None:
    """A limit that the page of protected devices names: what was approved for the laboratory follows a label."""
    devices = protected(world)
    world.enrol(2, env="lab")
    rollout = world.create(selector="env=lab", stages=approved_stages("100%"), membership=membership)
    world.go_until_state(rollout, "awaiting_approval")
    world.fleet.edits.update(devices[0].id, {"env": "lab"}, None)
    world.service.approve(rollout, EVE, "", None)
    world.go_until_state(rollout, "finished")
    assert [world.wants(one) for one in devices] == [first, "1.0.0", "1.0.0"]


def test_an_approved_rollout_brings_a_release_and_one_without_is_not_made(any_world: World) -> None:
    world = any_world
    protected(world)
    for first in ({}, {"approval": {"role": "operator"}}):
        with pytest.raises(LintError) as refused:
            world.create(stages=[{**stages("100%")[0], **first}])
        assert "protected_without_approval" in {one["code"] for one in refused.value.errors}
    rollout = world.create(stages=approved_stages("100%"))
    assert "protected" in {one.code for one in world.service.plan(spec_of(stages=approved_stages("100%"))).findings}
    world.go_until_state(rollout, "awaiting_approval")
    assert wanted(world) == {"1.0.0"}
    world.service.approve(rollout, EVE, "", None)
    world.go_until_state(rollout, "finished")
    assert wanted(world) == {"1.1.0"}


def test_the_rollout_of_the_page_waits_for_its_approval_and_then_reaches_them(world: World) -> None:
    page = (ROOT / "docs/operate/protection.md").read_text("utf-8")
    [written] = re.findall(r"<<'YAML'\n(.*?)^YAML$", page, re.DOTALL | re.MULTILINE)
    spec = yaml.safe_load(written)["spec"]
    protected(world, 40)
    rollout = world.create(selector=spec["selector"], stages=[{**one, "soak": "0s"} for one in spec["stages"]])
    world.go_until_state(rollout, "awaiting_approval")
    assert wanted(world) == {"1.0.0"}
    world.service.approve(rollout, EVE, "tested in the lab", None)
    world.go_until_state(rollout, "finished")
    assert wanted(world) == {"1.1.0"}


def test_its_first_stage_cannot_be_left_out(world: World) -> None:
    protected(world)
    rollout = world.create(stages=approved_stages(2, "100%"))
    world.go_until_state(rollout, "awaiting_approval")
    with pytest.raises(IllegalStateError, match="has to be approved"):
        world.service.skip(rollout, BOSS, "we know it", "s0", None)
    with pytest.raises(IllegalStateError):
        world.service.promote(rollout, "boss", "we know it", None)
    world.go(20)
    assert wanted(world) == {"1.0.0"}


def test_a_first_stage_without_devices_approves_nothing(world: World) -> None:
    """Its match reaches no protected device, so it is left out there, and nobody is asked."""
    protected(world)
    first, last = approved_stages("100%", "100%")
    rollout = world.create(selector="env in (prod,lab)", stages=[{**first, "match": "env=lab"}, last])
    world.go(60)
    assert wanted(world) == {"1.0.0"}
    assert world.states(rollout).get("healthy", 0) == 0


def test_an_open_rollout_offers_nothing_more_once_a_rule_is_made(world: World) -> None:
    world.enrol(6, env="prod")
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=stages(2, "100%", soak="1h"))
    world.go_until(lambda: world.states(rollout).get("healthy") == 2)
    world.fleet.protection.add("pci", "env=prod", "boss")
    world.go(30, seconds=600)
    assert sorted(world.wants(one) for one in world.devices.values()) == ["1.0.0"] * 4 + ["1.1.0"] * 2
    assert world.service.undo(MODEL, "ann", "bad", dry_run=False).rollouts == (rollout,)
    world.go_until_state(rollout, "rolled_back")
    assert wanted(world) == {"1.0.0"}, "what it brought, it takes back to what it noted"


def test_labels_and_groups_lead_no_device_out(world: World) -> None:
    devices = protected(world)
    world.fleet.edits.update(devices[0].id, {"env": None}, None)
    world.fleet.edits.label("env=prod", {"env": "lab"}, dry_run=False)
    world.fleet.groups.create("shops", "env=prod", "ann")
    world.fleet.protection.add("shops", "group=shops", "boss")
    with pytest.raises(GroupInUseError, match="protection rule shops"):
        world.fleet.groups.change("shops", "env=none")
    with pytest.raises(GroupInUseError):
        world.fleet.groups.delete("shops")
    for one in devices:
        with pytest.raises(ProtectedDeviceError):
            deploy(world, selector=None, device=one.id)


def test_labels_lead_a_device_in_for_good(world: World) -> None:
    protected(world)
    one, other = machine(world, "lab-1", env="lab"), machine(world, "lab-2", env="lab")
    assert not world.fleet.protection.rules_of([one, other])
    world.fleet.edits.update(one, {"env": "prod"}, None)
    world.fleet.edits.label(f"id={other}", {"env": "prod"}, dry_run=False)
    world.fleet.edits.label("env=prod", {"env": "lab"}, dry_run=False)
    for device in (one, other):
        with pytest.raises(ProtectedDeviceError):
            deploy(world, selector=None, device=device)


@pytest.mark.parametrize("way", ["one", "many", "profile"])
def test_who_enrolled_while_the_rule_was_made_is_not_led_out_by_labels_either(world: World, way: str) -> None:
    """Neither of two transactions saw the other: the rule is there, the device too, and nothing says that it is under the rule."""
    world.release("1.0.0")
    world.fleet.protection.add("pci", "env=prod", "boss")
    world.fleet.protection.add("ort", "profile=generic-x86_64-ort", "boss")
    (device,) = world.enrol(1, env="prod")
    with world.house.db.session() as session:
        session.execute(delete(FleetProtectedDevice))
    if way == "one":
        world.fleet.edits.update(device.id, {"env": "lab"}, None)
    elif way == "many":
        world.fleet.edits.label("env=prod", {"env": "lab"}, dry_run=False)
    else:
        world.fleet.edits.update(device.id, {}, "generic-aarch64-ort")
    assert world.fleet.protection.rules_of([device.id])[device.id] == ("ort", "pci")


def test_a_device_that_enrols_is_protected_from_its_first_document_on(world: World) -> None:
    protected(world)
    fresh = machine(world, "gate-9", env="prod")
    for dry_run in (True, False):
        with pytest.raises(ProtectedDeviceError):
            deploy(world, selector=None, device=fresh, dry_run=dry_run)


def test_enrolling_again_leads_no_device_out(world: World) -> None:
    protected(world)
    key = KeyedDevice()
    facts = {**FACTS, "hostname": "gate-4", "board": "rpi5"}

    def enrol(keyed: KeyedDevice, facts: Any, **labels: str) -> DeviceId:
        claim = world.fleet.enrolment.create_claims(labels=labels)[0]
        return world.fleet.enrolment.enroll(claim.token, keyed.csr(), facts).device_id

    first = enrol(key, facts, env="prod")
    world.fleet.revocation.revoke(first)
    again = [enrol(key, FACTS, env="lab"), enrol(KeyedDevice(), facts, env="lab")]
    other = enrol(KeyedDevice(), {**FACTS, "hostname": "lab-1"}, env="lab")
    assert set(world.fleet.protection.rules_of([*again, other])) == set(again)


def test_an_undo_goes_only_to_what_ran_before_in_the_approved_rollout(world: World) -> None:
    """To and fro between releases is no way to an old one: the second undo finds no rollout that brought what runs."""
    protected(world)
    rollout = world.create(stages=approved_stages("100%"))
    world.go_until_state(rollout, "awaiting_approval")
    world.service.approve(rollout, EVE, "", None)
    world.go_until_state(rollout, "finished")
    made = world.service.undo(MODEL, "ann", "slow", dry_run=False)
    assert made.rollouts == (rollout,)
    world.go_until_state(rollout, "rolled_back")
    assert wanted(world) == {"1.0.0"}
    with pytest.raises(NothingToUndoError):
        world.service.undo(MODEL, "ann", "the other way", dry_run=False)
    world.go(10)
    assert wanted(world) == {"1.0.0"}


def test_what_was_deployed_before_the_rule_is_not_undone_by_hand(world: World) -> None:
    world.enrol(2, env="prod")
    world.settle("1.0.0")
    world.settle("1.1.0")
    world.fleet.protection.add("pci", "env=prod", "boss")
    with pytest.raises(NothingToUndoError, match="protection rule pci"):
        world.service.undo(MODEL, "ann", "slow", dry_run=False)
    assert wanted(world) == {"1.1.0"}


def test_a_broken_glass_lets_one_person_deploy_for_a_while(any_world: World) -> None:
    world = any_world
    protected(world)
    book = world.fleet.protection
    for reason, lasts in (("short", BREAK), ("the cameras are blind", dt.timedelta(hours=5))):
        with pytest.raises(EdgefleetError, match=r"glass|at most"):
            book.break_glass("pci", principal="t-boss", by="boss", reason=reason, lasts=lasts)
    book.break_glass("pci", principal="t-boss", by="boss", reason="the cameras are blind", lasts=BREAK)
    with pytest.raises(ProtectedDeviceError):
        deploy(world, warrant=PersonWarrant("t-ann"))
    assert [one.by for one in book.rule("pci").broken] == ["boss"]
    assert len(deploy(world, warrant=PersonWarrant("t-boss")).set) == 3
    told = world.fleet.feed.newest_of(EventFilter(kinds=("protection",)), 10)
    assert [one.detail["to"] for one in told] == ["bypassed", "break_glass", "added"]
    assert (told[0].detail["devices"], told[1].detail["reason"]) == (3, "the cameras are blind")
    world.house.clock.turn(minutes=31)
    assert book.rule("pci").broken == []
    world.release("1.2.0")
    with pytest.raises(ProtectedDeviceError):
        deploy(world, "1.2.0", warrant=PersonWarrant("t-boss"))


def test_a_broken_glass_is_whole_again_in_a_rule_that_was_made_later(world: World) -> None:
    protected(world)
    book, clock = world.fleet.protection, world.house.clock
    book.end("pci", "mallory")
    clock.turn(seconds=REMOVAL_DELAY.total_seconds() - 60)
    book.break_glass(
        "pci", principal="t-mallory", by="mallory", reason="before it is gone", lasts=dt.timedelta(hours=4)
    )
    clock.turn(seconds=60)
    book.add("pci", "env=prod", "boss")
    told = world.fleet.feed.newest_of(EventFilter(kinds=("protection",)), 10)
    assert [one.detail["to"] for one in told][:2] == ["added", "removed"], "that a rule ended is told, whoever finds it"
    assert book.rule("pci").broken == []
    with pytest.raises(ProtectedDeviceError):
        deploy(world, warrant=PersonWarrant("t-mallory"))


def test_a_rule_that_is_removed_stays_in_force_for_a_day_and_can_be_kept(world: World) -> None:
    protected(world)
    book, clock = world.fleet.protection, world.house.clock
    for end in (True, False):
        book.end("pci", "mallory")
        with pytest.raises(ProtectedDeviceError):
            deploy(world)
        clock.turn(seconds=REMOVAL_DELAY.total_seconds() - 1)
        with pytest.raises(ProtectedDeviceError):
            deploy(world)
        if end:
            assert book.keep("pci", "boss").ends_at is None
    clock.turn(seconds=1)
    assert deploy(world).set
    assert (book.end_due(clock.now()), book.rules()) == (1, [])
