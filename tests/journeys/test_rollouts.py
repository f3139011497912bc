"""Rollouts on real devices: who is away, who joins, who dies, and what people ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.agent.field import eventually
from tests.journeys.fleet import (
    ALL,
    Fleet,
    bundle,
    enrolled,
    halt_download,
    kill_whole,
    nan_bundle,
    rolled_back_by_hand,
    show_nan,
)
from tests.journeys.road import PATIENCE_S, Road

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CANARY = {"name": "canary", "size": {"count": 2}, "soak": 0}
REST = {"name": "rest", "size": {"percent": 100}, "soak": 0}
WATCHED = {"name": "rest", "size": {"percent": 100}, "soak": "1h"}
SILENCE = {"verify_deadline": "6s"}
"""The broker tells of a device's silence after 15 s (`WILL_DELAY_S`): well before four times this long, when one that seems to be
there would have failed its probation instead."""


@pytest.fixture(scope="module")
def fleet(road: Road) -> Fleet:
    """Five devices for all tests; each test has a model of its own."""
    return Fleet(road, [enrolled(road, f"d{number}") for number in range(5)])


@pytest.fixture
def doomed(road: Road) -> Iterator[Fleet]:
    """Two more devices that a test may kill."""
    made = Fleet(road, [enrolled(road, f"doomed{len(road.travellers)}") for _ in range(2)])
    yield made
    for device in made.devices:
        device.stop()


def test_a_device_that_is_away_is_left_out_and_takes_it_up_when_it_returns(fleet: Fleet) -> None:
    base = fleet.base("away")
    gone, here = fleet.devices[0], Fleet(fleet.road, fleet.devices[1:])
    gone.stop()
    assert eventually(lambda: gone.shown()["status"] == "offline", PATIENCE_S)
    release = fleet.publish("away@1.1.0", bundle("away", "1.1.0"))
    rollout = fleet.roll(release, ALL, device={"ack_deadline": "4s"})
    here.prove(release)
    left_out = rollout.stands(gone.name, state="unreachable")
    assert left_out["reason"] == "did not take up its document within 4 s"
    assert (left_out["online"], left_out["running"], left_out["exposed_at"]) == ("offline", base, None)
    assert left_out["reason"] in rollout.page()
    ended = rollout.ends("finished")
    assert (ended["counts"]["exposed"], ended["counts"]["unreachable"]) == (4, 1)
    assert ended["stages"][0]["reason"] == "4 of 4 healthy: failure below 53 % at 95 %"

    gone.start()
    fleet.prove(release)
    rollout.look_for_late()
    back = rollout.stands(gone.name, state="healthy")
    assert (back["reason"], back["running"], back["is_joiner"]) == ("", release, False)
    assert rollout.shown()["counts"]["unreachable"] == 0


def test_nothing_is_promoted_while_too_many_are_away(fleet: Fleet) -> None:
    pair = fleet.first(2)
    pair.base("silent")
    gone, here = pair.devices[0], Fleet(fleet.road, pair.devices[1:])
    gone.stop()
    release = fleet.publish("silent@1.1.0", bundle("silent", "1.1.0"))
    rollout = pair.roll(release, ALL, device={"ack_deadline": "4s"})
    here.prove(release)
    waiting = rollout.until(lambda shown: "never took the release up" in shown["stages"][0]["reason"])
    assert waiting["state"] == "running"
    assert waiting["stages"][0]["reason"].startswith("1 of 2 devices never took the release up, at most 20 % may")
    gone.start()
    pair.prove(release)
    rollout.ends("finished")


def test_a_device_that_enrols_while_a_stage_is_open_joins_it(fleet: Fleet) -> None:
    road, pair = fleet.road, fleet.first(2)
    for device in pair.devices:
        road.edgectl("device", "label", device.name, "wave=one")
    pair.base("joined")
    release = fleet.publish("joined@1.1.0", bundle("joined", "1.1.0"))
    rollout = pair.roll(release, WATCHED, selector="wave=one")
    pair.prove(release)
    rollout.until(lambda shown: shown["stages"][0]["state"] in {"soaking", "judging"})

    late = enrolled(road, "late", {"wave": "one"})
    Fleet(road, [late]).prove(release)
    joined = rollout.stands(late.name, state="healthy")
    assert (joined["is_joiner"], joined["attempt"], joined["stage"]) == (True, 1, "rest")
    assert [device["is_joiner"] for name, device in rollout.devices().items() if name != late.name] == [False, False]
    assert rollout.act("promote", "--reason", "seen enough")["stages"][0]["state"] == "passed"
    counts = rollout.ends("finished")["counts"]
    assert (counts["members"], counts["exposed"], counts["failed"], counts["unreachable"]) == (3, 3, 0, 0)
    assert (counts["healthy"], counts["pending"]) == (0, 3), "a person's word ends the stage, not a device's soak"
    assert {device["state"] for device in rollout.devices().values()} == {"healthy"}


def test_a_device_that_dies_after_its_switch_is_lost_and_a_person_decides(doomed: Fleet) -> None:
    doomed.base("dies")
    release = doomed.publish("dies@1.1.0", bundle("dies", "1.1.0"))
    rollout = doomed.roll(release, ALL, device=SILENCE, on_inconclusive={"after": "30s", "do": "pause"})
    dead, alive = doomed.devices
    rollout.stands(dead.name, state="verifying")
    kill_whole(dead)
    Fleet(doomed.road, [alive]).prove(release)
    lost = rollout.stands(dead.name, state="lost")
    assert lost["reason"].startswith("switched, then silent for ")
    assert (lost["online"], lost["running"]) == ("offline", release)

    held = rollout.ends("paused")
    assert "no verdict within 30 s: 1 of 2 devices failed (lost ×1)" in held["reason"]
    assert held["stages"][0]["state"] == "held"
    rollout.act("promote", "--reason", "its board burned", "--stratum", lost["stratum"])
    ended = rollout.ends("finished")
    assert ended["stages"][0]["strength"] == "override"
    assert "its board burned" in ended["stages"][0]["reason"]


def test_two_that_die_after_their_switch_stop_a_small_stratum_for_a_person(doomed: Fleet) -> None:
    doomed.base("both")
    release = doomed.publish("both@1.1.0", bundle("both", "1.1.0"))
    rollout = doomed.roll(release, ALL, device=SILENCE | {"ack_deadline": "6s"})
    for device in doomed.devices:
        rollout.stands(device.name, state="verifying")
    for device in doomed.devices:
        kill_whole(device)
    held = rollout.ends("paused")
    assert "2 of 2 devices failed (lost ×2): evidence" in held["reason"], "nobody is left to ask: a person decides"
    rollout.act("abort", "--rollback", "--reason", "their power is gone", "--yes")
    ended = rollout.ends("rollback_incomplete")
    assert all(device.name in ended["reason"] for device in doomed.devices), "who is not back is named"
    for device in doomed.devices:
        told = rollout.stands(device.name, state="lost", is_back=False)["reason"]
        assert told.startswith("not confirmed to be back: switched, then silent for ")
        device.start()
    doomed.run("both@1.0.0")


def test_a_pause_stops_a_download_and_a_resume_offers_it_anew(fleet: Fleet, road: Road) -> None:
    slow = Fleet(road, [enrolled(road, "slow", EDGEFLEET_AGENT_BLOCK_CREDIT="1")])
    (device,) = slow.devices
    base = slow.base("paused")
    release = slow.publish("paused@1.1.0", bundle("paused", "1.1.0", pad=60_000_000))
    rollout = slow.roll(release, ALL)
    halt_download(device, "paused")
    rollout.stands(device.name, state="downloading", attempt=1)
    paused = rollout.act("pause", "--reason", "lunch")
    assert (paused["state"], paused["is_braked"]) == ("paused", True)
    assert "lunch" in paused["reason"]
    waits = rollout.stands(device.name, state="eligible", switched_at=None)
    assert waits["reason"] == "paused before its switch"
    device.told("paused", release=base, phase="committed", serving=True)
    assert device.served("paused") == "1.0.0"
    asked = road.block_requests()

    rollout.act("resume", "--reason", "fed")
    assert road.block_requests() >= asked
    rollout.stands(device.name, state="verifying", attempt=2)
    slow.prove(release)
    ended = rollout.ends("finished")
    assert not ended["is_braked"]
    assert rollout.devices()[device.name]["attempt"] == 2


def test_an_abort_with_rollback_needs_no_download(fleet: Fleet) -> None:
    trio = fleet.first(3)
    base = trio.base("aborted")
    release = trio.publish("aborted@1.1.0", bundle("aborted", "1.1.0", pad=1_000_000))
    rollout = trio.roll(release, CANARY, WATCHED)
    rollout.until(lambda shown: len(shown["stages"][0]["devices"]) == 2)
    canaries = [trio.named(name) for name in rollout.shown()["stages"][0]["devices"]]
    Fleet(trio.road, canaries).prove(release)
    opened = rollout.until(lambda shown: shown["counts"]["exposed"] == 3)
    assert [stage["counts"]["exposed"] for stage in opened["stages"]] == [2, 1], "each stage counts its own devices"
    trio.prove(release)
    asked = trio.road.block_requests()
    assert asked

    aborted = rollout.act("abort", "--rollback", "--reason", "customers complain", "--yes")
    assert aborted["is_braked"]
    ended = rollout.ends("rolled_back")
    assert "customers complain" in ended["reason"]
    trio.run(base)
    assert trio.road.block_requests() == asked
    told = rollout.devices().values()
    assert {(device["state"], device["running"], device["is_back"]) for device in told} == {("rolled_back", base, True)}
    assert ended["counts"]["failed"] == 0, "what the server took back is no failure of a device"


def test_a_held_stage_passes_at_a_persons_word_and_with_a_reason_only(fleet: Fleet) -> None:
    trio = fleet.first(3)
    base = trio.base("held")
    release = trio.publish("held@1.1.0", nan_bundle("held", "1.1.0"))
    rollout = trio.roll(release, CANARY, REST, on_fail="pause")
    rollout.until(lambda shown: len(shown["stages"][0]["devices"]) == 2)
    bad, good = (trio.named(name) for name in rollout.shown()["stages"][0]["devices"])
    for device in (bad, good):
        rollout.stands(device.name, state="verifying")
    show_nan(bad, "held", 3)
    failed = rollout.stands(bad.name, state="rolled_back", error_class="nonfinite")
    assert failed["reason"].endswith("answers not finite")
    Fleet(trio.road, [good]).prove(release)
    held = rollout.ends("paused")
    assert "the nonfinite failure is not confirmed (the drawn device is healthy)" in held["reason"]
    assert held["stages"][0]["state"] == "held"
    bad.told("held", release=base, serving=True)

    assert rollout.act("promote", code=2) is None
    rollout.act("promote", "--reason", "its lens was broken")
    (third,) = [device for device in trio.devices if device not in (bad, good)]
    Fleet(trio.road, [good, third]).prove(release)
    ended = rollout.ends("finished")
    assert (ended["is_partial"], ended["is_braked"]) == (False, False)
    assert [stage["strength"] for stage in ended["stages"]] == ["override", "weak"]
    assert "its lens was broken" in ended["stages"][0]["reason"]
    assert rollout.devices()[bad.name]["is_accepted"]


def test_a_release_that_a_device_put_into_quarantine_is_installed_after_a_retry(fleet: Fleet) -> None:
    pair = fleet.first(2)
    base = pair.base("again")
    release = pair.publish("again@1.1.0", nan_bundle("again", "1.1.0"))
    rollout = pair.roll(release, ALL, on_fail="pause")
    bad, good = pair.devices
    for device in pair.devices:
        rollout.stands(device.name, state="verifying")
    show_nan(bad, "again", 3)
    rollout.stands(bad.name, state="rolled_back", error_class="nonfinite")
    Fleet(fleet.road, [good]).prove(release)
    rollout.ends("paused")
    bad.told("again", release=base, serving=True)
    rollout.act("promote", "--reason", "its lens was broken")
    rollout.ends("finished")

    rollout.act("retry", code=6)  # the failure lies in the release: that has to be said
    reopened = rollout.act("retry", "--failed", "--reason", "its lens is new")
    assert (reopened["state"], reopened["counts"]["retried"]) == ("running", 1)
    pair.prove(release)
    again = rollout.stands(bad.name, state="healthy", attempt=2)
    assert (again["failed_before"], again["running"]) == ("nonfinite", release)
    rollout.ends("finished")
    # a person let the stage pass before the outcome of this one: it may be heard after the end
    rollout.stands(good.name, state="healthy")
    counts = rollout.shown()["counts"]
    assert (counts["failed"], counts["healthy"]) == (1, 1), "it stays a failure as evidence"
    assert ("rolled_back", "eligible") in rollout.transitions(bad.name)
    assert good.served("again") == "1.1.0"


def test_a_device_goes_back_alone_and_the_server_takes_the_others_back_once_another_confirms_it(fleet: Fleet) -> None:
    trio = fleet.first(3)
    base = trio.base("alone")
    release = trio.publish("alone@1.1.0", nan_bundle("alone", "1.1.0"))
    rollout = trio.roll(release, WATCHED)
    bad, *others = trio.devices
    for device in trio.devices:
        rollout.stands(device.name, state="verifying")
    road = fleet.road
    road.kill()
    show_nan(bad, "alone", 3)
    assert eventually(lambda: bad.model("alone").get("phase") == "rolled_back", PATIENCE_S), bad.model("alone")
    assert bad.served("alone") == "1.0.0"
    assert [one.served("alone") for one in others] == ["1.1.0", "1.1.0"]
    road.start()
    waits = "waiting for other devices to confirm the nonfinite failure"
    rollout.until(lambda shown: waits in shown["stages"][0]["reason"])
    drawn = trio.named(rollout.drawn())
    assert drawn in others
    show_nan(drawn, "alone", 3)
    ended = rollout.ends("rolled_back")
    assert "2 of 3 devices failed (nonfinite ×2)" in ended["reason"]
    for device in trio.devices:
        device.told("alone", release=base, serving=True)
        assert device.served("alone") == "1.0.0"
    told = rollout.devices()
    assert {told[one.name]["state"] for one in trio.devices} == {"rolled_back"}
    (spared,) = [one for one in others if one is not drawn]
    assert [told[one.name]["error_class"] for one in (bad, drawn, spared)] == ["nonfinite", "nonfinite", ""]


def test_a_rollback_by_hand_on_a_device_is_told_with_its_reason(fleet: Fleet) -> None:
    pair = fleet.first(2)
    base = pair.base("byhand")
    release = pair.publish("byhand@1.1.0", bundle("byhand", "1.1.0"))
    rollout = pair.roll(release, ALL)
    one, other = pair.devices
    for device in pair.devices:
        rollout.stands(device.name, state="verifying")
    answer = rolled_back_by_hand(one, "byhand", "the picture shakes")
    assert (answer["code"], answer["serving"]) == ("operator.rollback", True)
    told = rollout.stands(one.name, state="rolled_back", running=base)
    assert (told["error_class"], told["reason"]) == ("internal", "the picture shakes")
    Fleet(fleet.road, [other]).prove(release)
    waits = rollout.until(lambda shown: "too little to take the release back" in shown["stages"][0]["reason"])
    assert waits["state"] == "running", "one such failure is no verdict"
    ended = rollout.act("abort", "--rollback", "--reason", "it does shake", "--yes")
    assert ended["is_braked"]
    rollout.ends("rolled_back")
    other.told("byhand", release=base, phase="committed")
    assert one.served("byhand") == other.served("byhand") == "1.0.0"
