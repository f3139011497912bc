"""What devices of a simulated rollout send beside their reports: windows, and the values that the shipped measurer takes of them.

A device serves at its own speed, whatever it runs; its share of answers that agree as a shadow is that of the world. Some send
nothing. Only the reading of rows is replaced: who is due, who is compared with whom and what a value is, the server's own code says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, cast

from edgefleet_protocol.comparison import ShadowFigures
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.rollout.model import DeviceQuality, Snapshot
from edgefleet_server.rollout.preparation.metric_collector import MetricCollector
from edgefleet_server.rollout.spec.model import Mode
from edgefleet_server.telemetry.model import PeriodWindow

ANSWERS: Final = 40
BLOCKS: Final = 12
OLD: Final = "0" * 64
"""Any release but the one that goes out."""


@dataclass(frozen=True)
class Shows:
    """What the fleet shows. slower: how many times as long the release takes. silent: share of devices that send nothing."""

    slower: float = 1.0
    agreed: float = 1.0
    silent: float = 0.0
    joules: float = -1.0


class SimulatedTelemetry:
    """Takes values of a simulated rollout, and keeps what was taken."""

    def __init__(self, shows: Shows) -> None:
        self._shows = shows
        self._measurer = MetricCollector(cast("Any", None))
        self.taken: tuple[DeviceQuality, ...] = ()

    def take(self, snapshot: Snapshot, now: datetime) -> tuple[DeviceQuality, ...]:
        """Return all values by now."""
        gate = snapshot.spec.gates.quality
        if gate is None:
            return ()
        snapshot = replace(snapshot, measured=self.taken)

        def look(device: DeviceId, began: datetime, is_later: bool) -> Sequence[PeriodWindow]:
            return self.windows(snapshot, device, began, is_later)

        self.taken += tuple(self._measurer.values(snapshot, look, now))
        return self.taken

    def windows(self, snapshot: Snapshot, device: DeviceId, began: datetime, is_later: bool) -> Sequence[PeriodWindow]:
        """Return what a device sent before or after a moment, when it got the release, or somebody that it is compared with."""
        if sum(device.encode()) % 100 < 100 * self._shows.silent:
            return ()
        assert snapshot.spec.gates.quality is not None
        after = snapshot.spec.gates.quality.after
        one = next((a for a in snapshot.assignments if a.device == device and a.switched_at == began), None)
        mode, digest = None, OLD
        if one is not None:
            mode, digest = snapshot.spec.stages[one.stage].mode, snapshot.bundles[one.stratum].sha256
        if not is_later:
            return [self._window(device, began - k * after, after, OLD, None) for k in range(1, BLOCKS + 1)]
        return [self._window(device, began, after, digest, mode)]

    def _window(
        self, device: DeviceId, t0: datetime, length: timedelta, digest: str, mode: Mode | None
    ) -> PeriodWindow:
        is_beside = mode is not None and mode is not Mode.ACTIVE
        ms = 5 + sum(device.encode()) % 7 * (self._shows.slower if mode is not None else 1.0)
        agreed = round(1000 * self._shows.agreed)
        return PeriodWindow(
            device=device,
            lane="candidate" if is_beside else "active",
            sha256=digest,
            t0=t0,
            length_s=int(length.total_seconds()),
            n=ANSWERS,
            errors=0,
            timeouts=0,
            nonfinite=0,
            latency=_sketch(ms),
            classes=(20, 20),
            joules_per_answer=self._shows.joules,
            shadow=ShadowFigures(judged=1000, agreed=agreed) if mode is Mode.SHADOW else None,
        )


@lru_cache(maxsize=256)
def _sketch(ms: float) -> tuple[int, ...]:
    sketch = LatencySketch()
    for _ in range(ANSWERS):
        sketch.add(ms / 1000)
    return tuple(sketch.packed())
