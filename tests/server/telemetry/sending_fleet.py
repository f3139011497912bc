"""Devices of a real server that send telemetry through its ingest while the clock goes on; what they say can be made to change."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgefleet_protocol.messages import SystemFigures, Telemetry, Window
from edgefleet_protocol.sketch import LatencySketch
from tests.server.dashboard.fleet import ORT, Device, Fleet

WINDOW_S = 900
Say = Callable[[int, str, dict[str, Any]], None]
"""Changes what a device says in a step: its number, the device's id, and what it would say."""


class SendingFleet:
    """A fleet with two releases of digits, and devices at two sites."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.fleet = Fleet(folder, **settings)
        for version in ("1.0.0", "1.1.0"):
            self.fleet.release(f"digits@{version}", ORT)
        self.devices: list[Device] = []

    @property
    def parts(self) -> Any:
        """The services."""
        return self.fleet.parts

    def join(self, count: int, site: str, profile: str = ORT) -> None:
        """Enrol devices at a site."""
        first = len(self.devices)
        self.devices += [self.fleet.device(f"cam-{n}-", profile, {"site": site}) for n in range(first, first + count)]

    def go_on(self, steps: int, say: Say | None = None) -> None:
        """Let time pass, a window of each device a step."""
        for step in range(steps):
            begin = int(self.fleet.house.clock.now().timestamp())
            self.parts.telemetry.ingest([message(step, one.id, begin, say) for one in self.devices])
            self.fleet.house.clock.turn(seconds=WINDOW_S)


def tell_past(fleet: Fleet, devices: Sequence[Device], say: Say, steps: int = 96) -> None:
    """Let devices send what they did in the last day, all at once, as after a time without a connection."""
    now = int(fleet.house.clock.now().timestamp())
    for step in range(steps):
        begin = now - (steps - step) * WINDOW_S
        fleet.parts.telemetry.ingest([message(step, one.id, begin, say) for one in devices])


def message(step: int, device: str, begin: int, say: Say | None = None) -> Telemetry:
    """Return what a device sends of one window that began then."""
    rng = random.Random(f"{device} {step}")
    said: dict[str, Any] = {
        "version": "1.0.0", "n": 900, "ms": 20.0, "errors": 0, "timeouts": 0, "classes": [500, 300, 100],
        "temperature_celsius": 50.0, "throttled_ratio": 0.0, "cpu_ratio": 0.3, "memory_available_bytes": 10**9,
        "disk_free_bytes": 5 * 10**9, "net_rx_bytes": 90_000, "net_tx_bytes": 45_000,
    }  # fmt: skip
    if say is not None:
        say(step, device, said)
    sketch = LatencySketch()
    for _ in range(60):
        sketch.add(said["ms"] / 1000 * rng.uniform(0.8, 1.0))
    sketch = LatencySketch({bucket: count * said["n"] // 60 for bucket, count in sketch.counts.items()})
    window = Window(
        t0=begin, length_s=WINDOW_S, model="digits", lane="active", sha256="a" * 64, version=said["version"], n=said["n"],
        errors=said["errors"], timeouts=said["timeouts"], latency=sketch.packed(), classes=said["classes"],
        worker_rss_bytes=10**8, worker_cpu_s=30.0,
    )  # fmt: skip
    system = SystemFigures(**{name: said[name] for name in SystemFigures.__struct_fields__ if name in said})
    return Telemetry(device=device, boot_id="sending", seq=begin, ts=begin * 1000, windows=[window], system=system)
