"""Telemetry over time: added up in steps, and the newest trend of many devices, on both databases."""

from datetime import timedelta
from typing import Any

import pytest

from edgefleet_protocol.messages import SystemFigures, Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.db.database import Database
from edgefleet_server.telemetry.series import MOST_POINTS, TREND_WINDOWS, step_of
from edgefleet_server.telemetry.service import TelemetryService
from tests.server.fleet.house import START, TurnedClock


class Fleet:
    """Devices that send windows while the clock goes on."""

    def __init__(self, db: Database) -> None:
        self.clock = TurnedClock()
        self.telemetry = TelemetryService(db, self.clock)
        self.seq = 0

    def send(self, device: str, *latencies_s: float, model: str = "digits", lane: str = "active", **told: Any) -> None:
        """Send one window."""
        sketch = LatencySketch()
        for one in latencies_s:
            sketch.add(one)
        self.seq += 1
        ts = int(self.clock.now().timestamp())
        window = Window(
            t0=ts, length_s=60, model=model, lane=lane, sha256="a" * 64, version="1", n=len(latencies_s), errors=min(1, len(latencies_s)),
            latency=sketch.packed(), worker_rss_bytes=5000,
        )  # fmt: skip
        system = SystemFigures(**told)
        message = Telemetry(device=device, boot_id="b", seq=self.seq, ts=ts * 1000, windows=[window], system=system)
        assert self.telemetry.ingest([message]) == 1


@pytest.fixture
def fleet(db: Database) -> Fleet:
    """A fleet without windows."""
    return Fleet(db)


def test_windows_of_one_step_are_added_up(fleet: Fleet) -> None:
    for latencies, celsius in (((0.001, 0.001, 0.1), 40.0), ((0.001,), 50.0)):
        fleet.send("d-a", *latencies, temperature_celsius=celsius)
        fleet.clock.turn(seconds=60)
    fleet.clock.turn(minutes=30)
    fleet.send("d-a", 0.002)
    fleet.send("d-a", 0.05, lane="candidate")
    fleet.send("d-b", 0.9)
    until = fleet.clock.now()
    series = fleet.telemetry.series.of_device("d-a", START, until, points=4)
    assert [(line.model, line.lane) for line in series.lines] == [("digits", "active"), ("digits", "candidate")]
    first, last = series.lines[0].points
    assert (first.at, first.n, first.errors, first.worker_rss_bytes) == (START, 4, 2, 5000)
    assert first.p50_ms == pytest.approx(1.0, rel=0.02)
    assert first.p99_ms == pytest.approx(100.0, rel=0.02)
    assert last.p95_ms == pytest.approx(2.0, rel=0.02)
    assert (last.at - first.at).total_seconds() % series.step_s == 0
    assert series.system[0].figures == {"temperature_celsius": 45.0}
    assert series.system[-1].figures == {}
    assert fleet.telemetry.series.of_device("d-a", until + timedelta(seconds=1), until + timedelta(days=1)).lines == []


@pytest.mark.parametrize(("hours", "points"), [(1, 1500), (24, 1500), (720, 1500), (720, 200), (0.01, 1500)])
def test_a_span_has_no_more_points_than_asked_for(hours: float, points: int) -> None:
    until = START + timedelta(hours=hours)
    step_s = step_of(START, until, points)
    assert int((until - START).total_seconds() // step_s) + 1 <= min(points, MOST_POINTS)


def test_trends_are_the_newest_windows_of_real_requests(fleet: Fleet) -> None:
    for n in range(TREND_WINDOWS + 3):
        fleet.send("d-a", 0.001 * (n + 1))
        fleet.clock.turn(seconds=60)
    fleet.send("d-a", 0.9, lane="candidate")
    fleet.send("d-b", 0.005)
    fleet.send("d-b", model="other")
    fleet.send("d-c", 0.007)
    found = fleet.telemetry.series.trends(["d-a", "d-b", "d-none"])
    assert sorted(found) == ["d-a", "d-b"]
    (trend,) = found["d-a"]
    assert len(trend.p95_ms) == TREND_WINDOWS
    assert trend.p95_ms[0] == pytest.approx(4.0, rel=0.02)
    assert trend.newest == pytest.approx(1.0 * (TREND_WINDOWS + 3), rel=0.02)
    digits, other = found["d-b"]
    assert (digits.model, other.model, other.newest) == ("digits", "other", None)
    assert digits.newest == pytest.approx(5.0, rel=0.02)
    assert fleet.telemetry.series.trends([]) == {}
