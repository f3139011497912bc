"""What a bundle costs on this very device: its golden inputs again and again, in a process that then ends.

1. Normal priority and the device's own thread setting: the figures are those that callers would see, next to whatever else runs here.
2. ROUNDS rounds, each reported as one `Stats` and so one telemetry window: one disturbed round moves no median.
3. Memory is the peak of the process. Energy is what the board's own sensors say, gross and of all that runs; None where it has none.
"""

import itertools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from edgefleet_agent.worker.control.protocol import Stats
from edgefleet_agent.worker.runtime.loader import ServedModel
from edgefleet_agent.worker.runtime.stats import WorkerStats, peak_rss_bytes
from edgefleet_runtime.golden import slice_sample
from edgefleet_runtime.port import Array

ROUNDS = 3
MIN_RUNS = 20
MAX_RUNS = 2_000

JOULES_PER_UNIT = 1e-6
"""Energy counters and power sensors of the kernel are in microjoules and microwatts (Documentation/hwmon/sysfs-interface.rst)."""


def measure(served: ServedModel, seconds: float, tell: Callable[[Stats], None], sys: Path = Path("/sys")) -> None:
    """Run the golden inputs for `seconds` a round and tell each round's figures. Raises RunError, InputError for a batch it cannot take."""
    specs = {spec.name: spec for spec in served.runtime.inputs}
    golden, batch = served.golden, served.start.measure_batch

    def inputs(first: int) -> dict[str, Array]:
        chosen = {
            name: [slice_sample(spec, golden.inputs[name], (first + i) % golden.n) for i in range(batch)]
            for name, spec in specs.items()
        }
        return {name: parts[0] if batch == 1 else np.concatenate(parts) for name, parts in chosen.items()}

    samples = [inputs(i) for i in range(golden.n)]
    for _ in range(ROUNDS):
        figures = WorkerStats()
        meter = EnergyMeter(sys)
        began, cpu = time.perf_counter(), time.process_time()
        for number, sample in zip(range(MAX_RUNS), itertools.cycle(samples), strict=False):
            at = time.perf_counter()
            outputs = served.runtime.run(sample)
            figures.answered(time.perf_counter() - at, nonfinite=False, classes=served.postprocess.classes(outputs))
            if number + 1 >= MIN_RUNS and time.perf_counter() - began >= seconds:
                break
        wall_s = time.perf_counter() - began
        joules = meter.joules(wall_s)
        taken = figures.take()
        tell(
            msgspec.structs.replace(
                taken,
                rss_bytes=peak_rss_bytes(),
                cpu_s=time.process_time() - cpu,
                wall_s=wall_s,
                joules_per_answer=-1.0 if joules is None else joules / taken.n,
            )
        )


class EnergyMeter:
    """Energy since it was made, from counters where the board has them, else from power sensors read at both ends."""

    def __init__(self, sys: Path) -> None:
        self._sys = sys
        self._counters = _read(energy_files(sys))
        self._powers = _read(power_files(sys))

    def joules(self, seconds: float) -> float | None:
        """Return the joules since the start, `seconds` ago; None where nothing can be read, or a counter began again."""
        if self._counters:
            now = _read(self._counters)
            if now.keys() != self._counters.keys():
                return None
            used = sum(now[path] - before for path, before in self._counters.items())
            return used * JOULES_PER_UNIT if used >= 0 else None
        if self._powers:
            now = _read(self._powers)
            mean = (sum(now.values()) + sum(self._powers.values())) / 2
            return mean * JOULES_PER_UNIT * seconds if now.keys() == self._powers.keys() else None
        return None


def energy_files(sys: Path) -> list[Path]:
    """Return the energy counters: of whole packages (RAPL), else of hwmon devices."""
    packages = sorted(sys.glob("class/powercap/*:[0-9]*/energy_uj"))
    # intel-rapl:0:1 is a part of intel-rapl:0
    whole = [path for path in packages if path.parent.name.count(":") == 1]
    return whole or sorted(sys.glob("class/hwmon/hwmon*/energy*_input"))


def power_files(sys: Path) -> list[Path]:
    """Return the power sensors: hwmon, else what a battery gives."""
    sensors = sorted(sys.glob("class/hwmon/hwmon*/power*_input"))
    return sensors or [path for path in sorted(sys.glob("class/power_supply/*/power_now")) if _discharges(path.parent)]


def _discharges(supply: Path) -> bool:
    with suppress(OSError, UnicodeDecodeError):
        return (supply / "status").read_text("utf-8").strip() == "Discharging"
    return False


def _read(paths: "list[Path] | dict[Path, int]") -> dict[Path, int]:
    found = {}
    for path in paths:
        with suppress(OSError, UnicodeDecodeError, ValueError):
            if os.access(path, os.R_OK):
                found[path] = int(path.read_text("ascii"))
    return found
