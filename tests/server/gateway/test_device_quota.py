"""Budgets, days, the fair queue and the ledger, without a broker."""

from collections import Counter
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import Event, EventKind, Window, encode
from edgefleet_server.gateway.device_ledger import AGAIN_S, FIRST_S, MAX_NAMED, SWEEP_FROM, DeviceLedger
from edgefleet_server.gateway.device_quota import (
    NOTHING,
    UPLINK,
    Budget,
    Day,
    Limits,
    Reason,
    Stored,
    owed,
    spend,
    stored,
)
from edgefleet_server.gateway.fair_queue import OVERHEAD_BYTES, SHARE, FairQueue
from edgefleet_server.gateway.service import limits_of
from edgefleet_server.settings import ServerSettings
from tests.server.fleet.house import TurnedClock

MIB = 1 << 20
LIMITS = Limits(2.0, 100.0, (5, 5, 5), 1000, hourly_downlink=3600)
ONE, TWO = DeviceId("d-one"), DeviceId("d-two")
steps = st.lists(st.tuples(st.floats(-5, 60), st.floats(0, 300)), max_size=60)


@given(burst=st.floats(1, 1000), per_s=st.floats(0.01, 100), steps=steps)
def test_in_any_span_a_budget_gives_its_burst_and_what_was_earned_back(
    burst: float, per_s: float, steps: list[tuple[float, float]]
) -> None:
    budget, spent, now_s, highest_s, given_out = Budget(burst, per_s), NOTHING, 0.0, 0.0, 0.0
    for pause_s, cost in steps:
        now_s += pause_s
        highest_s += max(0.0, pause_s)
        after = spend(spent, budget, cost, now_s)
        if after is None:
            assert owed(spent, budget, now_s) + cost > burst, "nothing is refused that fits"
        else:
            spent, given_out = after, given_out + cost
            assert owed(spent, budget, now_s) <= burst
    assert given_out <= burst + per_s * highest_s + 1e-6 * (1 + given_out)


def test_who_waits_for_long_enough_owes_nothing() -> None:
    budget = Budget(100, 2)
    spent = spend(NOTHING, budget, 100, 0)
    assert spent is not None
    assert spend(spent, budget, 1, 0) is None
    assert owed(spent, budget, 50) == 0
    assert spend(spent, Budget(300, 2), 150, 0) is not None, "a budget that grows counts at once"


@given(st.lists(st.tuples(st.sampled_from(list(Stored)), st.integers(1, 3), st.integers(0, 400)), max_size=40))
def test_a_day_never_holds_more_than_its_limits(asked: list[tuple[Stored, int, int]]) -> None:
    day = Day(date(2026, 11, 29))
    for kind, n, size in asked:
        after = stored(day, LIMITS, kind, n, size)
        is_over = day.counts[kind] + n > 5 or day.bytes + size > 1000
        assert (after is None) == is_over
        day = after or day
    assert all(n <= 5 for n in day.counts)
    assert day.bytes <= 1000


messages = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3000)), max_size=120)


@given(messages=messages, room=st.sampled_from([SHARE * 3000, SHARE * 8000]), every=st.integers(1, 20))
def test_the_queue_keeps_order_bounds_and_counts(messages: list[tuple[str, int]], room: int, every: int) -> None:
    dropped: Counter[str] = Counter()
    queue: FairQueue[tuple[str, int]] = FairQueue(room, lambda device, _item, _size, _own: dropped.update([device]))
    taken: list[tuple[str, int]] = []
    for number, (device, size) in enumerate(messages):
        queue.put(DeviceId(device), (device, number), size)
        assert queue.size_bytes <= room
        if number % every == 0:
            taken += queue.gather(0, 0, 3, room)
    while len(queue):
        taken += queue.gather(0, 0, 50, room)
    assert queue.size_bytes == 0
    for device in "abcd":
        mine = [number for name, number in taken if name == device]
        assert mine == sorted(mine), "each device's messages stay in order"
        assert len(mine) + dropped[device] == sum(name == device for name, _ in messages), "each is taken or counted"


def test_a_device_that_floods_is_behind_itself_only() -> None:
    dropped: list[str] = []
    queue: FairQueue[str] = FairQueue(
        SHARE * 100 * 1024, lambda device, _item, _size, own: dropped.append(device) if own else None
    )
    for number in range(1000):
        queue.put(ONE, f"one-{number}", 10_000)
    queue.put(TWO, "two-0", 10_000)
    queue.put(TWO, "two-1", 10_000)
    assert queue.gather(0, 0, 4, MIB) == ["one-0", "two-0", "one-1", "two-1"]
    assert queue.size_bytes <= 100 * 1024
    assert set(dropped) == {ONE}


def test_many_that_flood_make_room_for_one_that_does_not() -> None:
    share = 100 * (1000 + OVERHEAD_BYTES)
    dropped: Counter[tuple[str, bool]] = Counter()
    queue: FairQueue[str] = FairQueue(SHARE * share, lambda device, _item, _size, own: dropped.update([(device, own)]))
    for _ in range(100):
        for name in range(SHARE):
            queue.put(DeviceId(f"d-{name}"), "flood", 1000)
    assert not dropped
    queue.put(TWO, "honest", 1000)
    assert "honest" in queue.gather(0, 0, SHARE + 1, share)
    assert sum(dropped.values()) == 1
    assert (TWO, True) not in dropped


def test_a_batch_ends_with_its_bytes() -> None:
    queue: FairQueue[int] = FairQueue(64 * MIB, lambda *_: None)
    for number in range(100):
        queue.put(ONE, number, 30_000)
    assert len(queue.gather(0, 0, 500, MIB)) == -(-MIB // (30_000 + OVERHEAD_BYTES))
    assert queue.gather(0, 0, 500, 64 * MIB)[-1] == 99
    assert queue.gather(0, 0, 500, MIB) == []


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock(datetime(2026, 11, 29, 23, 59, 0, tzinfo=UTC))


def test_what_is_dropped_is_one_report_a_device_and_day(clock: TurnedClock) -> None:
    ledger = DeviceLedger(LIMITS, clock)
    assert [ledger.admit(ONE, 1) for _ in range(242)].count(True) == 240
    assert ledger.admit(TWO, 1)
    assert ledger.reports() == []
    clock.turn(seconds=FIRST_S)
    [first] = ledger.reports()
    assert (first.device, first.row) == (ONE, None)
    assert first.detail == {"day": "2026-11-29", "dropped": 2, "bytes": 2, "reasons": {"rate": 2}}
    ledger.written(first, 77)
    ledger.drop(ONE, Reason.DAY, 10)
    assert ledger.reports() == [], "not again within a minute"
    clock.turn(seconds=AGAIN_S)
    [again] = ledger.reports()
    assert (again.row, again.detail["dropped"], again.detail["day"]) == (77, 3, "2026-11-29")
    ledger.drop(ONE, Reason.DAY, 10)
    clock.turn(seconds=FIRST_S)
    [new] = ledger.reports()
    assert (new.row, new.detail["dropped"], new.detail["day"]) == (None, 1, "2026-11-30")
    assert ledger.total[Reason.RATE] == 2


def test_a_new_day_begins_at_nothing(clock: TurnedClock) -> None:
    ledger = DeviceLedger(LIMITS, clock)
    assert [ledger.store(ONE, Stored.EVENTS, 2, 10) for _ in range(3)] == [True, True, False]
    assert ledger.store(ONE, Stored.CAPTURES, 1, 10)
    clock.turn(minutes=2)
    assert ledger.store(ONE, Stored.EVENTS, 5, 10)


def test_the_ledger_forgets_devices_that_owe_nothing(clock: TurnedClock) -> None:
    ledger = DeviceLedger(LIMITS, clock)
    for number in range(2 * SWEEP_FROM):
        clock.turn(seconds=1)
        assert ledger.admit(DeviceId(f"d-{number}"), 1)
        assert ledger.serve(DeviceId(f"d-{number}"), 1)
    assert len(ledger._up) <= SWEEP_FROM
    assert len(ledger._down) <= SWEEP_FROM
    for number in range(MAX_NAMED + 5):
        ledger.drop(DeviceId(f"d-{number}"), Reason.DAY, 1)
    clock.turn(seconds=FIRST_S)
    assert len(ledger.reports()) == MAX_NAMED
    assert ledger.total[Reason.DAY] == MAX_NAMED + 5


def test_blocks_leave_half_of_the_downlink_to_metadata_and_offers_widen_it(clock: TurnedClock) -> None:
    ledger = DeviceLedger(LIMITS, clock)
    assert ledger.serve(ONE, 1800, offers={})
    assert not ledger.serve(ONE, 1, offers={})
    assert ledger.serve(ONE, 1800)
    assert not ledger.serve(ONE, 1)
    assert ledger.serve(ONE, 4000, offers={"a": 1_450}), "a new bundle is not paid with the old one's budget"
    clock.turn(hours=2)
    assert ledger.serve(ONE, 3600)


def test_each_new_version_that_a_device_is_offered_may_be_pulled(clock: TurnedClock) -> None:
    ledger = DeviceLedger(LIMITS, clock)
    for number in range(40):
        assert ledger.serve(ONE, 1_000, offers={f"version-{number}": 1_000}), number
        clock.turn(seconds=2)


def test_a_bundle_that_is_pulled_again_and_again_is_paid_four_times(clock: TurnedClock) -> None:
    ledger = DeviceLedger(LIMITS, clock)
    taken = [ledger.serve(ONE, 1_000, offers={"version": 1_000}) for _ in range(40)]
    assert taken == [True] * 5 + [False] * 35, "1.8 kB of its own and four times the bundle"
    for number in range(6):
        assert ledger.serve(ONE, 1_000, offers={f"version-{number}": 1_000})
    clock.turn(hours=1)
    assert sum(ledger.serve(ONE, 1_000, offers={"version": 1_000}) for _ in range(40)) == 5, (
        "old offers count no longer"
    )


def test_an_agent_that_was_away_for_long_meets_no_limit(clock: TurnedClock) -> None:
    """Its outbox holds 16 MiB at most, three quarters of them in rows, and drains at 20 messages a second (ADR 0081)."""
    limits = limits_of(ServerSettings(data_dir="."))  # type: ignore[arg-type]
    outbox, row_bytes, per_s = 16 * MIB, 96, 20
    event = Event(device="d-0123456789abcdef", boot_id="0" * 32, seq=10_000, ts=1_764_000_000_000, kind=EventKind.BOOT)
    window = Window(t0=1_764_000_000, length_s=900, model="m", lane="active", sha256="a" * 64, version="1.0.0")
    assert outbox * 3 // 4 // (len(encode(event)) + row_bytes) < limits.daily[Stored.EVENTS]
    assert outbox * 3 // 4 // len(encode(window)) < limits.daily[Stored.WINDOWS]
    assert outbox < min(limits.daily_bytes, limits.bytes_per_s * UPLINK.burst)
    assert per_s * limits.cost_s(0) < UPLINK.per_s
    for size in (4_000, 32 * 1024):
        ledger = DeviceLedger(limits, clock)
        for _ in range(outbox // size):
            assert ledger.admit(ONE, size)
            assert ledger.store(ONE, Stored.WINDOWS, 10, size)
            clock.turn(seconds=1 / per_s)
        clock.turn(days=1)
        assert not ledger.total.total()
