"""Flash writes of an idle agent a day: a real agent connected with a model, then a month of windows offline by a fake clock.

Goal: ≤ 1 MB a day idle. Prints one JSON object.

- Connected: a real broker and server side, agentd and its worker; `write_bytes` of /proc/PID/io of both. Two runs: windows as
  usual (none ends), and one a second; the difference is what a window costs, of which `normal` has 96 a day.
- Offline: the real outbox fed a window each 15 minutes for `--days` by a fake clock, `write_bytes` of this process.
- The kernel counts a page of its cache when it becomes dirty, whatever the flash makes of it; a tmpfs counts nothing, which is said.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.agent.field import deploy, eventually, started_agent
from tests.agent.worker.models import bundle_bytes, classifier_onnx

from edgefleet_agent.connection.outbox import Joins, Kind, Outbox
from edgefleet_agent.reporting.window import begins_s, merge_payloads, pack_payloads
from edgefleet_protocol.messages import Telemetry, Window, encode
from edgefleet_protocol.sketch import LatencySketch

GOAL_BYTES = 1_000_000
WINDOWS_A_DAY = 96
DAY_S = 86_400


def written(pids: list[int]) -> int:
    """Return the bytes that these processes have sent to the block layer so far."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/io").read_text("ascii").splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))
    return total


def connected(watch_s: float, interval_s: int) -> dict[str, Any]:
    """Return what an idle agent with one model wrote within `watch_s`, with windows of `interval_s` (0: 15 minutes)."""
    with started_agent(EDGEFLEET_AGENT_TELEMETRY_INTERVAL_S=str(interval_s)) as agent:
        agent.environment = {**agent.environment}
        deploy(agent.site, "1.0.0", bundle_bytes(classifier_onnx()))
        agent.wait("committed", "1.0.0")
        assert eventually(lambda: agent.model().get("serving"))
        time.sleep(5)
        assert agent.process is not None
        pids = [agent.process.pid, *agent.status()["workers"].values()]
        before = written(pids)
        began = time.monotonic()
        time.sleep(watch_s)
        spent = time.monotonic() - began
        return {"bytes": written(pids) - before, "seconds": round(spent, 1), "log": agent.log.stat().st_size}


def written_back(folder: Path) -> None:
    """Let the kernel write what is dirty, as it does within half a minute: else a page that is written twice counts once."""
    for path in folder.iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def offline(days: int) -> int:
    """Return what the outbox of a device with one model writes a day while it is offline."""
    joins = Joins(merge_payloads, pack_payloads, begins_s)
    sketch = LatencySketch({300 + i: 3 for i in range(40)}).packed()
    with tempfile.TemporaryDirectory() as folder:
        before = written([os.getpid()])
        box = Outbox(Path(folder) / "q.db", 16 << 20, joins)
        for seq in range(1, days * WINDOWS_A_DAY + 1):
            now = 900.0 * seq
            window = Window(
                t0=int(now), length_s=900, model="digits", lane="active", sha256="a" * 64, version="1", n=900,
                latency=sketch, classes=[90] * 10,
            )  # fmt: skip
            box.add(
                Kind.TELEMETRY,
                "b",
                seq,
                encode(Telemetry(device="d", boot_id="b", seq=seq, ts=0, windows=[window])),
                now,
            )
            box.spill(now)
            written_back(Path(folder))
        box.close()
        return (written([os.getpid()]) - before) // days


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watch-s", type=float, default=90.0)
    parser.add_argument("--days", type=int, default=30)
    args = parser.parse_args()
    idle, windows = connected(args.watch_s, 0), connected(args.watch_s, 1)
    per_window = max(0.0, windows["bytes"] - idle["bytes"]) / windows["seconds"]
    a_day = idle["bytes"] / idle["seconds"] * DAY_S + per_window * WINDOWS_A_DAY
    away = offline(args.days)
    file_system = os.popen(f"stat -f -c %T {tempfile.gettempdir()}").read().strip()
    result = {
        "name": "agent_flash",
        "machine": {"arch": platform.machine(), "python": platform.python_version(), "file_system": file_system},
        "counts": file_system != "tmpfs",
        "connected": {"idle": idle, "a_window_a_second": windows, "bytes_a_window": round(per_window)},
        "connected_bytes_a_day": round(a_day),
        "offline_bytes_a_day": away,
        "goal_bytes_a_day": GOAL_BYTES,
        "holds": file_system != "tmpfs" and a_day <= GOAL_BYTES and away <= GOAL_BYTES,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
