"""Reads the figures of a rollout's two versions over the time of the rollout, kept for a moment: pages are made with every event."""

from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.dashboard.core.readings import Readings
from edgefleet_server.rollout.status.reader import RolloutView
from edgefleet_server.telemetry.timelines.model import LinesBy, Scope, Timeline
from edgefleet_server.telemetry.timelines.service import TimelineReader

POINTS: Final = 61
BEFORE: Final = timedelta(minutes=15)
SHORTEST: Final = timedelta(minutes=20)
LONGEST: Final = timedelta(days=30)


class GateTimelines:
    """Reads them. Thread-safe; calls block."""

    def __init__(self, timelines: TimelineReader, readings: Readings, clock: Clock) -> None:
        """Wire the parts."""
        self._timelines = timelines
        self._clock = clock
        self._readings = readings

    def of(self, rollout: RolloutView) -> Timeline | None:
        """Return the figures of the rollout's model by version, None before it starts and where there are none."""
        started_at = rollout.started_at
        if started_at is None:
            return None
        return self._readings.of("gates", rollout.id, lambda: self._read(rollout, started_at))

    def _read(self, rollout: RolloutView, started_at: datetime) -> Timeline | None:
        now = self._clock.now()
        until = min(now, (rollout.finished_at or now) + BEFORE)
        since = max(min(started_at - BEFORE, until - SHORTEST), until - LONGEST)
        try:
            found = self._timelines.read(Scope.MODEL, rollout.model, since, until, by=LinesBy.VERSION, points=POINTS)
        except EdgefleetError:  # the model was deleted
            return None
        return found if found.lines else None
