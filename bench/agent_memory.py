"""Memory of agentd, connected and idle, alone and with one worker: a real broker with mTLS, a real server side, real processes.

Goals: agentd RSS ≤ 36 MB and private ≤ 24 MB; with one LiteRT worker ≤ 75 MB, with one onnxruntime worker ≤ 95 MB,
model excluded; idle ≤ 0.1 % of a processor; from exec to connected and ready ≤ 400 ms. `ready` is a start of a device that has its
document, as after a reboot: the best of STARTS, with its processor time, and how long it stood in line for a processor. The goal is
judged by the clock without that line, so that a busy machine does not decide. Prints one JSON object with the machine's facts, and
what agentd imports: how many modules, and which packages outside the standard library. A page that other processes share (libcrypto,
libpython) counts in RSS and not in private; of two processes together the proportional size (PSS) tells what they take, the sum of RSS
counts twice what they share.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.agent.field import Agent, deploy, eventually, started_agent
from tests.agent.worker.models import bundle_bytes, classifier_onnx, weights
from tests.runtime.tflite_files import fully_connected

WORKER_GOAL_BYTES = {"litert": 75_000_000, "ort": 95_000_000}
READY_GOAL_S = 0.4
STARTS = 5
IDLE_GOAL_RATIO = 0.001
RSS_GOAL_BYTES = 36_000_000
PRIVATE_GOAL_BYTES = 24_000_000


def memory_of(pid: int) -> dict[str, int]:
    """Return RSS, private and proportional bytes of a process, from smaps_rollup."""
    kib: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        kib[name] = int(rest.split()[0]) * 1024
    return {
        "rss_bytes": kib["Rss"],
        "private_bytes": kib["Private_Clean"] + kib["Private_Dirty"],
        "pss_bytes": kib["Pss"],
    }


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def imported() -> dict[str, Any]:
    """Return what a fresh interpreter holds after the imports of `edge-agent run`."""
    code = (
        "import sys, edgefleet_agent.__main__ as m; m._run_parser(); import edgefleet_agent.daemon; print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    modules = run.stdout.split()
    tops = {name.partition(".")[0] for name in modules}
    foreign = sorted(name for name in tops if name not in sys.stdlib_module_names and not name.startswith("__"))
    return {"modules": len(modules), "packages": [name for name in foreign if not name.startswith("_")]}


def is_ready(agent: Agent) -> bool:
    """Return whether the agent is connected and has its document."""
    status = agent.status()
    return bool(status.get("connected") and status.get("gen"))


def ready(agent: Agent) -> dict[str, float]:
    """Return how long a start took until the agent was ready: by the clock, of the processor, and waiting for one. The agent goes on."""
    agent.stop()
    with agent.log.open("ab") as log:
        began = time.monotonic()
        agent.process = subprocess.Popen(
            [agent.python, "-m", "edgefleet_agent", "run", "--state", str(agent.state)],
            env=dict(agent.environment),
            stderr=log,
            stdout=log,
            start_new_session=True,
        )
    if not eventually(lambda: is_ready(agent), pause_s=0.005):
        raise SystemExit(agent.log.read_text())
    wall_s = time.monotonic() - began
    tasks = [(task / "schedstat").read_text().split() for task in Path(f"/proc/{agent.process.pid}/task").iterdir()]
    used_s, waited_s = (sum(int(task[i]) for task in tasks) / 1e9 for i in (0, 1))
    found = {"wall_s": wall_s, "cpu_s": used_s, "in_line_s": waited_s, "without_line_s": max(used_s, wall_s - waited_s)}
    return {name: round(value, 3) for name, value in found.items()}


def measure(idle_s: float) -> dict[str, Any]:
    """Return memory and CPU of an agent that was connected and idle for `idle_s`."""
    with started_agent() as agent:
        if not eventually(lambda: is_ready(agent)):
            raise SystemExit(agent.log.read_text())
        best = min((ready(agent) for _ in range(STARTS)), key=lambda start: start["without_line_s"])
        assert agent.process is not None
        time.sleep(2)
        pid = agent.process.pid
        before = cpu_s(pid)
        time.sleep(idle_s)
        used = cpu_s(pid) - before
        return memory_of(pid) | {
            "ready": best,
            "idle_cpu_ratio": round(used / idle_s, 4),
        }


def with_worker(runtime: str) -> dict[str, Any]:
    """Return the memory of an agent and the one worker that serves a tiny model in that runtime, model excluded."""
    model = classifier_onnx() if runtime == "ort" else fully_connected(weights().T.copy(), signature=("x", "y"))
    with started_agent() as agent:
        deploy(agent.site, "1.0.0", bundle_bytes(model, runtime=runtime))
        agent.wait("committed", "1.0.0")
        for _ in range(50):
            agent.infer()
        time.sleep(2)
        assert agent.process is not None
        agentd = memory_of(agent.process.pid)
        worker = memory_of(agent.status()["workers"]["digits"])
        both = {key: agentd[key] + worker[key] - len(model) for key in agentd}
        goal = WORKER_GOAL_BYTES[runtime]
        return {"worker": worker, "together": both, "goal_bytes": goal, "holds": both["pss_bytes"] <= goal}


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle-s", type=float, default=10.0)
    args = parser.parse_args()
    figures = measure(args.idle_s)
    pairs = {runtime: with_worker(runtime) for runtime in WORKER_GOAL_BYTES}
    result = {
        "name": "agent_memory",
        "machine": {
            "arch": platform.machine(),
            "python": platform.python_version(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "malloc_arena_max": os.environ.get("MALLOC_ARENA_MAX", "default"),
        },
        **figures,
        "with_worker": pairs,
        "imported": imported(),
        "goal": {
            "rss_bytes": RSS_GOAL_BYTES,
            "private_bytes": PRIVATE_GOAL_BYTES,
            "ready_s": READY_GOAL_S,
            "idle_cpu_ratio": IDLE_GOAL_RATIO,
        },
        "holds": {
            "rss_bytes": figures["rss_bytes"] <= RSS_GOAL_BYTES,
            "private_bytes": figures["private_bytes"] <= PRIVATE_GOAL_BYTES,
            "ready_s": figures["ready"]["without_line_s"] <= READY_GOAL_S,
            "idle_cpu_ratio": figures["idle_cpu_ratio"] <= IDLE_GOAL_RATIO,
            **{f"with_{runtime}": pair["holds"] for runtime, pair in pairs.items()},
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
