"""Rollouts on real devices: who is away, who joins, who dies, and what people ask for.

All stories are of one model. Each begins with what its devices run (`base`), and devices that no later one needs are stopped: an
installation and each change of the fleet's hold document cost processor time on every device.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

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
from tests.journeys.road import ASK_AGAIN_S, PATIENCE_S, Road, Traveller

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CANARY = {"name": "canary", "size": {"count": 2}, "soak": 0}
REST = {"name": "rest", "size": {"percent": 100}, "soak": 0}
WATCHED = {"name": "rest", "size": {"percent": 100}, "soak": "1h"}
SILENCE = {"verify_deadline": "6s"}
"""The broker tells of a device's silence after 15 s (`WILL_DELAY_S`): well before four times this long, when one that seems to be
there would have failed its probation instead."""


MODEL = "net"
VERSIONS = count()


def slow(road: Road, name: str) -> Traveller:
    """Return a new device that downloads a block at a time."""
    return enrolled(road, name, EDGEFLEET_AGENT_BLOCK_CREDIT="1")


@pytest.fixture(scope="module")
def fleet(road: Road) -> Fleet:
    """Five devices for all tests. The last two may be killed; they download a block at a time."""
    lasting = [enrolled(road, f"d{number}") for number in range(3)]
    return Fleet(road, [*lasting, *(slow(road, f"d{number}") for number in range(3, 5))])


@pytest.fixture
def doomed(fleet: Fleet) -> Fleet:
    """Two devices that a test may kill; one that was killed is replaced."""
    living = [one for one in fleet.devices[3:] if one.process is not None and one.process.poll() is None]
    while len(living) < 2:
        living.append(slow(fleet.road, f"doomed{len(fleet.road.travellers)}"))
    fleet.devices[3:] = living
    return Fleet(fleet.road, living)


@pytest.fixture(autouse=True)
def _nothing_goes_on(road: Road) -> Iterator[None]:
    """Stop what a story that failed has left under way: it would be in the way of the next one."""
    yield
    for one in road.edgectl("rollout", "list")["items"]:
        if one["state"] in ("running", "paused"):
            road.edgectl("rollout", "abort", one["id"], "--rollback", "--reason", "its test has ended", "--yes")


def published(fleet: Fleet, *, pad: int = 0) -> str:
    """Return a new good release, which nobody runs."""
    new = f"1.{next(VERSIONS)}.0"
    return fleet.publish(f"{MODEL}@{new}", bundle(MODEL, new, pad=pad))


def published_nan(fleet: Fleet) -> str:
    """Return a new release that answers NaN to negative numbers, which nobody runs."""
    new = f"1.{next(VERSIONS)}.0"
    return fleet.publish(f"{MODEL}@{new}", nan_bundle(MODEL, new))


def base(fleet: Fleet) -> str:
    """Return the release that every device runs, proven; where they run different ones, a new one.

    One that some of them run may be what another has in quarantine.
    """
    ran = [
        {
            model["release"]
            for model in device.shown()["models"]
            if (model["model"], model["phase"]) == (MODEL, "committed")
        }
        for device in fleet.devices
    ]
    common: set[str] = set.intersection(*ran)
    if common:
        (ref,) = common
    else:
        ref = published(fleet)
        fleet.road.edgectl("deploy", ref, "--to", fleet.selector)
    fleet.prove(ref)
    return ref


def version(ref: str) -> str:
    """Return the version of a release."""
    return ref.partition("@")[2]


def test_a_device_that_is_away_is_left_out_and_takes_it_up_when_it_returns(fleet: Fleet) -> None:
    before = base(fleet)
    gone, here = fleet.devices[0], Fleet(fleet.road, fleet.devices[1:])
    gone.stop()
    assert eventually(lambda: gone.shown()["status"] == "offline", PATIENCE_S, ASK_AGAIN_S)
    release = published(fleet)
    rollout = fleet.roll(release, ALL, device={"ack_deadline": "4s"})
    here.prove(release)
    left_out = rollout.stands(gone.name, state="unreachable")
    assert left_out["reason"] == "did not take up its document within 4 s"
    assert (left_out["online"], left_out["running"], left_out["exposed_at"]) == ("offline", before, None)
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


def test_two_that_die_after_their_switch_stop_a_small_stratum_for_a_person(doomed: Fleet) -> None:
    before = base(doomed)
    release = published(doomed)
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
    doomed.run(before)


def test_a_device_that_dies_after_its_switch_is_lost_and_a_person_decides(doomed: Fleet) -> None:
    base(doomed)
    release = published(doomed)
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


def test_a_pause_stops_a_download_and_a_resume_offers_it_anew(doomed: Fleet, road: Road) -> None:
    slow = doomed.first(1)
    (device,) = slow.devices
    before = base(slow)
    release = published(slow, pad=60_000_000)
    rollout = slow.roll(release, ALL)
    halt_download(device, MODEL)
    rollout.stands(device.name, state="downloading", attempt=1)
    paused = rollout.act("pause", "--reason", "lunch")
    assert (paused["state"], paused["is_braked"]) == ("paused", True)
    assert "lunch" in paused["reason"]
    waits = rollout.stands(device.name, state="eligible", switched_at=None)
    assert waits["reason"] == "paused before its switch"
    device.told(MODEL, release=before, phase="committed", serving=True)
    assert device.served(MODEL) == version(before)
    asked = road.block_requests()

    rollout.act("resume", "--reason", "fed")
    assert road.block_requests() >= asked
    rollout.stands(device.name, state="verifying", attempt=2)
    slow.prove(release)
    ended = rollout.ends("finished")
    assert not ended["is_braked"]
    assert rollout.devices()[device.name]["attempt"] == 2
    for one in doomed.devices:
        one.stop()


def test_nothing_is_promoted_while_too_many_are_away(fleet: Fleet) -> None:
    pair = fleet.first(2)
    base(pair)
    gone, here = pair.devices[0], Fleet(fleet.road, pair.devices[1:])
    gone.stop()
    release = published(pair)
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
    base(pair)
    release = published(pair)
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
    late.stop()


def test_an_abort_with_rollback_needs_no_download(fleet: Fleet) -> None:
    trio = fleet.first(3)
    before = base(trio)
    release = published(trio, pad=1_000_000)
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
    trio.run(before)
    assert trio.road.block_requests() == asked
    told = rollout.devices().values()
    assert {(device["state"], device["running"], device["is_back"]) for device in told} == {
        ("rolled_back", before, True)
    }
    assert ended["counts"]["failed"] == 0, "what the server took back is no failure of a device"


def test_a_rollback_by_hand_on_a_device_is_told_with_its_reason(fleet: Fleet) -> None:
    pair = fleet.first(2)
    before = base(pair)
    release = published(pair)
    rollout = pair.roll(release, ALL)
    one, other = pair.devices
    for device in pair.devices:
        rollout.stands(device.name, state="verifying")
    answer = rolled_back_by_hand(one, MODEL, "the picture shakes")
    assert (answer["code"], answer["serving"]) == ("operator.rollback", True)
    told = rollout.stands(one.name, state="rolled_back", running=before)
    assert (told["error_class"], told["reason"]) == ("internal", "the picture shakes")
    Fleet(fleet.road, [other]).prove(release)
    waits = rollout.until(lambda shown: "too little to take the release back" in shown["stages"][0]["reason"])
    assert waits["state"] == "running", "one such failure is no verdict"
    ended = rollout.act("abort", "--rollback", "--reason", "it does shake", "--yes")
    assert ended["is_braked"]
    rollout.ends("rolled_back")
    other.told(MODEL, release=before, phase="committed")
    assert one.served(MODEL) == other.served(MODEL) == version(before)


def test_a_device_goes_back_alone_and_the_server_takes_the_others_back_once_another_confirms_it(fleet: Fleet) -> None:
    trio = fleet.first(3)
    before = base(trio)
    release = published_nan(trio)
    rollout = trio.roll(release, WATCHED)
    bad, *others = trio.devices
    for device in trio.devices:
        rollout.stands(device.name, state="verifying")
    road = fleet.road
    road.kill()
    show_nan(bad, MODEL, 3)
    assert eventually(lambda: bad.model(MODEL).get("phase") == "rolled_back", PATIENCE_S), bad.model(MODEL)
    assert bad.served(MODEL) == version(before)
    assert [one.served(MODEL) for one in others] == [version(release)] * 2
    road.start()
    waits = "waiting for other devices to confirm the nonfinite failure"
    rollout.until(lambda shown: waits in shown["stages"][0]["reason"])
    drawn = trio.named(rollout.drawn())
    assert drawn in others
    show_nan(drawn, MODEL, 3)
    ended = rollout.ends("rolled_back")
    assert "2 of 3 devices failed (nonfinite ×2)" in ended["reason"]
    for device in trio.devices:
        device.told(MODEL, release=before, serving=True)
        assert device.served(MODEL) == version(before)
    told = rollout.devices()
    assert {told[one.name]["state"] for one in trio.devices} == {"rolled_back"}
    (spared,) = [one for one in others if one is not drawn]
    assert [told[one.name]["error_class"] for one in (bad, drawn, spared)] == ["nonfinite", "nonfinite", ""]


def test_a_held_stage_passes_at_a_persons_word_and_with_a_reason_only(fleet: Fleet) -> None:
    trio = fleet.first(3)
    before = base(trio)
    release = published_nan(trio)
    rollout = trio.roll(release, CANARY, REST, on_fail="pause")
    rollout.until(lambda shown: len(shown["stages"][0]["devices"]) == 2)
    bad, good = (trio.named(name) for name in rollout.shown()["stages"][0]["devices"])
    for device in (bad, good):
        rollout.stands(device.name, state="verifying")
    show_nan(bad, MODEL, 3)
    failed = rollout.stands(bad.name, state="rolled_back", error_class="nonfinite")
    assert failed["reason"].endswith("answers not finite")
    Fleet(trio.road, [good]).prove(release)
    held = rollout.ends("paused")
    assert "the nonfinite failure is not confirmed (the drawn device is healthy)" in held["reason"]
    assert held["stages"][0]["state"] == "held"
    bad.told(MODEL, release=before, serving=True)

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
    before = base(pair)
    release = published_nan(pair)
    rollout = pair.roll(release, ALL, on_fail="pause")
    bad, good = pair.devices
    for device in pair.devices:
        rollout.stands(device.name, state="verifying")
    show_nan(bad, MODEL, 3)
    rollout.stands(bad.name, state="rolled_back", error_class="nonfinite")
    Fleet(fleet.road, [good]).prove(release)
    rollout.ends("paused")
    bad.told(MODEL, release=before, serving=True)
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
    assert good.served(MODEL) == version(release)
