"""Figures of a device for the Prometheus of its site: `GET /metrics` of the inference port, in Prometheus's text format.

1. Counters are of the workers that serve now, since each started: a new version is a new series.
2. agentd's own words are those of `run/status.json`; memory, disk and load are read when somebody asks.
3. agentd allows it (`Start.metrics`), as the status page: on loopback by default, elsewhere only with `metrics = "always"`.
4. Written by hand: a client library would cost memory on every device. What cannot be read has no line.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgefleet_agent.reporting import collector
from edgefleet_agent.worker.http.server import Response
from edgefleet_agent.worker.http.status_page import STATUS_FILE
from edgefleet_protocol.sketch import BOUNDS_S, LatencySketch

if TYPE_CHECKING:
    from edgefleet_agent.worker.runtime.loader import ServedModel
    from edgefleet_agent.worker.runtime.stats import WorkerStats

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
COUNTERS = (
    ("predictions", "n", "Answers, those that were errors included"),
    ("errors", "errors", "Answers that were errors"),
    ("timeouts", "timeouts", "Requests that were not answered in time"),
    ("not_finite", "nonfinite", "Answers that were NaN or infinite"),
    ("bad_requests", "bad_requests", "Requests whose inputs do not fit the model"),
    ("worker_cpu_seconds", "cpu_s", "Processor time of the worker"),
)
Labels = Mapping[str, str]


def answers_of(served: "ServedModel", figures: "WorkerStats") -> dict[str, Any]:
    """Return the figures of this worker, as workers tell them to each other."""
    own = {"rss_bytes": collector.rss_bytes(os.getpid()), "cpu_s": time.process_time()}
    return {"model": served.start.model, "version": served.start.version, **asdict(figures.since_start()), **own}


def answers_in(body: bytes) -> list[dict[str, Any]]:
    """Return the figures that another worker told, none where it told something else."""
    try:
        return msgspec.json.decode(body, type=list[dict[str, Any]])
    except msgspec.MsgspecError:
        return []


def exposition(routes_path: str, rows: list[dict[str, Any]]) -> Response:
    """Return all figures. routes_path: the status lies next to it."""
    try:
        status = json.loads(Path(routes_path).with_name(STATUS_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        status = {}
    page = _Page()
    _agent(page, status if isinstance(status, dict) else {})
    _device(page, Path(routes_path).parent)
    _workers(page, rows)
    return Response(200, page.text().encode(), CONTENT_TYPE, [(b"Cache-Control", b"no-store")])


class _Page:
    """Lines of figures, each figure's together."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, kind: str, text: str, samples: Iterable[tuple[Labels, float]]) -> None:
        """Add a figure; one without samples is left out."""
        lines = [self._line(name, labels, value) for labels, value in samples]
        if lines:
            self._lines += [f"# HELP edgefleet_agent_{name} {text}", f"# TYPE edgefleet_agent_{name} {kind}", *lines]

    def gauge(self, name: str, text: str, value: float | None) -> None:
        """Add one value; None and less than nothing: it cannot be read."""
        if value is not None and value >= 0:
            self.add(name, "gauge", text, [({}, value)])

    def histogram(self, name: str, text: str, rows: Iterable[tuple[Labels, LatencySketch, float]]) -> None:
        """Add a histogram of each sketch and the sum of its values."""
        lines: list[str] = []
        for labels, sketch, total_s in rows:
            for bound, count in zip((*map(repr, BOUNDS_S), "+Inf"), sketch.up_to(), strict=True):
                lines.append(self._line(f"{name}_bucket", {**labels, "le": bound}, count))
            lines += [self._line(f"{name}_sum", labels, total_s), self._line(f"{name}_count", labels, sketch.n)]
        if lines:
            head = [f"# HELP edgefleet_agent_{name} {text}", f"# TYPE edgefleet_agent_{name} histogram"]
            self._lines += [*head, *lines]

    def text(self) -> str:
        """Return the page."""
        return "\n".join(self._lines) + "\n"

    @staticmethod
    def _line(name: str, labels: Labels, value: float) -> str:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        return f"edgefleet_agent_{name}{{{inside}}} {value}" if inside else f"edgefleet_agent_{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _agent(page: _Page, status: Mapping[str, Any]) -> None:
    if not status:
        return
    version = {"version": str(status.get("agent_version", ""))}
    page.add("build_info", "gauge", "Always 1; the version of the agent is a label", [(version, 1)])
    page.gauge("connected", "1 while the agent is connected to its broker", float(bool(status.get("connected"))))
    page.gauge(
        "document_generation", "Number of the desired document that the agent follows", _number(status.get("gen"))
    )
    outbox = status.get("outbox") or {}
    page.gauge("outbox_messages", "Messages that wait for the broker", _number(outbox.get("messages")))
    page.gauge("resident_memory_bytes", "Resident memory of agentd", collector.rss_bytes(int(status.get("pid") or 0)))
    models = [
        ({"model": str(one.get("model")), "status": str(one.get("phase"))}, float(bool(one.get("serving"))))
        for one in status.get("models") or []
    ]
    page.add(
        "model_serving",
        "gauge",
        "1 while a model of the desired document serves; status: the phase of its install",
        models,
    )


def _device(page: _Page, folder: Path) -> None:
    page.gauge("memory_available_bytes", "Memory that can be had without swapping", collector.memory_available_bytes())
    page.gauge("disk_free_bytes", "Free space of the disk of the agent's state", collector.disk_free_bytes(folder))
    page.gauge("load1", "Load average of one minute", os.getloadavg()[0])


def _workers(page: _Page, rows: list[dict[str, Any]]) -> None:
    labelled = [({"model": str(row["model"]), "version": str(row["version"])}, row) for row in rows]
    for name, key, text in COUNTERS:
        page.add(f"{name}_total", "counter", text, [(labels, float(row[key])) for labels, row in labelled])
    rss = [(labels, float(row["rss_bytes"])) for labels, row in labelled if row["rss_bytes"] >= 0]
    page.add("worker_resident_memory_bytes", "gauge", "Resident memory of the worker", rss)
    sketches = [(labels, LatencySketch.unpacked(row["latency"]), float(row["run_s"])) for labels, row in labelled]
    page.histogram("latency_seconds", "Time inside the runtime of an answer, off by at most 1 %", sketches)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
