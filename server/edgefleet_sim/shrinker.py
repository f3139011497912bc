"""Makes a failing scenario smaller: the same failure with fewer devices, faults, replicas, commands and stages.

Another failure that comes up on the way is no smaller form of the one that is looked for, so a step that leads to it is not taken.
Failures are the same when they are reported in the same words but for what is counted or named in them: devices, strata, figures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_sim.scenario import Scenario, spec_of
from edgefleet_sim.world import simulate

MAX_TRIES = 300
_CHANCES: Final = (
    "loss", "duplicate", "reorder", "replica_crash", "replica_stall", "device_crash", "skew_s", "slow", "dead", "away", "bad",
    "gone", "flaps", "tight", "refuses", "idle", "pinned", "late", "liars",
)  # fmt: skip
_CHANGING: Final = re.compile(r"\([^()]*\)|'[^']*'|[\w.-]*\d[\w.-]*")
_NEEDED: Final = frozenset({"name", "size"})
"""What a stage cannot do without."""

Fails = Callable[[Scenario], bool]


def kinds_of(problems: list[str], scenario: Scenario) -> list[str]:
    """Return problems without what differs between two scenarios with the same failure."""
    strata = "|".join(re.escape(name) for name in sorted(scenario.devices, key=len, reverse=True))
    names = re.compile(rf"\b(?:{strata})\b") if strata else None
    plain = [_CHANGING.sub("#", problem) for problem in problems]
    return [names.sub("#", one) if names else one for one in plain]


def same_failure(scenario: Scenario) -> Fails:
    """Return what says whether another scenario fails as this one does; nothing does when this one keeps every promise."""
    wanted = kinds_of(simulate(scenario).broken[:1], scenario)

    def fails(other: Scenario) -> bool:
        try:
            found = simulate(other).broken
        except EdgefleetError:  # what was left out is needed: no spec any more
            return False
        return bool(wanted) and wanted[0] in kinds_of(found, other)

    return fails


def shrink(scenario: Scenario, fails: Fails | None = None) -> Scenario:
    """Return a scenario with the same failure from which nothing can be left out; the given one when it does not fail.

    fails: tells whether a scenario fails, instead. At most MAX_TRIES are tried.
    """
    fails = fails or same_failure(scenario)
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
    yield from _fewer_devices(scenario)
    for field in _CHANCES:
        if getattr(scenario, field):
            yield _with(scenario, **{field: 0.0})
    yield from _plainer_specs(scenario)
    for fewer in sorted({1, scenario.replicas - 1} - {0, scenario.replicas}):
        yield _with(scenario, replicas=fewer)
    for name in ("joiners", "leavers", "redeployed"):
        if getattr(scenario, name):
            yield _with(scenario, **{name: 0})
    for name in ("commands", "person", "classes"):
        listed = getattr(scenario, name)
        for place in range(len(listed)) if name != "classes" or len(listed) > 1 else ():
            yield _with(scenario, **{name: listed[:place] + listed[place + 1 :]})
    if scenario.approval != "approve":
        yield _with(scenario, approval="approve")
    for field in _CHANCES:
        half = round(getattr(scenario, field) / 2, 2)
        if 0 < half < getattr(scenario, field):
            yield _with(scenario, **{field: half})


def _fewer_devices(scenario: Scenario) -> Iterator[Scenario]:
    devices = scenario.devices
    for name in sorted(devices):
        if len(devices) > 1:
            yield _with(scenario, devices={other: n for other, n in devices.items() if other != name})
    for name in sorted(devices):
        for fewer in sorted({devices[name] // 2, devices[name] - 1} - {0, devices[name]}):
            yield _with(scenario, devices={**devices, name: fewer})


def _plainer_specs(scenario: Scenario) -> Iterator[Scenario]:
    """Yield specs without one field, then without one stage, then without one field of a stage."""
    spec = scenario.spec
    for name in sorted(set(spec) - {"stages"}):
        yield _with(scenario, spec={key: value for key, value in spec.items() if key != name})
    stages: list[dict[str, Any]] = spec_of(scenario).get("stages") or []
    for place in range(len(stages) if len(stages) > 1 else 0):
        yield _with(scenario, spec={**spec, "stages": stages[:place] + stages[place + 1 :]})
    for place, stage in enumerate(stages if "stages" in spec else []):
        for name in sorted(set(stage) - _NEEDED):
            plainer = {key: value for key, value in stage.items() if key != name}
            yield _with(scenario, spec={**spec, "stages": [*stages[:place], plainer, *stages[place + 1 :]]})


def _with(scenario: Scenario, **changes: object) -> Scenario:
    return msgspec.structs.replace(scenario, **changes)
