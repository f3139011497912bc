"""Both brokers under mutual TLS: connects at once, QoS 1 messages, QoS 0 blocks.

Clients and broker share this machine's processors, so only ratios between the kinds mean something, and the CPU seconds of the
broker process. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from tests.broker.client import Client, eventually
from tests.broker.conftest import Site
from tests.broker.pki import Authority, Identity

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.gateway.broker.model import BrokerKind, find_mosquitto, mosquitto_version

BLOCK_BYTES = 131_072
WINDOW = 8


class _Meter:
    """CPU seconds and memory of the broker process, and the wall clock."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._wall_s, self._cpu_s = time.perf_counter(), self._cpu()

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def read(self, count: int) -> dict[str, float]:
        """Return wall seconds, rate and broker CPU for `count` things since the start."""
        wall_s, cpu_s = time.perf_counter() - self._wall_s, self._cpu() - self._cpu_s
        return {
            "wall_s": round(wall_s, 3),
            "per_s": round(count / wall_s, 1),
            "broker_cpu_s": round(cpu_s, 3),
            "broker_cpu_ms_each": round(1000 * cpu_s / count, 4),
            "broker_rss_mb": round(self._process.memory_info().rss / 1e6, 1),
        }


def _connects(site: Site, identities: list[Identity], pid: int) -> tuple[dict[str, float], list[Client]]:
    meter = _Meter(pid)
    with ThreadPoolExecutor(len(identities)) as pool:
        devices = list(pool.map(lambda identity: Client(site.endpoint, identity).connect(), identities))
    return meter.read(len(devices)), devices


def _down(
    site: Site, server: Client, devices: list[Client], names: list[DeviceId], each: int, pid: int
) -> dict[str, float]:
    for device, name in zip(devices, names, strict=True):
        device.subscribe((site.topics.desired(name), 1))
    payload = b"d" * 4096
    meter = _Meter(pid)
    for _ in range(each):
        for name in names:
            server.send(site.topics.desired(name), payload)
    for name, device in zip(names, devices, strict=True):
        device.wait_count(each, site.topics.desired(name))
    return meter.read(each * len(devices))


def _up(
    site: Site, server: Client, devices: list[Client], names: list[DeviceId], each: int, pid: int
) -> dict[str, float]:
    server.subscribe(*((site.topics.telemetry(name), 1) for name in names))
    payload = b"u" * 4096
    meter = _Meter(pid)
    for number in range(each):
        for device, name in zip(devices, names, strict=True):
            device.send(site.topics.telemetry(name), payload)
        # mosquitto drops silently beyond its queue of 1,000, so stay below
        eventually(lambda number=number: len(server.messages) >= (number - 50) * len(devices), "telemetry")  # type: ignore[misc]
    eventually(lambda: len(server.messages) >= each * len(devices), "all telemetry", 120.0)
    return meter.read(each * len(devices))


def _blocks(site: Site, server: Client, device: Client, name: DeviceId, count: int, pid: int) -> dict[str, float]:
    topic = site.topics.dn_blk(name)
    device.subscribe((topic, 0))
    device.messages.clear()
    payload = b"b" * BLOCK_BYTES
    meter = _Meter(pid)
    for number in range(count):
        server.send(topic, payload, 0)
        if number >= WINDOW:
            while len(device.messages) < number - WINDOW:
                time.sleep(0.0002)
    device.wait_count(count, topic)
    figures = meter.read(count)
    return figures | {"mb_per_s": round(count * BLOCK_BYTES / 1e6 / figures["wall_s"], 1)}


def measure(kind: BrokerKind, device_count: int, each: int, blocks: int, folder: Path) -> dict[str, Any]:
    """Run all four measurements on one broker of this kind."""
    site = Site(Authority(folder / "pki"), folder, kind)
    began = time.perf_counter()
    site.supervisor.start()
    start_ms = round(1000 * (time.perf_counter() - began))
    pid = site.supervisor.pid
    assert pid is not None
    identities = [site.identity() for _ in range(device_count)]
    names = [DeviceId(identity.name) for identity in identities]
    server = Client(site.endpoint, site.authority.device("srv-main")).connect()
    connects, devices = _connects(site, identities, pid)
    try:
        return {
            "mqtt": site.endpoint.mqtt,
            "start_ms": start_ms,
            "connects_at_once": connects,
            "qos1_4k_server_to_devices": _down(site, server, devices, names, each, pid),
            "qos1_4k_devices_to_server": _up(site, server, devices[:8], names[:8], each * device_count // 8, pid),
            "qos0_128k_blocks_to_one_device": _blocks(site, server, devices[0], names[0], blocks, pid),
        }
    finally:
        for client in (*devices, server):
            client.cut()
        site.supervisor.stop()


def main() -> None:
    """Measure each kind that this machine has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=50)
    parser.add_argument("--messages", type=int, default=100, help="a device, each way")
    parser.add_argument("--blocks", type=int, default=1000)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    binary = find_mosquitto()
    kinds = [BrokerKind.EMBEDDED, *([BrokerKind.MOSQUITTO] if binary else [])]
    version = mosquitto_version(binary) if binary else None
    report: dict[str, Any] = {
        "devices": args.devices,
        "mosquitto_version": ".".join(map(str, version)) if version else None,
    }
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            report[str(kind)] = measure(kind, args.devices, args.messages, args.blocks, Path(folder) / kind)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
