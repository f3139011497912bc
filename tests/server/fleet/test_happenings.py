"""The feed of events: written by the server, filtered, followed, pruned."""

import datetime as dt
from typing import Any

import pytest

from edgefleet_protocol.messages import Event, EventKind
from edgefleet_server.db.database import Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import EventFilter, NewEvent
from tests.server.fleet.house import House


@pytest.fixture
def house(any_house: House) -> House:
    """Every test of this file runs on both databases."""
    return any_house


def told(device: Any, seq: int) -> Event:
    """Return an event of a device."""
    return Event(device=device, boot_id="b", seq=seq, ts=1_764_000_000_000, kind=EventKind.CRASH, model="digits")


def followed(house: House, after_id: int = 0, **what: Any) -> list[int]:
    """Return the ids that come after one."""
    return [one.id for one in house.fleet.feed.following(after_id, EventFilter(**what), 500)[0]]


def test_events_of_the_server_are_one_statement_and_need_no_device(house: House) -> None:
    rows = [NewEvent("stage", rollout="r-1", detail={"n": i}) for i in range(3)]
    rows.append(NewEvent("assignment", "d-a", "digits", "r-1", {"from": "offered", "to": "acked"}))
    ids = house.fleet.feed.add(rows)
    assert ids == sorted(ids)
    assert house.fleet.feed.add([]) == []
    found, total = house.fleet.feed.following(0, EventFilter(), 10)
    assert ([one.id for one in found], total) == (ids, 4)
    assert [one.detail.get("n") for one in found[:3]] == [0, 1, 2]
    last = found[3]
    assert (last.kind, last.device, last.model, last.rollout) == ("assignment", "d-a", "digits", "r-1")
    assert (last.at, last.received_at) == (house.clock.now(), house.clock.now())


def test_they_go_with_the_callers_transaction(house: House) -> None:
    def fail() -> None:
        with house.db.session():
            house.fleet.feed.add([NewEvent("rollout", rollout="r-1")])
            raise RuntimeError("the caller fails")

    with pytest.raises(RuntimeError, match="the caller fails"):
        fail()
    assert house.fleet.feed.page(limit=10) == ([], 0)


def test_filters_hold_together(house: House) -> None:
    house.fleet.feed.add(
        [
            NewEvent("stage", rollout="r-1"),
            NewEvent("assignment", "d-a", rollout="r-1"),
            NewEvent("assignment", "d-b", rollout="r-2"),
            NewEvent("desired", "d-a"),
        ]
    )
    first = followed(house)[0]
    for what, expected in (
        ({"rollout": "r-1"}, [0, 1]),
        ({"kinds": ("stage", "desired")}, [0, 3]),
        ({"device": "d-a"}, [1, 3]),
        ({"device": "d-a", "rollout": "r-1", "kinds": ("assignment",)}, [1]),
        ({"since": house.clock.now() + dt.timedelta(seconds=1)}, []),
    ):
        assert [one - first for one in followed(house, **what)] == expected, what
        old = EventFilter(**what)
        newest, total = house.fleet.feed.page(
            device_id=old.device, since=old.since, rollout=old.rollout, kinds=old.kinds, limit=10
        )
        assert [one.id - first for one in reversed(newest)] == expected
        assert total == len(expected)


def test_following_goes_on_where_it_stopped(house: House) -> None:
    ids = house.fleet.feed.add([NewEvent("stage") for _ in range(5)])
    found, total = house.fleet.feed.following(ids[0], EventFilter(), 2)
    assert ([one.id for one in found], total) == (ids[1:4], 4)  # one more than the page
    assert followed(house, ids[-1]) == []
    assert followed(house, ids[-1] + 1000) == []


def other_writer(house: House) -> tuple[Database, EventLog]:
    """Return the feed of another process; skips where only one can write at a time."""
    if house.db.is_sqlite:
        pytest.skip("SQLite has one writer at a time: ids are seen in order")
    db = Database(house.db.engine.url.render_as_string(hide_password=False))
    return db, EventLog(db, house.clock, lambda _: "")


def test_following_waits_for_a_transaction_with_a_lower_id(house: House) -> None:
    db, other = other_writer(house)
    [first] = house.fleet.feed.add([NewEvent("stage")])
    with db.session():
        [slow] = other.add([NewEvent("rollout")])
        fast = house.fleet.feed.add([NewEvent("stage"), NewEvent("stage")])
        assert slow < fast[0]
        assert followed(house) == [first]
        assert followed(house, first) == []
        assert [one.id for one in house.fleet.feed.page(limit=10)[0]] == [*fast[::-1], first]
    assert followed(house, first) == [slow, *fast]
    db.dispose()


def test_an_id_that_never_comes_is_not_waited_for_long(house: House) -> None:
    db, other = other_writer(house)
    [first] = house.fleet.feed.add([NewEvent("stage")])

    def fail() -> None:
        with db.session():
            other.add([NewEvent("rollout")])
            raise RuntimeError("it fails")

    with pytest.raises(RuntimeError, match="it fails"):
        fail()
    [second] = house.fleet.feed.add([NewEvent("stage")])
    assert second > first + 1
    assert followed(house) == [first]
    house.clock.turn(seconds=11)
    assert followed(house) == [first, second]
    [third] = house.fleet.feed.add([NewEvent("stage")])
    assert followed(house) == [first, second, third]
    assert followed(house, second, kinds=("rollout",)) == []
    db.dispose()


def test_an_event_that_a_device_tells_again_makes_no_gap(house: House) -> None:
    device = house.device().id
    house.fleet.receiver.take_events([told(device, 1), told(device, 2)])
    house.fleet.receiver.take_events([told(device, 1), told(device, 2), told(device, 3), told(device, 3)])
    ids = followed(house)
    assert ids == list(range(ids[0], ids[0] + 4))


def test_old_events_of_devices_go_and_those_of_the_server_stay(house: House) -> None:
    device = house.device().id
    house.fleet.receiver.take_events([told(device, 1), told(device, 2)])
    house.fleet.feed.add([NewEvent("stage", rollout="r-1")])
    house.clock.turn(days=91)
    house.fleet.receiver.take_events([told(device, 3)])
    assert house.fleet.feed.prune(house.clock.now()) == 2
    kept = [one.kind for one in house.fleet.feed.page(limit=10)[0]]
    assert kept == ["crash", "stage", "enrolled"]
    house.clock.turn(days=91)
    newest = followed(house)[-1]
    assert house.fleet.feed.prune(house.clock.now()) == 0  # the newest stays, so that its id never comes again
    assert house.fleet.feed.add([NewEvent("stage")])[0] > newest
