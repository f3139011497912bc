"""Figures of the device, from /proc, /sys and statvfs only. Whatever cannot be read is -1; nothing here raises."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from edgefleet_agent.reporting.clock_throttle import ClockThrottle
from edgefleet_agent.reporting.thermal_zone import ThermalZone
from edgefleet_protocol.messages import SystemFigures
from edgefleet_protocol.short_form import single

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


class SystemReader:
    """Reads system figures; CPU and network are differences to the reading before."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        self._cpu: tuple[int, int] | None = None
        self._net: tuple[int, int] | None = None
        self._throttle = ClockThrottle()
        self._zone = ThermalZone()

    def read(self, workers: Iterable[int]) -> SystemFigures:
        """Return the figures now. workers: process ids."""
        rx, tx = self._network()
        uptime_s = _uptime_s()
        return SystemFigures(
            cpu_ratio=single(self._cpu_ratio()),
            agent_rss_bytes=rss_bytes(os.getpid()),
            workers_rss_bytes=sum(max(0, rss_bytes(pid)) for pid in workers),
            memory_available_bytes=memory_available_bytes(),
            disk_free_bytes=disk_free_bytes(self._disk),
            load_1m=single(_load()),
            temperature_celsius=single(self._zone.celsius()),
            uptime_s=uptime_s,
            net_rx_bytes=rx,
            net_tx_bytes=tx,
            throttled_ratio=single(self._throttle.ratio(uptime_s)),
        )

    def _cpu_ratio(self) -> float:
        fields = _text("/proc/stat").split("\n", 1)[0].split()[1:]
        if len(fields) < 5:
            return -1.0
        ticks = [int(f) for f in fields[:8]]
        total, idle = sum(ticks), ticks[3] + ticks[4]
        before, self._cpu = self._cpu, (total, idle)
        if before is None or total <= before[0]:
            return -1.0
        return round(1.0 - (idle - before[1]) / (total - before[0]), 4)

    def _network(self) -> tuple[int, int]:
        rx = tx = 0
        for line in _text("/proc/net/dev").splitlines()[2:]:
            name, _, rest = line.partition(":")
            fields = rest.split()
            if name.strip() != "lo" and len(fields) >= 9:
                rx, tx = rx + int(fields[0]), tx + int(fields[8])
        before, self._net = self._net, (rx, tx)
        return (-1, -1) if before is None else (max(0, rx - before[0]), max(0, tx - before[1]))


def rss_bytes(pid: int) -> int:
    """Return the resident size of a process, -1 when it is gone."""
    fields = _text(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE if len(fields) > 1 else -1


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has had so far, -1 when it is gone."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()  # its name, before that, may hold anything
    return (int(fields[11]) + int(fields[12])) / _TICKS if len(fields) > 12 else -1.0


def memory_available_bytes() -> int:
    """Return what the kernel says can be had without swapping, -1 when unknown."""
    return _meminfo("MemAvailable")


def memory_total_bytes() -> int:
    """Return the installed memory, -1 when unknown."""
    return _meminfo("MemTotal")


def disk_free_bytes(folder: Path) -> int:
    """Return the bytes an unprivileged process may still write, -1 when unknown."""
    with suppress(OSError):
        stat = os.statvfs(folder)
        return stat.f_bavail * stat.f_frsize
    return -1


def _meminfo(key: str) -> int:
    for line in _text("/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name == key:
            return int(rest.split()[0]) * 1024
    return -1


def _load() -> float:
    fields = _text("/proc/loadavg").split()
    return float(fields[0]) if fields else -1.0


def _uptime_s() -> int:
    fields = _text("/proc/uptime").split()
    return int(float(fields[0])) if fields else -1


def _text(path: str) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text("ascii")
    return ""
