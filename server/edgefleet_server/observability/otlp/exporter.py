"""Sends figures, requests and logs of this process to a collector by OTLP over HTTP.

What cannot be delivered is dropped: the exporters of OpenTelemetry try for some seconds, and their queues are bounded. Headers (a token),
certificates and time limits are those of OpenTelemetry's own variables, `OTEL_EXPORTER_OTLP_…`.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from edgefleet_server.observability.logs import also_to
from edgefleet_server.observability.otlp.log_records import OtlpHandler
from edgefleet_server.observability.otlp.metric_points import metrics_of
from edgefleet_server.observability.otlp.request_spans import RequestSpans

SCOPE: Final = "edgefleet"
STOP_WAIT_S: Final = 3.0
_log = logging.getLogger(__name__)


class OtlpExporter:
    """One export of one process. endpoint: base address, for example `http://127.0.0.1:4318`."""

    def __init__(
        self, endpoint: str, *, instance: str, version: str, every_s: float, registries: Callable[[], Sequence[CollectorRegistry]]
    ) -> None:  # fmt: skip
        """Wire the parts; starts nothing. registries: called before each export; the first one counts since this process began."""
        base = endpoint.rstrip("/")
        names = {"service.name": "edgefleet", "service.instance.id": instance, "service.version": version}
        self._resource = Resource.create(names)
        self._registries = registries
        self._every_s = every_s
        self._metrics = OTLPMetricExporter(endpoint=f"{base}/v1/metrics")
        self._span_exporter = OTLPSpanExporter(endpoint=f"{base}/v1/traces")
        self._log_exporter = OTLPLogExporter(endpoint=f"{base}/v1/logs")
        self._tracers = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        self._loggers = LoggerProvider(resource=self._resource, shutdown_on_exit=False)
        self._handler = OtlpHandler(self._loggers.get_logger(SCOPE))
        self._end_of_lines: Callable[[], None] = lambda: None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)
        self._start_ns = time.time_ns()

    def start(self) -> None:
        """Begin to export."""
        self._tracers.add_span_processor(BatchSpanProcessor(self._span_exporter))
        self._loggers.add_log_record_processor(BatchLogRecordProcessor(self._log_exporter))
        self._end_of_lines = also_to(self._handler)
        self._thread.start()

    def stop(self, wait_s: float = STOP_WAIT_S) -> None:
        """Export what waits, a last time the figures, and end; after a while what a collector did not take is given up."""
        self._stopping.set()
        self._end_of_lines()
        ends = [threading.Thread(target=end, daemon=True) for end in (self._tracers.shutdown, self._loggers.shutdown)]
        for end in ends:
            end.start()
        deadline_s = time.monotonic() + wait_s
        for thread in (self._thread, *ends):
            thread.join(max(0.0, deadline_s - time.monotonic()))
        self._metrics.shutdown()

    def traced(self, app: ASGIApp) -> ASGIApp:
        """Return an app whose requests have spans."""
        return RequestSpans(app, self._tracers.get_tracer(SCOPE))

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            self._export()
        self._export()

    def _export(self) -> None:
        try:
            now_ns = time.time_ns()
            metrics = []
            for place, registry in enumerate(self._registries()):
                metrics += metrics_of(registry, 0 if place else self._start_ns, now_ns)
            scoped = ScopeMetrics(scope=InstrumentationScope(SCOPE), metrics=metrics, schema_url="")
            resource = ResourceMetrics(resource=self._resource, scope_metrics=[scoped], schema_url="")
            self._metrics.export(MetricsData(resource_metrics=[resource]))
        except Exception:  # noqa: BLE001  # the outermost loop: one bad export must not end the thread that does all of them
            _log.exception("figures could not be exported by OTLP")
