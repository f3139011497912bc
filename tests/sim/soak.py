"""Soaks of the simulation: many drawn rollouts on a bad wire, and a release that fails on every device of a large fleet."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

from edgefleet_sim.__main__ import many
from edgefleet_sim.stories import blast

TROUBLE: Final = 0.3
PART: Final = 50
BLASTED: Final = 10_000
BEYOND_MOST: Final = 5
HALT_MOST_S: Final = 2.0


def main(n: int, seed: int) -> dict[str, Any]:
    """Simulate `n` rollouts with 30 % loss, doubling and reordering; ok when not one broke a promise."""
    parts = [(seed + start, min(PART, n - start)) for start in range(0, n, PART)]
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = list(pool.map(_part, parts))
    broken = [one for part in found for one in part["broken"]]
    numbers = ("runs", "commits", "refused_by_fence", "replica_crashes", "device_crashes", "exposed", "broken_runs")
    ended: dict[str, int] = {}
    for part in found:
        for state, count in part["ended"].items():
            ended[state] = ended.get(state, 0) + count
    totals = {name: sum(part[name] for part in found) for name in numbers}
    failover_s = max((part["failover_s_max"] for part in found), default=0.0)
    is_ok = not totals["broken_runs"] and totals["runs"] == n
    return {
        "ok": is_ok,
        "trouble": TROUBLE,
        "ended": ended,
        **totals,
        "failover_s_max": failover_s,
        "broken": broken[:20],
    }


def _part(part: tuple[int, int]) -> dict[str, Any]:
    return many(part[1], part[0], TROUBLE)


def blasts(n: int, seed: int) -> dict[str, Any]:
    """Let a release fail on every one of 10,000 devices `n` times; ok when it is stopped in time and few were exposed."""
    chance = random.Random(seed)
    cases: Sequence[tuple[int, tuple[str, ...]]] = (
        (2, ("crash",)),
        (5, ("golden",)),
        (5, ("crash",)),
        (50, ("crash",)),
    )
    runs: list[Mapping[str, Any]] = []
    for number in range(n):
        canary, classes = cases[number % len(cases)]
        runs.append(blast(BLASTED, canary, classes, chance.randrange(2**31)))
    is_small = all(run["beyond"] <= BEYOND_MOST and not run["broken"] for run in runs)
    halts = {str(canary): _longest(runs, canary, "halt_s") for canary, _ in cases}
    return {
        "ok": is_small and all(halt_s <= HALT_MOST_S for halt_s in halts.values()),
        "devices": BLASTED,
        "beyond_max": max(run["beyond"] for run in runs),
        "halt_s_max_by_canaries": halts,
        "stop_s_max_by_canaries": {str(canary): _longest(runs, canary, "stop_s") for canary, _ in cases},
        "runs": runs,
    }


def _longest(runs: Sequence[Mapping[str, Any]], canary: int, name: str) -> float:
    """Return the most seconds of the runs with so many canaries that the first failure did not end."""
    return max((run[name] for run in runs if run[name] is not None and run["canary"] == canary), default=0.0)
