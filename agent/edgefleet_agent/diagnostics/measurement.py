"""`edge-agent bench --threads 1,2,4`: what a bundle costs on this device, by runtime, threads and batch. Needs no agent and no server.

1. Each combination has a worker of its own, started as agentd starts them: the same loading and golden test, no network.
2. Nothing is written. A device that serves is measured only on request: both would slow each other.
3. Latency is that of the runtime alone, a batch being one run. Memory is the peak of the worker.
"""

import hashlib
import os
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from edgefleet_agent.core.text_table import cut, fields, sheet, size
from edgefleet_agent.diagnostics.device import Device
from edgefleet_agent.errors import DeviceServesError, UnknownModelError, WhichModelError
from edgefleet_agent.identity.tpm_secret import key_secret
from edgefleet_agent.install.slots import BUNDLE_FILE, Slots
from edgefleet_agent.reporting.clock_throttle import ClockThrottle
from edgefleet_agent.reporting.thermal_zone import ThermalZone
from edgefleet_agent.settings import AgentSettings
from edgefleet_agent.worker.control.launch import WorkerLink, start_worker
from edgefleet_agent.worker.control.protocol import Failed, Loaded, Start, Stats
from edgefleet_protocol.bundle import open_bundle
from edgefleet_protocol.manifest import Declared, Manifest
from edgefleet_protocol.sketch import LatencySketch

ROUNDS = 3
"""Of a worker that measures (`worker.observe.benchmark`)."""
SILENCE_S = 1800.0
"""A worker that says nothing for so long hangs."""


@dataclass(frozen=True)
class Wanted:
    """What to measure. bundle: a file, None = what is installed. runtimes: () = all here that it was proved in. seconds: of each."""

    model: str = ""
    bundle: Path | None = None
    runtimes: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()
    seconds: float = 3.0
    while_serving: bool = False


def measure(device: Device, settings: AgentSettings, wanted: Wanted, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return a row for each combination. tell: gets a line before each one.

    Raises DeviceServesError, UnknownModelError, WhichModelError, BundleError, ManifestError, KeysAwayError, OSError.
    """
    status = device.status
    if status is not None and not wanted.while_serving and any(m["serving"] for m in status["models"]):
        raise DeviceServesError("this device serves: a measurement would slow its callers, and they would slow it")
    path, slot = (wanted.bundle, "") if wanted.bundle is not None else _installed(device, wanted.model)
    with path.open("rb") as file:
        manifest = open_bundle(file).manifest
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    sealed = Slots(device.paths.models).model_key(manifest.model, slot) if slot else b""
    start = Start(
        model=manifest.model,
        version=manifest.version,
        digest=digest,
        lane="measure",
        slot=slot,
        bundle_fd=-1,
        measure_s=wanted.seconds / ROUNDS,
        model_key=sealed,
        key_path=str(device.paths.model_key),
        key_secret=key_secret(device.paths.model_key) if sealed else b"",
    )
    heat, throttle = ThermalZone(), ClockThrottle()
    rows, before = [], heat.celsius()
    throttle.ratio(int(time.monotonic()))
    ways = list(_ways(manifest, wanted))
    for number, (runtime, threads, batch) in enumerate(ways, 1):
        tell(f"measuring {runtime}, threads {threads}, batch {batch} ({number} of {len(ways)})")
        row = {
            "runtime": runtime,
            "threads": threads,
            "batch": batch,
            **_measured(path, start, runtime, threads, batch),
        }
        row |= {"celsius": heat.celsius(), "throttled_ratio": throttle.ratio(int(time.monotonic()))}
        rows.append(row | {"over": _over(row, manifest.declared)})
    return {
        "model": manifest.model,
        "version": manifest.version,
        "profile": manifest.profile,
        "sha256": digest,
        "seconds": wanted.seconds,
        "processors": os.cpu_count(),
        "serves_with_threads": settings.infer_threads,
        "declared_p95_ms": manifest.declared.latency_p95_ms,
        "declared_peak_bytes": manifest.declared.peak_memory_bytes,
        "rolls_back_above_ms": _rolls_back_above(settings, manifest.declared),
        "celsius_before": before,
        "ok": all(not row["failed"] and not row["over"] for row in rows),
        "rows": rows,
    }


def measure_text(found: dict[str, Any]) -> str:
    """Return the rows as a table, what the bundle declares above it, and what fell out of that below."""
    rows, most, peak = found["rows"], found["declared_p95_ms"], found["declared_peak_bytes"]
    limits = [f"p95 {most:g} ms (a trial rolls back above {found['rolls_back_above_ms']:g})"] if most else []
    limits += [f"peak memory {size(peak)}"] if peak else []
    hot = max([found["celsius_before"], *(row["celsius"] for row in rows)])
    held = max(row["throttled_ratio"] for row in rows)
    heat = "not readable" if hot < 0 else f"{found['celsius_before']:.0f} °C before, {hot:.0f} at most"
    clock = "not readable" if held < 0 else f"{held:.0%} of the clock taken away at most"
    headers = ("runtime", "threads", "batch", "p50 ms", "p95 ms", "p99 ms", "per s", "CPU ms", "memory")
    told = [
        (
            row["runtime"], row["threads"], row["batch"], *(f"{row[key]:.4g}" for key in ("p50_ms", "p95_ms", "p99_ms")),
            f"{row['per_s']:.0f}", f"{row['cpu_ms']:.3g}", size(row["peak_bytes"]),
        )
        for row in rows
        if not row["failed"]
    ]  # fmt: skip
    lines = [
        fields(
            [
                ("bundle", f"{found['model']}@{found['version']} for {found['profile']}"),
                ("declared", ", ".join(limits) or "no limits"),
                ("device", f"{found['processors']} processors; infer_threads is {found['serves_with_threads']}"),
                ("heat", f"{heat}; {clock}"),
            ]
        ),
        "",
        sheet(headers, told, right=headers[1:]),
    ]
    return "\n".join([*lines, *(cut(_trouble(row)) for row in rows if row["failed"] or row["over"])])


def _trouble(row: dict[str, Any]) -> str:
    words = row["failed"] or "over what the bundle declares: " + ", ".join(row["over"])
    return f"{row['runtime']}, threads {row['threads']}, batch {row['batch']}: {words}"


def _installed(device: Device, name: str) -> tuple[Path, str]:
    """Return the bundle of the slot that serves, or would."""
    active = {model: record.active for model, record in device.records.items() if record.active is not None}
    if not active or (name and name not in active):
        step = "name a bundle: `edge-agent bench --bundle FILE`"
        raise UnknownModelError(f"no model {name or 'at all'} is installed on this device", next_step=step)
    if not name and len(active) > 1:
        raise WhichModelError(f"{len(active)} models are installed: {', '.join(sorted(active))}", next_step="name one")
    model = name or next(iter(active))
    slot = active[model].slot
    return device.paths.models / model / slot / BUNDLE_FILE, slot


def _ways(manifest: Manifest, wanted: Wanted) -> Iterator[tuple[str, int, int]]:
    from edgefleet_runtime.port import available

    here = {info.name for info in available()}
    proved = dict.fromkeys([manifest.runtime, *(one.name for one in manifest.runtimes)])
    runtimes = wanted.runtimes or [name for name in proved if name in here] or [manifest.runtime]
    cores = os.cpu_count() or 1
    threads = wanted.threads or [n for n in (1, 2, 4) if n <= cores]
    yield from product(runtimes, threads, wanted.batches or (1,))


def _measured(path: Path, start: Start, runtime: str, threads: int, batch: int) -> dict[str, Any]:
    """Return the figures of one combination, or why there are none."""
    from msgspec.structs import replace

    with path.open("rb") as file:
        told = replace(start, bundle_fd=file.fileno(), runtime=runtime, threads=threads, measure_batch=batch)
        link = start_worker(told)
        try:
            return _figures(link, batch)
        finally:
            link.close()
            link.process.kill()
            link.process.wait()


def _figures(link: WorkerLink, batch: int) -> dict[str, Any]:
    poller, rounds, version, failed = select.poll(), [], "", ""
    poller.register(link.fileno(), select.POLLIN)
    while True:
        if not poller.poll(SILENCE_S * 1000):
            failed = f"the worker said nothing for {SILENCE_S:.0f} s"
            break
        message = link.receive()
        if message is None:
            break
        if isinstance(message, Loaded):
            version = message.runtime_version
        elif isinstance(message, Stats):
            rounds.append(message)
        elif isinstance(message, Failed):
            failed = f"{message.error_class}: {message.reason}"
    if not rounds:
        return {"version": version, "failed": failed or f"the worker ended with status {link.process.wait()}"}
    sketch = LatencySketch.merged(LatencySketch.unpacked(one.latency) for one in rounds)
    answers, wall_s = sum(one.n for one in rounds) * batch, sum(one.wall_s for one in rounds)
    joules = [one.joules_per_answer for one in rounds if one.joules_per_answer >= 0]
    return {
        "version": version,
        "failed": failed,
        "n": answers,
        **{f"p{q}_ms": round((sketch.quantile_s(q / 100) or 0.0) * 1e3, 4) for q in (50, 95, 99)},
        "per_s": round(answers / wall_s, 1),
        "cpu_ms": round(sum(one.cpu_s for one in rounds) * 1e3 / answers, 4),
        "peak_bytes": max(one.rss_bytes for one in rounds),
        "joules": round(sum(joules) / len(joules) / batch, 6) if joules else None,
    }


def _over(row: dict[str, Any], declared: Declared) -> list[str]:
    """Return what a row breaks. A latency is declared of one sample."""
    if row["failed"]:
        return []
    most, peak = declared.latency_p95_ms, declared.peak_memory_bytes
    over = ["p95"] if most and row["batch"] == 1 and row["p95_ms"] > most else []
    return [*over, "memory"] if peak and row["peak_bytes"] > peak else over


def _rolls_back_above(settings: AgentSettings, declared: Declared) -> float | None:
    """Return the p95 in ms above which a trial ends (`install.probation.trial.over_declared`)."""
    most = declared.latency_p95_ms
    if not most:
        return None
    return max(settings.slow_limit_factor * most, most + settings.slow_limit_margin_ms)
