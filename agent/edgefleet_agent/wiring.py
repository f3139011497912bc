"""Settings → what the parts of agentd are given. Its own file because `daemon` shall show only what happens."""

import socket
from collections.abc import Callable, Sequence

from edgefleet_agent.install.trial import Limits
from edgefleet_agent.link.drain import Drain
from edgefleet_agent.link.mqtt import LinkOptions, MqttLink
from edgefleet_agent.link.outbox import Joins, Kind, Outbox
from edgefleet_agent.loop import Loop
from edgefleet_agent.paths import StatePaths
from edgefleet_agent.renewal import Renewal
from edgefleet_agent.settings import AgentSettings
from edgefleet_agent.telemetry.window import begins_s, merge_payloads, pack_payloads
from edgefleet_agent.workers import WorkerOptions

METERED_KEEPALIVE_S = 1_200
"""Pings each minute would cost four times what the telemetry does (`./dev bench agent-wire`)."""


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
        log_predictions=settings.prediction_log_bytes > 0,
    )


def open_outbox(settings: AgentSettings, paths: StatePaths) -> Outbox:
    """Return the outbox of this device, which adds up and packs telemetry."""
    return Outbox(paths.outbox, settings.outbox_bytes, Joins(merge_payloads, pack_payloads, begins_s))


def open_link(
    settings: AgentSettings, renewal: Renewal, boot_id: str, wake: Callable[[], None], unix_ms: Callable[[], int]
) -> MqttLink:
    """Return the connection to the broker, not started."""
    keepalive_s = max(settings.keepalive_s, METERED_KEEPALIVE_S) if settings.metered == "yes" else settings.keepalive_s
    options = LinkOptions(keepalive_s, settings.connect_timeout_s, settings.reconnect_max_s)
    return MqttLink(renewal.identity, renewal.candidates, boot_id, options, wake, unix_ms)


def open_drain(
    settings: AgentSettings, outbox: Outbox, link: MqttLink, topic_of: Callable[[Kind], str], loop: Loop
) -> Drain:
    """Return what hands the outbox's messages to the link."""
    return Drain(outbox, link, topic_of, loop.monotonic_s, loop.call_later, settings.telemetry_daily_bytes)


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
