"""The inference workers as agentd sees them: one object per process, ending with exactly one `on_exit`.

1. The descriptor of the bundle is opened here and handed over; the worker hashes it before it loads.
2. A worker that does not leave when asked is killed after the drain deadline plus a margin.
3. Nothing of a worker can harm agentd: unreadable packets are logged, its end is an event like any other.
"""

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgefleet_agent.install.records import SlotRef
from edgefleet_agent.loop import Loop, Timer
from edgefleet_agent.paths import worker_socket
from edgefleet_agent.worker.launch import WorkerLink, start_worker
from edgefleet_agent.worker.protocol import BadControlMessageError, Drain, Failed, Start, ToAgentd, ToWorker

DRAIN_DEADLINE_S = 10.0
KILL_MARGIN_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What all workers of this device share. memory_bytes: 0 = no limit.

    start_s: from its start a worker is ready within this time. golden_s: it answers a golden vector within this time.
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
    command: tuple[str, ...] = ()


class Worker:
    """One worker process. `state` is "starting", "ready", "serving" or "draining". cpu_s: as it said last."""

    def __init__(
        self,
        loop: Loop,
        options: WorkerOptions,
        model: str,
        ref: SlotRef,
        bundle_fd: int,
        on_message: "Callable[[Worker, ToAgentd], None]",
        on_exit: "Callable[[Worker, str], None]",
    ) -> None:
        self.model = model
        self.ref = ref
        self.state = "starting"
        self.golden_ok = False
        self.golden_p95_s = 0.0
        self.cpu_s = 0.0
        self.failed: Failed | None = None
        self.socket_path = worker_socket(options.sockets, model, "active", ref.slot)
        self._loop = loop
        self._on_message = on_message
        self._on_exit = on_exit
        self._kill_timer: Timer | None = None
        start = Start(
            model=model,
            version=ref.version,
            digest=ref.sha256,
            lane="active",
            slot=ref.slot,
            bundle_fd=bundle_fd,
            listener_fds=options.listener_fds,
            own_socket_path=str(self.socket_path),
            routes_path=str(options.routes),
            threads=options.threads,
            memory_limit_bytes=options.memory_bytes or None,
            max_body_bytes=options.body_bytes,
            run_timeout_s=options.timeout_s,
        )
        try:
            self._link: WorkerLink = start_worker(start, command=options.command)
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
            self._kill_timer = self._loop.call_later(deadline_s + KILL_MARGIN_S, self.kill)

    def kill(self) -> None:
        """End it at once; `on_exit` follows."""
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except OSError:
            log.debug("worker was gone already", extra={"pid": self.pid})

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
