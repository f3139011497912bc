"""Running figures of a candidate's lane: its worker's own, and the comparison with what serves. Pure sums."""

import logging
from typing import Protocol

import msgspec

from edgefleet_agent.telemetry.window import Sums
from edgefleet_agent.worker.protocol import Stats
from edgefleet_protocol.comparison import ShadowFigures, merge_shadows
from edgefleet_protocol.messages import Window
from edgefleet_protocol.sketch import LatencySketch

log = logging.getLogger(__name__)


class Cpu(Protocol):
    """A worker's CPU seconds as it said last."""

    cpu_s: float


class LaneSums(Sums):
    """`Sums` with a comparison."""

    def __init__(self, sha256: str, version: str) -> None:
        super().__init__(sha256, version)
        self.shadow: ShadowFigures | None = None

    def add(self, stats: Stats, worker: Cpu) -> None:
        """Add what the candidate's worker told."""
        self.n += stats.n
        self.errors += stats.errors
        self.timeouts += stats.timeouts
        self.nonfinite += stats.nonfinite
        try:
            self.latency.merge(LatencySketch.unpacked(stats.latency))
            if stats.shadow is not None:
                self.shadow = merge_shadows([self.shadow or ShadowFigures(), stats.shadow])
        except ValueError:
            log.warning("candidate sent bad figures")
        for index, count in enumerate(stats.classes):
            self.classes[index] = self.classes.get(index, 0) + count
        self.rss_bytes = stats.rss_bytes
        self.cpu_s += stats.cpu_s - worker.cpu_s
        worker.cpu_s = stats.cpu_s

    def mirrored(self, offered: int, dropped: int) -> None:
        """Add what the serving worker had for it."""
        if offered or dropped:
            known = self.shadow or ShadowFigures()
            self.shadow = msgspec.structs.replace(
                known, offered=known.offered + offered, dropped=known.dropped + dropped
            )

    def closed(self, model: str, lane: str, t0: int, length_s: int) -> Window:
        """Return the window. t0: unix seconds."""
        return msgspec.structs.replace(super().closed(model, lane, t0, length_s), shadow=self.shadow)
