"""Over how many seconds the devices of a stage begin: as many as the crowd needs, none where it is small or spread already."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.desired import DESIRED_TYPE, decode_desired
from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import SPREAD_CODE, AssignmentState
from edgefleet_protocol.verify import verify_envelope
from edgefleet_server.fleet.desired.model import SignedDesired
from edgefleet_server.rollout.admission import PER_S, RECENT, SMALL, spread_offers, within_s
from edgefleet_server.rollout.effects import Effect, Offer, Revert
from edgefleet_server.rollout.model import Assignment
from edgefleet_server.rollout.planner.document_state import HUGE
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.parser import parse_spec
from tests.server.rollout.explored import START
from tests.server.rollout.fleet_sim import SimDevice, World
from tests.server.rollout.test_batches import snapshot_of

RPI = ProfileName("rpi")
ALL = [{"name": "all", "size": {"percent": 100}, "soak": "1h"}]
BASE: dict[str, Any] = {"release": "digits@1.2.0", "selector": "", "stages": ALL}
RATED = [{"name": "all", "size": {"percent": 100}, "soak": "1h", "rate": {"start": "50/min"}}]
NIGHT = {"cron": "0 1 * * *", "duration": "2m", "tz": "UTC"}


@pytest.mark.parametrize(
    ("spec", "crowd", "seconds"),
    [
        ({}, 1, 0),
        ({}, SMALL, 0),
        ({}, SMALL + 1, 2),
        ({}, 10_000, 50),
        ({}, 100_000, 500),
        ({}, 10**9, 6 * 3600 // 4),
        ({"device": {"download_deadline": "10m"}}, 100_000, 150),
        ({"windows": [NIGHT]}, 100_000, 30),
        ({"stages": RATED}, 100_000, 0),
        ({"limits": {"concurrent_downloads": 500}}, 100_000, 0),
        ({"limits": {"bandwidth": "200Mbps"}}, 100_000, 0),
        ({"device": {"start_within": "10m"}}, 1, 600),
        ({"device": {"start_within": "0s"}}, 100_000, 0),
        ({"device": {"start_within": None}}, 10_000, 50),
        ({"device": {"start_within": "10m"}, "stages": RATED}, 3, 600),
    ],
)
def test_how_long_a_crowd_takes(spec: dict[str, Any], crowd: int, seconds: int) -> None:
    assert within_s(parse_spec(BASE | spec), 0, crowd) == seconds


@given(st.integers(0, 10**7), st.integers(1, 86_400))
def test_it_is_fast_enough_for_the_broker_and_leaves_most_of_the_deadline(crowd: int, download_s: int) -> None:
    spec = parse_spec(BASE | {"device": {"download_deadline": f"{download_s}s"}})
    seconds = within_s(spec, 0, crowd)
    assert 0 <= seconds <= download_s / 4
    assert seconds == 0 or seconds == download_s // 4 or seconds * PER_S >= crowd


@pytest.mark.parametrize(("devices", "seconds"), [(50, 0), (SMALL, 0), (1_000, 5), (HUGE + 2, 101)])
def test_a_look_writes_it_into_each_of_its_offers(devices: int, seconds: int) -> None:
    plan = plan_tick(snapshot_of(devices), START)
    assert {effect.start_within_s for effect in plan.effects if isinstance(effect, Offer)} == {seconds}


def assignment(number: int, state: AssignmentState, **fields: Any) -> Assignment:
    """Return one device of stage 0."""
    return Assignment(DeviceId(f"d-{number}"), 0, RPI, state, **fields)


def spans_of(ones: list[Assignment], spec: dict[str, Any] | None = None) -> set[int]:
    """Return the spans of offers to all of these that are offered the release."""
    known = {one.device: one for one in ones}
    effects = [Offer(one.device) for one in ones if one.state is AssignmentState.OFFERED and one.offered_at == START]
    done = spread_offers(effects, known, parse_spec(BASE | (spec or {})), START)
    return {effect.start_within_s for effect in done if isinstance(effect, Offer)}


def test_looks_that_follow_each_other_count_the_same_crowd() -> None:
    """200 documents a look, one look after the other: all of them come within seconds."""
    offered = [assignment(n, AssignmentState.OFFERED, offered_at=START) for n in range(200)]
    before = [assignment(n, AssignmentState.ACKED, offered_at=START - timedelta(seconds=5)) for n in range(200, 600)]
    waiting = [assignment(n, AssignmentState.ELIGIBLE) for n in range(600, 1000)]
    assert spans_of(offered + before + waiting) == {5}
    assert spans_of(offered) == {0}


def test_who_was_offered_it_long_ago_or_waits_for_its_next_try_is_no_crowd() -> None:
    offered = [assignment(n, AssignmentState.OFFERED, offered_at=START) for n in range(10)]
    long_ago = [assignment(n, AssignmentState.DOWNLOADING, offered_at=START - RECENT) for n in range(10, 500)]
    later = START + timedelta(minutes=1)
    resting = [assignment(n, AssignmentState.ELIGIBLE, retry_at=later) for n in range(500, 900)]
    assert spans_of(offered + long_ago + resting) == {0}


def test_a_retry_does_not_wait_and_one_after_a_pause_does() -> None:
    ones = [assignment(n, AssignmentState.OFFERED, offered_at=START, attempt=2) for n in range(400)]
    assert spans_of(ones) == {2}
    assert spans_of([one.but(retries=1) for one in ones]) == {0}
    assert spans_of([one.but(failed_before="crash") for one in ones]) == {0}
    assert spans_of([one.but(retries=1) for one in ones], {"device": {"start_within": "10m"}}) == {0}


def test_who_is_away_has_no_span_and_the_way_back_has_none() -> None:
    gone = [assignment(n, AssignmentState.UNREACHABLE, offered_at=START) for n in range(400)]
    known = {one.device: one for one in gone}
    effects: list[Effect] = [*(Offer(one.device) for one in gone), Revert(DeviceId("d-1"), is_rollback=True)]
    spec = parse_spec(BASE | {"device": {"start_within": "10m"}})
    assert list(spread_offers(effects, known, spec, START)) == effects


# ---- in documents, and what is told


def document_of(world: World, device: SimDevice) -> SignedDesired:
    """Return a device's document."""
    signed = world.fleet.documents.of_device(device.id)
    assert signed is not None
    return signed


def offered(world: World) -> tuple[str, SimDevice, int]:
    """Return a rollout that offers a release to its one device over 10 of 60 minutes, the device, and its document's number."""
    (device,) = world.enrol(1)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=ALL, device={"start_within": "10m", "download_deadline": "1h"})
    world.tick()
    return rollout, device, document_of(world, device).gen


def span_in_document(world: World, device: SimDevice) -> int | None:
    """Return the span in a device's document, None where there is none."""
    payload = verify_envelope(document_of(world, device).envelope, DESIRED_TYPE, [world.house.signing.director_key()])
    active = decode_desired(payload).models["digits"].active
    assert active is not None
    assert (b"start_within_s" in payload) is (active.start_within_s is not msgspec.UNSET)
    return None if active.start_within_s is msgspec.UNSET else active.start_within_s


def test_documents_of_offers_have_it_and_those_of_the_way_back_do_not(any_world: World) -> None:
    (device,) = any_world.enrol(1)
    any_world.settle("1.0.0")
    any_world.release("1.1.0")
    rollout = any_world.create(stages=ALL, device={"start_within": "10m"})
    any_world.tick()
    assert span_in_document(any_world, device) == 600
    any_world.service.abort(rollout, "ann", "enough", rollback=True)
    any_world.tick()
    assert span_in_document(any_world, device) is None


def test_a_small_fleet_has_the_documents_that_it_had(world: World) -> None:
    (device, *_) = world.enrol(3)
    world.settle("1.0.0")
    world.release("1.1.0")
    world.create(stages=ALL)
    world.tick()
    assert span_in_document(world, device) is None


def test_a_device_that_waits_is_told_with_its_own_words(world: World) -> None:
    rollout, device, gen = offered(world)
    said = device.state()
    told = "waits until 2026-11-25 12:09:00Z before it asks for the bundle"
    model = msgspec.structs.replace(said.models[0], error_code=SPREAD_CODE, reason=told)
    world.fleet.receiver.take_state(device.id, msgspec.structs.replace(said, gen=gen, models=[model]))
    world.tick()
    one = world.member(rollout, device)
    assert (one.state, one.waits_for, one.moves) == ("acked", told, "time: then it asks for the bundle")
    (wait,) = world.view(rollout).waits
    assert (wait.code, wait.count) == ("spread", 1)
    assert "devices of its stage begin over 10m" in wait.reason
    assert wait.until is not None
    for _ in range(13):
        world.house.clock.turn(seconds=50)
        world.tick()
    assert [wait.code for wait in world.view(rollout).waits] == ["device"], "the span is over"


def test_who_never_begins_is_lost_at_the_deadline_that_was_written(world: World) -> None:
    """The wait is part of `download_deadline`: it does not end later for it."""
    rollout, device, gen = offered(world)
    world.fleet.receiver.take_state(device.id, msgspec.structs.replace(device.state(), gen=gen))
    world.tick()
    for _ in range(71):
        world.house.clock.turn(seconds=50)
        world.tick()
    assert world.member(rollout, device).state == "acked"
    world.house.clock.turn(seconds=51)
    world.tick()
    assert world.member(rollout, device).state == "lost"
