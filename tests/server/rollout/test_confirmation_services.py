"""Confirmation of failures with real services, documents and tasks."""

from __future__ import annotations

from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.rollout.analysis import plain_rules
from edgefleet_server.rollout.analysis.decide import UNCONFIRMED
from edgefleet_server.rollout.model import (
    Verdict,
)
from tests.server.rollout.fleet_sim import SMALL, Habit, World, stages
from tests.server.rollout.test_confirmation import F, G

# ---- with real services, documents and tasks


def fresh(world: World, count: int) -> None:
    world.enrol(count)
    world.settle("1.0.0")
    world.release("1.1.0")


LIE = Habit(fails_at=Phase.GOLDEN, error_class=ErrorClass.GOLDEN, reason="wrong outputs")


def test_a_refuted_report_makes_its_device_suspect_and_the_others_keep_the_release(any_world: World) -> None:
    world = any_world
    fresh(world, 4)
    liar, *others = world.devices.values()
    liar.habits["1.1.0"] = LIE
    rollout = world.create(stages=stages("100%"))
    view = world.go_until_state(rollout, "paused")
    (one,) = world.asked(rollout)
    assert (one.words, one.verdict, view.code) == ([liar.id], Verdict.REFUTED, UNCONFIRMED)
    assert {other.running for other in others} == {"1.1.0"}
    assert [event["to"] for event in world.events(rollout) if event["kind"] == "confirmation"][-1] == "refuted"
    assert world.fleet.offers.reports_of([liar.id], "digits")[liar.id].is_suspect
    world.service.resume(rollout, "ann", "the device is broken itself")
    world.go(12)
    assert world.view(rollout).state == "running"
    assert len(world.asked(rollout)) == 1


def test_what_drawn_devices_find_is_taken_back_although_the_server_could_not_look(world: World) -> None:
    fresh(world, 5)
    world.proof = None
    world.habits["1.1.0"] = Habit(fails_at=Phase.COMMITTED, error_class=ErrorClass.GOLDEN)
    for device in list(world.devices.values())[1:]:
        device.habits["1.1.0"] = Habit(
            stays_at=Phase.PROBATION, fails_at=Phase.COMMITTED, error_class=ErrorClass.GOLDEN
        )
    rollout = world.create(stages=stages("100%"))
    view = world.go_until_state(rollout, "rolled_back", rounds=60)
    (one,) = world.asked(rollout)
    assert (one.verdict, view.code) == (Verdict.CONFIRMED, plain_rules.GUARD_CLASS)
    assert all(draw.task for draw in one.draws), "checks said so: the devices themselves never failed"
    assert {device.running for device in world.devices.values()} == {"1.0.0"}


def test_a_release_that_is_bad_in_one_profile_goes_back_there_after_a_draw(world: World) -> None:
    world.enrol(3)
    bad = world.enrol(4, SMALL)
    world.settle("1.0.0", "generic-x86_64-ort", SMALL)
    world.release("1.1.0", "generic-x86_64-ort", SMALL)
    for device in bad:
        device.habits["1.1.0"] = Habit(fails_at=Phase.PROBATION)
    rollout = world.create(stages=stages(2, "100%", soak="10m"))
    world.tick()
    away, _ = [device for device in bad if device.id in world.members(rollout)]
    away.is_away = True
    world.presence(away, on=False)
    world.go(9)
    (one,) = world.asked(rollout)
    assert not {draw.device for draw in one.draws} & {device.id for device in bad}, (
        "of its own stratum nobody has it yet"
    )
    view = world.go_until_state(rollout, "finished", seconds=150, rounds=60)
    assert (view.is_partial, view.code) == (True, "partial")
    (one,) = world.asked(rollout)
    assert [(draw.answer, draw.is_new) for draw in one.draws] == [(G, False), (G, False), (F, True)]
    assert one.verdict is Verdict.CONFIRMED
    assert len([device for device in world.exposed(rollout) if device in bad]) == 2
    assert {device.running for device in bad} == {"1.0.0"}
