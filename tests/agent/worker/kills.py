"""Soak `worker-kill`: the serving worker of a real agent is killed with SIGKILL again and again while callers ask.

A caller asks twice at most, as the Python client does: the connection that a killed worker held is lost with it, a new one waits at the
agent's listener. Recovery is the time from the kill to the first answer to a request that was sent, or sent again, after it.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.agent.field import Agent, deploy, eventually, started_agent
from tests.agent.worker.models import bundle_bytes, classifier_onnx
from tests.agent.worker.supervised import answers, asking, until_interrupted

RATE = 50.0
GOAL_S = 0.4
NEVER_S = 3600.0
SETTINGS = {
    # kills stand more than a second apart, so the crash loop rule, which has tests of its own, is not what is looked at here
    "EDGEFLEET_AGENT_CRASH_WINDOW_S": "1",
    "EDGEFLEET_AGENT_WORKER_STEADY_S": "0.2",
}


def main(n: int, seed: int) -> dict[str, Any]:
    """Kill the worker n times and return how soon it answered again."""
    chance = random.Random(seed)
    kills: list[float] = []
    with started_agent(**SETTINGS) as agent, tempfile.TemporaryDirectory(prefix="ef-") as name:
        deploy(agent.site, "1.0.0", bundle_bytes(classifier_onnx()))
        agent.wait("committed", "1.0.0")
        assert agent.process is not None
        agentd, file = agent.process.pid, Path(name, "answers")
        port = int(agent.status()["infer_url"].rsplit(":", 1)[1])
        pids = {0}
        with asking(port, RATE, 2, file, "digits"), until_interrupted() as stop:
            for _ in range(n):
                assert eventually(lambda: _another_serves(agent, pids)), "no new worker serves"
                pid = agent.status()["workers"]["digits"]
                pids.add(pid)
                if stop.wait(chance.uniform(1.0, 1.2)):
                    break
                kills.append(time.monotonic())
                os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)
            time.sleep(2.0)
        alive = agent.process.poll() is None and agent.status()["pid"] == agentd
        return _report(answers(file), kills, alive=alive)


def _another_serves(agent: Agent, pids: set[int]) -> bool:
    """Say whether a worker serves that was not killed yet: the kill of one that still starts would be counted as a slow recovery."""
    return agent.status()["workers"].get("digits", 0) not in pids and bool(agent.model().get("serving"))


def _report(found: list[tuple[str, str, int, float, float, int]], kills: list[float], *, alive: bool) -> dict[str, Any]:
    lost = [row for row in found if row[2] != 200 or row[1] != "1.0.0"]
    recoveries = []
    rows = sorted((row for row in found if row[2] == 200), key=lambda row: row[3])
    for killed in kills:
        after = [row[4] - killed for row in rows if row[4] > killed and (row[3] > killed or row[5] > 1)]
        recoveries.append(min(after, default=NEVER_S))
    p50, p99 = (float(q) for q in np.percentile(recoveries, [50, 99]))
    return {
        "ok": alive and not lost and max(recoveries) < NEVER_S,
        "kills": len(kills),
        "requests": len(found),
        "lost": len(lost),
        "losses": sorted({f"{row[2]} {row[1]}"[:200] for row in lost})[:5],
        "asked_twice": sum(row[5] > 1 for row in found),
        "agentd_restarts": 0 if alive else 1,
        "recovery_p50_ms": round(p50 * 1e3, 1),
        "recovery_p99_ms": round(p99 * 1e3, 1),
        "recovery_worst_ms": round(max(recoveries) * 1e3, 1),
        "recovery_goal_ms": GOAL_S * 1e3,
    }
