"""What a shadow costs the version that serves: p99 with and without it, and failures while it is killed again and again.

A real worker answers at a steady rate over one kept-alive connection; a real candidate gets copies. Blocks with and without
mirroring take turns, so that both see the same machine; the ratio of pooled p99s and the median over pairs of blocks are printed, and
what the serving worker itself spent of CPU a request, which a busy machine disturbs least. Then the candidate is killed `--kills` times
under the same load. `noise_p99_pct` compares the blocks without a shadow with each other: no smaller effect can be seen. Goal:
at most 10 % extra p99, 0 failures.
"""

import argparse
import json
import os
import select
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench.inference import _binary, _call, _model, machine
from tests.agent.worker.models import bundle_bytes

from edgefleet_agent.worker.control.launch import WorkerLink, listen_unix, start_worker
from edgefleet_agent.worker.control.protocol import (
    Drain,
    GetStats,
    LaneRoute,
    ModelRoute,
    Ready,
    RoutesTable,
    Serve,
    Serving,
    Start,
    Stats,
    write_routes,
)
from edgefleet_protocol.comparison import ShadowFigures, merge_shadows
from edgefleet_protocol.digest import sha256_hex

SIZES = {"tiny_1kb": 256, "small_100kb": 25_600}
ROUTES_SEEN_S = 0.25
"""A worker looks at the routing table every tenth of a second."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=int, default=200, help="requests a second (default 200)")
    parser.add_argument("--blocks", type=int, default=20, help="blocks with and as many without a shadow (default 20)")
    parser.add_argument("--block-s", type=float, default=2.0, help="seconds a block (default 2)")
    parser.add_argument("--kills", type=int, default=20, help="kills of the candidate (default 20)")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(prefix="ef-bench-") as folder:
        for name, size in SIZES.items():
            results[name] = measure(Path(folder), name.replace("_", "-"), size, arguments)
    print(json.dumps({"bench": "shadow", "unit": "ms", "rate": arguments.rate, "machine": machine(), **results}))
    return 0


class Pair:
    """One serving worker and one candidate, routed as agentd does it."""

    def __init__(self, folder: Path, name: str, size: int) -> None:
        self.folder, self.name = folder, name
        self.routes = folder / f"{name}.routes"
        self.public = listen_unix(folder / f"{name}.sock")
        model = _model(size)
        self.bundles = {v: bundle_bytes(model, name=name, version=v) for v in ("1", "2")}
        self.active = self._start("1", "active")
        self.active.send(Serve())
        _next(self.active, Serving)
        self.candidate = self._start("2", "candidate")

    def _start(self, version: str, lane: str) -> WorkerLink:
        path = self.folder / f"{self.name}.{version}.bundle"
        path.write_bytes(self.bundles[version])
        is_active = lane == "active"
        fd = os.open(path, os.O_RDONLY)
        start = Start(
            model=self.name,
            version=version,
            digest=sha256_hex(self.bundles[version]),
            lane=lane,
            slot="A" if is_active else "B",
            bundle_fd=fd,
            listener_fds=(self.public.fileno(),) if is_active else (),
            own_socket_path=str(self.folder / f"{self.name}.{lane}.sock"),
            routes_path=str(self.routes),
            background=not is_active,
            mirror_path="" if is_active else str(self.folder / f"{self.name}.mirror.sock"),
        )
        try:
            link = start_worker(start)
        finally:
            os.close(fd)
        _next(link, Ready)
        return link

    def mirror(self, *, on: bool) -> None:
        """Write the routing table and give the worker time to see it."""
        lanes = {"active": LaneRoute(str(self.folder / f"{self.name}.active.sock"), "1", "", "A")}
        if on:
            mirror = str(self.folder / f"{self.name}.mirror.sock")
            lanes["candidate"] = LaneRoute(str(self.folder / "c.sock"), "2", "", "B", mirror=mirror)
        mode: Any = "shadow" if on else None
        write_routes(self.routes, RoutesTable(models={self.name: ModelRoute(lanes, mode=mode)}))
        time.sleep(ROUTES_SEEN_S)

    def kill_candidate(self) -> None:
        """End it without a word and start another one."""
        self.candidate.process.kill()
        self.candidate.process.wait()
        self.candidate.close()
        self.candidate = self._start("2", "candidate")

    def close(self) -> None:
        """End both."""
        for link in (self.active, self.candidate):
            link.send(Drain(idle_grace_s=0.0))
            link.process.wait(30)
            link.close()
        self.public.close()


def measure(folder: Path, name: str, size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one model size."""
    pair = Pair(folder, name, size)
    payload = _binary(name, np.random.default_rng(0).random((1, size), dtype=np.float32))
    blocks: dict[bool, list[list[float]]] = {False: [], True: []}
    cpu: dict[bool, list[float]] = {False: [], True: []}
    mirrored = dropped = failures = 0
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder / f"{name}.sock"))
        for index in range(2 * arguments.blocks + 2):
            on = index % 2 == 1
            pair.mirror(on=on)
            before = _stats(pair.active).cpu_s
            samples, bad = paced(connection, payload, arguments.rate, arguments.block_s)
            active = _stats(pair.active)
            failures, mirrored, dropped = failures + bad, mirrored + active.mirrored, dropped + active.mirror_dropped
            if index >= 2:  # the first of each warms up
                blocks[on].append(samples)
                cpu[on].append((active.cpu_s - before) * 1e3 / len(samples))
        shadow = _stats(pair.candidate)
        killed_bad, answered = under_kills(pair, connection, payload, arguments)
    pair.close()
    off, on_ = (np.concatenate([np.array(block) for block in blocks[key]]) for key in (False, True))
    pairs = [
        float(np.percentile(b, 99) / np.percentile(a, 99)) for a, b in zip(blocks[False], blocks[True], strict=True)
    ]
    halves = [[np.array(block) for block in blocks[False][half::2]] for half in (0, 1)]
    figures = merge_shadows([shadow.shadow or ShadowFigures()])
    return {
        "input_bytes": size * 4,
        "without": _quantiles(off),
        "with_shadow": _quantiles(on_),
        "extra_p50_pct": _extra(off, on_, 50),
        "extra_p99_pct": _extra(off, on_, 99),
        "noise_p99_pct": _extra(np.concatenate(halves[0]), np.concatenate(halves[1]), 99),
        "extra_p99_pct_median_of_pairs": round((statistics.median(pairs) - 1) * 100, 1),
        "active_cpu_a_request": {
            "without": round(statistics.median(cpu[False]), 4),
            "with_shadow": round(statistics.median(cpu[True]), 4),
        },
        "mirrored": mirrored,
        "dropped": dropped,
        "compared": figures.compared,
        "agreed": figures.agreed,
        "failures": failures,
        "kills": arguments.kills,
        "answers_under_kills": answered,
        "failures_under_kills": killed_bad,
    }


def paced(connection: socket.socket, payload: bytes, rate: int, seconds: float) -> tuple[list[float], int]:
    """Return latencies in ms of requests at a steady rate, and how many failed."""
    samples: list[float] = []
    bad = 0
    due = time.perf_counter()
    until = due + seconds
    while due < until:
        left = due - time.perf_counter()
        if left > 0:
            time.sleep(left)
        began = time.perf_counter()
        try:
            _call(connection, payload)
        except (AssertionError, OSError):
            bad += 1
        samples.append((time.perf_counter() - began) * 1e3)
        due = max(due + 1 / rate, time.perf_counter() - 0.05)
    return samples, bad


def under_kills(
    pair: Pair, connection: socket.socket, payload: bytes, arguments: argparse.Namespace
) -> tuple[int, int]:
    """Return how many requests failed while the candidate was killed again and again, and how many there were."""
    pair.mirror(on=True)
    done = threading.Event()

    def kill() -> None:
        for _ in range(arguments.kills):
            time.sleep(0.2)
            pair.kill_candidate()
        done.set()

    killer = threading.Thread(target=kill)
    killer.start()
    bad = answered = 0
    while not done.is_set():
        samples, failed = paced(connection, payload, arguments.rate, 0.5)
        bad, answered = bad + failed, answered + len(samples)
    killer.join()
    return bad, answered


def _quantiles(samples: Any) -> dict[str, float]:
    p50, p99 = np.percentile(samples, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "n": len(samples)}


def _extra(off: Any, on: Any, q: int) -> float:
    return round(float(np.percentile(on, q) / np.percentile(off, q) - 1) * 100, 1)


def _stats(link: WorkerLink) -> Stats:
    link.send(GetStats())
    message: Stats = _next(link, Stats)
    return message


def _next(link: WorkerLink, kind: type) -> Any:
    while True:
        select.select([link.control], [], [], 60)
        message = link.receive()
        assert message is not None, "the worker ended"
        if isinstance(message, kind):
            return message


if __name__ == "__main__":
    sys.exit(main())
