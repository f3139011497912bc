"""Running figures of a candidate's lane: its worker's own, and the comparison with what serves. Pure sums."""

import logging

import msgspec

from edgefleet_agent.reporting.window import Cpu, Sums
from edgefleet_agent.worker.control.protocol import Stats
from edgefleet_protocol.comparison import ShadowFigures, merge_shadows
from edgefleet_protocol.messages import Window

log = logging.getLogger(__name__)


class LaneSums(Sums):
    """`Sums` with a comparison."""

    def __init__(self, sha256: str, version: str) -> None:
        super().__init__(sha256, version)
        self.shadow: ShadowFigures | None = None

    def add(self, stats: Stats, worker: Cpu) -> None:
        """Add what the candidate's worker reported."""
        super().add(stats, worker)
        if stats.shadow is not None:
            try:
                self.shadow = merge_shadows([self.shadow or ShadowFigures(), stats.shadow])
            except ValueError:
                log.warning("candidate sent bad figures", extra={"sha256": self.sha256})

    def mirrored(self, offered: int, dropped: int) -> None:
        """Add what the serving worker had for it."""
        if offered or dropped:
            known = self.shadow or ShadowFigures()
            self.shadow = msgspec.structs.replace(
                known, offered=known.offered + offered, dropped=known.dropped + dropped
            )

    def closed(self, model: str, lane: str, t0: int, length_s: int, signals_every_s: int = 0) -> Window:
        """Return the window. t0: unix seconds."""
        window = super().closed(model, lane, t0, length_s, signals_every_s)
        return msgspec.structs.replace(window, shadow=self.shadow)
