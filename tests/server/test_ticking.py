"""The engine's ticks: each is counted, and silence makes the server not ready."""

import threading
from typing import Any

import pytest

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import Event, EventKind
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.fleet.enrolment.pending_devices import ApprovalPendingError, PendingState
from edgefleet_server.process.lifecycle.engine_thread import EngineStuckError
from edgefleet_server.process.lifecycle.engine_work import build_engine
from tests.server.fleet.house import FACTS, KeyedDevice
from tests.support.servers import ApiHouse


def test_a_tick_is_counted_once_and_as_failed_when_a_step_of_it_failed(house: ApiHouse) -> None:
    ticker = build_engine(house.parts)
    ticker.tick()
    with house.parts.db.session() as session:
        session.connection().exec_driver_sql("DROP TABLE telemetry_window")
    house.clock.turn(hours=2)
    ticker.tick()
    text = house.client().get("/metrics").text
    assert 'edgefleet_engine_ticks_total{result="ok"} 1.0' in text
    assert 'edgefleet_engine_ticks_total{result="failed"} 1.0' in text


def test_an_engine_that_is_silent_or_never_ticked_is_not_ready(house: ApiHouse) -> None:
    ticker = build_engine(house.parts)
    assert ticker.check() == "not ticked yet"
    house.clock.turn(seconds=61)
    with pytest.raises(EngineStuckError, match="never ticked"):
        ticker.check()
    ticker.tick()
    assert ticker.check() == "last tick 0.0 s ago"
    house.clock.turn(seconds=61)
    with pytest.raises(EngineStuckError, match="last ticked at"):
        ticker.check()


def test_a_tick_removes_old_events_of_devices_and_those_who_waited_in_vain(house: ApiHouse) -> None:
    fleet = house.parts.fleet
    claim = fleet.enrolment.create_claims(approval=True)[0]
    with pytest.raises(ApprovalPendingError):
        fleet.enrolment.enroll(claim.token, KeyedDevice().csr(), FACTS)
    crash: dict[str, Any] = {
        "device": DeviceId("d-1"),
        "boot_id": "b",
        "ts": 0,
        "kind": EventKind.CRASH,
        "model": "digits",
    }
    fleet.receiver.take_events([Event(seq=seq, **crash) for seq in (1, 2)])
    ticker = build_engine(house.parts)
    assert fleet.approvals.page(PageRequest(9), state=PendingState.PENDING)[1] == 1
    house.clock.turn(days=91)
    fleet.receiver.take_events([Event(seq=3, **crash)])
    ticker.tick()
    assert fleet.approvals.page(PageRequest(9), state=PendingState.EXPIRED)[1] == 0
    assert [one.kind for one in fleet.feed.page(limit=9)[0]] == ["crash", "pending"]


class _Behind:
    """An engine whose first two ticks end with their turn. ticks: of each, whether it was woken."""

    has_more = False

    def __init__(self) -> None:
        self.ticks: list[bool] = []
        self.caught_up = threading.Event()

    @property
    def is_behind(self) -> bool:
        return len(self.ticks) < 3

    def tick(self, *, is_woken: bool = False) -> int:
        self.ticks.append(is_woken)
        if not self.is_behind:
            self.caught_up.set()
        return 8


class _Broken(_Behind):
    """An engine with a bug."""

    def tick(self, *, is_woken: bool = False) -> int:
        super().tick(is_woken=is_woken)
        raise KeyError("a bug")


@pytest.mark.parametrize("kind", [_Behind, _Broken])
def test_an_engine_that_is_behind_goes_on_at_once_whatever_its_steps_raise(
    house: ApiHouse, monkeypatch: pytest.MonkeyPatch, kind: type[_Behind]
) -> None:
    ticker, engine = build_engine(house.parts), kind()
    monkeypatch.setattr(ticker, "_rollouts", engine)
    ticker.start()
    try:
        ticker._woken.set()
        assert engine.caught_up.wait(30), "the clock of the test stands still: nothing is due again by itself"
    finally:
        ticker.stop()
    assert engine.ticks == [True, False, False]
