"""How a simulated device behaves: drawn once, when it joins. What is not asked for takes no draw, so older seeds stay as they are."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Final

from edgefleet_protocol.messages import ErrorClass
from edgefleet_sim.scenario import Scenario

FLAPS: Final = 10
FLAP_S: Final = (30.0, 240.0)
LATE_S: Final = (60.0, 36_000.0)


@dataclass(frozen=True, slots=True)
class Nature:
    """What a device does with the release under test. fails: with this class, None = it is good there.

    late_s: it fails only so long after it proved the release. away_s: from when until when it is not there, inf = never again.
    is_tight: it lacks memory for a candidate now and then. refuses: the rollout's documents, because its clock is wrong.
    """

    fails: ErrorClass | None = None
    is_slow: bool = False
    dies: bool = False
    away_s: tuple[tuple[float, float], ...] = ()
    skew_s: float = 0.0
    late_s: float = 0.0
    is_tight: bool = False
    refuses: bool = False


def drawn(scenario: Scenario, chance: random.Random) -> Nature:
    """Return the nature of one device of a scenario."""

    def is_one_of(share: float) -> bool:
        return share > 0 and chance.random() < share

    fails = ErrorClass(chance.choice(scenario.classes)) if chance.random() < scenario.bad else None
    is_away = chance.random() < scenario.away
    away_s: tuple[tuple[float, float], ...] = (
        ((chance.uniform(0, 7200), chance.uniform(7200, 20_000)),) if is_away else ()
    )
    skew_s = chance.uniform(-scenario.skew_s, scenario.skew_s)
    is_slow, dies = chance.random() < scenario.slow, chance.random() < scenario.dead
    if is_one_of(scenario.gone):
        away_s = ((0.0, math.inf),)
    elif is_one_of(scenario.flaps):
        away_s = flapping(chance)
    late_s = chance.uniform(*LATE_S) if fails is not None and is_one_of(scenario.late) else 0.0
    is_tight, refuses = is_one_of(scenario.tight), is_one_of(scenario.refuses)
    return Nature(fails, is_slow, dies, away_s, skew_s, late_s, is_tight, refuses)


def flapping(chance: random.Random) -> tuple[tuple[float, float], ...]:
    """Return when a device is away whose connection comes and goes."""
    found, at_s = [], 0.0
    for _ in range(FLAPS):
        start_s = at_s + chance.uniform(*FLAP_S)
        at_s = start_s + chance.uniform(*FLAP_S)
        found.append((start_s, at_s))
    return tuple(found)
