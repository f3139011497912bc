"""What happens to simulated rollouts: scenarios drawn from a seed, run over the corpus of specs.

`./dev soak rollout-simulation [--n RUNS] [--seed S]`. One run is one spec of the corpus with one scenario: which devices are
fine, fail, are offline, die, fail late, join or leave, how many messages are lost, when a person pauses, and what they do about a
rollout that waits for them. Beside each run, ten snapshots with a gap in them are planned; none may promote.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import msgspec

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.model import Assignment, DeviceQuality, Snapshot
from edgefleet_server.rollout.placement import rank
from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.parser import dump_spec, parse_spec
from edgefleet_sim.device import SimDevice
from edgefleet_sim.scenario import Result, Scenario
from edgefleet_sim.world import World
from tests.server.rollout.corpus import Case, accepted
from tests.server.rollout.planner_gaps import NOW, gap, passes

GAPS_PER_RUN: Final = 10
SHOWN: Final = 20
RARELY_S: Final = 6 * 3_600.0
"""How often a device reports that has nothing new: what such reports do is the matter of `tests.sim`."""
AT_INSTALL: Final = ("signature", "golden", "load", "internal")
ON_PROBATION: Final = ("crash", "nonfinite", "slow", "memory")
HARMLESS: Final = ("away", "flaps", "gone", "tight")
ODD: Final = (*HARMLESS, "slow", "bad", "dead", "late", "refuses")
DEEDS: Final = ("abort", "abort_rollback", "promote", "resume")


def scenario_of(seed: int, **more: Any) -> Scenario:
    """Return a scenario that a seed draws: about a third good releases, a third bad ones, a third of everything. more: its other fields."""
    chance = random.Random(seed)
    mood = chance.choice(("good", "bad", "mixed"))
    odd = {name: chance.uniform(0, 0.1) for name in ODD if chance.random() < 0.4}
    if mood == "good":
        odd = {name: share / 2 for name, share in odd.items() if name in HARMLESS}
    if mood == "bad":
        odd |= {
            chance.choice(("bad", "bad", "dead")): chance.choice((0.1, 0.3, 0.95)),
            "late": chance.choice((0.0, 0.0, 1.0)),
        }
    pause_s = chance.uniform(0, 20_000)
    pauses = ((pause_s, "pause"), (pause_s + chance.uniform(360, 18_000), "resume"))
    fields: dict[str, Any] = {
        "classes": chance.choice((AT_INSTALL, ON_PROBATION, AT_INSTALL + ON_PROBATION)),
        "look_s": chance.choice((2.0, 20.0, 120.0)),
        "loss": chance.choice((0.0, 0.0, 0.1, 0.5)),
        "duplicate": chance.choice((0.0, 0.0, 0.3)),
        "reorder": chance.choice((0.0, 0.0, 0.3)),
        "joiners": chance.choice((0, 0, 3)),
        "leavers": chance.choice((0, 0, 2)),
        "redeployed": chance.choice((0, 0, 1)),
        "commands": chance.choice(((), (), pauses)),
        "person": tuple(chance.choice(DEEDS) for _ in range(chance.randint(1, 4))),
        "replicas": 1,
        "beat_s": RARELY_S,
    }
    return Scenario(seed=seed, **{**fields, **odd, **more})


def silence(_snapshot: Snapshot, _now: datetime) -> tuple[DeviceQuality, ...]:
    """Nobody measures, and no other program answers."""
    return ()


def plain(seed: int, **more: Any) -> Scenario:
    """Return a scenario in which nothing goes wrong but for what more says."""
    return Scenario(seed=seed, **{"replicas": 1, "beat_s": RARELY_S, **more})


def world_of_case(case: Case, made: Callable[..., Scenario] = plain, **fields: Any) -> World:
    """Return a world of a spec of the corpus, as it is written, and its fleet. made: makes the scenario of these fields."""
    assert case.fleet is not None, "accepted specs say their fleet"
    labels = {"site": ("a", "b", "c"), "tz": ("UTC",)}
    about = {"devices": case.fleet.devices, "without": tuple(sorted(case.fleet.without_bundle)), "labels": labels}
    return World(made(spec=dump_spec(parse_spec(case.document)), **about, **fields), silence)


# ---- looking at a world


def ended(world: World) -> Result:
    """Return how a world's rollout ended, with every promise kept."""
    result = world.run()
    assert result.broken == [], f"{result.broken[:3]} in {msgspec.to_builtins(world.scenario)}"
    assert result.reason
    return result


def by_rank(world: World, stratum: str = "rpi") -> list[SimDevice]:
    """Return the devices of a stratum in the order in which stages take them."""
    devices = (device for device in world.devices.values() if device.stratum == stratum)
    return sorted(devices, key=lambda device: rank(world.rows.salt, device.id))


def assigned(world: World, place: int, stratum: str = "rpi") -> Assignment:
    """Return the assignment of the device at a place in its rank."""
    return world.rows.assignments[by_rank(world, stratum)[place].id]


def behave(world: World, device: SimDevice, **nature: Any) -> None:
    """Let a device have another nature from now on."""
    device.nature = replace(device.nature, **nature)
    device.begin(world)


def serving(world: World) -> set[DeviceId]:
    """Return who runs the release."""
    return {
        one.id
        for one in world.devices.values()
        if one.stratum in world.new and one.active == world.new[one.stratum].sha256
    }


def stages_of(world: World, stratum: str = "rpi") -> list[str]:
    """Return the states of a stratum's stages."""
    cells = world.rows.cells
    return [cells[stage, ProfileName(stratum)].state.value for stage in range(len(world.rows.spec.stages))]


def verdicts(world: World) -> Counter[str]:
    """Count what was decided about stages, by its code."""
    return Counter(judged.decision.code for _, judged in world.rows.judged)


# ---- the soak


def count_gaps_that_pass(n: int, chance: random.Random) -> Counter[str]:
    """Return which gaps the planner promoted on, of `n` drawn ones: none, if all is well."""
    passed: Counter[str] = Counter()
    for _ in range(n):
        snapshot, name = gap(chance)
        if passes(plan_tick(snapshot, NOW)):
            passed[name] += 1
    return passed


def main(n: int, seed: int) -> dict[str, Any]:
    """Run `n` scenarios over the corpus in turn; return how they ended."""
    chance = random.Random(seed)
    cases = accepted()
    found: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    broken: list[str] = []
    ticks = 0
    for number in range(n):
        case, drawn = cases[number % len(cases)], chance.getrandbits(32)
        try:
            world = world_of_case(case, scenario_of, seed=drawn)
            result = world.run()
        except RuntimeError as error:
            broken.append(f"{case.name}, seed {drawn}: {type(error).__name__}: {error}"[:600])
            continue
        broken += [f"{case.name}, seed {drawn}: {problem}"[:600] for problem in result.broken]
        found[result.state] += 1
        codes.update(verdicts(world))
        ticks += result.ticks
    gaps = count_gaps_that_pass(n * GAPS_PER_RUN, chance)
    return {
        "ok": not broken and not gaps,
        "specs": min(n, len(cases)),
        "ended": dict(sorted(found.items())),
        "verdicts": dict(codes.most_common()),
        "ticks": ticks,
        "gaps": n * GAPS_PER_RUN,
        "gaps_promoted": dict(gaps),
        "broken": broken[:SHOWN],
    }
