"""The process side of one model's candidate: its worker, its recording, its route and its figures. Decides nothing.

1. Before a worker is asked to leave, the routing table no longer names it: nobody is sent there any more.
2. A worker that is stopped is out of sight at once; that it ends is still seen to.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgefleet_agent.candidate.lane_stats import LaneSums
from edgefleet_agent.candidate.pressure import PressureLimits
from edgefleet_agent.core.loop import Loop
from edgefleet_agent.install.records import CandidateRequest, SlotRef
from edgefleet_agent.install.slots import Slots
from edgefleet_agent.paths import StatePaths, worker_socket
from edgefleet_agent.serving.ports import Listener
from edgefleet_agent.serving.worker_process import CandidateStart, Worker, WorkerOptions
from edgefleet_agent.worker.control.protocol import (
    Failed,
    ForAll,
    GetStats,
    LaneRoute,
    ModelRoute,
    Ready,
    Stats,
    ToAgentd,
)
from edgefleet_protocol.messages import Window

LANE = "candidate"
MEASURE_LANE = "measure"
START_S = 300.0
"""A worker at the lowest priority on a busy device takes its time; one that takes longer hangs."""
BRIEF_S = 1800.0
"""The same for one that replays a recording or measures, and ends."""
SHADOW_DRAIN_S = 2.0
"""A shadow has nobody's request in flight; this is for writing down what it kept."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CandidateOptions:
    """Settings of candidates; see `settings.AgentSettings`."""

    shadow: str
    keep_inputs: bool
    samples: int
    max_bytes: int
    record_s: float
    rest_s: float
    headroom_bytes: int
    measure_s: float
    limits: PressureLimits


@dataclass(frozen=True, slots=True)
class CandidateContext:
    """What all lanes stand on. listener: who hears of answers, these workers' as well as those of what serves."""

    loop: Loop
    paths: StatePaths
    slots: Slots
    workers: WorkerOptions
    options: CandidateOptions
    now_s: Callable[[], float]
    clock_s: Callable[[], float]
    write_routes: Callable[[], None]
    listener: Listener | None


class CandidateProcess:
    """One model's candidate as processes and files."""

    def __init__(
        self,
        context: CandidateContext,
        model: str,
        on_ready: Callable[[], None],
        on_exit: Callable[[Worker, str], None],
    ) -> None:
        self._context = context
        self._model = model
        self._ready_callback = on_ready
        self._exit_callback = on_exit
        self._request: CandidateRequest | None = None
        self._leaving: list[Worker] = []
        self._sums: LaneSums | None = None
        self._recording_since_s: float | None = None
        self.worker: Worker | None = None
        self.ready_since_s: float | None = None
        self.measured: list[Window] = []
        """A window for each round of the last measurement."""

    # ---- the worker

    @property
    def is_empty(self) -> bool:
        """Whether no process is left."""
        return self.worker is None and not self._leaving

    def runs(self, request: CandidateRequest) -> bool:
        """Whether a resident worker of this bundle in this mode is there."""
        worker, had = self.worker, self._request
        is_resident = worker is not None and not worker.is_brief and had is not None
        return is_resident and had is not None and _kind(had) == _kind(request)

    def follow(self, request: CandidateRequest) -> None:
        """The share or the salt may have changed: the same worker under another table."""
        if self._request != request:
            self._request = request
            self._context.write_routes()

    @property
    def is_brief(self) -> bool:
        """Whether a child compares a recording, or measures, now."""
        return self.worker is not None and self.worker.is_brief

    def start(self, request: CandidateRequest, slot: str, version: str, *, replay: bool = False) -> None:
        """Start a worker in the place of another; replay: of a recording. Raises OSError."""
        self.stop()
        model, paths, is_shadow = self._model, self._context.paths, request.mode == "shadow"
        start = CandidateStart(
            lane=LANE,
            background=is_shadow,
            mirror_path=str(self._mirror_path(slot)) if is_shadow and not replay else "",
            replay_path=str(paths.recording(model)) if replay else "",
            kept_path=str(paths.kept(model)) if is_shadow else "",
            keep_inputs=self._context.options.keep_inputs,
            measure_s=self._context.options.measure_s if request.mode == "measure" else 0.0,
        )
        self.measured = []
        wanted = request.wanted
        ref = SlotRef(slot=slot, target=wanted.target, sha256=wanted.sha256, version=version)
        fd = self._context.slots.open(model, slot)
        self.worker = Worker(
            self._context.loop,
            self._context.workers,
            model,
            ref,
            fd,
            self._on_message,
            self._on_exit,
            start,
            self._context.slots.model_key(model, slot),
        )
        self._watch(self.worker)
        self._request = request
        if request.mode == "measure":
            self._sums = None  # its rounds are windows of their own
        elif self._sums is None or self._sums.sha256 != wanted.sha256:
            self._sums = LaneSums(wanted.sha256, version)

    def _watch(self, worker: Worker) -> None:
        """Kill a worker that does not become ready, or does not end, in time: its end is a crash like any other."""

        def look() -> None:
            if worker is self.worker and worker.state == "starting":
                log.warning("candidate hangs", extra={"model": self._model, "pid": worker.pid})
                worker.kill()

        self._context.loop.call_later(BRIEF_S if worker.is_brief else START_S, look)

    def stop(self) -> None:
        """Have the worker leave, if there is one."""
        worker, self.worker = self.worker, None
        self.ready_since_s = None
        if worker is None:
            return
        self._leaving.append(worker)
        self._context.write_routes()
        if worker.state != "serving":
            worker.kill()
        elif self._request is not None and self._request.mode == "split":
            worker.drain()
        else:
            worker.drain(SHADOW_DRAIN_S)

    def _on_message(self, worker: Worker, message: ToAgentd) -> None:
        listener = self._context.listener
        if listener is not None and listener.hear(worker, message):
            return
        if isinstance(message, Stats) and worker.candidate is not None and worker.candidate.measure_s > 0:
            self._measured(worker, message)
        elif isinstance(message, Stats) and self._sums is not None and self._sums.sha256 == worker.ref.sha256:
            self._sums.add(message, worker)
        if worker is self.worker and isinstance(message, Ready):
            worker.state = "serving"
            self.ready_since_s = self._context.now_s()
            if listener is not None:
                listener.on_ready(worker)
            self._ready_callback()
            self._context.write_routes()

    def _measured(self, worker: Worker, stats: Stats) -> None:
        sums = LaneSums(worker.ref.sha256, worker.ref.version)
        worker.cpu_s = 0.0
        sums.add(stats, worker)
        window = sums.closed(
            self._model, MEASURE_LANE, int(self._context.clock_s()), max(1, round(self._context.options.measure_s))
        )
        self.measured.append(msgspec.structs.replace(window, joules_per_answer=stats.joules_per_answer))

    def _on_exit(self, worker: Worker, how: str) -> None:
        if worker in self._leaving:
            self._leaving.remove(worker)
        elif worker is self.worker:
            self.worker = None
            self.ready_since_s = None
            self._context.write_routes()
            if self._sums is not None and not (worker.is_brief and _is_good(how, worker.failed)):
                self._sums.crashes += 1
            self._exit_callback(worker, how)

    def close(self) -> None:
        """End every worker and wait for that."""
        for worker in [self.worker, *self._leaving]:
            if worker is not None:
                worker.abandon()
        self.worker = None
        self._leaving.clear()
        self.drop_recording()

    # ---- the recording

    @property
    def is_recording(self) -> bool:
        """Whether the active worker is asked to record."""
        return self._recording_since_s is not None

    @property
    def is_recorded(self) -> bool:
        """Whether a finished recording is there."""
        return self._context.paths.recording(self._model).is_file()

    def record(self) -> None:
        """Have the active worker record; a recording that took long enough is finished with what it has."""
        path, now_s = self._context.paths.recording(self._model), self._context.now_s()
        if self._recording_since_s is None:
            self._recording_since_s = now_s
            self._context.write_routes()
        elif now_s - self._recording_since_s >= self._context.options.record_s:
            self.stop_recording()
            part = _part(path)
            if part.is_file() and part.stat().st_size:
                part.replace(path)

    def stop_recording(self) -> None:
        """Ask for no more copies; what is there stays."""
        if self._recording_since_s is not None:
            self._recording_since_s = None
            self._context.write_routes()

    def drop_recording(self) -> None:
        """Remove what was recorded: it holds raw inputs."""
        path = self._context.paths.recording(self._model)
        path.unlink(missing_ok=True)
        _part(path).unlink(missing_ok=True)

    # ---- what others see

    def route(self, route: ModelRoute, request: CandidateRequest) -> ModelRoute:
        """Return the model's routes with this lane."""
        options, worker = self._context.options, self.worker
        if self.is_recording:
            return msgspec.structs.replace(
                route,
                mode="shadow",
                recording=str(self._context.paths.recording(self._model)),
                record_samples=options.samples,
                record_bytes=options.max_bytes,
            )
        if worker is None or worker.state != "serving" or worker.is_brief:
            return route
        ref = worker.ref
        mirror = str(self._mirror_path(ref.slot)) if request.mode == "shadow" else ""
        lane = LaneRoute(str(worker.socket_path), ref.version, ref.sha256, ref.slot, mirror=mirror)
        return msgspec.structs.replace(
            route,
            lanes={**route.lanes, LANE: lane},
            mode="shadow" if request.mode == "shadow" else "split",
            share_pct=request.share_pct,
            salt=request.salt,
        )

    def mirrored(self, stats: Stats) -> None:
        """What the active worker says of copies that it had for the candidate."""
        if self._sums is not None:
            self._sums.mirrored(stats.mirrored, stats.mirror_dropped)

    def tell(self, message: GetStats | ForAll) -> bool:
        """Tell something to a resident worker that can answer; False when there is none."""
        if self.worker is None or self.worker.state != "serving":
            return False
        self.worker.send(message)
        return True

    def take_window(self, t0: int, length_s: int) -> Window | None:
        """Return the window and begin a new one. t0: unix seconds."""
        sums = self._sums
        if sums is None:
            return None
        stays = not self.is_empty or self.is_recording
        self._sums = LaneSums(sums.sha256, sums.version) if stays else None
        return sums.closed(self._model, LANE, t0, length_s)

    def _mirror_path(self, slot: str) -> Path:
        return worker_socket(self._context.paths.sockets(), self._model, "mirror", slot)


def _kind(request: CandidateRequest) -> tuple[str, str]:
    return request.wanted.sha256, request.mode


def _is_good(how: str, failed: Failed | None) -> bool:
    return failed is None and how == "exit status 0"


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")
