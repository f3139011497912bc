"""Settings → what the parts of agentd are given. Its own file because `daemon` shall show only what happens."""

import socket
from collections.abc import Sequence

from edgefleet_agent.install.trial import Limits
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.settings import AgentSettings
from edgefleet_agent.workers import WorkerOptions


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
        command=tuple(settings.python_command),
        status_page=_has_page(settings, listeners),
    )


def _has_page(settings: AgentSettings, listeners: Sequence[socket.socket]) -> bool:
    """Whether workers show the status page: on loopback by default. systemd may have opened another address than the settings."""
    if settings.status_page != "loopback":
        return settings.status_page == "always"
    tcp = [one.getsockname()[0] for one in listeners if one.family != socket.AF_UNIX]
    return all(host == "::1" or host.startswith("127.") for host in tcp)


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
    )
