"""agentd's part of drift: hears what workers count, judges each block of five minutes, tells the server, the worker and the status.

1. Only the active worker of a model counts here; golden inputs, candidates and measurements do not.
2. Just before a block ends the workers are asked for their figures, and a moment later all blocks that are over are judged.
3. States are written when something changed that must not be lost, every KEEP_EVERY_S, and when agentd ends.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import msgspec

from edgefleet_agent.core.loop import Loop
from edgefleet_agent.drift.files import DriftFiles
from edgefleet_agent.drift.model_drift import (
    ModelDrift,
    closed,
    detail_of,
    drifting,
    following,
    noted,
    reason_of,
    summary,
    told,
)
from edgefleet_agent.serving.worker_process import Worker
from edgefleet_agent.worker.control.protocol import KnownReference, SetDrift, Stats, ToAgentd
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.drift.detector import BLOCK_S, Change
from edgefleet_protocol.drift.histogram import unpack
from edgefleet_protocol.drift.reference import BadReferenceError, read_reference
from edgefleet_protocol.messages import EventKind

ASK_BEFORE_S = 3.0
JUDGE_AFTER_S = 1.0
SPREAD_S = 60.0
KEEP_EVERY_S = 3 * 3_600.0
MAX_STATES = 2
"""Of one model in memory: what serves and what is on trial next to it."""

log = logging.getLogger(__name__)


class Tell(Protocol):
    """Who takes an event of a version."""

    def __call__(self, kind: EventKind, model: str, sha256: str, reason: str, detail: dict[str, Any]) -> None:
        """Put it into the outbox."""
        ...


class DriftDeps(msgspec.Struct, frozen=True):
    """What the watcher needs of the rest of agentd. All are called in the loop.

    ask: the active workers for figures. digests: those that records name. changed: what the status shows is another.
    """

    ask: Callable[[], None]
    digests: Callable[[], Collection[str]]
    tell: Tell
    changed: Callable[[], None]


class DriftWatcher:
    """The drift of all active versions. Only in the loop's thread."""

    def __init__(self, loop: Loop, clock: Clock, files: DriftFiles, deps: DriftDeps, part: float = 0.0) -> None:
        """Watch nothing yet. part: 0 … 1, the device's own: what moves a whole fleet must not be told by all in one moment."""
        self._loop = loop
        self._clock = clock
        self._files = files
        self._deps = deps
        self._judge_after_s = JUDGE_AFTER_S + part * SPREAD_S
        self._states: dict[tuple[str, str], ModelDrift] = {}
        self._workers: dict[str, Worker] = {}
        self._learning: dict[str, int] = {}
        self._kept_s = clock.monotonic_s()

    def start(self) -> None:
        """Begin; runs for as long as the loop does."""
        now = self._now()
        end = (now // BLOCK_S + 1) * BLOCK_S
        self._loop.call_later(max(0.0, end - now - ASK_BEFORE_S), self._deps.ask)
        self._loop.call_later(end - now + self._judge_after_s, self._end_block)

    def close(self) -> None:
        """Keep what is known."""
        for state in self._states.values():
            self._files.write(state)

    # ---- from workers

    def on_ready(self, worker: Worker) -> None:
        """A worker can answer: tell it when its version drifts."""
        state = self._states.get((worker.model, worker.ref.sha256))
        if state is not None and state.is_drifting:
            worker.send(SetDrift(is_drifting=True))

    def hear(self, worker: Worker, message: ToAgentd) -> bool:
        """Take a message that is for this one alone; False for all others, also for figures that were noted."""
        if isinstance(message, KnownReference):
            self._reference(worker, message.body)
            return True
        if isinstance(message, Stats) and worker.candidate is None:
            self._stats(worker, message)
        return False

    def _reference(self, worker: Worker, body: bytes) -> None:
        model, sha256 = worker.model, worker.ref.sha256
        try:
            reference = read_reference(body)
        except BadReferenceError as error:
            log.warning("worker sent a bad reference", extra={"model": model, "reason": error.message})
            return
        known = self._states.get((model, sha256)) or self._files.read(model, sha256)
        state = following(known or ModelDrift(model=model, sha256=sha256, version=worker.ref.version), reference)
        self._learning.pop(model, None)
        if reference.source == "learned" and (known is None or known.basis != state.basis):
            self._files.write_reference(model, sha256, body)
            self._files.write(state)
            detail = {"n": reference.n, "source": "learned", "basis": state.basis.hex()}
            reason = f"the bundle has no reference: {reference.n} answers of this device are one now"
            self._deps.tell(EventKind.DRIFT_BASELINE, model, sha256, reason, detail)
        self._forget_older(model)
        self._set(*closed(state, self._now()))
        self._deps.changed()

    def _forget_older(self, model: str) -> None:
        mine = [key for key in self._states if key[0] == model]
        for key in mine[: max(0, len(mine) - MAX_STATES + 1)]:
            self._files.write(self._states.pop(key))

    def _stats(self, worker: Worker, stats: Stats) -> None:
        if worker.state != "draining":
            self._workers[worker.model] = worker
        if stats.learning:
            self._learning[worker.model] = stats.learning
        state = self._states.get((worker.model, worker.ref.sha256))
        if state is None:
            return
        try:
            signals = unpack(stats.signals)
            self._set(*noted(state, stats.basis, signals, stats.classes, self._now()))
        except ValueError as error:
            log.warning("worker sent bad signals", extra={"model": worker.model, "reason": str(error)})

    # ---- time

    def _end_block(self) -> None:
        self.start()
        now = self._now()
        for state in list(self._states.values()):
            self._set(*closed(state, now))
        if self._clock.monotonic_s() - self._kept_s >= KEEP_EVERY_S:
            self._kept_s = self._clock.monotonic_s()
            self.close()
        self._tidy()
        self._deps.changed()

    def _tidy(self) -> None:
        """Forget versions that no record names any more."""
        digests = self._deps.digests()
        self._files.tidy(digests)
        for key in [key for key in self._states if key[1] not in digests]:
            del self._states[key]
        for model in [model for model, worker in self._workers.items() if worker.ref.sha256 not in digests]:
            del self._workers[model]
            self._learning.pop(model, None)

    def _set(self, state: ModelDrift, changes: list[Change]) -> None:
        before = self._states.get((state.model, state.sha256))
        self._states[state.model, state.sha256] = state
        if not changes:
            return
        for change in told(changes):
            kind = EventKind.DRIFT_OVER if change.is_over else EventKind.DRIFT
            log.warning("drift", extra={"model": state.model, "reason": reason_of(change)})
            self._deps.tell(kind, state.model, state.sha256, reason_of(change), detail_of(state, change))
        self._files.write(state)
        worker = self._workers.get(state.model)
        was_drifting = before is not None and before.is_drifting
        if worker is not None and worker.ref.sha256 == state.sha256 and was_drifting != state.is_drifting:
            worker.send(SetDrift(is_drifting=state.is_drifting))

    # ---- what others see

    def facts(self) -> Mapping[str, Any]:
        """Return what the state says: by model the signals that drift, the first few of them."""
        found = {state.model: [one["signal"] for one in drifting(state)][:8] for state in self._active()}
        return {model: signals for model, signals in found.items() if signals}

    def status(self) -> Mapping[str, Any]:
        """Return what `edge-agent status` shows, by model."""
        empty = [
            ModelDrift(model=model, sha256="", version="")
            for model in self._learning
            if model not in {state.model for state in self._active()}
        ]
        return {one.model: summary(one, self._learning.get(one.model, 0)) for one in [*self._active(), *empty]}

    def _active(self) -> list[ModelDrift]:
        """Return the states of what serves."""
        return [
            state
            for (model, sha256), state in self._states.items()
            if model not in self._workers or self._workers[model].ref.sha256 == sha256
        ]

    def _now(self) -> float:
        return self._clock.now().timestamp()
