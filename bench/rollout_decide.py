"""CPU time of one decision about a stage: facts in, verdict out, with new counts each time and with counts seen before.

Goal: far below the second in which a rollout reacts. Prints one JSON object with the machine's facts. `cold` is
what new counts cost, `warm` what a look costs when nothing was reported meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

from edgefleet_server.rollout import failure_ratio
from edgefleet_server.rollout.analysis.decide import decide
from edgefleet_server.rollout.analysis.model import Counts, Facts, Rule

GOAL_MS = 10.0


def facts(exposed: int, failed: int, pending: int) -> Facts:
    """Return the facts of a large stratum."""
    return Facts(
        stage=0,
        stratum="x86",
        population=100_000,
        counts=Counts(
            members=exposed, exposed=exposed, pending=pending, healthy=exposed - failed - pending, failed=failed
        ),
        failures={"internal": failed},
        pooled_exposed=2 * exposed,
        pooled_failed=failed,
        stage_members=exposed,
        stage_tried=exposed,
        rule=Rule.EVIDENCE,
    )


def timed(work: Callable[[], object]) -> float:
    """Return how many microseconds of CPU a call took."""
    began = time.process_time_ns()
    work()
    return (time.process_time_ns() - began) / 1000


def measure(n: int) -> dict[str, Any]:
    """Return median and 99th percentile of `n` decisions, cold and warm, in microseconds."""
    asked = [facts(100 + i, i // 60, i % 40) for i in range(n)]
    failure_ratio._log_e.cache_clear()
    decide(facts(1, 0, 1))  # the tables of a gate are made once
    figures: dict[str, Any] = {}
    for name in ("cold", "warm"):
        times = sorted(timed(lambda one=one: decide(one)) for one in asked)  # type: ignore[misc]
        figures[name] = {"median_us": statistics.median(times), "p99_us": times[int(0.99 * (n - 1))]}
    return figures


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=5000, help="decisions")
    n = parser.parse_args().n
    figures = measure(n)
    result = {
        "name": "rollout_decide",
        "machine": {
            "arch": platform.machine(),
            "python": platform.python_version(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
        },
        "n": n,
        **figures,
        "goal": {"cold_p99_us": 1000 * GOAL_MS},
        "holds": figures["cold"]["p99_us"] <= 1000 * GOAL_MS,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
