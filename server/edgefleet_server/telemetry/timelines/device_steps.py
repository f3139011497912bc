"""The windows and messages of one device as the sums that charts are made of. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from edgefleet_protocol.sketch import LatencySketch
from edgefleet_server.telemetry.rollups.model import FigureSums, Step, Sums, SystemSums
from edgefleet_server.telemetry.timelines.timeline_figures import NETWORK

ACTIVE: Final = "active"
LONGEST_S: Final = 3_600.0
"""After a longer silence nobody knows in what time the bytes went."""
SYSTEM: Final = (
    *("cpu_ratio", "agent_rss_bytes", "workers_rss_bytes", "memory_available_bytes", "disk_free_bytes", "load_1m"),
    *("temperature_celsius", "throttled_ratio"),
)


def window_steps(rows: Iterable[Any]) -> Iterator[Step[Sums]]:
    """Yield a device's windows by model, and lane where it is another one than that of real requests."""
    for row in rows:
        key = row.model if row.lane == ACTIVE else f"{row.model}, {row.lane}"
        yield Step(row.t0, (key,), _sums(row))


def _sums(row: Any) -> Sums:
    latency = LatencySketch.unpacked(msgspec.msgpack.decode(row.latency, type=list[int]))
    joules = max(0.0, row.joules_per_answer) * row.n
    return Sums(
        windows=1,
        seconds=row.length_s,
        n=row.n,
        errors=row.errors,
        timeouts=row.timeouts,
        nonfinite=row.nonfinite,
        crashes=row.crashes,
        latency=latency,
        classes=tuple(msgspec.msgpack.decode(row.classes, type=list[int])),
        worker_cpu_s=row.worker_cpu_s,
        joules=joules,
        joules_n=row.n if row.joules_per_answer >= 0 else 0,
    )


def message_steps(rows: Iterable[tuple[str, datetime, Mapping[str, Any]]]) -> Iterator[Step[SystemSums]]:
    """Yield a device's own figures, message by message; traffic as bytes a second since the message before."""
    before: datetime | None = None
    for _, at, system in sorted(rows, key=lambda row: row[1]):
        said = {name: float(system[name]) for name in SYSTEM if isinstance(system.get(name), int | float)}
        seconds = 0.0 if before is None else (at - before).total_seconds()
        for name in NETWORK if 0 < seconds <= LONGEST_S else ():
            if isinstance(system.get(name), int | float):
                said[f"{name}_per_s"] = system[name] / seconds
        before = at
        yield Step(at, (), SystemSums(1, {name: FigureSums(1, value, value) for name, value in said.items()}))
