"""The newest trend of many devices, on both databases."""

from typing import Any

import pytest

from edgefleet_protocol.messages import SystemFigures, Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.db.database import Database
from edgefleet_server.telemetry.series import TREND_WINDOWS
from edgefleet_server.telemetry.service import TelemetryService
from tests.server.fleet.house import TurnedClock


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
