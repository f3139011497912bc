"""What signals cost a device: microseconds a prediction, milliseconds a frame, bytes a window. Prints one JSON object.

Goals: 16 columns ≤ 3 µs a prediction, a frame of 224 × 224 ≤ 0.6 ms, a window ≤ 450 bytes.

- `columns`: what the worker does for each answer of a table of 16 columns with a confidence, as it does it: put down (`noted`) and
  counted 256 at a time. Next to it, in the same run, what one would write: numpy for each answer as it comes (a searchsorted, a mean
  and a spread a column), and plain Python a row (bisect and Welford's sums, as river and like libraries go).
- `frame`: the figures of one picture, next to the same figures of all its points.
- `bytes`: one telemetry message with one window of so many answers, latency and ten classes, with signals and without, next to what
  the same numbers are as JSON and as compressed JSON.

Each time is the best of `--rounds` slices, in which all ways take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
from tests.agent.worker.models import reference_bytes, table_onnx

from edgefleet_agent.worker.observe.signal_log import COUNT_AT, SignalLog
from edgefleet_protocol.drift.histogram import SignalSums, pack, unpack
from edgefleet_protocol.drift.reference import Reference, Signal, SignalKind, basis_of, read_reference
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_protocol.messages import SystemFigures, Telemetry, Window, encode_short
from edgefleet_protocol.sketch import LatencySketch
from edgefleet_runtime.port import Array, load
from edgefleet_runtime.preprocess import Preprocess
from edgefleet_runtime.privacy import Privacy
from edgefleet_runtime.signals import SignalPlan, counted, signal_plan, signal_values

FEATURES, CLASSES, SIDE = 16, 10, 224
ANSWERS = 8 * COUNT_AT
COUNTS = (60, 900, 9_000)
GOALS = {"us_a_prediction": 3.0, "ms_a_frame": 0.6, "bytes_a_window": 450}
DRAW = np.random.default_rng(1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    model = table_onnx(FEATURES, CLASSES)
    reference = read_reference(reference_bytes(model, _normal(10_000)))
    columns = asyncio.run(of_columns(model, reference, arguments.rounds))
    frame = of_frames(arguments.rounds)
    sizes = {str(n): of_bytes(model, reference, n) for n in COUNTS}
    largest = max(one["message_with_signals"] for one in sizes.values())
    holds = {
        "us_a_prediction": columns["us_a_prediction"] <= GOALS["us_a_prediction"],
        "ms_a_frame": max(frame["ms_nchw_float32"], frame["ms_nhwc_uint8"]) <= GOALS["ms_a_frame"],
        "bytes_a_window": largest <= GOALS["bytes_a_window"],
    }
    machine = {
        "arch": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__,
    }  # fmt: skip
    result = {"bench": "signals", "machine": machine, "columns": columns, "frame": frame, "bytes": sizes}
    print(json.dumps({**result, "goals": GOALS, "holds": holds}, indent=2))


def _normal(n: int) -> Array:
    return DRAW.normal(size=(n, FEATURES)).astype(np.float32)


def best(rounds: int, ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the least seconds of each way."""
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            least[name] = min(least[name], time.perf_counter() - began)
    return least


async def of_columns(model: bytes, reference: Reference, rounds: int) -> dict[str, float]:
    """Return microseconds a prediction."""
    runtime = load("ort", model)
    served = SimpleNamespace(
        start=SimpleNamespace(lane="active", reference_path=""),
        reference=msgspec.msgpack.encode(reference),
        runtime=runtime,
        privacy=Privacy(),
        preprocess=Preprocess(inputs=[]),
    )
    log = SignalLog(cast("Any", served), lambda _message: None)
    asked = [{"x": _normal(1)} for _ in range(ANSWERS)]
    answered = [runtime.run(one) for one in asked]
    pairs = list(zip(asked, answered, strict=True))
    put_down = [0.0]

    def ours() -> None:
        began = time.perf_counter()
        for inputs, outputs in pairs:
            log.noted(inputs, outputs)
        put_down[0] = min(put_down[0] or 1.0, time.perf_counter() - began)
        log.take()

    numpy_way, python_way = NumpyWay(reference), PythonWay(reference)
    least = best(
        rounds,
        {
            "ours": ours,
            "numpy": lambda: numpy_way.answers([inputs["x"][0] for inputs, _ in pairs]),
            "python": lambda: python_way.answers([inputs["x"][0].tolist() for inputs, _ in pairs]),
        },
    )
    assert sum(one.missing for one in unpack(log.take())) == 0
    us = {name: round(1e6 * seconds / ANSWERS, 3) for name, seconds in least.items()}
    return {
        "us_a_prediction": us["ours"],
        "us_put_down": round(1e6 * put_down[0] / ANSWERS, 3),
        "us_numpy_an_answer": us["numpy"],
        "us_python_a_row": us["python"],
    }


class NumpyWay:
    """Numpy for each answer, as it comes."""

    def __init__(self, reference: Reference) -> None:
        self._edges = [np.array(one.edges) for one in reference.features]
        self._counts = np.zeros((FEATURES, 64), np.int64)
        self._n, self._sums, self._squares = 0, np.zeros(FEATURES), np.zeros(FEATURES)

    def answers(self, rows: Sequence[Array]) -> None:
        """Count answers, one by one."""
        for row in rows:
            self._answer(row)

    def _answer(self, row: Array) -> None:
        for column, edges in enumerate(self._edges):
            self._counts[column, np.searchsorted(edges, row[column], side="right")] += 1
        self._n += 1
        self._sums += row
        self._squares += row * row


class PythonWay:
    """Plain Python a row."""

    def __init__(self, reference: Reference) -> None:
        self._edges = [one.edges for one in reference.features]
        self._counts = [[0] * 64 for _ in range(FEATURES)]
        self._n, self._mean, self._m2 = 0, [0.0] * FEATURES, [0.0] * FEATURES

    def answers(self, rows: Sequence[list[float]]) -> None:
        """Count answers, one by one."""
        for row in rows:
            self._answer(row)

    def _answer(self, row: list[float]) -> None:
        self._n += 1
        for column, value in enumerate(row):
            self._counts[column][bisect_right(self._edges[column], value)] += 1
            delta = value - self._mean[column]
            self._mean[column] += delta / self._n
            self._m2[column] += delta * (value - self._mean[column])


def of_frames(rounds: int) -> dict[str, float]:
    """Return milliseconds a frame."""
    words = ["brightness", "contrast", "blur", "channel_0", "channel_1", "channel_2"]
    edges = [0.1 * i for i in range(1, 10)]
    reference = Reference(
        n=10,
        features=[
            Signal(name=f"x.{one}", kind=SignalKind.IMAGE, std=1.0, edges=edges, counts=[1] * 10) for one in words
        ],
    )
    first = DRAW.random((1, 3, SIDE, SIDE)).astype(np.float32)
    last = (255 * DRAW.random((1, SIDE, SIDE, 3))).astype(np.uint8)
    ways: dict[str, Callable[[], Any]] = {}
    for name, frame in (("ms_nchw_float32", first), ("ms_nhwc_uint8", last)):
        plan = signal_plan(reference, [TensorSpec(name="x", dtype=frame.dtype.name, shape=list(frame.shape))], [])
        ways[name] = partial(_figures, frame, plan)
    ways["ms_all_points"] = lambda: _all_points(first)
    return {name: round(1e3 * seconds, 3) for name, seconds in best(rounds, ways).items()}


def _figures(frame: Array, plan: SignalPlan) -> list[SignalSums]:
    return counted(signal_values({"x": frame}, {}, plan), plan)


def _all_points(frame: Array) -> list[float]:
    """Return the figures of all points of a frame [1, 3, height, width]."""
    grey = frame[0].mean(0)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return [float(grey.mean()), float(grey.std()), float(laplacian.var()), *frame[0].mean((1, 2)).tolist()]


def of_bytes(model: bytes, reference: Reference, n: int) -> dict[str, int]:
    """Return the bytes of a window of n answers."""
    runtime, x = load("ort", model), _normal(n) * 1.05 + 0.05
    answers = runtime.run({"x": x})
    plan = signal_plan(reference, runtime.inputs, runtime.outputs)
    sums = counted(signal_values({"x": x}, answers, plan), plan)
    latency = LatencySketch()
    for seconds in np.exp(DRAW.normal(np.log(2e-4), 0.15, n)):
        latency.add(float(seconds))
    window = Window(
        t0=1_764_071_940, length_s=900, model="digits", lane="active", sha256="ab" * 32, version="1.1.0", n=n,
        latency=latency.packed(), classes=np.bincount(answers["y"].argmax(1), minlength=CLASSES).tolist(),
        worker_rss_bytes=60_000_000, worker_cpu_s=n * 2.3e-4, basis=basis_of(reference), signals=pack(sums), signals_s=900,
    )  # fmt: skip
    bare = msgspec.structs.replace(window, basis=b"", signals=b"", signals_s=0)
    verbose = json.dumps(
        {
            **{k: v for k, v in msgspec.structs.asdict(bare).items() if not isinstance(v, bytes)},
            "signals": {f"signal_{i}": msgspec.to_builtins(one) for i, one in enumerate(sums)},
        }
    ).encode()
    return {
        "signals": len(window.signals),
        "window": len(encode_short(window)),
        "message": _message(bare),
        "message_with_signals": _message(window),
        "json": len(verbose),
        "json_zlib": len(zlib.compress(verbose)),
    }


def _message(window: Window) -> int:
    system = SystemFigures(
        cpu_ratio=0.031, agent_rss_bytes=30_000_000, workers_rss_bytes=60_000_000, memory_available_bytes=900_000_000,
        disk_free_bytes=9_000_000_000, load_1m=0.25, temperature_celsius=41.5, uptime_s=86_400, net_rx_bytes=9_000,
        net_tx_bytes=12_000,
    )  # fmt: skip
    message = Telemetry(
        device="d-x2ehsonm5kx3b6rt",
        boot_id="0123456789abcdef",
        seq=400,
        ts=1_764_072_000_000,
        windows=[window],
        system=system,
    )
    return len(encode_short(message))


if __name__ == "__main__":
    main()
