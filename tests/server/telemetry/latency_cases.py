"""Fleets whose latency rises for a reason that is known: moments as devices would report them, with noise."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgefleet_server.telemetry.latency.model import Case, CauseKind, Moment, Strand, VersionFigures

STEP_S = 900
GIB = 2.0**30
USUAL = {
    "throttled_ratio": 0.0,
    "temperature_celsius": 52.0,
    "requests_per_s": 2.0,
    "cpu_ratio": 0.35,
    "memory_available_bytes": 1.5 * GIB,
    "disk_free_bytes": 8 * GIB,
    "candidate_share": 0.0,
    "other_per_s": 0.5,
    "net_per_s": 900.0,
}
NOISE = {
    "temperature_celsius": 1.5,
    "cpu_ratio": 0.03,
    "memory_available_bytes": 0.03 * GIB,
    "requests_per_s": 0.15,
    "other_per_s": 0.03,
    "net_per_s": 90.0,
}
PLANTED: dict[CauseKind, dict[str, float]] = {
    CauseKind.RELEASE: {},
    CauseKind.THROTTLING: {"throttled_ratio": 0.4, "temperature_celsius": 84.0},
    CauseKind.LOAD: {"requests_per_s": 5.0, "cpu_ratio": 0.8},
    CauseKind.CANDIDATE: {"candidate_share": 0.5, "cpu_ratio": 0.55},
    CauseKind.OTHER_MODELS: {"other_per_s": 2.0, "cpu_ratio": 0.7},
    CauseKind.MEMORY: {"memory_available_bytes": 0.05 * GIB},
    CauseKind.PROCESSOR: {"cpu_ratio": 0.9},
    CauseKind.INPUTS: {},
    CauseKind.DISK: {"disk_free_bytes": 0.05 * GIB},
}
"""What each cause looks like while it lasts."""
MIX, OTHER_MIX = (0.6, 0.3, 0.1), (0.2, 0.2, 0.6)


@dataclass(frozen=True)
class Plant:
    """What happens to a device. cause: None = nothing. begin: the first step with it. ratio: of latency; without a cause 1."""

    cause: CauseKind | None = None
    begin: int = 60
    ratio: float | None = None
    is_slow: bool = True
    """Whether its latency rises with it."""


def strand(
    name: str, plant: Plant, rng: random.Random, *, steps: int = 96, noise: float = 0.04, **place: Any
) -> Strand:
    """Return one device over a day."""
    return Strand(name, [_moment(n, plant, rng, noise) for n in range(steps)], **place)


def _moment(number: int, plant: Plant, rng: random.Random, noise: float) -> Moment:
    on = plant.cause is not None and number >= plant.begin
    figures = {
        name: max(0.0, value + rng.gauss(0, NOISE.get(name, 0.0)))
        for name, value in (USUAL | (PLANTED[plant.cause] if on and plant.cause else {})).items()
    }
    ratio = plant.ratio or (1.8 if plant.cause else 1.0)
    p95 = 20.0 * (ratio if plant.is_slow and number >= plant.begin else 1.0) * math.exp(rng.gauss(0, noise))
    n = max(1, int(figures["requests_per_s"] * STEP_S))
    version = "2.0.0" if on and plant.cause is CauseKind.RELEASE else "1.0.0"
    mix = OTHER_MIX if on and plant.cause is CauseKind.INPUTS else MIX
    classes = [int(n * share * (1 + rng.uniform(-0.05, 0.05))) for share in mix]
    return Moment(1_000_000 + number * STEP_S, n, p95, figures, {version: VersionFigures(n, p95)}, classes)


def of_device(
    plant: Plant, seed: int, *, others: int = 8, other: Callable[[int], Plant] | None = None, **more: Any
) -> Case:
    """Return the question about one device, next to others of its profile."""
    rng = random.Random(seed)
    mine = strand("d-0", plant, rng, profile="pi", site="hall", **more)
    rest = [
        strand(f"d-{n + 1}", other(n) if other else Plant(), rng, profile="pi", site="hall", **more)
        for n in range(others)
    ]
    return Case("digits", mine, [mine, *rest], STEP_S, is_device=True)


def of_fleet(parts: list[Strand], **more: Any) -> Case:
    """Return the question about a fleet that is made of these parts."""
    moments = []
    for some in zip(*(one.moments for one in parts), strict=True):
        total = sum(one.n for one in some)
        p95 = math.exp(sum(one.n * math.log(one.p95_ms or 1) for one in some) / total)
        versions: dict[str, VersionFigures] = {}
        for one in some:
            for name, figures in one.versions.items():
                was = versions.get(name, VersionFigures(0, None))
                versions[name] = VersionFigures(was.n + figures.n, figures.p95_ms)
        classes = [sum(one.classes[k] for one in some) for k in range(3)]
        moments.append(Moment(some[0].at, total, p95, {}, versions, classes))
    return Case("digits", Strand("", moments), parts, STEP_S, **more)
