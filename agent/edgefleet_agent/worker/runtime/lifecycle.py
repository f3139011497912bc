"""The life of a worker: load, prove, wait, serve, drain.

1. Before the event loop: `Start` → limits → load → warm up → golden vectors → `Ready`. A failure is reported as `Failed`, exit 1.
   Golden vectors are run at the priority at which the model will serve, or their latencies would say nothing.
2. A thread watches the control socket from the first moment: when agentd is gone, the process ends, even inside native code.
3. Drain: pending connections of its own socket are still taken, idle connections get `idle_grace_s` to bring a last request,
   answers say `Connection: close`; the last figures are sent, exit 0. SIGTERM while it drains ends the wait.
"""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import select
import signal
import socket
import threading
from collections.abc import Coroutine
from pathlib import Path

from edgefleet_agent.clock import SystemClock
from edgefleet_agent.errors import SocketError
from edgefleet_agent.worker.control.launch import listen_unix
from edgefleet_agent.worker.control.protocol import (
    MAX_CONTROL_BYTES,
    AnswersTold,
    BadControlMessageError,
    CheckGolden,
    Drain,
    Failed,
    GetStats,
    Golden,
    KnownSchedule,
    LaneRoute,
    Loaded,
    ModelRoute,
    ReadLabels,
    Ready,
    RoutesTable,
    Serve,
    Serving,
    SetCapture,
    SetDrift,
    SetLog,
    SetWatch,
    Start,
    TellAnswers,
    ToAgentd,
    decode_to_worker,
    encode_control,
)
from edgefleet_agent.worker.control.start_priority import gently
from edgefleet_agent.worker.http.api import Api
from edgefleet_agent.worker.http.memory_server import MemoryServer
from edgefleet_agent.worker.http.server import HttpServer
from edgefleet_agent.worker.observe.answer_log import AnswerLog, LiveAnswers
from edgefleet_agent.worker.observe.benchmark import measure
from edgefleet_agent.worker.observe.kept_log import KeptLog
from edgefleet_agent.worker.observe.signal_log import SignalLog
from edgefleet_agent.worker.routing.proxy import WorkerProxy
from edgefleet_agent.worker.routing.table import Routes
from edgefleet_agent.worker.runtime.engine import BusyError, Engine, InlinePolicy
from edgefleet_agent.worker.runtime.loader import ServedModel, StartError, golden_message, load_served_model
from edgefleet_agent.worker.runtime.process_priority import give_way
from edgefleet_agent.worker.runtime.stats import WorkerStats
from edgefleet_agent.worker.shadow.comparer import Comparer, ShadowListener, replay
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.messages import ErrorClass

_log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_AGENTD_GONE = 3
MAX_CONNECTIONS = 256
_FORWARD_MARGIN_S = 5.0
_POLL_S = 0.02


def run_worker(control: socket.socket, priority: str) -> int:
    """Run one worker to its end and return the exit status.

    control: SOCK_SEQPACKET socket to agentd. priority: to load at (`control.start_priority`).
    """
    control.setblocking(True)
    _watch_agentd(control)
    try:
        start = _receive_start(control)
        if start is None:
            return EXIT_AGENTD_GONE
        served, golden = _prepare(start, control, priority)
        if start.replay_path or start.measure_s > 0:
            _brief(served, control)
            return EXIT_OK
        return asyncio.run(_Worker(served, golden, control).run())
    except StartError as e:
        _log.error("worker cannot serve: error_class=%s reason=%s", e.error_class, e.reason)
        _send(control, Failed(error_class=e.error_class.value, reason=e.reason[:2000]))
        return EXIT_FAILED


def _receive_start(control: socket.socket) -> Start | None:
    data = control.recv(MAX_CONTROL_BYTES)
    if not data:
        return None
    try:
        message = decode_to_worker(data)
    except BadControlMessageError as e:
        raise StartError(ErrorClass.INTERNAL, e.message) from e
    if not isinstance(message, Start):
        raise StartError(ErrorClass.INTERNAL, f"the first control message was {type(message).__name__}, not Start")
    return message


def _prepare(start: Start, control: socket.socket, priority: str) -> tuple[ServedModel, Golden]:
    """Return the loaded and proved model with its proof; tells agentd each step. Raises StartError."""
    _offer_to_the_kernel()
    if start.background:
        give_way(f"shadow-{start.model}")
    if start.memory_limit_bytes is not None:
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (start.memory_limit_bytes, start.memory_limit_bytes))
        except (ValueError, OSError) as e:
            raise StartError(ErrorClass.MEMORY, f"the memory limit cannot be set: {e}") from e
    loaded: list[ServedModel] = []

    def load() -> None:
        loaded.append(load_served_model(start))
        # what is loaded now stays: keep the collector from walking it on every pass
        gc.collect()
        gc.freeze()

    # a runtime of several threads makes them while it loads, and what is made gently stays slow
    gently(load, priority if start.threads == 1 else "")
    served = loaded[0]
    os.close(start.bundle_fd)  # a slot that is cleared must give its blocks back
    _send(control, Loaded(served.runtime.name, served.runtime.version, served.load_ms))
    try:
        golden_message(served, [0])  # warm-up: first-run allocations must not count as latency
        golden = golden_message(served, None)
    except MemoryError as e:
        raise StartError(ErrorClass.MEMORY, "not enough memory to run the golden vectors") from e
    _send(control, golden)
    if not golden.ok:
        raise StartError(ErrorClass.GOLDEN, golden.reason)
    return served, golden


def _brief(served: ServedModel, control: socket.socket) -> None:
    """Do what this worker was started for and is not resident after: measure, or replay a recording. Raises StartError."""
    if served.start.measure_s > 0:
        try:
            measure(served, served.start.measure_s, lambda stats: _send(control, stats))
        except (EdgefleetError, MemoryError) as e:
            raise StartError(ErrorClass.LOAD, f"the measurement failed: {e}") from e
        return
    figures = WorkerStats()
    comparer = Comparer(served, figures)
    figures.shadow = comparer.sums.take
    try:
        replay(Path(served.start.replay_path), comparer)
    except (OSError, EdgefleetError) as e:
        raise StartError(ErrorClass.INTERNAL, f"the recording cannot be replayed: {e}") from e
    _send(control, figures.take())


def _offer_to_the_kernel() -> None:
    """When the device runs out of memory, a worker ends before agentd does: it is started again, agentd is what starts it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def _watch_agentd(control: socket.socket) -> None:
    """End this process when the other end of the control socket is closed, whatever the other threads do."""
    poller = select.poll()
    poller.register(control.fileno(), select.POLLHUP)

    def watch() -> None:
        while True:
            events = poller.poll()
            if any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in events):
                os._exit(EXIT_AGENTD_GONE)

    threading.Thread(target=watch, name="watch-agentd", daemon=True).start()


def _send(control: socket.socket, message: ToAgentd) -> None:
    _sent(control, message)


def _sent(control: socket.socket, message: ToAgentd) -> bool:
    """Send a message; False when it is lost."""
    try:
        control.send(encode_control(message))
    except BlockingIOError:
        _log.warning("agentd does not read: message=%s dropped", type(message).__name__)
        return False
    except (BrokenPipeError, ConnectionResetError):
        return False  # agentd is gone: the watcher ends this process
    return True


class _Worker:
    """The serving part, inside the event loop."""

    def __init__(self, served: ServedModel, golden: Golden, control: socket.socket) -> None:
        self._served = served
        self._golden = golden
        self._control = control
        self._figures = WorkerStats()
        self._listeners: list[socket.socket] = []
        self._own: tuple[socket.socket, Path, int] | None = None
        self._shadow: ShadowListener | None = None
        self._next_golden = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = False
        self._is_hurried = False
        self._is_drifting = False

    async def run(self) -> int:
        """Serve until drained. Raises StartError."""
        loop = self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[int] = loop.create_future()
        self._engine = Engine(loop)
        start = self._served.start
        self._forwarder = WorkerProxy(start.run_timeout_s + _FORWARD_MARGIN_S)
        routes = Routes(start.routes_path, self._own_table(), loop)
        inline = InlinePolicy(self._golden.latency_p50_ms)
        post = self._served.postprocess
        self._answer_log = AnswerLog(
            start, post.declared.outputs[0].name, lambda message: _sent(self._control, message), post.number
        )
        signals = SignalLog(self._served, lambda message: _send(self._control, message))
        self._figures.signals = signals if signals.is_on else None
        api = Api(self._served, self._engine, inline, self._figures, routes, self._forwarder, self._answer_log)
        self._server = HttpServer(api.handle, start.max_body_bytes)
        self._server.on_close = self._resume_accepting
        self._server.upgrade = MemoryServer(self._server, api.home_of, api.direct_of)
        self._control.setblocking(False)
        loop.add_reader(self._control.fileno(), self._read_control)
        loop.add_signal_handler(signal.SIGTERM, self._terminated)
        try:
            self._open_sockets(start)
        except SocketError as e:  # of the device, not of the bundle: tried again, and the bundle is not blamed
            raise StartError(ErrorClass.DISK, f"{e.message}; {e.next_step}") from e
        if self._served.schedule and start.lane == "active":
            _send(self._control, KnownSchedule(body=self._served.schedule))
        _send(self._control, Ready())
        status = await self._done
        if self._shadow is not None:
            self._shadow.close()
        api.close()
        self._forwarder.close()
        self._engine.stop()
        return status

    def _open_sockets(self, start: Start) -> None:
        if start.own_socket_path:
            path = Path(start.own_socket_path)
            listener = listen_unix(path)
            self._own = (listener, path, path.stat().st_ino)
            self._listen(listener)
        if start.mirror_path:
            self._shadow = ShadowListener(
                Path(start.mirror_path), self._served, self._figures, self._engine, capture=self._answer_log.keep
            )

    # ---- control

    def _read_control(self) -> None:
        while not self._done.done():
            try:
                data = self._control.recv(MAX_CONTROL_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._done.set_result(EXIT_AGENTD_GONE)
                return
            try:
                self._obey(decode_to_worker(data))
            except BadControlMessageError as e:
                _log.warning("control message ignored: %s", e.message)

    def _obey(self, message: object) -> None:
        match message:
            case Serve():
                for fd in self._served.start.listener_fds:
                    listener = socket.socket(fileno=fd)
                    listener.setblocking(False)
                    self._listen(listener)
                _send(self._control, Serving())
            case Drain():
                self._begin_drain(message)
            case GetStats():
                _send(self._control, self._figures.take())
            case SetCapture():
                self._set_capture(message)
            case SetLog():
                self._set_log(message)
            case SetDrift(is_drifting=is_drifting):
                self._is_drifting = is_drifting
                if self._answer_log.tap is not None:
                    self._answer_log.tap.is_drifting = is_drifting
            case SetWatch(lines=lines):
                self._answer_log.live = LiveAnswers(self._served, lines) if lines > 0 else None
            case TellAnswers(number=number):
                self._answer_log.tell()
                _send(self._control, AnswersTold(number))
            case ReadLabels():
                self._read_labels(message)
            case CheckGolden(vectors=vectors):
                self._spawn(self._check_golden(vectors))
            case _:
                _log.warning("control message ignored: %s", type(message).__name__)

    def _read_labels(self, asked: ReadLabels) -> None:
        """Read labels that came from the server, as those of a caller."""
        from edgefleet_agent.worker.http.feedback_items import read_labels

        self._answer_log.tell()
        _send(self._control, read_labels(self._served, asked))

    def _set_capture(self, rules: SetCapture) -> None:
        """Capture by these rules from now on. A key that is none captures nothing."""
        self._answer_log.close()
        self._answer_log.tap = None
        if rules.key:
            from edgefleet_agent.worker.observe.capture import Capture

            try:
                self._answer_log.tap = Capture(self._served, rules)
                self._answer_log.tap.is_drifting = self._is_drifting
            except EdgefleetError as e:
                _log.warning("nothing is captured: %s", e.message)

    def _set_log(self, order: SetLog) -> None:
        """Keep answers by these rules from now on, or keep none."""
        log = self._answer_log
        if log.kept is None and self._served.start.model not in order.models:
            return
        if log.kept is None:
            clock = SystemClock()
            log.kept = KeptLog(
                self._served,
                lambda message: _send(self._control, message),
                lambda: int(clock.now().timestamp() * 1_000),
            )
        log.tell()
        try:
            log.kept.follow(order)
        except (OSError, EdgefleetError) as e:
            _log.warning("no prediction log is kept: %s", e)

    async def _check_golden(self, vectors: int) -> None:
        if vectors > 0:
            chosen: list[int] | None = [self._next_golden + i for i in range(vectors)]
            self._next_golden = (self._next_golden + vectors) % self._served.golden.n
        else:
            chosen = None
        try:
            message = await self._engine.submit(lambda: golden_message(self._served, chosen), None)
        except (BusyError, MemoryError) as e:
            message = Golden(ok=False, reason=f"the golden check could not run: {e}")
        _send(self._control, message)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- accepting

    def _listen(self, listener: socket.socket) -> None:
        self._listeners.append(listener)
        self._accepting = True
        self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Take what waits, as far as connections are allowed; another worker may have been faster."""
        while len(self._server.connections) < MAX_CONNECTIONS:
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as e:
                _log.warning("accept failed: %s", e)
                return
            connection.setblocking(False)
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._spawn(self._adopt(connection))
            if not self._server.draining:
                return
        if self._accepting and not self._server.draining:
            # the backlog holds further callers until a connection ends
            self._accepting = False
            for each in self._listeners:
                self._loop.remove_reader(each.fileno())

    async def _adopt(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._server.connection, connection)
        except OSError:
            connection.close()

    def _resume_accepting(self) -> None:
        if not self._accepting and not self._server.draining and len(self._server.connections) < MAX_CONNECTIONS:
            self._accepting = True
            for each in self._listeners:
                self._loop.add_reader(each.fileno(), self._accept, each)

    # ---- draining

    def _terminated(self) -> None:
        self._is_hurried = self._server.draining
        self._begin_drain(Drain())

    def _begin_drain(self, drain: Drain) -> None:
        if not self._server.draining:
            self._server.draining = True
            self._spawn(self._drain(drain))

    async def _drain(self, drain: Drain) -> None:
        deadline = self._loop.time() + drain.deadline_s
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            if self._own is not None and listener is self._own[0]:
                self._unlink_own()
                self._accept(listener)  # nobody else takes what waits here; the inherited listeners live on elsewhere
            listener.close()
        self._listeners.clear()
        grace_end = min(deadline, self._loop.time() + drain.idle_grace_s)
        while (self._server.connections or len(self._tasks) > 1) and self._loop.time() < deadline:
            if self._is_hurried:
                break
            if self._loop.time() >= grace_end:
                self._server.close_idle()
            await asyncio.sleep(_POLL_S)
        for connection in list(self._server.connections):
            connection.abort()
        self._answer_log.close()
        _send(self._control, self._figures.take())
        if not self._done.done():
            self._done.set_result(EXIT_OK)

    def _unlink_own(self) -> None:
        """Remove the socket's name unless a newer worker has taken it."""
        assert self._own is not None
        _, path, inode = self._own
        with contextlib.suppress(OSError):
            if path.stat().st_ino == inode:
                path.unlink()

    def _own_table(self) -> RoutesTable:
        start = self._served.start
        route = LaneRoute(start.own_socket_path, start.version, start.digest, start.slot)
        return RoutesTable(models={start.model: ModelRoute(lanes={start.lane: route})})
