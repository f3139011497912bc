"""The brake."""

import datetime as dt
import threading

import pytest

from edgefleet_protocol.desired import HOLD_TYPE, Hold, decode_hold
from edgefleet_protocol.verify import verify_envelope
from tests.server.fleet.house import House


@pytest.fixture
def house(any_house: House) -> House:
    """Every test of this file runs on both databases."""
    return any_house


def hold_of(house: House) -> Hold:
    """Return the brake after checking its signature."""
    envelope = house.fleet.hold.envelope()
    assert envelope is not None
    return decode_hold(verify_envelope(envelope, HOLD_TYPE, [house.signing.director_key()]))


def test_it_is_signed_only_when_it_differs(house: House) -> None:
    rung: list[int] = []
    stop = house.fleet.hold.subscribe(lambda: rung.append(1))
    assert not house.fleet.hold.set([], [])
    assert (house.fleet.hold.envelope(), house.fleet.hold.names()[0]) == (None, [])
    assert house.fleet.hold.set(["r-2", "r-1", "r-1"], ["b" * 64])
    first = hold_of(house)
    assert (first.rollouts, first.digests) == (["r-1", "r-2"], ["b" * 64])
    assert first.expires == house.clock.now() + dt.timedelta(days=7)
    assert house.fleet.hold.names()[0] == ["r-1", "r-2"]
    assert not house.fleet.hold.set(["r-1", "r-2"], ["b" * 64])
    assert hold_of(house) == first
    assert house.fleet.hold.set([], [])
    assert (hold_of(house).rollouts, hold_of(house).seq) == ([], first.seq + 1)
    assert len(rung) == 2
    stop()
    assert house.fleet.hold.set(["r-3"], [])
    assert len(rung) == 2


def test_it_is_signed_again_at_half_of_its_life(house: House) -> None:
    assert not house.fleet.hold.resign_due(house.clock.now())
    house.fleet.hold.set(["r-1"], [])
    seq = hold_of(house).seq
    house.clock.turn(days=3)
    assert not house.fleet.hold.resign_due(house.clock.now())
    assert not house.fleet.hold.set(["r-1"], [])
    house.clock.turn(days=1)
    assert house.fleet.hold.resign_due(house.clock.now())
    assert not house.fleet.hold.resign_due(house.clock.now())
    again = hold_of(house)
    assert (again.rollouts, again.expires - house.clock.now()) == (["r-1"], dt.timedelta(days=7))
    assert again.seq > seq
    house.clock.turn(days=4)
    assert house.fleet.hold.set(["r-1"], [])


def test_a_restored_database_is_heard_again(house: House) -> None:
    house.fleet.hold.set(["r-1"], [])
    old = hold_of(house).seq
    house.fleet.hold.set(["r-2"], [])
    lost = hold_of(house).seq
    with house.db.session() as session:
        session.connection().exec_driver_sql(f"UPDATE fleet_hold SET seq = {old}")
    house.clock.turn(minutes=1)
    house.fleet.hold.set(["r-3"], [])
    assert hold_of(house).seq > lost


def test_nothing_of_a_failed_transaction_is_said(house: House) -> None:
    rung: list[int] = []
    house.fleet.hold.subscribe(lambda: rung.append(1))

    def fail() -> None:
        with house.db.session():
            house.fleet.hold.set(["r-1"], [])
            raise RuntimeError("the caller fails")

    with pytest.raises(RuntimeError, match="the caller fails"):
        fail()
    assert (rung, house.fleet.hold.envelope()) == ([], None)


def test_two_that_brake_first_at_once_both_succeed(house: House) -> None:
    failed: list[BaseException] = []

    def brake(name: str) -> None:
        try:
            house.fleet.hold.set([name], [])
        except BaseException as error:  # noqa: BLE001  # shown by the test
            failed.append(error)

    threads = [threading.Thread(target=brake, args=(f"r-{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert len(house.fleet.hold.names()[0]) == 1
    assert hold_of(house).seq == int(house.clock.now().timestamp()) + 3
