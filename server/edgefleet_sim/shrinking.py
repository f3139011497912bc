"""Makes a failing scenario smaller: the same kind of failure with fewer devices, fewer faults, fewer replicas, fewer commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from edgefleet_sim.scenario import Scenario
from edgefleet_sim.world import simulate

MAX_TRIES = 300
_CHANCES = (
    "loss", "duplicate", "reorder", "replica_crash", "replica_stall", "device_crash", "skew_s", "slow", "dead", "away", "bad",
)  # fmt: skip


def is_broken(scenario: Scenario) -> bool:
    """Say whether a scenario breaks a promise."""
    return bool(simulate(scenario).broken)


def shrink(scenario: Scenario, fails: Callable[[Scenario], bool] = is_broken) -> Scenario:
    """Return a scenario that still fails and from which nothing can be left out; the given one when it does not fail.

    fails: tells whether a scenario fails. At most MAX_TRIES are tried.
    """
    tries = 0
    if not fails(scenario):
        return scenario
    is_smaller = True
    while is_smaller and tries < MAX_TRIES:
        is_smaller = False
        for candidate in _smaller(scenario):
            tries += 1
            if tries > MAX_TRIES:
                break
            if fails(candidate):
                scenario, is_smaller = candidate, True
                break
    return scenario


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    """Yield scenarios with one thing less, the largest steps first."""
    devices = scenario.devices
    for name in sorted(devices):
        if len(devices) > 1:
            yield _with(scenario, devices={other: n for other, n in devices.items() if other != name})
    for name in sorted(devices):
        for fewer in sorted({devices[name] // 2, devices[name] - 1} - {0, devices[name]}):
            yield _with(scenario, devices={**devices, name: fewer})
    for field in _CHANCES:
        if getattr(scenario, field):
            yield _with(scenario, **{field: 0.0})
    if scenario.replicas > 1:
        yield _with(scenario, replicas=1)
    if scenario.joiners:
        yield _with(scenario, joiners=0)
    for place in range(len(scenario.commands)):
        yield _with(scenario, commands=scenario.commands[:place] + scenario.commands[place + 1 :])
    if scenario.person:
        yield _with(scenario, person=scenario.person[:-1])


def _with(scenario: Scenario, **changes: object) -> Scenario:
    return msgspec.structs.replace(scenario, **changes)
