"""The processes that are a simulated fleet, as `edgectl sim fleet` drives them: a line of JSON each second from each."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from edgefleet_cli.core.errors import CliError
from edgefleet_cli.core.subprocesses import python_module
from edgefleet_protocol.sketch import LatencySketch

MODULE: Final = "edgefleet_sim.live_fleet"
A_WORKER: Final = 4_000
END_S: Final = 30.0


class SimulatedFleetError(CliError):
    """A process of the simulated fleet ended, or could not do what it was asked for."""

    code = "cli.simulated_fleet"


def enrol(folder: Path, token: str, count: int, per_s: float, done: Callable[[int], None]) -> None:
    """Enrol devices until the folder has `count`; `done` hears how many there are. Raises SimulatedFleetError."""
    plan = {"folder": str(folder), "token": token, "count": count, "per_s": per_s}
    process = _started({"enrol": plan})
    assert process.stdout is not None
    for line in process.stdout:
        done(int(_checked(json.loads(line))["enrolled"]))
    if process.wait() != 0:
        raise SimulatedFleetError(
            "the enrolment of simulated devices ended early", next_step="run it again: it goes on"
        )


class FleetProcesses:
    """All processes of a fleet. Figures are sums over them."""

    def __init__(self, folder: Path, counts: Sequence[tuple[int, int]], plan: Mapping[str, Any]) -> None:
        """Start a process for each (first, count); none connects yet."""
        self._lines: list[dict[str, Any]] = [{} for _ in counts]
        self._problem: dict[str, Any] | None = None
        self._lock = threading.Lock()
        self._acks = LatencySketch()
        self._wanted = [count for _, count in counts]
        self._processes = [
            _started({"drive": {"folder": str(folder), "first": first, "count": count, **plan}})
            for first, count in counts
        ]
        self._threads = [threading.Thread(target=self._read, args=(at,), daemon=True) for at in range(len(counts))]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return len(self._processes)

    def want(self, count: int, per_s: float) -> None:
        """Let so many devices of all take part."""
        left = count
        for process, most in zip(self._processes, self._wanted, strict=True):
            mine = max(0, min(left, most))
            left -= mine
            _write(process, {"want": mine, "per_s": max(1.0, per_s / len(self))})

    def say(self, command: Mapping[str, Any]) -> None:
        """Send a command to each process. Raises SimulatedFleetError when one has a problem."""
        self.check()
        for process in self._processes:
            _write(process, command)

    def check(self) -> None:
        """Raise SimulatedFleetError when a process said so, or ended."""
        if self._problem is not None:
            _checked(self._problem)
        if any(process.poll() is not None for process in self._processes):
            raise SimulatedFleetError(
                "a process of the simulated fleet has ended", next_step="run it again with fewer devices"
            )

    def figure(self, name: str) -> float:
        """Return the sum of a figure."""
        return sum(float(line.get(name, 0)) for line in self._lines)

    def take_acks(self) -> LatencySketch:
        """Return the latencies of acknowledgements since this was asked last."""
        with self._lock:
            taken, self._acks = self._acks, LatencySketch()
        return taken

    def close(self) -> None:
        """Let all devices say goodbye and wait for the processes."""
        for process in self._processes:
            with suppress(OSError, ValueError):
                _write(process, {"leave": True})
        for process in self._processes:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _read(self, at: int) -> None:
        stdout = self._processes[at].stdout
        assert stdout is not None
        for line in stdout:
            said = json.loads(line)
            if "error" in said:
                self._problem = said
                return
            with self._lock:
                self._acks.merge(LatencySketch.unpacked(said.pop("acks", [])))
            self._lines[at] = said


def parts_of(devices: int, processors: int) -> list[tuple[int, int]]:
    """Return (first, count) of each process: at most A_WORKER devices each where there are as many processors."""
    workers = max(1, min(max(1, processors), -(-devices // A_WORKER)))
    each = -(-devices // workers)
    return [(first, min(each, devices - first)) for first in range(0, devices, each)]


def _started(request: Mapping[str, Any]) -> subprocess.Popen[str]:
    process = subprocess.Popen(python_module(MODULE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _write(process, request)
    return process


def _write(process: subprocess.Popen[str], line: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(line) + "\n")
    process.stdin.flush()


def _checked(said: dict[str, Any]) -> dict[str, Any]:
    if "error" in said:
        told = said["error"]
        raise SimulatedFleetError(
            str(told["message"]), why=str(told["why"]), next_step=str(told["next"]) or "run it again with --debug",
            foreign_code=str(told["code"]),
        )  # fmt: skip
    return said
