"""What a worker counts, as it goes to `edgectl` once a second: counters since the start, latencies since the last line. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from edgefleet_protocol.sketch import LatencySketch


@dataclass(slots=True)
class Figures:
    """Counters since the start of a worker. unacked: telemetry and events that the server has not acknowledged now.

    sent: telemetry and events at their first try; resent: those that had no acknowledgement in time; given_up: those that a device had no
    room for. acked: messages that the server's own acknowledgement named. refused: connections that the broker did not take.
    """

    connected: int = 0
    wanted: int = 0
    connects: int = 0
    lost: int = 0
    refused: int = 0
    failed: int = 0
    sent: int = 0
    resent: int = 0
    acked: int = 0
    unacked: int = 0
    given_up: int = 0
    messages_in: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    documents: int = 0
    installs: int = 0
    installs_failed: int = 0
    drifting: int = 0
    stretch: int = 0
    cpu_s: float = 0.0
    rss_bytes: int = 0


@dataclass(slots=True)
class Meter:
    """The counters of a worker, and its latencies since they were read last: of acknowledgements, and of connections."""

    figures: Figures = field(default_factory=Figures)
    acks: LatencySketch = field(default_factory=LatencySketch)
    connects: LatencySketch = field(default_factory=LatencySketch)

    def line(self) -> dict[str, Any]:
        """Return what goes out now; the latencies begin again."""
        said = {**asdict(self.figures), "acks": self.acks.packed(), "connect_times": self.connects.packed()}
        self.acks, self.connects = LatencySketch(), LatencySketch()
        return said
