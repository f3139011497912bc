"""Samples the fleet once a minute: how many devices are online, and on how many something drifts.

Rules:
1. The engine of every process asks; of several the first that comes takes the minute. A process whose gateway has no connection to the
   broker takes none: what it has heard is old.
2. None is taken in the first minutes after a server began to listen (SETTLING): devices are on their way back, and nobody knows of them.
   A gateway that has its connection again, and for longer than that nobody sampled, begins to listen as a server that starts does.
3. A sample is added to a step of every length at once, so that old minutes are already in coarser steps when they are dropped.
Source: docs/adr/0112-presence-history.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.presence import store
from edgefleet_server.fleet.presence.model import MINUTE_S, FleetStep

SETTLING: Final = timedelta(minutes=2)


class FleetSampler:
    """Takes samples. Thread-safe; calls block."""

    def __init__(
        self,
        db: Database,
        clock: Clock,
        kept: Mapping[int, timedelta],
        drift_fresh: timedelta,
        measures_drift: Callable[[datetime], bool],
    ) -> None:
        """Wire the parts. kept: how long steps are kept, by their length in seconds; it has MINUTE_S.

        measures_drift: whether devices measured any drift since a moment; drift_fresh: what they measured longer ago is not of now.
        """
        self._db = db
        self._clock = clock
        self._kept = kept
        self._drift_fresh = drift_fresh
        self._measures_drift = measures_drift
        self._taken = 0
        self._was_deaf = False
        self.is_listening: Callable[[], bool] = _unasked
        """Whether the gateway of this process hears devices. A process without one believes what the others wrote down."""

    def tick(self, _now: datetime | None = None) -> bool:
        """Take the sample of this minute unless it was taken; return whether it was ours. For the engine tick."""
        now = self._clock.now()
        minute = int(now.timestamp()) // MINUTE_S * MINUTE_S
        if not self.is_listening():
            self._was_deaf = True
            return False
        if self._was_deaf:
            with self._db.session() as session:
                store.note_unwatched(session, now, SETTLING)
            self._was_deaf = False
        if minute == self._taken:
            return False
        with self._db.read() as session:
            watched = store.watched_since(session)
            # one of the future stops none: a clock was ahead
            if watched is not None and abs(now - watched[1]) < SETTLING:
                return False
            if store.has_step(session, MINUTE_S, minute):
                self._taken = minute
                return False
            online, devices, drifting = store.count_fleet(session)
        measured = online if self._measures_drift(now - self._drift_fresh) else 0
        step = FleetStep(minute, 1, online, devices, drifting if measured else 0, measured)
        with self._db.session() as session:
            is_ours = store.claim_step(session, MINUTE_S, step)
            if is_ours:
                longer = [scale_s for scale_s in self._kept if scale_s != MINUTE_S]
                store.add_steps(session, {one: replace(step, at=minute // one * one) for one in longer})
        self._taken = minute
        return is_ours

    def prune(self, _now: datetime | None = None) -> int:
        """Forget steps that no chart shows any more; return how many. For the engine tick."""
        now = self._clock.now()
        with self._db.session() as session:
            return store.prune_steps(session, {one: int((now - age).timestamp()) for one, age in self._kept.items()})


def _unasked() -> bool:
    return True
