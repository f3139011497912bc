"""The engine thread: every few seconds it ticks rollouts, signs again what is due and clears what is old.

When devices report or a person steers a rollout it is woken, and ticks the rollouts at once.

It belongs to no feature: each tick calls the services, one after another, and a failure of one is
logged and does not stop the others. Replicas may all run it: every step is safe to do twice.
"""

import logging
import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.composition.container import Parts
from edgefleet_server.process.tick_schedule import TickSchedule
from edgefleet_server.rollout.controller.controller import RolloutController

_log = logging.getLogger(__name__)
_PRUNE_EVERY = timedelta(hours=1)
_STALE_TICKS = 15
_STOP_WAIT_S = 3.0


class EngineStuckError(EdgefleetError):
    """The engine has not ticked for long."""

    code = "server.engine_unavailable"


class EngineThread:
    """Runs the ticks on one thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._rollouts = RolloutController(
            parts.db, parts.fleet, parts.rollout, parts.rollout.clock, parts.settings.instance
        )
        self._rollouts.on_lag(parts.metrics.observe_lag)
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._started = parts.clock.now()
        self._last: datetime | None = None
        self._pruned: datetime | None = None

    def start(self) -> None:
        """Start ticking; from now on news of devices and commands for rollouts wake it."""
        self._parts.fleet.on_reports(self._woken.set)
        self._parts.rollout.on_change(self._woken.set)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the present tick."""
        self._stopping.set()
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_WAIT_S)

    def check(self) -> str:
        """Return a line for `/readyz`. Raises EngineStuckError."""
        limit = timedelta(seconds=max(60.0, _STALE_TICKS * self._parts.settings.engine_tick_s))
        last, now = self._last, self._parts.clock.now()
        if now - (last or self._started) > limit:
            when = "never ticked" if last is None else f"last ticked at {last.isoformat()}"
            raise EngineStuckError(f"the engine {when}", next_step="see the server's log")
        return "not ticked yet" if last is None else f"last tick {(now - last).total_seconds():.1f} s ago"

    def tick(self) -> None:
        """Run every step once; failures are logged and counted."""
        now = self._parts.clock.now()
        went_well = self._step("re-sign metadata", self._parts.signing.resign_due)
        went_well &= self._step("re-sign desired documents", lambda: self._parts.fleet.resign_due(now))
        went_well &= self._step("re-sign the brake", lambda: self._parts.fleet.resign_hold_due(now))
        went_well &= self._step("tick rollouts", self._rollouts.tick)
        if self._rollouts.has_more:
            self._woken.set()
        if self._pruned is None or now - self._pruned >= _PRUNE_EVERY:
            self._pruned = now
            went_well &= self._step("prune telemetry", lambda: self._parts.telemetry.prune(now))
            went_well &= self._step("prune events", lambda: self._parts.fleet.prune_events(now))
            went_well &= self._step("prune webhook deliveries", self._parts.webhooks.prune)
            went_well &= self._step("prune alerts", self._parts.alerts.prune)
            went_well &= self._step("prune kept answers", self._parts.access.repeats.prune)
        self._parts.metrics.ticks.labels("ok" if went_well else "failed").inc()
        self._last = now

    def _step(self, what: str, step: Callable[[], object]) -> bool:
        try:
            step()
        except Exception:  # noqa: BLE001  # the outermost loop: a bug in one step must not end the thread that does all of them
            _log.exception("engine step failed", extra={"step": what})
            return False
        return True

    def _run(self) -> None:
        clock, every_s = self._parts.clock, self._parts.settings.engine_tick_s
        pace = TickSchedule(due_s=clock.monotonic_s() + every_s)
        while not self._stopping.is_set():
            if self._woken.is_set():
                self._woken.clear()
                pace = pace.heard(clock.monotonic_s())
            wait_s, is_woken = pace.next(clock.monotonic_s())
            if wait_s > 0 and pace.heard_s is None:
                self._woken.wait(wait_s)
                continue
            if wait_s > 0 and self._stopping.wait(wait_s):
                return
            pace = pace.began(clock.monotonic_s(), is_woken=is_woken)
            if is_woken:
                self._step("tick rollouts", lambda: self._rollouts.tick(is_woken=True))
                if self._rollouts.has_more:
                    self._woken.set()
            else:
                self.tick()
            pace = pace.ended(clock.monotonic_s(), every_s, is_woken=is_woken, is_behind=self._rollouts.is_behind)
