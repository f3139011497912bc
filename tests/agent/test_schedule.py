"""When windows end: also where a server asks for longer ones."""

import datetime as dt
from collections.abc import Callable
from typing import Any

from edgefleet_agent.reporting.schedule import MAX_STRETCH, STRETCHED_S, Ticker
from edgefleet_agent.reporting.window import merge_payloads, pack_payloads
from edgefleet_protocol.messages import Telemetry, decode
from tests.agent.test_outbox import payload


class Clock:
    """Time that stands still until it is turned."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def now(self) -> dt.datetime:
        """Return the time."""
        return dt.datetime.fromtimestamp(1_764_000_000 + self.seconds, dt.UTC)

    def monotonic_s(self) -> float:
        """Return seconds."""
        return self.seconds


class Loop:
    """Calls nothing by itself."""

    def call_later(self, _delay_s: float, _callback: Callable[[], None]) -> None:
        """Forget it."""


def ticker(clock: Clock, override_s: int = 0) -> Ticker:
    """Return one without a document: windows of `normal`."""
    loop: Any = Loop()
    return Ticker(loop, clock, "d-1", override_s, lambda _t0, _age, _every: None)


def test_a_server_under_pressure_gets_longer_windows_until_it_takes_that_back() -> None:
    clock = Clock()
    made = ticker(clock)
    assert made.interval_s == 900
    made.stretch(4)
    assert made.interval_s == 3_600
    made.stretch(0)
    assert made.interval_s == 900


def test_no_server_makes_a_device_silent() -> None:
    clock = Clock()
    made = ticker(clock)
    made.stretch(1_000_000)
    assert made.interval_s == 900 * MAX_STRETCH
    clock.seconds += STRETCHED_S
    assert made.interval_s == 900
    made.stretch(-5)
    assert made.interval_s == 900


def test_the_override_of_the_settings_stands() -> None:
    made = ticker(Clock(), 30)
    made.stretch(4)
    assert made.interval_s == 30


def test_a_joined_message_says_how_many_numbers_never_come() -> None:
    packed = pack_payloads(payload(1), payload(2))
    assert packed is not None
    merged = merge_payloads(packed, payload(3))
    assert merged is not None
    assert (decode(Telemetry, merged).seq, decode(Telemetry, merged).joined) == (3, 2)
