"""What a simulated device says, in the messages of real agents: presence, state, events, telemetry windows.

Its model answers one of CLASSES classes. Where it drifts, the shares of the classes move over DRIFT_WINDOWS windows, and the device says
so once the PSI against the shares that it began with passes DRIFT_PSI, as agents do.
Source: docs/protocol/messages.md; ADR 0148.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from edgefleet_protocol.messages import (
    Event,
    ModelState,
    Phase,
    Presence,
    State,
    SystemFigures,
    Telemetry,
    Window,
    encode,
    encode_short,
)
from edgefleet_protocol.sketch import LatencySketch

MODEL: Final = "sim-load"
VERSION: Final = "0.0.1"
SHA256: Final = "5" * 64
CLASSES: Final = 4
ANSWERS_PER_S: Final = 1
SHAPES: Final = 32
DRIFT_WINDOWS: Final = 12
DRIFT_PSI: Final = 0.25
MOVED: Final = 0.6
"""So large a share of the answers goes to the last class once the drift is whole."""
FACTS: Final[dict[str, Any]] = {
    "arch": "x86_64", "board": "simulated", "ram_mb": 2048, "runtimes": [{"name": "onnxruntime", "version": "1.20.0"}],
    "python": "3.11", "glibc": "2.36", "agent_version": "sim", "hostname": "simulated", "disk_free_bytes": 8_000_000_000,
}  # fmt: skip
"""What the enrolment of each device says of its machine, and its states too."""


@dataclass(frozen=True, slots=True)
class Running:
    """What a device runs. target: path of the bundle."""

    model: str = MODEL
    version: str = VERSION
    target: str = ""
    sha256: str = SHA256


@dataclass(frozen=True, slots=True)
class Names:
    """Who speaks: device, its start, and its clock, unix milliseconds."""

    device: str
    boot_id: str
    now_ms: int


def presence(names: Names, conn_id: str, *, on: bool) -> bytes:
    """Return a presence message."""
    return encode(Presence(on=on, conn_id=conn_id, boot_id=names.boot_id, ts=names.now_ms))


def state(names: Names, seq: int, gen: int, model: ModelState, drifting: Sequence[str]) -> bytes:
    """Return the whole state. drifting: signals of the model that drift."""
    facts: dict[str, Any] = {"disk_free_bytes": FACTS["disk_free_bytes"]}
    if drifting:
        facts["drift"] = {model.model: list(drifting)}
    said = State(
        device=names.device, gen=gen, boot_id=names.boot_id, seq=seq, ts=names.now_ms, models=[model], agent_version="sim",
        facts=facts,
    )  # fmt: skip
    return encode(said)


def event(names: Names, seq: int, **fields: Any) -> bytes:
    """Return an event."""
    return encode(Event(device=names.device, boot_id=names.boot_id, seq=seq, ts=names.now_ms, **fields))


def telemetry(names: Names, seq: int, window: Window, queued: int) -> bytes:
    """Return one window in its short form, as agents send it. queued: bytes that wait on the device."""
    system = SystemFigures(
        cpu_ratio=0.25,
        agent_rss_bytes=30_000_000,
        memory_available_bytes=1_500_000_000,
        disk_free_bytes=8_000_000_000,
        load_1m=0.5,
    )
    said = Telemetry(
        device=names.device, boot_id=names.boot_id, seq=seq, ts=names.now_ms, windows=[window], system=system, queue_bytes=queued
    )  # fmt: skip
    return encode_short(said)


def window(running: Running, end_s: int, length_s: int, shape: int, drift: float) -> Window:
    """Return what a model answered in a window that ends at `end_s`. drift: how far its answers have moved, 0 to 1."""
    answers = max(1, length_s * ANSWERS_PER_S)
    counts = class_counts(answers, drift)
    return Window(
        t0=end_s - length_s, length_s=length_s, model=running.model, lane="active", sha256=running.sha256, version=running.version,
        n=answers, latency=_latencies(shape % SHAPES, answers), classes=counts, worker_rss_bytes=90_000_000,
        worker_cpu_s=0.005 * answers,
    )  # fmt: skip


def class_counts(answers: int, drift: float) -> list[int]:
    """Return how many answers each class has: even shares at first, with drift more and more of the last one."""
    moved = int(answers * MOVED * drift)
    each = (answers - moved) // CLASSES
    return [each] * (CLASSES - 1) + [answers - each * (CLASSES - 1)]


def psi(counts: Sequence[int]) -> float:
    """Return the population stability index of class counts against even shares."""
    total, even = sum(counts), 1 / len(counts)
    shares = [max(count / total, 1e-6) for count in counts]
    return sum((share - even) * math.log(share / even) for share in shares)


def model_state(running: Running, phase: Phase, **fields: Any) -> ModelState:
    """Return what a state says of the model."""
    return ModelState(
        model=running.model, phase=phase, active_target=running.target, active_sha256=running.sha256 if running.target else "",
        serving=True, slot="a", **fields,
    )  # fmt: skip


@cache
def _latencies(shape: int, answers: int) -> list[int]:
    draw, sketch = random.Random(shape), LatencySketch()
    for _ in range(answers):
        sketch.add(0.005 * draw.lognormvariate(0.0, 0.1))
    return sketch.packed()
