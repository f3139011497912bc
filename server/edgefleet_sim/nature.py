"""How a simulated device behaves: drawn once, when it joins. What is not asked for takes no draw, so older seeds stay as they are."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Final

from edgefleet_protocol.messages import CandidatePhase, ErrorClass, Phase
from edgefleet_server.rollout.model import CandidateReport, Report
from edgefleet_sim.scenario import Scenario

FLAPS: Final = 10
FLAP_S: Final = (30.0, 240.0)
LATE_S: Final = (60.0, 36_000.0)
CRY_S: Final = (0.0, 14_400.0)
HIDE: Final = "hide"


@dataclass(frozen=True, slots=True)
class Cry:
    """A failure that did not happen: reported at at_s, and for for_s after that; then the device tells the truth again."""

    at_s: float
    fails: ErrorClass
    for_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Lie:
    """What a device says that is not true. hides: that the release failed; answers: how it answers each check, "" = as it is."""

    cries: tuple[Cry, ...] = ()
    hides: bool = False
    answers: str = ""


@dataclass(frozen=True, slots=True)
class Nature:
    """What a device does with the release under test. fails: with this class, None = it is good there.

    late_s: it fails only so long after it proved the release. away_s: from when until when it is not there, inf = never again.
    is_tight: it lacks memory for a candidate now and then. refuses: the rollout's documents, because its clock is wrong.
    lie: None = it is honest.
    """

    fails: ErrorClass | None = None
    is_slow: bool = False
    dies: bool = False
    away_s: tuple[tuple[float, float], ...] = ()
    skew_s: float = 0.0
    late_s: float = 0.0
    is_tight: bool = False
    refuses: bool = False
    lie: Lie | None = None


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
    lie = _lie(scenario, chance) if is_one_of(scenario.liars) else None
    return Nature(fails, is_slow, dies, away_s, skew_s, late_s, is_tight, refuses, lie)


def _lie(scenario: Scenario, chance: random.Random) -> Lie:
    what = chance.choice(scenario.lies)
    if what == HIDE:
        return Lie(hides=True, answers="done")
    return Lie((Cry(chance.uniform(*CRY_S), ErrorClass(what), chance.choice((600.0, math.inf))),))


def with_cry(honest: Report, fails: ErrorClass, digest: str, former: str) -> Report:
    """Return a report as if the release (`digest`) had just failed; former: what would serve then."""
    code, reason = f"sim.{fails}", f"{fails}, as it says"
    if honest.candidate.sha256 == digest:
        return replace(
            honest, candidate=CandidateReport(digest, CandidatePhase.FAILED.value, f"candidate.{fails}", reason)
        )
    cried = replace(honest, wanted_sha256=digest, error_class=fails, error_code=code, reason=reason)
    if honest.active_sha256 == digest:
        return replace(cried, phase=Phase.ROLLED_BACK, active_sha256=former)
    return replace(cried, phase=Phase.FAILED)


def without_failure(honest: Report, digest: str) -> Report:
    """Return a report of a device on which the release (`digest`) failed as if it served, or ran beside what serves."""
    if honest.candidate.sha256 == digest and honest.candidate.state == CandidatePhase.FAILED.value:
        return replace(honest, candidate=CandidateReport(digest, CandidatePhase.RUNNING.value))
    if honest.wanted_sha256 != digest or honest.phase not in (Phase.FAILED, Phase.ROLLED_BACK):
        return honest
    return replace(honest, phase=Phase.COMMITTED, active_sha256=digest, error_class=None, error_code="", reason="")


def flapping(chance: random.Random) -> tuple[tuple[float, float], ...]:
    """Return when a device is away whose connection comes and goes."""
    found, at_s = [], 0.0
    for _ in range(FLAPS):
        start_s = at_s + chance.uniform(*FLAP_S)
        at_s = start_s + chance.uniform(*FLAP_S)
        found.append((start_s, at_s))
    return tuple(found)
