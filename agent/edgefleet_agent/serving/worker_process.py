"""The inference workers as agentd sees them: one object per process, ending with exactly one `on_exit`.

1. The descriptor of the bundle is opened here and handed over; the worker hashes it before it loads.
2. A worker that does not leave when asked gets SIGTERM at the drain's deadline and SIGKILL a margin later, both through its pidfd: a
   process id may have been given to somebody else.
3. Its memory is limited by a cgroup where one is delegated to the agent, else by RLIMIT_DATA.
4. Nothing of a worker can harm agentd: unreadable packets are logged, its end is an event like any other.
"""

import itertools
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from edgefleet_agent.core.cgroup import Cgroups
from edgefleet_agent.core.loop import Loop, Timer
from edgefleet_agent.identity.tpm_secret import key_secret
from edgefleet_agent.install.records import SlotRef
from edgefleet_agent.paths import learned_reference, worker_socket
from edgefleet_agent.reporting.window import Sums
from edgefleet_agent.worker.control.launch import WorkerLink, start_worker
from edgefleet_agent.worker.control.protocol import (
    BadControlMessageError,
    Drain,
    Failed,
    LaneRoute,
    Start,
    ToAgentd,
    ToWorker,
)
from edgefleet_protocol.messages import ErrorClass

DRAIN_DEADLINE_S = 10.0
TERM_MARGIN_S = 2.0
KILL_MARGIN_S = 3.0

log = logging.getLogger(__name__)
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What all workers of this device share. memory_bytes: 0 = no limit. steady_s: a worker that served so long starts its back-off again.

    gentle: the priority of a start next to another that serves the same model (`start_priority`). start_s: from its start a worker is
    ready within this time. golden_s: it answers a golden vector within this time. drift: folder of learned references.
    model_key: file of the key that keys of sealed bundles come sealed to.
    """

    listener_fds: tuple[int, ...]
    routes: Path
    sockets: Path
    threads: int
    memory_bytes: int
    body_bytes: int
    timeout_s: float
    start_s: float = 120.0
    golden_s: float = 30.0
    steady_s: float = 60.0
    gentle: str = ""
    cgroups: Cgroups | None = None
    command: tuple[str, ...] = ()
    log_predictions: bool = False
    status_page: bool = False
    metrics: bool = False
    drift: Path | None = None
    model_key: Path = Path()


@dataclass(frozen=True, slots=True)
class CandidateStart:
    """What is particular to the worker of a candidate; the fields are those of `worker.protocol.Start`."""

    lane: str
    background: bool = False
    mirror_path: str = ""
    replay_path: str = ""
    kept_path: str = ""
    keep_inputs: bool = False
    measure_s: float = 0.0

    @property
    def is_brief(self) -> bool:
        """Whether it ends by itself: it compares a recording, or measures."""
        return self.replay_path != "" or self.measure_s > 0


class Worker:
    """One worker process. `state` is "starting", "ready", "serving" or "draining". cpu_s: as it reported last.

    is_brief: it does one thing (`candidate`) and ends.
    """

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        loop: Loop,
        options: WorkerOptions,
        model: str,
        ref: SlotRef,
        bundle_fd: int,
        on_message: "Callable[[Worker, ToAgentd], None]",
        on_exit: "Callable[[Worker, str], None]",
        candidate: CandidateStart | None = None,
        model_key: bytes = b"",
    ) -> None:
        self.model = model
        self.ref = ref
        self.state = "starting"
        self.is_loaded = False
        self.golden_ok = False
        self.golden_p95_s = 0.0
        self.cpu_s = 0.0
        self.failed: Failed | None = None
        self.candidate = candidate
        role = candidate or CandidateStart("active")
        self.lane = role.lane
        self.schedule = b""
        self.is_brief = role.is_brief
        self.socket_path = worker_socket(options.sockets, model, role.lane, ref.slot)
        self._loop = loop
        self._on_message = on_message
        self._on_exit = on_exit
        self._kill_timer: Timer | None = None
        self._memory_bytes = options.memory_bytes
        self._cgroups = options.cgroups if options.memory_bytes else None
        self._cgroup = f"worker-{next(_numbers)}"
        try:
            start = _start_of(options, model, ref, bundle_fd, model_key, candidate, str(self.socket_path))
            self._link: WorkerLink = start_worker(
                start, command=options.command, limited=self._limited, gentle=options.gentle
            )
        finally:
            os.close(bundle_fd)
        self._pidfd = os.pidfd_open(self._link.pid)
        loop.watch(self._link.fileno(), self._readable)
        loop.watch(self._pidfd, self._exited)
        self._is_open = True

    @property
    def pid(self) -> int:
        """Process id."""
        return self._link.pid

    @property
    def is_gone(self) -> bool:
        """Whether it has ended and all that it said was read."""
        return not self._is_open

    def send(self, message: ToWorker) -> None:
        """Send one message; nothing happens when the worker is on its way out."""
        try:
            self._link.send(message)
        except OSError:
            log.debug("worker does not listen", extra={"pid": self.pid})

    def drain(self, deadline_s: float = DRAIN_DEADLINE_S) -> None:
        """Ask it to finish what is in flight and leave; it is killed if it does not."""
        self.state = "draining"
        self.send(Drain(deadline_s=deadline_s))
        if self._kill_timer is None:
            self._kill_timer = self._loop.call_later(deadline_s + TERM_MARGIN_S, self._overdue)

    def kill(self) -> None:
        """End it at once; `on_exit` follows."""
        self._signal(signal.SIGKILL)

    def _overdue(self) -> None:
        self._signal(signal.SIGTERM)
        self._kill_timer = self._loop.call_later(KILL_MARGIN_S, self.kill)

    def _signal(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except OSError:
            log.debug("worker was gone already", extra={"pid": self.pid})

    def _limited(self, pid: int) -> bool:
        return self._cgroups is not None and self._cgroups.place(pid, self._cgroup, self._memory_bytes)

    def abandon(self) -> None:
        """End it at once and wait for that, without `on_exit`: agentd itself is leaving."""
        self.kill()
        self._link.process.wait()
        self._release()

    def _readable(self) -> None:
        while self._is_open:
            try:
                message = self._link.receive()
            except BlockingIOError:
                return
            except BadControlMessageError as error:
                log.warning("worker speaks another language", extra={"pid": self.pid, "reason": error.message})
                continue
            if message is None:
                self._loop.unwatch(self._link.fileno())
                return
            if isinstance(message, Failed):
                self.failed = message
            self._on_message(self, message)

    def _exited(self) -> None:
        self._readable()  # its last words
        status = self._link.process.wait()
        if self._cgroups is not None and self.failed is None and self._cgroups.was_killed_for_memory(self._cgroup):
            reason = f"the worker wanted more than its limit of {self._memory_bytes} bytes"
            self.failed = Failed(error_class=ErrorClass.MEMORY.value, reason=reason)
        self._release()
        self._on_exit(self, f"killed by signal {-status}" if status < 0 else f"exit status {status}")

    def _release(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self._loop.unwatch(self._link.fileno())
        self._loop.unwatch(self._pidfd)
        self._link.close()
        os.close(self._pidfd)
        if self._cgroups is not None:
            self._cgroups.release(self._cgroup)


def _start_of(
    options: WorkerOptions,
    model: str,
    ref: SlotRef,
    bundle_fd: int,
    model_key: bytes,
    candidate: CandidateStart | None,
    socket_path: str,
) -> Start:
    """Return what a worker is told first."""
    role = candidate or CandidateStart("active")
    return Start(
        model=model,
        version=ref.version,
        digest=ref.sha256,
        slot=ref.slot,
        bundle_fd=bundle_fd,
        listener_fds=options.listener_fds if candidate is None else (),
        own_socket_path="" if role.is_brief else socket_path,
        routes_path=str(options.routes),
        threads=options.threads,
        memory_limit_bytes=options.memory_bytes or None,
        max_body_bytes=options.body_bytes,
        run_timeout_s=options.timeout_s,
        log_predictions=options.log_predictions,
        status_page=options.status_page,
        metrics=options.metrics,
        reference_path=str(learned_reference(options.drift, model, ref.sha256)) if options.drift else "",
        model_key=model_key,
        key_path=str(options.model_key),
        key_secret=key_secret(options.model_key) if model_key else b"",
        **asdict(role),
    )


@dataclass(slots=True)
class ModelWorkers:
    """The workers of one model, and what waits for one of them. made_room: the slot of the worker that left for a trial.

    past: sums of versions that served earlier in this window.
    """

    active: Worker | None = None
    trial: Worker | None = None
    is_recycling: bool = False
    draining: list[Worker] = field(default_factory=list)
    restart: Timer | None = None
    probe: Timer | None = None
    when_gone: Callable[[], None] | None = None
    made_room: SlotRef | None = None
    failures: int = 0
    serving_since_s: float | None = None
    sums: Sums | None = None
    past: list[Sums] = field(default_factory=list)


def route_of(options: WorkerOptions, model: str, lanes: ModelWorkers) -> LaneRoute:
    """Return where the active version of a model is asked; while it made room for a trial, where it will be."""
    active = lanes.active
    if active is None:
        ref = lanes.made_room
        assert ref is not None
        path = str(worker_socket(options.sockets, model, "active", ref.slot))
        return LaneRoute(socket=path, version=ref.version, digest=ref.sha256, slot=ref.slot, state="starting")
    return LaneRoute(
        socket=str(active.socket_path),
        version=active.ref.version,
        digest=active.ref.sha256,
        slot=active.ref.slot,
        state="ready" if active.state in ("ready", "serving") else "starting",
    )
