"""The workers of all models: which serves, which is on trial, which drains; their routes, figures and restarts.

1. One active worker per model holds the public listeners; a trial worker gets them only by `promote`.
2. `promote` is called after the record that names the new slot is on the disk. Old and new accept together for a moment, so no
   request is refused; then the old one drains.
3. An active worker that ends is started again at once, then after 0.2, 1, 5, 30 s; what a crash means is the
   owner's decision, and when the owner cannot write it down (OSError), the worker is started again all the same.
4. A worker that does not become ready within `start_s`, or leaves a golden vector unanswered for `golden_s` (a slow model for more),
   hangs: it is killed, and its end is a crash like any other.
5. A worker that is to take another's place is loaded where a core would idle (`worker.control.start_priority`). One that gets next to
   nothing of a core that way is started again with a share of one: a busy device must not stay with its old version.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

from edgefleet_agent.core.loop import Loop
from edgefleet_agent.identity.tpm_secret import KeysAwayError, key_secret
from edgefleet_agent.install.records import SlotRef
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.reporting.collector import cpu_s, rss_bytes
from edgefleet_agent.reporting.window import Sums
from edgefleet_agent.serving.ports import Candidates, Listener, Owner
from edgefleet_agent.serving.worker_process import ModelWorkers, Worker, WorkerOptions, route_of
from edgefleet_agent.worker.control.protocol import (
    CheckGolden,
    Failed,
    ForAll,
    GetStats,
    Golden,
    Loaded,
    ModelRoute,
    Ready,
    RoutesTable,
    Serve,
    Serving,
    Stats,
    ToAgentd,
    write_routes,
)
from edgefleet_agent.worker.control.start_priority import IDLE, LOW
from edgefleet_protocol.messages import ErrorClass

ROUTES_AGAIN_S = 5.0
KEYS_AGAIN_S = 30.0
GOLDEN_FACTOR = 20
"""A golden vector may take so many times as long as the slowest that this worker ever answered."""
BACKOFF_S = (0.0, 0.2, 1.0, 5.0, 30.0)
"""The first is none: callers wait in the backlog, and a worker that had served was killed or met a rare input."""
PATIENCE_S = 5.0
STARVES_RATIO = 0.25
"""Who got less than this of a core within PATIENCE_S starves. One that waits for a slow disk looks alike; its file is in memory then."""

log = logging.getLogger(__name__)


class Supervisor:
    """All models' workers."""

    def __init__(
        self,
        loop: Loop,
        options: WorkerOptions,
        slots: Slots,
        server_version: str,
        monotonic_s: Callable[[], float],
        listener: Listener | None = None,
        candidates: Candidates | None = None,
    ) -> None:
        """Serve nothing yet. listener: hears of answers, of the candidates' workers as well."""
        self._loop = loop
        self._options = options
        self._slots = slots
        self._server_version = server_version
        self._now = monotonic_s
        self._models: dict[str, ModelWorkers] = {}
        self._owner: Owner | None = None
        self._gone: Callable[[], None] | None = None
        self._candidates = candidates
        self._listener = listener

    @property
    def options(self) -> WorkerOptions:
        """What all workers share."""
        return self._options

    def attach(self, owner: Owner) -> None:
        """Name who decides. Not an argument: the owner needs this one for its own making."""
        self._owner = owner

    def send_to_all(self, message: ForAll) -> int:
        """Tell something to every worker that can answer; return to how many."""
        workers = [
            worker
            for lanes in self._models.values()
            for worker in (lanes.active, lanes.trial, *lanes.draining)
            if worker is not None and worker.state != "starting"
        ]
        for worker in workers:
            worker.send(message)
        return len(workers) + (self._candidates.send_to_all(message) if self._candidates is not None else 0)

    # ---- what serves

    def serve(self, model: str, ref: SlotRef) -> None:
        """Start the active worker of a model from a slot. A failure to start, or to count the start, counts as its exit.

        A sealed one waits while the TPM is away, and nothing is counted.
        """
        lanes = self._lanes(model)
        if lanes.active is not None:
            return
        assert self._owner is not None
        lanes.sums = self._sums_for(lanes, ref)
        lanes.made_room = lanes.when_gone = None
        try:
            if self._slots.model_key(model, ref.slot):
                key_secret(self._options.model_key)
            self._owner.before_start(model)
            lanes.active = self._start(model, ref)
        except KeysAwayError as error:
            log.warning("worker waits", extra={"model": model, "reason": str(error)})
            lanes.restart = self._loop.call_later(KEYS_AGAIN_S, lambda: self._again(model, lanes))
        except OSError as error:
            log.warning("worker not started", extra={"model": model, "reason": str(error)})
            self._restart_or_not(model, lanes, str(error), None)
        self.write_routes()

    def try_out(self, model: str, ref: SlotRef) -> None:
        """Start a worker on trial. Raises OSError."""
        lanes = self._lanes(model)
        self.stop_trial(model)
        lanes.trial = self._start(model, ref, gentle=IDLE if lanes.active is not None else "")

    def make_room(self, model: str, then: Callable[[], None]) -> None:
        """End the active worker after what is in flight, then call `then`; callers wait in the backlog of the listeners meanwhile.

        `serve` before that takes it back, and `then` is not called.
        """
        lanes = self._lanes(model)
        leaving = lanes.active
        self.stop(model)
        if leaving is None:
            then()
            return
        lanes.made_room, lanes.when_gone = leaving.ref, then
        self.write_routes()

    def made_room(self, model: str) -> bool:
        """Whether nothing serves because of `make_room`."""
        lanes = self._lanes(model)
        return lanes.made_room is not None and lanes.active is None

    def stop_trial(self, model: str) -> None:
        """End the trial worker, if any; its exit is not reported."""
        lanes = self._lanes(model)
        trial, lanes.trial = lanes.trial, None
        lanes.is_recycling = False
        if trial is not None:
            lanes.draining.append(trial)
            trial.kill()

    def recycle(self, model: str, reason: str) -> bool:
        """Replace the serving worker by a new one of the same slot, without a lost request; False when it cannot be done now.

        Nothing is counted against the version.
        """
        lanes = self._lanes(model)
        if lanes.trial is not None or lanes.active is None or lanes.active.state != "serving" or self._gone is not None:
            return False
        try:
            lanes.trial = self._start(model, lanes.active.ref, gentle=IDLE)
        except OSError as error:
            log.warning("worker not replaced", extra={"model": model, "reason": str(error)})
            return False
        lanes.is_recycling = True
        log.warning("worker is being replaced", extra={"model": model, "pid": lanes.active.pid, "reason": reason})
        return True

    def promote(self, model: str) -> None:
        """Make the ready trial worker the active one: routes, listeners, then the old one drains."""
        lanes = self._lanes(model)
        new, old = lanes.trial, lanes.active
        assert new is not None
        lanes.trial, lanes.active = None, new
        lanes.made_room = None
        lanes.is_recycling = False
        lanes.failures = 0
        lanes.serving_since_s = None
        lanes.sums = self._sums_for(lanes, new.ref)
        if lanes.restart is not None:
            lanes.restart.cancel()
            lanes.restart = None
        self.write_routes()
        new.send(Serve())
        if old is not None:
            lanes.draining.append(old)
            if old.state != "serving":
                old.kill()

    def stop(self, model: str) -> None:
        """Stop serving a model; what is in flight is finished."""
        lanes = self._lanes(model)
        self.stop_trial(model)
        if lanes.restart is not None:
            lanes.restart.cancel()
            lanes.restart = None
        active, lanes.active = lanes.active, None
        lanes.made_room = lanes.when_gone = None
        lanes.serving_since_s = None
        lanes.failures = 0  # of this version: the next one begins its back-off again
        if active is not None:
            lanes.draining.append(active)
            active.drain()
        self.write_routes()

    def leave(self, deadline_s: float, gone: Callable[[], None]) -> None:
        """Let every worker finish what is in flight and end; `gone` is called when none is left. Nothing is started again."""
        self._gone = gone
        for lanes in self._models.values():
            if lanes.restart is not None:
                lanes.restart.cancel()
                lanes.restart = None
            for worker in (lanes.active, lanes.trial):
                if worker is not None:
                    lanes.draining.append(worker)
                    if worker.state == "serving":
                        worker.drain(deadline_s)
                    else:
                        worker.kill()
            lanes.active = lanes.trial = None
        self._gone_if_none()

    def _gone_if_none(self) -> None:
        if self._gone is not None and not any(lanes.draining for lanes in self._models.values()):
            self._gone()

    def close(self) -> None:
        """End every worker and wait for that."""
        if self._candidates is not None:
            self._candidates.close()
        for lanes in self._models.values():
            if lanes.restart is not None:
                lanes.restart.cancel()
            for worker in [lanes.active, lanes.trial, *lanes.draining]:
                if worker is not None:
                    worker.abandon()
        self._models.clear()

    # ---- figures

    def is_serving(self, model: str) -> bool:
        """Whether the active worker accepts requests now."""
        active = self._lanes(model).active
        return active is not None and active.state == "serving"

    def serving_s(self, model: str) -> float:
        """Return how long the active worker has accepted requests, 0 when it does not."""
        since_s = self._lanes(model).serving_since_s
        return 0.0 if since_s is None or not self.is_serving(model) else self._now() - since_s

    def has_trial(self, model: str) -> bool:
        """Whether a worker is on trial, or will be as soon as the old one has left."""
        lanes = self._lanes(model)
        return lanes.trial is not None or lanes.when_gone is not None

    def has_workers(self, model: str) -> bool:
        """Whether any process of this model is left."""
        lanes = self._lanes(model)
        return bool(lanes.active or lanes.trial or lanes.draining)

    def rss_bytes(self, model: str) -> int:
        """Return the resident size of the active worker, 0 when there is none."""
        active = self._lanes(model).active
        return max(0, rss_bytes(active.pid)) if active is not None else 0

    def golden_ok(self, model: str) -> bool:
        """Whether the last golden check of the active worker passed."""
        active = self._lanes(model).active
        return active is not None and active.golden_ok

    def take_sums(self) -> Iterator[tuple[str, Sums]]:
        """Yield each model's sums and begin new ones."""
        for model, lanes in self._models.items():
            past, lanes.past = lanes.past, []
            for ended in past:
                if ended.n or ended.crashes:
                    ended.signals.is_last = True
                    yield model, ended
            if lanes.sums is not None:
                yield model, lanes.sums
                known = lanes.active.ref if lanes.active is not None else None
                lanes.sums = lanes.sums.following(known.sha256, known.version) if known is not None else None

    def ask_stats(self) -> None:
        """Ask every serving worker for its figures."""
        for lanes in self._models.values():
            if lanes.active is not None and lanes.active.state == "serving":
                lanes.active.send(GetStats())
        if self._candidates is not None:
            self._candidates.ask_stats()

    def worker_of(self, model: str) -> Worker | None:
        """Return the worker that answers for a model, None while there is none."""
        lanes = self._models.get(model)
        active = lanes.active if lanes is not None else None
        return active if active is not None and active.state == "serving" else None

    def ask_golden(self, model: str) -> None:
        """Ask the serving worker to answer one golden vector, in time."""
        lanes = self._lanes(model)
        active = lanes.active
        if active is not None and active.state == "serving":
            active.send(CheckGolden(vectors=1))
            if lanes.probe is None:
                # a slow model has a few answers before this one in its queue
                limit_s = max(self._options.golden_s, GOLDEN_FACTOR * active.golden_p95_s)
                lanes.probe = self._loop.call_later(
                    limit_s, lambda: self._hangs(active, f"no answer to a golden vector within {limit_s:g} s")
                )

    def _hangs(self, worker: Worker, reason: str) -> None:
        lanes = self._lanes(worker.model)
        lanes.probe = None
        if worker in (lanes.active, lanes.trial):
            log.warning("worker hangs", extra={"model": worker.model, "pid": worker.pid, "reason": reason})
            worker.failed = Failed(error_class=ErrorClass.DEADLINE.value, reason=reason)
            worker.kill()

    def pids(self) -> dict[str, int]:
        """Return the process ids of the active workers by model."""
        return {m: lanes.active.pid for m, lanes in self._models.items() if lanes.active is not None}

    def write_routes(self) -> None:
        """Replace the routing table."""
        models = {
            m: ModelRoute(lanes={"active": route_of(self._options, m, lanes)})
            for m, lanes in self._models.items()
            if lanes.active or lanes.made_room
        }
        if self._candidates is not None:
            models = {model: self._candidates.route(model, route) for model, route in models.items()}
        try:
            write_routes(self._options.routes, RoutesTable(models=models, server_version=self._server_version))
        except OSError as error:  # a full disk: each worker still answers for itself
            log.warning("routes not written", extra={"reason": str(error)})
            self._loop.call_later(ROUTES_AGAIN_S, self.write_routes)

    # ---- inside

    def _lanes(self, model: str) -> ModelWorkers:
        return self._models.setdefault(model, ModelWorkers())

    @staticmethod
    def _sums_for(lanes: ModelWorkers, ref: SlotRef) -> Sums:
        known = lanes.sums
        if known is not None and known.sha256 == ref.sha256:
            return known
        if known is not None:
            lanes.past.append(known)
        back = next((one for one in lanes.past if one.sha256 == ref.sha256), None)
        lanes.past = [one for one in lanes.past if one is not back]
        return back or Sums(ref.sha256, ref.version)

    def _start(self, model: str, ref: SlotRef, *, gentle: str = "") -> Worker:
        fd = self._slots.open(model, ref.slot)
        options = replace(self._options, gentle=gentle)
        key = self._slots.model_key(model, ref.slot)
        worker = Worker(self._loop, options, model, ref, fd, self._on_message, self._on_exit, model_key=key)
        self._loop.call_later(self._options.start_s, lambda: self._not_ready(worker))
        if gentle == IDLE:
            self._loop.call_later(PATIENCE_S, lambda: self._look(worker, 0.0))
        return worker

    def _look(self, worker: Worker, before_s: float) -> None:
        """See whether a worker that loads next to another gets anywhere. before_s: its processor time at the last look."""
        lanes = self._lanes(worker.model)
        if worker is not lanes.trial or worker.is_loaded:
            return
        used_s = cpu_s(worker.pid)
        if used_s - before_s < STARVES_RATIO * PATIENCE_S:
            try:
                lanes.trial = self._start(worker.model, worker.ref, gentle=LOW)
            except OSError as error:
                log.warning("worker not restarted", extra={"model": worker.model, "reason": str(error)})
            else:
                log.warning("worker starves and is restarted", extra={"model": worker.model, "pid": worker.pid})
                lanes.draining.append(worker)
                worker.kill()
                return
        self._loop.call_later(PATIENCE_S, lambda: self._look(worker, used_s))

    def _not_ready(self, worker: Worker) -> None:
        if worker.state == "starting":
            self._hangs(worker, f"not ready within {self._options.start_s:g} s")

    def _on_message(self, worker: Worker, message: ToAgentd) -> None:
        owner = self._owner
        assert owner is not None
        lanes = self._lanes(worker.model)
        if self._listener is not None and self._listener.hear(worker, message):
            return
        worker.is_loaded = worker.is_loaded or isinstance(message, Loaded)
        if isinstance(message, Ready):
            worker.state = "ready"
            if self._listener is not None:
                self._listener.on_ready(worker)
        if isinstance(message, Golden) and message.checked:
            worker.golden_ok = message.ok
            worker.golden_p95_s = max(worker.golden_p95_s, message.latency_p95_ms / 1000)
        if worker is lanes.trial and lanes.is_recycling:
            if isinstance(message, Ready):
                self.promote(worker.model)
        elif worker is lanes.trial:
            owner.on_trial_message(worker.model, message)
        elif isinstance(message, Stats):
            for sums in (lanes.sums, *lanes.past):
                if sums is not None and sums.sha256 == worker.ref.sha256:
                    sums.add(message, worker)
            if self._candidates is not None:
                self._candidates.on_primary_stats(worker.model, message)
            owner.on_stats(worker.model, worker.ref.sha256, message)
        elif worker is lanes.active:
            self._on_active(worker, lanes, message, owner)

    def _on_active(self, worker: Worker, lanes: ModelWorkers, message: ToAgentd, owner: Owner) -> None:
        if isinstance(message, Ready):
            self.write_routes()
            worker.send(Serve())
        elif isinstance(message, Serving):
            worker.state = "serving"
            lanes.serving_since_s = self._now()
            for old in lanes.draining:
                if old.state == "serving":
                    old.drain()
            owner.on_serving(worker.model)
        elif isinstance(message, Golden):
            self._stop_probe(lanes)
            owner.on_active_golden(worker.model, message)

    @staticmethod
    def _stop_probe(lanes: ModelWorkers) -> None:
        if lanes.probe is not None:
            lanes.probe.cancel()
            lanes.probe = None

    def _on_exit(self, worker: Worker, how: str) -> None:
        owner = self._owner
        assert owner is not None
        lanes = self._lanes(worker.model)
        if not self._path_in_use(worker, lanes):
            worker.socket_path.unlink(missing_ok=True)
        if worker in lanes.draining:
            lanes.draining.remove(worker)
            self._gone_if_none()
            then = lanes.when_gone
            if then is not None and not lanes.draining:
                lanes.when_gone = None
                then()
        elif worker is lanes.trial and lanes.is_recycling:
            lanes.trial, lanes.is_recycling = None, False  # the old one goes on; the next look tries again
        elif worker is lanes.trial:
            lanes.trial = None
            owner.on_trial_exit(worker.model, how, worker.failed)
        elif worker is lanes.active:
            lanes.active = None
            self._stop_probe(lanes)
            if lanes.serving_since_s is not None and self._now() - lanes.serving_since_s >= self._options.steady_s:
                lanes.failures = 0
            lanes.serving_since_s = None
            if lanes.sums is not None:
                lanes.sums.crashes += 1
            self._restart_or_not(worker.model, lanes, how, worker.failed)

    @staticmethod
    def _path_in_use(worker: Worker, lanes: ModelWorkers) -> bool:
        others = [w for w in (lanes.active, lanes.trial) if w is not None and w is not worker]
        return any(other.socket_path == worker.socket_path for other in others)

    def _restart_or_not(self, model: str, lanes: ModelWorkers, how: str, failed: Failed | None) -> None:
        assert self._owner is not None
        delay = BACKOFF_S[min(lanes.failures, len(BACKOFF_S) - 1)]
        lanes.failures += 1
        try:
            goes_on = self._owner.on_active_exit(model, how, failed)
        except OSError as error:  # a full disk: the crash could not be noted, so nothing was decided
            log.warning("crash not noted", extra={"model": model, "reason": str(error)})
            goes_on = True
        if goes_on and lanes.active is None:
            lanes.restart = self._loop.call_later(delay, lambda: self._again(model, lanes))

    def _again(self, model: str, lanes: ModelWorkers) -> None:
        lanes.restart = None
        if lanes.active is None:
            assert self._owner is not None
            ref = self._owner.active_ref(model)
            if ref is not None:
                self.serve(model, ref)
