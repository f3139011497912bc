"""Presence over time: absences of devices, samples of the fleet, and what nobody saw."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, text

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import Presence, State
from edgefleet_server.fleet.presence import history
from edgefleet_server.fleet.presence.fleet_samples import SETTLING, FleetSampler
from edgefleet_server.fleet.presence.model import (
    MOST_A_DAY,
    Absence,
    FleetStep,
    PresenceSpan,
    PresenceState,
    coarse,
    online_shares,
    spans,
)
from edgefleet_server.telemetry.rollups.model import KEPT
from tests.server.fleet.house import House

T0 = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
ON, OFF, UNKNOWN, FLAPPING = (
    PresenceState.ONLINE,
    PresenceState.OFFLINE,
    PresenceState.UNKNOWN,
    PresenceState.FLAPPING,
)


def at(minutes: float) -> datetime:
    """Return a moment some minutes after the beginning."""
    return T0 + timedelta(minutes=minutes)


def away(since: float, until: float, **more: Any) -> Absence:
    """Return an absence, in minutes."""
    return Absence(at(since), at(until), **more)


def plain(found: list[PresenceSpan] | Any) -> list[tuple[float, float, PresenceState]]:
    """Return spans in minutes."""
    minutes = timedelta(minutes=1)
    return [((one.since - T0) / minutes, (one.until - T0) / minutes, one.state) for one in found]


@pytest.mark.parametrize(
    ("known", "absences", "unwatched", "expected"),
    [
        (0, [], [], [(0, 60, ON)]),
        (None, [], [], [(0, 60, UNKNOWN)]),
        (20, [], [], [(0, 20, UNKNOWN), (20, 60, ON)]),
        (0, [away(10, 15)], [], [(0, 10, ON), (10, 15, OFF), (15, 60, ON)]),
        (0, [away(-5, 15), away(55, 90)], [], [(0, 15, OFF), (15, 55, ON), (55, 60, OFF)]),
        # the server was down: unknown, and unknown until the device was heard of again
        (0, [away(30, 33, is_heard=False)], [(20, 30)], [(0, 20, ON), (20, 33, UNKNOWN), (33, 60, ON)]),
        # it had gone before the server went
        (0, [away(10, 33, is_heard=False)], [(20, 30)], [(0, 10, ON), (10, 20, OFF), (20, 33, UNKNOWN), (33, 60, ON)]),
        # a server started twice, and did not hear of it in between
        (0, [away(10, 40, is_heard=False)], [(5, 10), (25, 30)], [(0, 5, ON), (5, 40, UNKNOWN), (40, 60, ON)]),
        # never heard of since it was enrolled
        (0, [away(0, 60, is_heard=False)], [], [(0, 60, UNKNOWN)]),
        (0, [away(10, 40, times=9)], [], [(0, 10, ON), (10, 40, FLAPPING), (40, 60, ON)]),
    ],
)
def test_what_is_said_of_a_device(
    known: float | None, absences: list[Absence], unwatched: list[tuple[float, float]], expected: list[Any]
) -> None:
    blind = [(at(begin), at(end)) for begin, end in unwatched]
    assert plain(spans(T0, at(60), None if known is None else at(known), absences, blind)) == expected


_MINUTES = st.integers(-30, 90)
_PAIRS = st.lists(st.tuples(_MINUTES, _MINUTES).map(sorted).map(tuple), max_size=8)


@given(_PAIRS, _PAIRS, st.booleans())
def test_spans_fill_the_time_and_never_claim_a_device_online_while_it_was_away(
    gone: list[tuple[int, int]], blind: list[tuple[int, int]], is_heard: bool
) -> None:
    absences = [away(*one, is_heard=is_heard) for one in gone]
    found = plain(spans(T0, at(60), at(-30), absences, [(at(a), at(b)) for a, b in sorted(blind)]))
    assert [one[0] for one in found][1:] == [one[1] for one in found][:-1]
    assert (found[0][0], found[-1][1]) == (0, 60)
    for begin, end, state in found:
        middle = (begin + end) / 2
        is_away = any(a <= middle < b for a, b in [*gone, *blind])
        assert (state is not ON) if is_away else (state is ON)


def test_what_is_too_short_to_be_seen_is_shown_as_one() -> None:
    short = [away(10 + n, 10.5 + n) for n in range(10)]
    found = spans(T0, at(60), T0, short, [])
    assert plain(coarse(found, timedelta(minutes=2))) == [(0, 10, ON), (10, 19.5, FLAPPING), (19.5, 60, ON)]
    assert coarse(found, timedelta(minutes=2))[1].times == 10
    one = spans(T0, at(60), T0, short[:1], [])
    assert plain(coarse(one, timedelta(minutes=2))) == [(0, 10, ON), (10, 10.5, OFF), (10.5, 60, ON)]


def test_the_share_of_a_step_is_of_the_time_of_which_something_is_known() -> None:
    found = spans(T0, at(40), T0, [away(5, 10), away(32, 36, is_heard=False)], [(at(20), at(32))])
    begin = int(T0.timestamp())
    assert online_shares(found, [begin + n * 600 for n in range(5)], 600) == [0.5, 1.0, None, 1.0, None]


class Pulse:
    """A device that comes and goes."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.id: DeviceId = house.device().id

    def says(self, *, on: bool, after: float = 0.0) -> None:
        """Come or go, some seconds later."""
        self.house.clock.turn(seconds=after)
        self.house.fleet.receiver.take_presence(self.id, Presence(on=on, conn_id="c", boot_id="b", ts=0))

    def drifts(self) -> None:
        """Report that a signal drifts."""
        said = State(device=self.id, gen=0, boot_id="b", seq=1, ts=0, models=[], facts={"drift": {"digits": ["age"]}})
        self.house.fleet.receiver.take_state(self.id, said)

    def story(self) -> list[tuple[float, float, PresenceState]]:
        """Return how it was since the beginning, in minutes."""
        return plain(self.house.fleet.presence.device(self.id, T0 - timedelta(days=1), self.house.clock.now()))


def test_an_absence_is_kept_when_it_ends_and_shown_while_it_lasts(any_house: House) -> None:
    any_house.fleet.receiver.forget_presence()
    pulse = Pulse(any_house)
    pulse.says(on=True)
    pulse.says(on=False, after=600)
    pulse.says(on=False, after=30)
    any_house.clock.turn(seconds=30)
    assert pulse.story() == [(0, 10, ON), (10, 11, OFF)]
    pulse.says(on=True, after=60)
    pulse.says(on=True, after=60)
    assert pulse.story() == [(0, 10, ON), (10, 12, OFF), (12, 13, ON)]
    assert any_house.fleet.presence.absences(pulse.id, T0, any_house.clock.now())[-1] == away(10, 12)
    any_house.clock.turn(days=91)
    assert any_house.fleet.presence.prune(any_house.clock.now()) == 2  # and what was before its first word
    assert pulse.story()[0][2] is UNKNOWN


def test_the_time_without_a_server_is_unknown(any_house: House) -> None:
    sampler = FleetSampler(any_house.db, any_house.clock, KEPT, timedelta(hours=2), lambda _since: False)
    any_house.fleet.receiver.forget_presence()
    pulse = Pulse(any_house)
    pulse.says(on=True)
    any_house.clock.turn(minutes=10)
    assert sampler.tick()
    any_house.clock.turn(minutes=20)  # no server took a sample in the meantime
    any_house.fleet.receiver.forget_presence()
    any_house.clock.turn(minutes=1)
    any_house.fleet.receiver.forget_presence()  # it started twice
    any_house.clock.turn(minutes=1)
    assert pulse.story() == [(0, 10, ON), (10, 32, UNKNOWN)]
    pulse.says(on=True)
    any_house.clock.turn(minutes=1)
    assert pulse.story() == [(0, 10, ON), (10, 32, UNKNOWN), (32, 33, ON)]
    with any_house.db.read() as session:
        assert session.execute(text("SELECT count(*) FROM fleet_unwatched")).scalar_one() == 2


def test_a_revoked_device_was_there_until_it_was_revoked(any_house: House) -> None:
    any_house.fleet.receiver.forget_presence()
    there, gone, never = Pulse(any_house), Pulse(any_house), Pulse(any_house)
    there.says(on=True)
    gone.says(on=True)
    gone.says(on=False, after=600)
    any_house.clock.turn(minutes=10)
    for pulse in (there, gone, never):
        any_house.fleet.revocation.revoke(pulse.id)
    any_house.clock.turn(minutes=10)
    assert there.story() == [(0, 20, ON)]
    assert gone.story() == [(0, 10, ON), (10, 20, OFF)]
    assert never.story() == [(0, 20, UNKNOWN)]


def test_a_device_that_never_came_is_unknown_also_after_a_start(any_house: House) -> None:
    any_house.fleet.receiver.forget_presence()
    any_house.clock.turn(minutes=1)
    pulse = Pulse(any_house)
    any_house.clock.turn(minutes=4)
    assert Sampled(any_house).sampler.tick()
    any_house.clock.turn(minutes=5)
    any_house.fleet.receiver.forget_presence()
    any_house.clock.turn(minutes=10)
    assert pulse.story() == [(1, 20, UNKNOWN)]
    pulse.says(on=True)
    any_house.clock.turn(minutes=10)
    assert pulse.story() == [(1, 20, UNKNOWN), (20, 30, ON)]


def test_more_starts_than_are_read_are_unknown(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_STARTS", 2)
    sampler = Sampled(house).sampler
    house.fleet.receiver.forget_presence()
    pulse = Pulse(house)
    for _ in range(4):  # a server that starts again and again
        pulse.says(on=True)
        house.clock.turn(minutes=5)
        assert sampler.tick()
        house.clock.turn(minutes=5)
        house.fleet.receiver.forget_presence()
    pulse.says(on=True)
    assert pulse.story() == [(0, 30, UNKNOWN), (30, 35, ON), (35, 40, UNKNOWN)]


def test_a_clock_that_was_ahead_stops_no_samples_and_hides_no_time_without_a_server(any_house: House) -> None:
    sampler = Sampled(any_house).sampler
    any_house.fleet.receiver.forget_presence()
    pulse = Pulse(any_house)
    pulse.says(on=True)
    any_house.clock.turn(minutes=10)
    assert sampler.tick()
    for _ in range(2):  # it starts with a wrong clock, twice
        any_house.clock.turn(days=400)
        any_house.fleet.receiver.forget_presence()
        any_house.clock.turn(minutes=5)
        assert sampler.tick()
    any_house.clock.turn(days=-800, minutes=10)
    assert sampler.tick()  # the clock is set while it runs
    any_house.clock.turn(minutes=20)
    any_house.fleet.receiver.forget_presence()
    any_house.clock.turn(minutes=1)
    assert not sampler.tick()
    any_house.clock.turn(minutes=1)
    assert sampler.tick()
    assert pulse.story() == [(0, 30, ON), (30, 52, UNKNOWN)]


def test_a_clock_that_goes_back_turns_no_absence_around(any_house: House) -> None:
    any_house.fleet.receiver.forget_presence()
    pulse = Pulse(any_house)
    for _ in range(MOST_A_DAY + 1):
        pulse.says(on=True, after=10)
        pulse.says(on=False, after=10)
    pulse.says(on=True, after=10)
    any_house.clock.turn(hours=-2)
    pulse.says(on=False)
    pulse.says(on=True, after=10)
    any_house.clock.turn(hours=3)
    kept = any_house.fleet.presence.absences(pulse.id, T0 - timedelta(days=1), any_house.clock.now())
    assert all(one.since <= one.until for one in kept)
    assert kept[-1].until > T0


def test_the_time_without_a_broker_is_unknown(any_house: House) -> None:
    sampler, hears = Sampled(any_house).sampler, [False]
    sampler.is_listening = lambda: hears[0]
    any_house.fleet.receiver.forget_presence()
    pulse = Pulse(any_house)
    pulse.says(on=True)
    assert not sampler.tick()  # the server is not yet connected: nothing that was heard before is lost
    hears[0] = True
    assert not sampler.tick()
    any_house.clock.turn(minutes=10)
    assert sampler.tick()
    hears[0] = False
    any_house.clock.turn(seconds=30)
    assert not sampler.tick()
    any_house.clock.turn(minutes=20)
    assert not sampler.tick()
    hears[0] = True
    any_house.clock.turn(seconds=30)
    assert not sampler.tick()  # devices are on their way back
    any_house.clock.turn(seconds=SETTLING.total_seconds())
    assert sampler.tick()
    assert pulse.story() == [(0, 10, ON), (10, 31, UNKNOWN), (31, 33, ON)]


def test_a_flapping_device_fills_nothing(house: House) -> None:
    house.fleet.receiver.forget_presence()
    pulse = Pulse(house)
    pulse.says(on=True)
    for _ in range(3 * MOST_A_DAY):
        pulse.says(on=False, after=50)
        pulse.says(on=True, after=10)
    kept = house.fleet.presence.absences(pulse.id, T0, house.clock.now())
    assert (len(kept), kept[-1].times) == (MOST_A_DAY - 1, 2 * MOST_A_DAY + 2)
    # the first place was taken when it came for the first time, which is no absence
    begin, end, state = pulse.story()[-1]
    assert begin == pytest.approx(MOST_A_DAY - 2 + 50 / 60)
    assert (end, state) == (60, FLAPPING)
    house.clock.turn(days=1)
    pulse.says(on=False)
    pulse.says(on=True, after=60)
    assert house.fleet.presence.absences(pulse.id, T0, house.clock.now())[-1].times == 1


def test_going_costs_nothing_more_and_coming_back_one_statement(house: House) -> None:
    house.fleet.receiver.forget_presence()
    pulses = [Pulse(house) for _ in range(3)]
    counted: list[str] = []
    event.listen(house.db.engine, "before_cursor_execute", lambda *said: counted.append(said[2]))
    for pulse in pulses:
        pulse.says(on=True)
    counted.clear()
    for pulse in pulses:
        pulse.says(on=False, after=1)
    going = len([one for one in counted if one.startswith(("SELECT", "UPDATE", "INSERT", "DELETE"))])
    counted.clear()
    for pulse in pulses:
        pulse.says(on=True, after=1)
    coming = [one for one in counted if one.startswith(("SELECT", "UPDATE", "INSERT", "DELETE"))]
    # a restart of the broker: 5 statements a device; without history 4
    assert (going, len(coming)) == (2 * 3, 3 * 3)
    assert sum(one.startswith("INSERT INTO fleet_absence") for one in coming) == 3


class Sampled:
    """A fleet that is sampled."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.drift = False
        self.sampler = FleetSampler(house.db, house.clock, KEPT, timedelta(hours=2), lambda _since: self.drift)

    def steps(self, scale_s: int) -> list[FleetStep]:
        """Return all steps of a scale."""
        return list(self.house.fleet.presence.fleet(scale_s, T0 - timedelta(days=1), T0 + timedelta(days=40)))


def test_the_fleet_is_sampled_once_a_minute_by_one_process(any_house: House) -> None:
    fleet = Sampled(any_house)
    there, gone = Pulse(any_house), Pulse(any_house)
    Pulse(any_house)
    there.says(on=True)
    gone.says(on=True)
    gone.says(on=False)
    other = Sampled(any_house)
    assert (fleet.sampler.tick(), fleet.sampler.tick(), other.sampler.tick()) == (True, False, False)
    any_house.clock.turn(minutes=1)
    for pulse in (there, gone):
        pulse.drifts()
    gone.says(on=True)
    there.says(on=False)
    fleet.drift = True
    assert fleet.sampler.tick()
    begin = int(T0.timestamp())
    assert fleet.steps(60) == [FleetStep(begin, 1, 1, 3, 0, 0), FleetStep(begin + 60, 1, 1, 3, 1, 1)]
    assert fleet.steps(900) == [FleetStep(begin, 2, 2, 6, 1, 1)]
    assert [one.online_ratio for one in fleet.steps(60)] == [pytest.approx(1 / 3), pytest.approx(1 / 3)]
    assert [one.drifting_ratio for one in fleet.steps(60)] == [None, 1.0]
    any_house.clock.turn(days=3)
    assert fleet.sampler.prune() == 2
    assert (len(fleet.steps(60)), len(fleet.steps(3600))) == (0, 1)


def test_nothing_is_sampled_that_nobody_hears(house: House) -> None:
    fleet = Sampled(house)
    fleet.sampler.is_listening = lambda: False
    assert not fleet.sampler.tick()
    fleet.sampler.is_listening = lambda: True
    house.fleet.receiver.forget_presence()
    house.clock.turn(seconds=SETTLING.total_seconds() - 1)
    assert not fleet.sampler.tick()
    house.clock.turn(seconds=1)
    assert fleet.sampler.tick()
    assert fleet.steps(60)[0].online_ratio is None  # no devices
