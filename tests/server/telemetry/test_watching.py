"""Watching a device on the server: a signed wish that ends by itself, renewed by looking; what is shown is bounded and short-lived."""

import math
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.desired import Ref, TelemetryRequest, decode_desired
from edgefleet_protocol.envelope import parse_envelope
from edgefleet_protocol.ids import DeviceId, ModelName
from edgefleet_protocol.messages import PredictionLine, Watched
from edgefleet_server.access.model import Role
from edgefleet_server.fleet.desired.content import LIFE, is_renewal_due, still_watched, watched, watched_until
from edgefleet_server.fleet.desired.model import ModelChange
from edgefleet_server.fleet.errors import DeviceRevokedError, DeviceUnknownError
from edgefleet_server.telemetry.live_predictions import LivePredictions
from edgefleet_server.telemetry.service import KEPT_WATCHED
from tests.server.fleet.apps import Operators
from tests.server.fleet.house import START, House

wishes = st.builds(
    TelemetryRequest,
    profile=st.sampled_from(["normal", "live", "metered"]),
    until=st.one_of(st.none(), st.integers(-3_000, 3_000).map(lambda s: START + timedelta(seconds=s))),
    predictions_until=st.one_of(
        st.just(msgspec.UNSET), st.integers(-900, 900).map(lambda s: START + timedelta(seconds=s))
    ),
)


@given(wishes)
def test_a_watch_begins_ends_and_never_shortens_what_a_rollout_asked_for(wish: TelemetryRequest) -> None:
    made = watched(wish, START)
    until = watched_until(made, START)
    assert until == START + LIFE
    assert not is_renewal_due(made, START)
    assert is_renewal_due(made, START + LIFE / 2 + timedelta(seconds=1))
    assert watched_until(made, until) is None
    assert made.profile == "live"
    if wish.profile == "live" and (wish.until is None or wish.until > until):
        assert made.until == wish.until


@given(wishes, wishes)
def test_another_wish_keeps_a_watch_that_is_in_force_and_drops_one_that_is_over(
    new: TelemetryRequest, before: TelemetryRequest
) -> None:
    kept = still_watched(new, before, START)
    assert (kept.profile, kept.until) == (new.profile, new.until)
    in_force = watched_until(new, START) or (
        watched_until(before, START) if new.predictions_until is msgspec.UNSET else None
    )
    assert watched_until(kept, START) == in_force
    assert (kept.predictions_until is msgspec.UNSET) == (in_force is None)


def wish_of(house: House, device: str) -> tuple[int, TelemetryRequest]:
    """Return gen and telemetry wish of the device's document."""
    document = decode_desired(parse_envelope(house.fleet.desired.ensure(DeviceId(device)).envelope).payload)
    return document.gen, document.telemetry


def shown(device: str, seq: int, *traces: str, **fields: Any) -> Watched:
    """Return a message of a watched device."""
    lines = [
        PredictionLine(
            model=fields.get("model", "digits"),
            version="1.0.0",
            lane="active",
            trace_id=trace,
            at=1_764_000_000_000 + seq,
            latency_us=1_500,
            labels=["seven", "one"],
            scores=[0.9, math.nan],
        )
        for trace in traces
    ]
    return Watched(device=device, boot_id="b", seq=seq, ts=0, seen=10, lines=lines)


def test_looking_renews_a_watch_and_nobody_has_to_end_it(any_house: House) -> None:
    house = any_house
    device = house.device().id
    watching = LivePredictions(house.db, house.clock, house.fleet.reader, house.fleet.desired)
    first = watching.begin(device)
    gen, wish = wish_of(house, device)
    assert (wish.profile, wish.predictions_until) == ("live", first.until)
    assert watching.begin(device) == first, "asked again at once: nothing is signed"
    assert watching.look(device, 0, "").until == first.until
    assert wish_of(house, device)[0] == gen
    house.clock.turn(minutes=3)
    assert watching.look(device, 0, "").until == house.clock.now() + LIFE
    assert wish_of(house, device)[0] == gen + 1
    house.clock.turn(minutes=6)
    assert watching.look(device, 0, "").until is None, "who comes too late must ask anew: looking alone begins nothing"
    assert wish_of(house, device)[0] == gen + 1
    house.fleet.desired.resign(DeviceId(device))
    assert wish_of(house, device)[1].predictions_until is msgspec.UNSET


def test_a_rollout_does_not_end_a_watch(house: House) -> None:
    device = house.device().id
    until = house.fleet.desired.watch(DeviceId(device))
    later = house.clock.now() + timedelta(days=1)
    ref = Ref(target="digits/1.0.0/p.bundle", sha256="a" * 64, length=1)
    wish = TelemetryRequest(profile="live", until=later)
    house.fleet.desired.set_models([ModelChange(DeviceId(device), ModelName("digits"), ref, wish)])
    assert wish_of(house, device)[1] == TelemetryRequest(profile="live", until=later, predictions_until=until)
    house.clock.turn(minutes=4)
    house.fleet.desired.watch(DeviceId(device))
    assert wish_of(house, device)[1].until == later


def test_what_is_shown_comes_once_in_order_and_by_model(any_house: House) -> None:
    house = any_house
    device, other = house.device().id, house.device().id
    watching = LivePredictions(house.db, house.clock, house.fleet.reader, house.fleet.desired)
    messages = [shown(device, 1, "t1", "t2"), shown(device, 2, "t3", model="words"), shown(other, 1, "x")]
    assert house.telemetry.ingest_watched([*messages, messages[0]]) == 4
    first = watching.look(device, 0, "")
    assert [item.trace_id for item in first.items] == ["t1", "t2", "t3"]
    assert (first.seen, first.state) == (20, "on")
    assert first.items[0].scores == [0.9, None]
    assert first.items[0].latency_ms == 1.5
    assert watching.look(device, first.last_id, "").items == []
    house.telemetry.ingest_watched([shown(device, 3, "t4")])
    again = watching.look(device, first.last_id, "words")
    assert (again.items, again.last_id > first.last_id) == ([], True), "what is filtered is over too"
    assert [item.trace_id for item in watching.look(device, 0, "words").items] == ["t3"]


def test_it_is_bounded_and_goes_after_minutes_and_ids_never_come_again(any_house: House) -> None:
    house = any_house
    device, other = house.device().id, house.device().id
    watching = LivePredictions(house.db, house.clock, house.fleet.reader, house.fleet.desired)
    house.telemetry.ingest_watched([shown(other, 1, "x")])
    house.telemetry.ingest_watched([shown(device, seq, f"t{seq}") for seq in range(KEPT_WATCHED + 9)])
    found = watching.look(device, 0, "")
    assert len(found.items) == KEPT_WATCHED
    assert found.items[-1].trace_id == f"t{KEPT_WATCHED + 8}"
    assert len(watching.look(other, 0, "").items) == 1, "another device's lines are not touched"
    house.clock.turn(minutes=11)
    house.telemetry.prune(house.clock.now())
    assert watching.look(device, 0, "").items == []
    house.telemetry.ingest_watched([shown(device, 999, "new")])
    assert [item.trace_id for item in watching.look(device, found.last_id, "").items] == ["new"]


def test_what_is_no_line_is_left_out_and_text_is_cleaned(any_house: House) -> None:
    house = any_house
    device = house.device().id
    good = shown(device, 1, "a\0b" * 40).lines[0]
    bad = [
        msgspec.structs.replace(good, at=-1),
        msgspec.structs.replace(good, at=10**18),
        msgspec.structs.replace(good, latency_us=-5),
        msgspec.structs.replace(good, scores=[]),
    ]
    long = msgspec.structs.replace(good, labels=["l"] * 9, scores=[1.0] * 9)
    message = Watched(device=device, boot_id="b" * 99, seq=1, ts=0, state="s" * 99, lines=[*bad, long])
    too_many = Watched(device=device, boot_id="b", seq=2, ts=0, lines=[good] * 50)
    no_number = Watched(device=device, boot_id="b", seq=-1, ts=0, seen=-4)
    assert house.telemetry.ingest_watched([message, too_many, no_number]) == 1
    (item,) = LivePredictions(house.db, house.clock, house.fleet.reader, house.fleet.desired).look(device, 0, "").items
    assert (len(item.trace_id), "\0" in item.trace_id, len(item.labels)) == (64, False, 3)


def test_who_may_watch_what(house: House) -> None:
    operators = Operators(house)
    device = house.device().id
    path = f"/devices/{device}"
    for role, status in ((Role.VIEWER, 403), (Role.OPERATOR, 200)):
        client = operators.as_role(role)
        assert client.get(f"{path}/predictions").status_code == status
        assert client.post(f"{path}:watch").status_code == status
    house.telemetry.ingest_watched([shown(device, 1, "t1")])
    answer = operators.as_role(Role.OPERATOR).get(f"{path}/predictions", params={"wait_s": 5}).json()
    assert [item["trace_id"] for item in answer["items"]] == ["t1"]
    assert answer["until"] is not None
    client = operators.as_role(Role.OPERATOR)
    assert client.get(f"{path}/predictions", params={"wait_s": 3600}).status_code == 422
    assert client.get("/devices/d-none/predictions").status_code == 404
    assert "watch_device" in [row["action"] for row in operators.as_role(Role.ADMIN).get("/audit").json()["items"]]


def test_unknown_and_revoked_devices_cannot_be_watched(house: House) -> None:
    watching = LivePredictions(house.db, house.clock, house.fleet.reader, house.fleet.desired)
    with pytest.raises(DeviceUnknownError):
        watching.begin("d-none")
    device = house.device().id
    house.fleet.revocation.revoke(DeviceId(device))
    with pytest.raises(DeviceRevokedError):
        watching.begin(device)
