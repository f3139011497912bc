"""Figures at `/metrics` (Prometheus text). Few labels, never a device id, a path with ids or a request id.

One registry a server process, made with the parts: tests and two servers in one process do not share counters.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_server.observability.fleet_figures.collector import FleetCollector
from edgefleet_server.observability.fleet_figures.values import FigureValues

_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Metrics:
    """The server's own counters. Features add to these; a new figure is one line here."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)  # processor time, memory and open files of this process
        self.fleet_registry = CollectorRegistry()
        """Figures of fleet and models: they name models and groups, so that not everybody may read them."""
        self.requests = Counter(
            "edgefleet_http_requests_total", "API requests", ["operation", "status"], registry=self.registry
        )
        self.request_seconds = _latency(
            "edgefleet_http_request_seconds", "Time to answer an API request", "operation", self.registry
        )
        self.jobs = Gauge("edgefleet_conversion_jobs", "Conversion jobs by state", ["state"], registry=self.registry)
        self.ticks = Counter(
            "edgefleet_engine_ticks_total",
            "Runs of the engine tick; failed = a step of it failed",
            ["result"],
            registry=self.registry,
        )
        self.rollouts = Gauge("edgefleet_rollouts", "Rollouts by state", ["state"], registry=self.registry)
        self.rollout_lag_seconds = _latency(
            "edgefleet_rollout_evaluation_lag_seconds",
            "How long after it was due a rollout was looked at by this process; looks before their time do not count",
            "look",
            self.registry,
        )
        self.rollout_transitions = Counter(
            "edgefleet_rollout_transitions_total",
            "Rollouts, stages and assignments of devices that this process moved to a state",
            ["kind", "to"],
            registry=self.registry,
        )
        self.rollout_documents = Counter(
            "edgefleet_rollout_documents_total",
            "Documents of devices that this process signed for rollouts: offer, withdrawal, rollback",
            ["what"],
            registry=self.registry,
        )
        self.suspects = Gauge(
            "edgefleet_suspect_devices",
            "Devices whose failure reports were refuted and that nobody has cleared; revoked ones do not count",
            registry=self.registry,
        )
        self.refused_requests = Counter(
            "edgefleet_anonymous_refusals_total",
            "Changing requests and sign-ins without a valid token that were refused; the audit trail counts them by address",
            registry=self.registry,
        )
        self.connections = Gauge(
            "edgefleet_connections", "Open connections of a listener", ["listener"], registry=self.registry
        )
        self.connections_ended = Counter(
            "edgefleet_connections_ended_total",
            "Connections that a listener ended or refused: head_timeout, body_too_slow, answer_not_read, replaced, refused",
            ["listener", "reason"],
            registry=self.registry,
        )

    def count_endings(self, listener: str, reason: str, n: int) -> None:
        """Count connections that a listener ended or refused."""
        self.connections_ended.labels(listener, reason).inc(n)

    def watch_connections(self, listener: str, count: Callable[[], int]) -> None:
        """Show how many connections a listener has, counted when somebody asks."""
        self.connections.labels(listener).set_function(count)

    def observe_lag(self, late_s: float, is_first: bool) -> None:
        """Note how late a look at a rollout was; that of one which nobody had claimed or steered apart: it waits for the others."""
        self.rollout_lag_seconds.labels("first" if is_first else "later").observe(late_s)

    def count_transitions(self, kind: str, to: str, n: int) -> None:
        """Count moves of rollouts, stages or assignments."""
        self.rollout_transitions.labels(kind, to).inc(n)

    def count_documents(self, what: str, n: int) -> None:
        """Count documents that were signed for rollouts."""
        self.rollout_documents.labels(what).inc(n)

    def watch_gateway(
        self,
        counters: Callable[[], Mapping[str, int]],
        dropped: Callable[[], Mapping[str, int]],
        waiting: Callable[[], float],
    ) -> None:
        """Show the gateway's own counters, read when somebody asks. dropped: by reason; waiting: messages to store."""
        self.registry.register(_GatewayCounters(counters, dropped))
        Gauge(
            "edgefleet_gateway_waiting_messages",
            "Messages of devices that wait to be stored; near 32000 the broker holds devices back",
            registry=self.registry,
        ).set_function(waiting)

    def watch_signer(self, counts: Callable[[], tuple[Mapping[str, int], Mapping[str, int]]]) -> None:
        """Show what the signing process signed and refused, read when somebody asks. counts: both by role."""
        self.registry.register(_SignerCounters(counts))

    def watch_revocation(self, in_force: Callable[[], float], left_s: Callable[[], float]) -> None:
        """Show how the gateway's list of revoked certificates fares, read when somebody asks. A process without a gateway has none."""
        Gauge(
            "edgefleet_revocation_in_force",
            "1 while the broker refuses revoked certificates and lets others in; 0: call somebody",
            registry=self.registry,
        ).set_function(in_force)
        Gauge(
            "edgefleet_revocation_list_seconds",
            "For how long the newest list of revoked certificates is valid; below 15 days: call somebody",
            registry=self.registry,
        ).set_function(left_s)

    def watch_fleet(self, load: Callable[[], FigureValues], monotonic_s: Callable[[], float]) -> None:
        """Show the figures of fleet and models, loaded when somebody asks."""
        self.fleet_registry.register(FleetCollector(load, monotonic_s))

    def text(self, *, with_fleet: bool = False) -> bytes:
        """Return the figures of this process in Prometheus text format, on request with those of the fleet."""
        own = generate_latest(self.registry)
        return own + generate_latest(self.fleet_registry) if with_fleet else own


class _SignerCounters(Collector):
    """Two counter families over what the signing process counts itself; none while it does not answer."""

    def __init__(self, counts: Callable[[], tuple[Mapping[str, int], Mapping[str, int]]]) -> None:
        self._counts = counts

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Return the present numbers."""
        try:
            signed, refused = self._counts()
        except EdgefleetError:
            signed = refused = {}
        families = (
            ("edgefleet_signer_signed", "What the signing process signed since it started", signed),
            ("edgefleet_signer_refused", "What the signing process refused to sign since it started", refused),
        )
        for name, about, counted in families:
            family = CounterMetricFamily(name, about, labels=["role"])
            for role, count in counted.items():
                family.add_metric([role], count)
            yield family


class _GatewayCounters(Collector):
    """Two counter families over what the gateway counts itself."""

    def __init__(self, counters: Callable[[], Mapping[str, int]], dropped: Callable[[], Mapping[str, int]]) -> None:
        self._counters = counters
        self._dropped = dropped

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Return the present numbers."""
        family = CounterMetricFamily("edgefleet_gateway", "What went through the gateway since start", labels=["what"])
        for name, value in self._counters().items():
            family.add_metric([name], value)
        yield family
        about = "Messages, windows and answers refused because of the quota of a device"
        dropped = CounterMetricFamily("edgefleet_gateway_dropped", about, labels=["reason"])
        for name, value in self._dropped().items():
            dropped.add_metric([name], value)
        yield dropped


def _latency(name: str, about: str, label: str, registry: CollectorRegistry) -> Histogram:
    """Return a histogram of seconds by one label."""
    return Histogram(name, about, [label], buckets=_LATENCY_BUCKETS_S, registry=registry)
