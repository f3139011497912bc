"""The engine thread: every few seconds it ticks rollouts, signs again what is due and clears what is old.

When devices report or a person steers a rollout it is woken, and ticks the rollouts at once.

It belongs to no feature: each tick calls the services, one after another, and a failure of one is logged and does not stop the
others. Replicas may all run it: every step is safe to do twice.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from prometheus_client import Counter

from edgefleet_protocol.clock import Clock
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.process.tick_schedule import TickSchedule
from edgefleet_server.rollout.controller.controller import RolloutController

_log = logging.getLogger(__name__)
_PRUNE_EVERY = timedelta(hours=1)
_STALE_TICKS = 15
_STOP_WAIT_S = 3.0
Step = tuple[str, Callable[[datetime], object]]
"""A step and its name in the log."""
Subscribe = Callable[[Callable[[], None]], object]


class EngineStuckError(EdgefleetError):
    """The engine has not ticked for long."""

    code = "server.engine_unavailable"


@dataclass(frozen=True, slots=True)
class EngineWork:
    """What a tick does besides rollouts, step by step. Each step is called with the present time."""

    before: Sequence[Step]
    """Every tick, before the rollouts."""
    hourly: Sequence[Step]
    """Once an hour, after the rollouts."""


class EngineThread:
    """Runs the ticks on one thread."""

    def __init__(
        self,
        rollouts: RolloutController,
        work: EngineWork,
        news: Sequence[Subscribe],
        ticks: Counter,
        clock: Clock,
        tick_s: float,
    ) -> None:
        """Wire the parts. news: each calls what it is given when there is something to do at once; ticks: counts by outcome."""
        self._rollouts = rollouts
        self._work = work
        self._news = news
        self._ticks = ticks
        self._clock = clock
        self._tick_s = tick_s
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._started = clock.now()
        self._last: datetime | None = None
        self._pruned: datetime | None = None

    def start(self) -> None:
        """Start ticking; from now on news of devices and commands for rollouts wake it."""
        for subscribe in self._news:
            subscribe(self._woken.set)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the present tick."""
        self._stopping.set()
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_WAIT_S)

    def check(self) -> str:
        """Return a line for `/readyz`. Raises EngineStuckError."""
        limit = timedelta(seconds=max(60.0, _STALE_TICKS * self._tick_s))
        last, now = self._last, self._clock.now()
        if now - (last or self._started) > limit:
            when = "never ticked" if last is None else f"last ticked at {last.isoformat()}"
            raise EngineStuckError(f"the engine {when}", next_step="see the server's log")
        return "not ticked yet" if last is None else f"last tick {(now - last).total_seconds():.1f} s ago"

    def tick(self) -> None:
        """Run every step once; failures are logged and counted."""
        now = self._clock.now()
        went_well = True
        for name, step in self._work.before:
            went_well &= self._step(name, partial(step, now))
        went_well &= self._step("tick rollouts", self._rollouts.tick)
        if self._rollouts.has_more:
            self._woken.set()
        if self._pruned is None or now - self._pruned >= _PRUNE_EVERY:
            self._pruned = now
            for name, step in self._work.hourly:
                went_well &= self._step(name, partial(step, now))
        self._ticks.labels("ok" if went_well else "failed").inc()
        self._last = now

    def _step(self, what: str, step: Callable[[], object]) -> bool:
        try:
            step()
        except Exception:  # noqa: BLE001  # the outermost loop: a bug in one step must not end the thread that does all of them
            _log.exception("engine step failed", extra={"step": what})
            return False
        return True

    def _run(self) -> None:
        clock, every_s = self._clock, self._tick_s
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
