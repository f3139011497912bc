"""OTLP: a real server sends figures, requests and logs to a receiver of this test, which decodes them and says what came."""

import asyncio
import gzip
import io
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import CollectorRegistry

from edgefleet_server.observability.logs import PHRASE_BURST, RepeatHandler
from edgefleet_server.observability.otlp.exporter import OtlpExporter
from edgefleet_server.observability.otlp.log_records import OtlpHandler
from edgefleet_server.process.setting_check import check_settings
from edgefleet_server.setting_sources import SettingsError
from edgefleet_server.settings import load_settings
from tests.support.servers import copy_server, server_process

PATIENCE_S = 60.0
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FORMS: dict[str, Callable[[], Any]] = {
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


class Receiver:
    """What came, decoded, by path."""

    def __init__(self) -> None:
        self.came: list[tuple[str, dict[str, str], Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                message = FORMS[self.path]()
                message.ParseFromString(body)
                receiver.came.append((self.path, {key.lower(): value for key, value in self.headers.items()}, message))
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def metrics(self) -> dict[str, Any]:
        """Return the newest points by name of the figure."""
        found: dict[str, Any] = {}
        for _path, _headers, message in self.of("/v1/metrics"):
            for resource in message.resource_metrics:
                found |= {one.name: one for scope in resource.scope_metrics for one in scope.metrics}
        return found

    def spans(self) -> dict[str, Any]:
        """Return spans by name."""
        messages = [message for _path, _headers, message in self.of("/v1/traces")]
        return {
            span.name: span for one in messages for group in one.resource_spans for scope in group.scope_spans for span in scope.spans
        }  # fmt: skip

    def logs(self) -> dict[str, Any]:
        """Return log records by their text."""
        messages = [message for _path, _headers, message in self.of("/v1/logs")]
        return {
            line.body.string_value: line
            for one in messages for group in one.resource_logs for scope in group.scope_logs for line in scope.log_records
        }  # fmt: skip

    def of(self, path: str) -> list[tuple[str, dict[str, str], Any]]:
        """Return what came at a path."""
        return [one for one in list(self.came) if one[0] == path]


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    """Run a receiver; yield it and its base address."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver, f"http://127.0.0.1:{receiver.server.server_port}"
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join(10)


def until(fact: Callable[[], Any]) -> None:
    """Wait until something is so."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not fact():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def _texts(attributes: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in attributes}


def test_a_server_exports_figures_requests_and_logs(tmp_path: Path) -> None:
    data = tmp_path / "server"
    token = copy_server(data)
    with receiving() as (receiver, address):
        environment = {
            "EDGEFLEET_SERVER_OTLP_ENDPOINT": address,
            "EDGEFLEET_SERVER_OTLP_INTERVAL_S": "0.3",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20collector",
        }
        with (
            server_process(data, token, "--roles", "api", environment=environment) as server,
            server.client() as client,
        ):
            traced = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "x-request-id": "req-1"}
            assert client.get("/api/v1/devices", headers=traced).status_code == 200
            assert httpx.get(f"{server.url}/api/v1/devices").status_code == 401
            until(lambda: "edgefleet_http_requests" in receiver.metrics() and "edgefleet_devices" in receiver.metrics())
            assert client.get("/metrics").status_code == 200
        spans, logs, metrics = receiver.spans(), receiver.logs(), receiver.metrics()
    assert {headers["authorization"] for _path, headers, _message in receiver.came} == {"Bearer collector"}

    requests = metrics["edgefleet_http_requests"].sum
    assert requests.is_monotonic
    assert {_texts(one.attributes)["status"] for one in requests.data_points} >= {"200", "401"}
    assert all(one.start_time_unix_nano for one in requests.data_points)
    seconds = metrics["edgefleet_http_request_seconds"]
    assert seconds.unit == "s"
    [point] = [one for one in seconds.histogram.data_points if _texts(one.attributes)["operation"] == "list_devices"]
    assert (point.count, sum(point.bucket_counts)) == (2, 2)
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    statuses = {
        _texts(one.attributes)["status"]: one.as_double for one in metrics["edgefleet_devices"].gauge.data_points
    }
    assert statuses == {"online": 0, "offline": 0, "unknown": 0, "revoked": 0}

    assert "get_metrics" not in spans
    assert "list_devices" in spans
    every = [
        one for _path, _headers, message in receiver.of("/v1/traces")
        for group in message.resource_spans for scope in group.scope_spans for one in scope.spans
    ]  # fmt: skip
    [child] = [one for one in every if one.trace_id.hex() == TRACE_ID]
    assert child.parent_span_id.hex() == PARENT_ID
    assert _texts(child.attributes)["http.response.status_code"] == 200
    assert _texts(child.attributes)["edgefleet.request_id"] == "req-1"

    assert logs["ready"].severity_text == "INFO"
    assert _texts(logs["ready"].attributes)["api"].startswith("http://")
    resource = _texts(receiver.of("/v1/logs")[0][2].resource_logs[0].resource.attributes)
    assert (resource["service.name"], resource["service.instance.id"]) == ("edgefleet", "main")


def test_a_collector_that_is_away_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    exporter = OtlpExporter(
        "http://127.0.0.1:9", instance="main", version="1", every_s=0.01, registries=lambda: [registry]
    )
    written = RepeatHandler(io.StringIO())
    monkeypatch.setattr(logging.getLogger(), "handlers", [written])
    exporter.start()
    assert len(written.also) == 1
    answered = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        answered.append(scope["path"])

    async def sent(message: Any) -> None:
        answered.append(message["status"])

    scope = {"type": "http", "method": "GET", "scheme": "http", "path": "/api/v1/devices", "headers": []}
    logging.getLogger("edgefleet").error("away", exc_info=(OSError, OSError("gone"), None), extra={"why": Path("x")})
    asyncio.run(exporter.traced(app)(scope, None, sent))  # type: ignore[arg-type]
    exporter.stop(0.1)
    assert answered == [503, "/api/v1/devices"]
    assert written.also == []


def _handled(*calls: Callable[[logging.Logger], None]) -> list[Any]:
    """Return what OTLP gets of log calls."""
    got: list[Any] = []
    written = RepeatHandler(io.StringIO(), lambda: 5.0)
    written.also.append(OtlpHandler(SimpleNamespace(emit=got.append)))  # type: ignore[arg-type]
    logger = logging.Logger("edgefleet.calls")  # noqa: LOG001  # one that no other test sees
    logger.addHandler(written)
    for call in calls:
        call(logger)
    return got


def test_a_wrong_log_call_does_not_fail_its_caller(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.makeLogRecord({"msg": "%d devices", "args": ("no number",)})
    got: list[Any] = []
    OtlpHandler(SimpleNamespace(emit=got.append)).handle(record)  # type: ignore[arg-type]
    assert got == []
    assert "no number" in capsys.readouterr().err
    assert _handled(lambda logger: logger.warning("%d devices", "no number either")) == []
    assert "no number either" in capsys.readouterr().err


def test_a_line_over_and_over_is_exported_as_often_as_it_is_written() -> None:
    got = _handled(*[lambda logger: logger.warning("bad message")] * 9, *[_bad(n) for n in range(500)])
    assert [one.body for one in got].count("bad message") == 1
    assert [one.body for one in got].count("bad topic") == PHRASE_BURST


def _bad(number: int) -> Callable[[logging.Logger], None]:
    return lambda logger: logger.warning("bad topic", extra={"topic": f"t{number}"})


def test_an_address_without_the_extra_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edgefleet_server.observability.otlp.exporter", None)
    monkeypatch.delattr("edgefleet_server.observability.otlp.exporter", raising=False)
    settings = load_settings(tmp_path, otlp_endpoint="http://127.0.0.1:4318")
    with pytest.raises(SettingsError, match="not installed") as raised:
        check_settings(settings)
    assert "edgefleet[otel]" in str(raised.value.next_step)
