"""Settings → what the parts of agentd are given. `daemon` shows only what happens."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from edgefleet_agent.batch_runs.service import BatchRuns, ChildOptions, Tell
from edgefleet_agent.connection.mqtt import LinkOptions, MqttLink
from edgefleet_agent.connection.outbox import Joins, Outbox
from edgefleet_agent.connection.sender import OutboxSender, Sources, topic_chooser
from edgefleet_agent.core.cgroup import delegated
from edgefleet_agent.core.durable import read_record
from edgefleet_agent.core.loop import Loop
from edgefleet_agent.core.systemd import given_sockets
from edgefleet_agent.drift.files import DriftFiles
from edgefleet_agent.drift.watcher import DriftDeps, DriftWatcher
from edgefleet_agent.errors import AgentRunningError, PortTakenError, StateFileError
from edgefleet_agent.identity.renewal_timer import RenewalTimer
from edgefleet_agent.install.preflight import Room
from edgefleet_agent.install.probation.memory_leak import Memory
from edgefleet_agent.install.probation.trial import Limits
from edgefleet_agent.install.records import DesiredOk, HoldOk
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.reporting.collector import disk_free_bytes, memory_available_bytes, rss_bytes
from edgefleet_agent.reporting.window import begins_s, merge_payloads, own_part, pack_payloads
from edgefleet_agent.serving.memory_restart import MemoryRestarter
from edgefleet_agent.serving.supervisor import Supervisor
from edgefleet_agent.serving.worker_process import Worker, WorkerOptions
from edgefleet_agent.settings import AgentSettings
from edgefleet_agent.worker.control.launch import listen_tcp, listen_unix
from edgefleet_protocol.clock import Clock
from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.topics import Topics

if TYPE_CHECKING:
    from edgefleet_agent.candidate.controller import CandidateController
    from edgefleet_agent.captures.service import CaptureRecorder
    from edgefleet_agent.composition.lazy_feedback import LazyFeedback
    from edgefleet_agent.feedback.service import FeedbackKeeper

Verified = TypeVar("Verified", DesiredOk, HoldOk)

log = logging.getLogger(__name__)

KEEPALIVE_S = 1_200
METERED_KEEPALIVE_S = 3_900
"""Where bytes cost money, telemetry each hour is sign of life enough (ADR 0045)."""


def worker_options(settings: AgentSettings, paths: StatePaths, listeners: Sequence[socket.socket]) -> WorkerOptions:
    """Return what all workers share. listeners: the public ones."""
    return WorkerOptions(
        listener_fds=tuple(listener.fileno() for listener in listeners),
        routes=paths.routes,
        sockets=paths.sockets(),
        threads=settings.infer_threads,
        memory_bytes=settings.worker_memory_bytes,
        body_bytes=settings.infer_body_bytes,
        timeout_s=settings.infer_timeout_s,
        start_s=settings.worker_start_s,
        golden_s=settings.golden_timeout_s,
        steady_s=settings.worker_steady_s,
        cgroups=delegated() if settings.worker_memory_bytes else None,
        command=tuple(settings.python_command),
        log_predictions=settings.prediction_log_bytes > 0,
        status_page=_is_shown(settings.status_page, listeners),
        metrics=_is_shown(settings.metrics, listeners),
        drift=paths.drift,
        model_key=paths.model_key,
    )


def _is_shown(where: str, listeners: Sequence[socket.socket]) -> bool:
    """Whether workers show a page: on loopback by default. systemd may have opened another address than the settings."""
    if where != "loopback":
        return where == "always"
    tcp = [one.getsockname()[0] for one in listeners if one.family != socket.AF_UNIX]
    return all(host == "::1" or host.startswith("127.") for host in tcp)


def known_documents(paths: StatePaths) -> tuple[DesiredOk | None, HoldOk | None]:
    """Return what was verified before, the desired document and the hold, each if it can be read."""
    return _known(DesiredOk, paths.desired_ok), _known(HoldOk, paths.hold_ok)


def _known(cls: type[Verified], path: Path) -> Verified | None:
    try:
        return read_record(cls, path)
    except StateFileError as error:
        log.warning("verified document unreadable", extra={"reason": error.message})
        return None


def room(settings: AgentSettings, state: Path, runtimes: Mapping[str, str]) -> Room:
    """Return what the device has now."""
    return Room(
        disk_free_bytes=disk_free_bytes(state),
        memory_available_bytes=memory_available_bytes(),
        disk_reserve_bytes=settings.disk_reserve_bytes,
        memory_reserve_bytes=settings.memory_reserve_bytes,
        runtimes=runtimes,
        disk_where=str(state),
        strategy=settings.slot_strategy,
        worker_limit_bytes=settings.worker_memory_bytes,
    )


def open_outbox(settings: AgentSettings, paths: StatePaths) -> Outbox:
    """Return the outbox of this device, which adds up and packs telemetry."""
    return Outbox(paths.outbox, settings.outbox_bytes, Joins(merge_payloads, pack_payloads, begins_s))


def drift_watcher(loop: Loop, clock: Clock, folder: Path, device: str, deps: DriftDeps) -> DriftWatcher:
    """Return who watches drift, not started."""
    return DriftWatcher(loop, clock, DriftFiles(folder), deps, own_part(device))


def feedback_keeper(
    loop: Loop,
    clock: Clock,
    paths: StatePaths,
    captures: "CaptureRecorder",
    worker_of: Callable[[str], Worker | None],
    finish: Callable[[str, str, str, str], None],
    changed: Callable[[], None],
) -> "FeedbackKeeper":
    """Return who pairs labels with the answers in the log; loaded here, and not before. finish: a task is over; changed: the status is."""
    from edgefleet_agent.feedback.service import FeedbackDeps, FeedbackKeeper

    deps = FeedbackDeps(captures.write_out, worker_of, finish, changed)
    return FeedbackKeeper(loop, clock, paths, deps)


def batch_runs(
    loop: Loop,
    clock: Clock,
    paths: StatePaths,
    settings: AgentSettings,
    tell: Tell,
    changed: Callable[[], None],
    show: Callable[[], None],
) -> BatchRuns:
    """Return who runs batches on a schedule, with what was known before. changed: reports the state; show: writes the status."""
    folder = Path(settings.batch_folder) if settings.batch_folder else paths.batch
    child = ChildOptions(settings.python_command, paths.sockets() / "infer.sock")
    return BatchRuns(loop, clock, folder, child, tell, changed, show)


def observed(
    captures: "CaptureRecorder", drift: DriftWatcher, feedback: "LazyFeedback", runs: BatchRuns
) -> dict[str, Any]:
    """Return what the status says of answers."""
    told = {"capture": captures.status(), "drift": drift.status(), "feedback": feedback.status()}
    return {**told, "schedules": runs.status()}


def recycler(loop: Loop, serving: Supervisor, room_now: Callable[[], Room]) -> MemoryRestarter:
    """Return who replaces workers that leak."""

    def memory() -> Memory:
        now = room_now()
        return Memory(now.worker_limit_bytes, now.spare_bytes)

    return MemoryRestarter(loop, serving.pids, rss_bytes, memory, serving.recycle)


def open_link(
    settings: AgentSettings, renewal: RenewalTimer, boot_id: str, wake: Callable[[], None], unix_ms: Callable[[], int]
) -> MqttLink:
    """Return the connection to the broker, not started."""
    return MqttLink(renewal.identity, renewal.candidates, boot_id, link_options(settings), wake, unix_ms)


def link_options(settings: AgentSettings) -> LinkOptions:
    """Return the times of the connection."""
    keepalive_s = settings.keepalive_s or (METERED_KEEPALIVE_S if settings.metered == "yes" else KEEPALIVE_S)
    return LinkOptions(keepalive_s, settings.connect_timeout_s, settings.reconnect_max_s)


def open_sender(
    settings: AgentSettings,
    outbox: Outbox,
    link: MqttLink,
    topics: Topics,
    device: DeviceId,
    loop: Loop,
    captures: "CaptureRecorder",
) -> OutboxSender:
    """Return what hands the outbox's messages to the link."""
    sources = Sources(captures.next_sample, topics.log(device), captures.live.next_message)
    times = (loop.monotonic_s, loop.call_later, settings.telemetry_daily_bytes)
    return OutboxSender(outbox, link, topic_chooser(topics, device), *times, sources)


def limits(settings: AgentSettings) -> Limits:
    """Return what a version on trial is held to."""
    return Limits(
        crash_limit=settings.crash_limit,
        crash_window_s=settings.crash_window_s,
        probation_s=settings.probation_s,
        probation_min_s=settings.probation_min_s,
        probation_inferences=settings.probation_inferences,
        replace_s=settings.replace_s,
        nonfinite_ratio=settings.nonfinite_limit_ratio,
        error_ratio=settings.error_limit_ratio,
        error_min_n=settings.error_limit_min_n,
        slow_factor=settings.slow_limit_factor,
        slow_margin_ms=settings.slow_limit_margin_ms,
        slow_min_n=settings.slow_limit_min_n,
        leak_min_s=settings.leak_min_s,
    )


def prepare_folders(paths: StatePaths) -> None:
    """Make the folders that agentd needs, and remove sockets of a run before. Raises StateFileError, OSError."""
    for folder in (paths.run, paths.models, paths.sockets()):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            raise StateFileError(
                f"{folder} belongs to another user; the agent's sockets and models must be its own",
                next_step=f"remove {folder}, or run the agent as its owner",
            )
    for stale in paths.sockets().glob("*.sock"):
        stale.unlink(missing_ok=True)


def remove_run_files(paths: StatePaths) -> None:
    """Remove what tells others of a running agent. Raises OSError."""
    sockets = paths.sockets()
    for path in (paths.status, *sockets.glob("*.sock")):
        path.unlink(missing_ok=True)
    if sockets != paths.run:
        with contextlib.suppress(OSError):
            sockets.rmdir()


def lock_state(path: Path) -> int:
    """Return the descriptor that holds the state folder's lock. Raises AgentRunningError, OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise AgentRunningError(f"another agent works on {path.parent}") from error
    return fd


def candidates(*parts: Any) -> "CandidateController":
    """Return the candidates of an agent; parts: as `candidate_parts.candidates` takes them. Loaded here, and not before."""
    from edgefleet_agent.composition.candidate_parts import candidates as made

    return made(*parts)


P = ParamSpec("P")
R = TypeVar("R")


def late(find: Callable[[], Callable[P, R]]) -> Callable[P, R]:
    """Return a function that does what `find()` returns, which is asked for at each call: `late(lambda: self._link.recycle)`."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return find()(*args, **kwargs)

    return call


PORT_WAIT_S = 5.0


def public_listeners(settings: AgentSettings, unix_path: Path, clock: Clock) -> list[socket.socket]:
    """Return the TCP listener and the unix one, in this order. Raises PortTakenError, SocketError, OSError."""
    given = [one for one in given_sockets() if one.family != socket.AF_UNIX]
    tcp = given[0] if given else _own_tcp(settings.infer_host, settings.infer_port, clock)
    return [tcp, listen_unix(unix_path)]


def url_of(listener: socket.socket) -> str:
    """Return where an open TCP listener answers."""
    address = listener.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"


def _own_tcp(host: str, port: int, clock: Clock) -> socket.socket:
    """Return a listener of our own. After a kill of agentd an old worker may hold the port for a moment longer."""
    give_up = clock.monotonic_s() + PORT_WAIT_S
    while True:
        try:
            return listen_tcp(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or clock.monotonic_s() > give_up:
                raise PortTakenError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        time.sleep(0.1)
