"""What a stage can find out: how surely a bad release is stopped by the devices there, and how many a promotion needs. Pure.

- The abort test is followed exactly: the chance of every count of failures after each device, without those that were stopped.
- A release that fails on a share q of the devices is stopped after n of them with the chance that is given; every device has an
  outcome, and no failure is of a class that stops at once, so real stops come no later.
- A release is taken back when more devices fail than a share `liars` of false words explains: the same test at that ratio.
- An approval of the next stage stands in for evidence that a stage is too small to give: its devices must all be healthy then.
Source: docs/explanation/rollouts.md, "The tests"; ADR 0034.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from edgefleet_server.rollout.analysis.facts import devices_needed, rule_in
from edgefleet_server.rollout.analysis.model import SMALL_STRATUM
from edgefleet_server.rollout.analysis.plain_rules import FEW_EXPOSED
from edgefleet_server.rollout.failure_ratio import log_e_abort, threshold, with_false_alarms
from edgefleet_server.rollout.spec.model import InstallGate, Spec

BAD_PCT: Final = (10, 20, 50, 100)

FOLLOWED: Final = 500
"""Devices after which following ends: what is not stopped by then is not said to be."""

_LIKELY: Final = 0.5


@dataclass(frozen=True, slots=True)
class StagePower:
    """What one stage can find out in a stratum. needed: healthy devices that a promotion takes (null: none suffice).

    stops: by how many percent of the devices the release fails on, the chance (0 to 1) that the stage's devices stop it.
    """

    stage: str
    devices: int
    rule: str
    needed: int | None
    stops: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StratumPower:
    """What the stages can find out in a stratum.

    to_stop, to_take_back: devices until a release so bad is stopped, and taken back, as likely as not (null: not within 500).
    failures_to_stop, failures_to_take_back: how many do so when the first devices all fail (null: not within 500).
    liars: share of the devices whose word may be false.
    """

    stratum: str
    devices: int
    to_stop: Mapping[str, int | None]
    stages: tuple[StagePower, ...]
    to_take_back: Mapping[str, int | None] = field(default_factory=dict)
    failures_to_stop: int | None = None
    failures_to_take_back: int | None = None
    liars: float = 0.0


def stratum_power(spec: Spec, stratum: str, population: int, reached: tuple[int, ...]) -> StratumPower:
    """Return what the stages can find out in a stratum. reached: devices of each stage and those before it."""
    gate = spec.gates.install
    stages = []
    for stage, devices in zip(range(len(spec.stages)), reached, strict=True):
        rule = rule_in(spec, stage, population, devices)
        needed = devices_needed(rule, population, gate)
        stops = {str(bad): round(chance_to_stop(bad, devices, population, gate), 4) for bad in BAD_PCT}
        whole = None if math.isinf(needed) else int(needed)
        stages.append(StagePower(spec.stages[stage].name, devices, rule.value, whole, stops))
    to_stop = {str(bad): devices_to_stop(bad, population, gate) for bad in BAD_PCT}
    return StratumPower(
        stratum,
        population,
        to_stop,
        tuple(stages),
        to_take_back={str(bad): devices_to_take_back(bad, population, gate) for bad in BAD_PCT},
        failures_to_stop=to_stop["100"],
        failures_to_take_back=devices_to_take_back(100, population, gate),
        liars=gate.liars,
    )


def chance_to_stop(bad_pct: int, devices: int, population: int, gate: InstallGate) -> float:
    """Return the chance that `devices` with an outcome stop a release that fails on `bad_pct` percent of them."""
    curve = _curve(bad_pct, gate.max_failure, gate.alpha_abort, population < SMALL_STRATUM)
    return curve[min(devices, FOLLOWED)]


def stopping_curve(bad_pct: int, population: int, gate: InstallGate) -> tuple[float, ...]:
    """Return the chance that a release so bad has been stopped after 0, 1, … devices with an outcome, up to all or FOLLOWED of them."""
    curve = _curve(bad_pct, gate.max_failure, gate.alpha_abort, population < SMALL_STRATUM)
    return curve[: min(population, FOLLOWED) + 1]


def devices_to_stop(bad_pct: int, population: int, gate: InstallGate) -> int | None:
    """Return after how many devices a release so bad is stopped with a chance of at least one half; None: not within FOLLOWED."""
    curve = _curve(bad_pct, gate.max_failure, gate.alpha_abort, population < SMALL_STRATUM)
    return next((n for n, chance in enumerate(curve) if chance >= _LIKELY), None)


def devices_to_take_back(bad_pct: int, population: int, gate: InstallGate) -> int | None:
    """Return the same for a release that is taken back: more devices fail than liars explain."""
    above = with_false_alarms(gate.max_failure, gate.liars)
    curve = _curve(bad_pct, above, gate.alpha_abort, population < SMALL_STRATUM)
    return next((n for n, chance in enumerate(curve) if chance >= _LIKELY), None)


@lru_cache(maxsize=64)
def _curve(bad_pct: int, p0: float, alpha: float, is_small: bool) -> tuple[float, ...]:
    """Return the chance to have been stopped after 0, 1, … FOLLOWED devices."""
    q = bad_pct / 100
    going = [1.0]  # by failures so far, of those that were not stopped
    curve = [0.0]
    for limit in _limits(p0, alpha, is_small):
        after = [0.0] * (len(going) + 1)
        for failed, chance in enumerate(going):
            after[failed] += chance * (1 - q)
            after[failed + 1] += chance * q
        going = after[:limit]
        curve.append(1 - math.fsum(going))
    return tuple(curve)


@lru_cache(maxsize=16)
def _limits(p0: float, alpha: float, is_small: bool) -> tuple[int, ...]:
    """Return how many failures stop a release after 1, 2, … FOLLOWED devices; one more than there are devices: none do."""
    enough, limits, failed = threshold(alpha), [], 1
    for devices in range(1, FOLLOWED + 1):
        while failed <= devices and log_e_abort(failed, devices, p0) < enough:
            failed += 1
        limits.append(min(failed, 2) if is_small and devices < FEW_EXPOSED else failed)
    return tuple(limits)
