"""Soaks of the simulation: many drawn rollouts on a bad wire, one device that lies, and a release that fails on all of a large fleet."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import AssignmentState, ErrorClass
from edgefleet_sim.__main__ import many
from edgefleet_sim.nature import Cry, Lie
from edgefleet_sim.scenario import CANDIDATE_STAGES, STAGES, Scenario
from edgefleet_sim.stories import blast
from edgefleet_sim.world import World
from tests.server.rollout.scenarios import behave

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


def one_liar(n: int, seed: int) -> dict[str, Any]:
    """Let one device of a good release lie as it likes in `n` stories; ok when no other device was taken back, nor a promise broken.

    The wire is bad, so that others fall silent too. A story in which the release is taken back where two others or more failed by
    themselves is counted apart: that is no word of one device.
    """
    ended, answered = Counter[str](), Counter[str]()
    heard, by_others, broken = 0, 0, list[str]()
    for number in range(seed, seed + n):
        world, liar = story_of_a_liar(number)
        result = world.run()
        rows = world.rows
        others = [one for one in rows.assignments.values() if one.device != liar]
        taken = [one.device for one in others if one.back_gen or one.state is AssignmentState.ROLLED_BACK]
        failed = {event.key for event in rows.events if event.after in _FAILED_ITSELF} - {liar}
        by_others += bool(taken) and len(failed) >= 2
        if len(failed) < 2:
            broken += [f"seed {number}: {device} was taken back" for device in taken]
        broken += [f"seed {number}: {problem}" for problem in result.broken]
        ended[result.state] += 1
        answered.update(one.verdict.value for one in rows.asked())
        heard += any(event.key == liar and event.after in _FAILURES for event in rows.events)
    return {
        "ok": not broken,
        "ended": dict(sorted(ended.items())),
        "liar_counted_as_failed": heard,
        "questions": dict(sorted(answered.items())),
        "others_taken_back": sum("taken back" in one for one in broken),
        "taken_back_with_two_others_failed": by_others,
        "broken": broken[:20],
    }


_FAILED_ITSELF: Final = frozenset({"failed", "regressed", "lost"})
_FAILURES: Final = _FAILED_ITSELF | {"rolled_back"}
_FLEETS: Final = (
    {"rpi": 2}, {"rpi": 3}, {"rpi": 4}, {"rpi": 8}, {"rpi": 12}, {"rpi": 1, "jet": 2}, {"rpi": 5, "jet": 3}, {"rpi": 2, "jet": 4, "x86": 3},
)  # fmt: skip
_PAIR: Final = [
    {"name": "first", "size": {"count": 2}, "soak": "30m"},
    {"name": "rest", "size": {"percent": 100}, "soak": "5m"},
]


def story_of_a_liar(seed: int) -> tuple[World, DeviceId]:
    """Return a world in which all is well but for the wire and one device, and that device. A person goes on, and takes nothing back."""
    chance = random.Random(seed)
    stages = chance.choice((STAGES, STAGES, _PAIR, STAGES[2:], *CANDIDATE_STAGES))
    after = chance.choice(("1h", "12h"))
    end, words = chance.choice(("rollback", "pause")), chance.choice((("resume",), ("resume", "promote")))
    scenario = Scenario(
        seed=seed,
        devices=chance.choice(_FLEETS),
        spec={"stages": stages, "on_inconclusive": {"after": after, "do": end}},
        replicas=1,
        loss=chance.choice((0.0, 0.2)),
        duplicate=chance.choice((0.0, 0.2)),
        reorder=chance.choice((0.0, 0.2)),
        person=(*(chance.choice(words) for _ in range(8)), "abort"),
    )
    world = World(scenario)
    liar = world.devices[chance.choice(sorted(world.devices))]
    spans_s = chance.choice((600.0, 3_000.0, 16_000.0))
    cries = tuple(
        Cry(chance.uniform(0, spans_s), chance.choice(list(ErrorClass)), chance.choice((1.0, 300.0, 3_000.0, math.inf)))
        for _ in range(chance.choice((1, 1, 2, 5)))
    )
    behave(world, liar, lie=Lie(cries, hides=chance.random() < 0.2, answers=chance.choice(("", "failed", "done"))))
    return world, liar.id


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
