"""`edgectl sim fleet` at work: steps up a simulated fleet, looks at it each second, asks the server for its own figures."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx

from edgefleet_cli.core.errors import CliError
from edgefleet_cli.core.transport.api_client import ApiClient
from edgefleet_cli.rollout.simulation.fleet_processes import FleetProcesses
from edgefleet_cli.rollout.simulation.fleet_verdict import Step
from edgefleet_protocol.sketch import LatencySketch

LOOK_S: Final = 1.0
SETTLE_S: Final = 20.0
"""So long the last acknowledgements are waited for."""
_FIGURE: Final = re.compile(r"^(\w+)(\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)
_API: Final[tuple[tuple[str, dict[str, object]], ...]] = (
    ("/devices", {"limit": 50}), ("/devices", {"limit": 50, "sort": "-last_seen"}), ("/search", {"q": "sim"}),
)  # fmt: skip


@dataclass
class Look:
    """What is seen now. cores of the server's process and waiting: -1 where the server does not say. Counts are since the start."""

    at_s: float
    connected: int
    wanted: int
    sent: int
    messages_per_s: float
    reconnects: int
    unacked: int
    acks: LatencySketch
    api_s: float
    server_cores: float
    server_rss_mb: float
    waiting: float
    dropped: float
    given_up: int
    refused: int
    simulator_cpu_s: float


@dataclass
class _Server:
    """What the server's process has said of itself last."""

    at_s: float = 0.0
    cpu_s: float = -1.0


@dataclass
class LoadRun:
    """One load test. client: for `/metrics`. cuts: all links break at once in the middle of each step."""

    fleet: FleetProcesses
    api: ApiClient
    client: httpx.Client
    cuts: bool = False
    _server: _Server = field(default_factory=_Server)
    _sent: tuple[float, float] = (0.0, 0.0)
    _turn: int = 0

    def step(self, devices: int, per_s: float, seconds: float, show: Callable[[Look], None]) -> Step:
        """Connect so many devices and look at them for some seconds, after all are connected. Raises SimulatedFleetError."""
        self.fleet.want(devices, per_s)
        limit_s = time.monotonic() + 4 * devices / per_s + SETTLE_S
        while self.fleet.figure("connected") < 0.98 * devices and time.monotonic() < limit_s:
            show(self.look())
            time.sleep(LOOK_S)
        self.fleet.take_acks()
        began, looks = time.monotonic(), [self.look()]
        is_due = self.cuts
        while time.monotonic() - began < seconds:
            if is_due and time.monotonic() - began >= seconds / 2:
                is_due = False
                self.fleet.say({"cut": True})
            time.sleep(LOOK_S)
            looks.append(self.look())
            show(looks[-1])
        return step_of(looks, devices)

    def settle(self) -> int:
        """Let nobody say anything new; return how many messages then have no acknowledgement."""
        self.fleet.say({"quiet": True})
        until_s = time.monotonic() + SETTLE_S
        while self.fleet.figure("unacked") > 0 and time.monotonic() < until_s:
            time.sleep(LOOK_S)
        return int(self.fleet.figure("unacked"))

    def look(self) -> Look:
        """Return what is to be seen now."""
        self.fleet.check()
        now, sent = time.monotonic(), self.fleet.figure("sent")
        before_s, before = self._sent
        self._sent = (now, sent)
        api_s = self._api_s()
        cores, rss_mb, waiting, dropped = self._figures()
        return Look(
            at_s=now, connected=int(self.fleet.figure("connected")), wanted=int(self.fleet.figure("wanted")), sent=int(sent),
            messages_per_s=(sent - before) / (now - before_s) if before_s else 0.0,
            reconnects=max(0, int(self.fleet.figure("connects") - self.fleet.figure("wanted"))),
            unacked=int(self.fleet.figure("unacked")), acks=self.fleet.take_acks(), api_s=api_s, server_cores=cores,
            server_rss_mb=rss_mb, waiting=waiting, dropped=dropped, given_up=int(self.fleet.figure("given_up")),
            refused=int(self.fleet.figure("refused")), simulator_cpu_s=self.fleet.figure("cpu_s"),
        )  # fmt: skip

    def _api_s(self) -> float:
        path, params = _API[self._turn % len(_API)]
        self._turn += 1
        began = time.monotonic()
        try:
            self.api.get(path, dict, **params)
        except CliError:
            return -1.0
        return time.monotonic() - began

    def _figures(self) -> tuple[float, float, float, float]:
        """Return cores and memory (MB) of the server's process, messages that wait in it, and what it has dropped."""
        try:
            found = _FIGURE.findall(self.client.get("/metrics").raise_for_status().text)
        except httpx.HTTPError:
            return -1.0, -1.0, -1.0, 0.0
        sums: dict[str, float] = {}
        for name, _, value in found:
            sums[name] = sums.get(name, 0.0) + float(value)
        now, cpu_s = time.monotonic(), sums.get("process_cpu_seconds_total", -1.0)
        known = self._server
        cores = (cpu_s - known.cpu_s) / (now - known.at_s) if cpu_s >= 0 and known.cpu_s >= 0 else -1.0
        self._server = _Server(now, cpu_s)
        rss_mb = sums["process_resident_memory_bytes"] / 1e6 if "process_resident_memory_bytes" in sums else -1.0
        waiting = sums.get("edgefleet_gateway_waiting_messages", -1.0)
        return cores, rss_mb, waiting, sums.get("edgefleet_gateway_dropped_total", 0.0)


def step_of(looks: Sequence[Look], devices: int) -> Step:
    """Return what looks at so many devices add up to. Counts and processor time are those since the first look."""
    first, last = looks[0], looks[-1]
    took = max(last.at_s - first.at_s, 1e-3)
    acks = LatencySketch.merged(look.acks for look in looks)
    cores = [look.server_cores for look in looks[1:] if look.server_cores >= 0]
    api = sorted(look.api_s for look in looks if look.api_s >= 0)
    return Step(
        devices=devices, connected=last.connected, messages_per_s=round((last.sent - first.sent) / took, 1),
        ack_p50_s=acks.quantile_s(0.5) or 0.0, ack_p99_s=acks.quantile_s(0.99) or 0.0,
        api_p95_s=api[int(0.95 * (len(api) - 1))] if api else -1.0,
        server_cores=sum(cores) / len(cores) if cores else -1.0,
        simulator_cores=(last.simulator_cpu_s - first.simulator_cpu_s) / took, waiting=max(look.waiting for look in looks),
        dropped=int(last.dropped - first.dropped), given_up=last.given_up - first.given_up, refused=last.refused - first.refused,
        server_rss_mb=last.server_rss_mb,
    )  # fmt: skip
