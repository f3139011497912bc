"""Start-up time of `edgectl`: wall clock of whole commands, compared with what Python alone and its libraries cost on the same machine.

Goal: `--version` within 150 ms and `device list` within 350 ms, at the 95th percentile; `--help` within 200 ms of processor time, the
least of all runs: also that grows on a busy machine, whose caches belong to others. `kubectl` and `gh` take
some 50 to 100 ms for the same on a common machine: they are compiled. Prints one JSON object; the list is asked of a server in a
process of its own, with 50 devices that stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

GOALS_MS = {"edgectl --version": 150.0, "edgectl device list": 350.0}
GOALS_CPU_MS = {"edgectl --help": 200.0}
DEVICES = 50


def _device(number: int) -> dict[str, Any]:
    return {
        "id": f"cam-{number:03}", "profile": "raspberry-pi-4-ort", "arch": "aarch64", "status": "online",
        "labels": {"site": "berlin"}, "last_seen": "2026-01-03T12:00:00+00:00", "free_mb": 900, "agent_version": "0.1.0",
        "reported_gen": 7, "refused": None,
        "desired": {"gen": 7, "models": [{"model": "digits", "release": "digits@1.1.0"}]},
        "models": [{"model": "digits", "release": "digits@1.1.0", "phase": "committed"}],
    }  # fmt: skip


_PAGE = json.dumps({"items": [_device(n) for n in range(DEVICES)], "next_cursor": None, "total": DEVICES}).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(_PAGE)))
        self.end_headers()
        self.wfile.write(_PAGE)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - name of the standard library
        """Stay silent."""


@contextmanager
def serving() -> Iterator[str]:
    """Serve the list of devices while the block runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def timed_ms(command: list[str], runs: int, environment: dict[str, str]) -> dict[str, float]:
    """Return wall clock (median, 95th percentile, least) and CPU time (median, least) of a command, after a run that does not count."""
    times, cpu = [], []
    for _ in range(runs + 1):
        before, began = _cpu_s(), time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        times.append((time.perf_counter() - began) * 1000)
        cpu.append((_cpu_s() - before) * 1000)
    times = sorted(times[1:])
    return {
        "median_ms": round(statistics.median(times), 1),
        "p95_ms": round(times[min(len(times) - 1, int(0.95 * len(times)))], 1),
        "least_ms": round(times[0], 1),
        "cpu_ms": round(statistics.median(cpu[1:]), 1),
        "least_cpu_ms": round(min(cpu[1:]), 1),
    }


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    edgectl = str(Path(sys.executable).with_name("edgectl"))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import typer": [sys.executable, "-c", "import typer"],
        "import typer, rich.console, httpx": [sys.executable, "-c", "import typer, rich.console, httpx"],
        "edgectl --version": [edgectl, "--version"],
        "edgectl device list": [edgectl, "device", "list"],
        "edgectl device list -o json": [edgectl, "device", "list", "-o", "json"],
        "edgectl --help": [edgectl, "--help"],
    }
    with serving() as url, tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "EDGECTL_SERVER": url,
            "EDGECTL_TOKEN": "edg_bench",
            "EDGECTL_CONFIG": f"{folder}/edgectl.json",
        }
        figures = {name: timed_ms(command, runs, environment) for name, command in commands.items()}
    within = {name: figures[name]["p95_ms"] <= goal for name, goal in GOALS_MS.items()}
    within |= {name: figures[name]["least_cpu_ms"] <= goal for name, goal in GOALS_CPU_MS.items()}
    result = {
        "bench": "cli",
        "runs": runs,
        "commands": figures,
        "goals_p95_ms": GOALS_MS,
        "goals_cpu_ms": GOALS_CPU_MS,
        "within": within,
        "ok": all(within.values()),
        "machine": {"cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "python": platform.python_version()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
