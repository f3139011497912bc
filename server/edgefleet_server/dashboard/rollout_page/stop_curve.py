"""How soon the stages stop a bad release: the chance by devices that ran it, and a sentence. Pure.

Nothing is drawn by lot: the chance is computed exactly by the rule that stops the release (`analysis.power`). It is of the largest
stratum, of failures of a kind that does not stop at once; such a kind stops the release sooner.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from edgefleet_server.rollout.analysis.power import FOLLOWED, chance_to_stop, devices_to_stop
from edgefleet_server.rollout.lint.preview import PlanView
from edgefleet_server.rollout.spec.model import InstallGate

SHARES: Final = (5, 10, 20, 50, 100)
WIDTH: Final = 1000
HEIGHT: Final = 84
MOST_POINTS: Final = 100


@dataclass(frozen=True, slots=True)
class StageMark:
    """Where a stage ends on the axis, in percents. devices: of it and those before; chance: to be stopped by then, in percents."""

    name: str
    devices: int
    at: float
    chance: float


@dataclass(frozen=True, slots=True)
class Simulation:
    """What the stages find out of a release that fails on `bad_pct` percent of the devices.

    devices: of the largest stratum; median: after how many it is stopped as likely as not, None where it is not; line: an SVG path in
    WIDTH x HEIGHT; median_at: percents from the left.
    """

    bad_pct: int
    devices: int
    median: int | None
    median_at: float
    chance: float
    line: str
    stages: Sequence[StageMark]

    @property
    def area(self) -> str:
        """The path of what lies below the line."""
        return f"{self.line}V{HEIGHT}H0Z"


def simulation(
    install: Mapping[str, Any], reached: Sequence[tuple[str, int]], population: int | None = None
) -> Simulation | None:
    """Return what the stages find out, None where there are no devices. reached: stages with their devices, those before included.

    population: of the stratum, None where the stages take in all of it; the rule of small ones depends on it.
    The share is the smallest of SHARES that is stopped as likely as not; where none is, the largest.
    """
    devices = reached[-1][1] if reached else 0
    if devices < 1:
        return None
    fields = ("max_failure", "promote_below", "alpha_abort", "alpha_promote", "liars")
    return _made(tuple(float(install[name]) for name in fields), tuple(reached), population or devices)


def simulated_plan(plan: PlanView) -> Simulation | None:
    """Return the same for a plan that is being written."""
    totals = [{one.stratum: one.cumulative for one in stage.strata} for stage in plan.stages]
    if not totals or not totals[-1]:
        return None
    largest = max(totals[-1], key=lambda name: (totals[-1][name], name))
    reached = [(stage.name, total.get(largest, 0)) for stage, total in zip(plan.stages, totals, strict=True)]
    population = next((one.population for one in plan.strata if one.stratum == largest), None)
    return simulation(plan.spec["gates"]["install"], reached, population)


@lru_cache(maxsize=128)
def _made(figures: tuple[float, ...], reached: tuple[tuple[str, int], ...], population: int) -> Simulation:
    gate, devices = InstallGate(*figures), reached[-1][1]
    bad, median = SHARES[-1], None
    for share in SHARES:
        found = devices_to_stop(share, population, gate)
        if found is not None and found <= devices:
            bad, median = share, found
            break
    shown = min(devices, FOLLOWED)
    step = max(1, -(-shown // MOST_POINTS))
    places = [*range(0, shown, step), shown]
    points = [(n, chance_to_stop(bad, n, population, gate)) for n in places]
    line = "M" + "L".join(f"{WIDTH * n / shown:.0f} {HEIGHT * (1 - chance):.1f}" for n, chance in points)
    marks = [
        StageMark(
            name, n, round(100 * min(n, shown) / shown, 2), round(100 * chance_to_stop(bad, n, population, gate), 1)
        )
        for name, n in reached
    ]
    at = 0.0 if median is None else round(100 * min(median, shown) / shown, 2)
    return Simulation(bad, devices, median, at, marks[-1].chance, line, marks)
