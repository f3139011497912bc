"""What happens to simulated rollouts: scenarios drawn from a seed, run over the corpus of specs.

`./dev soak rollout-simulation [--n RUNS] [--seed S]`. One run is one spec of the corpus with one scenario: which devices are
fine, fail, are offline, die, regress, join or leave, how many reports are lost, when a person pauses, and what they do about a
rollout that waits for them. Beside each run, ten snapshots with a gap in them are planned; none may promote.
"""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from typing import Any, Final

from edgefleet_server.rollout.planner.tick import plan_tick
from edgefleet_server.rollout.spec.model import Mode
from edgefleet_server.rollout.spec.parser import parse_spec
from tests.server.rollout.corpus import Case, accepted
from tests.server.rollout.planner_gaps import NOW, gap, passes
from tests.server.rollout.shaped_simulation import ShapedWorld
from tests.server.rollout.simulated_checks import BrokenPromiseError
from tests.server.rollout.simulated_devices import Kind, Scenario
from tests.server.rollout.simulation import Ended, World

GAPS_PER_RUN: Final = 10
SHOWN: Final = 20


def scenario_of(seed: int) -> Scenario:
    """Return a scenario that a seed draws: about a third good releases, a third bad ones, a third of everything."""
    chance = random.Random(seed)
    mood = chance.choice(("good", "bad", "mixed"))
    odd: dict[Kind, float] = {
        kind: chance.uniform(0, 0.1) for kind in Kind if kind is not Kind.FINE and chance.random() < 0.4
    }
    mix: dict[Kind, float] = {Kind.FINE: 1.0}
    if mood == "good":
        harmless = (Kind.LATE, Kind.FLAPPING, Kind.OFFLINE)
        mix.update((kind, share / 2) for kind, share in odd.items() if kind in harmless)
    else:
        mix |= odd
    if mood == "bad":
        worst = chance.choice((Kind.FAILS_INSTALL, Kind.FAILS_PROBATION, Kind.DIES, Kind.REGRESSES))
        mix[worst] = chance.choice((0.1, 0.5, 20.0))
    deeds = ("abort", "abort_rollback", "promote", "resume")
    return Scenario(
        seed=seed,
        mix=mix,
        look=timedelta(seconds=chance.choice((2, 20, 120))),
        report_loss=chance.choice((0.0, 0.0, 0.1, 0.5)),
        joiners=chance.choice((0, 0, 3)),
        leavers=chance.choice((0, 0, 2)),
        deploys=chance.choice((0, 0, 1)),
        pauses=chance.choice((0, 0, 1)),
        person=tuple(chance.choice(deeds) for _ in range(chance.randint(1, 4))),
    )


def run_case(case: Case, scenario: Scenario) -> Ended:
    """Run one spec of the corpus on its fleet."""
    assert case.fleet is not None, "accepted specs say their fleet"
    spec = parse_spec(case.document)
    if any((one.match, one.mode, one.approval) != ("", Mode.ACTIVE, None) for one in spec.stages):
        return ShapedWorld(spec, case.fleet.devices, scenario).run()
    return World(spec, case.fleet.devices, scenario, case.fleet.without_bundle).run()


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
    ended: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    broken: list[str] = []
    ticks = 0
    for number in range(n):
        case: Case = cases[number % len(cases)]
        scenario = scenario_of(chance.getrandbits(32))
        try:
            result = run_case(case, scenario)
        except (BrokenPromiseError, RuntimeError) as error:
            broken.append(f"{case.name}, seed {scenario.seed}: {type(error).__name__}: {error}"[:600])
            continue
        ended[result.state.value] += 1
        codes.update(result.verdicts)
        ticks += result.ticks
    gaps = count_gaps_that_pass(n * GAPS_PER_RUN, chance)
    return {
        "ok": not broken and not gaps,
        "specs": min(n, len(cases)),
        "ended": dict(sorted(ended.items())),
        "verdicts": dict(codes.most_common()),
        "ticks": ticks,
        "gaps": n * GAPS_PER_RUN,
        "gaps_promoted": dict(gaps),
        "broken": broken[:SHOWN],
    }
