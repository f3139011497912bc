"""Which devices of a stratum each stage of a spec would take, as the planner takes them: by rank, cut, match and mode. Pure.

A plan shows it and a finding counts with it. A device that ran the release beside its version counts anew
in the first stage of another mode that reaches it.
Source: docs/explanation/rollouts.md, "Who is in which stage"; ADR 0035.
"""

from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.bucketing import count_below, cut_of, devices_of, rank, shares
from edgefleet_server.rollout.model import Member
from edgefleet_server.rollout.spec.model import Mode, Spec


class Placed(Protocol):
    """Which devices of a stratum the stages take. Of a large fleet they are counted only: a device is then its number by rank."""

    @property
    def name(self) -> ProfileName:
        """Return the stratum."""
        ...

    @property
    def population(self) -> int:
        """Return how many devices it has."""
        ...

    def population_at(self, stage: int) -> int:
        """Return how many of them may be in a stage, or belong to the rollout by then."""
        ...

    def reached(self, stage: int) -> int:
        """Return how many devices the stage and those before it have in its mode."""
        ...

    def added(self, stage: int) -> int:
        """Return how many devices the stage takes."""
        ...

    def everybody(self) -> Sequence[Hashable]:
        """Return its devices, by rank."""
        ...

    def having(self, stage: int) -> Container[Hashable]:
        """Return those that the stage and all before it take, of whichever mode: who has the release by then."""
        ...


@dataclass(frozen=True, slots=True)
class PlacedStage:
    """One stage of one stratum. reach: ranks of all that may be in it, rising; devices: those that it takes, by rank."""

    cut: int
    reach: tuple[int, ...]
    devices: tuple[tuple[int, DeviceId], ...]

    @property
    def population(self) -> int:
        """How many devices may be in the stage or belong to the rollout by then."""
        return len(self.reach)


@dataclass(frozen=True, slots=True)
class PlacedStratum:
    """One stratum that takes part."""

    name: ProfileName
    devices: tuple[DeviceId, ...] = field(repr=False)
    """By rank."""
    stages: tuple[PlacedStage, ...]
    spec: Spec = field(repr=False)

    @property
    def population(self) -> int:
        """How many devices it has."""
        return len(self.devices)

    def population_at(self, stage: int) -> int:
        """Return how many devices may be in a stage, or belong to the rollout by then."""
        return self.stages[stage].population

    def reached(self, stage: int) -> int:
        """Return how many devices the stage and those before it have in its mode."""
        mode = self.spec.stages[stage].mode
        return sum(self.added(one) for one in range(stage + 1) if self.spec.stages[one].mode is mode)

    def added(self, stage: int) -> int:
        """Return how many devices the stage takes."""
        return len(self.stages[stage].devices)

    def everybody(self) -> tuple[DeviceId, ...]:
        """Return its devices, by rank."""
        return self.devices

    def having(self, stage: int) -> frozenset[DeviceId]:
        """Return those that the stage and all before it take, of whichever mode."""
        return frozenset(device for one in self.stages[: stage + 1] for _, device in one.devices)

    def why_here(self, stage: int, value: int) -> str:
        """Return why a device of this rank is in a stage."""
        placed, match = self.stages[stage], self.spec.stages[stage].match
        place, reached = count_below(placed.reach, value) + 1, count_below(placed.reach, placed.cut)
        among = f" among those of {match}" if match else ""
        return f"number {place} of {placed.population} by rank{among}; the stage reaches number {reached}"


@dataclass(frozen=True, slots=True)
class CountedStratum:
    """One stratum of a spec that `is_countable`. upto: devices of each stage and those before it."""

    name: ProfileName
    population: int
    upto: tuple[int, ...]

    def population_at(self, _stage: int) -> int:
        """Return how many devices may be in a stage: all of them."""
        return self.population

    def reached(self, stage: int) -> int:
        """Return how many devices the stage and those before it have."""
        return self.upto[stage]

    def added(self, stage: int) -> int:
        """Return how many devices the stage takes."""
        return self.upto[stage] - (self.upto[stage - 1] if stage else 0)

    def everybody(self) -> range:
        """Return the numbers of its devices, by rank."""
        return range(self.population)

    def having(self, stage: int) -> range:
        """Return the numbers of those that the stage and all before it take: the lowest."""
        return range(self.upto[stage])


def is_countable(spec: Spec) -> bool:
    """Return whether sizes alone say how many devices each stage takes: no stage chooses among them or runs beside a version."""
    return all(not stage.match and stage.mode is Mode.ACTIVE for stage in spec.stages)


def count_places(spec: Spec, populations: Mapping[ProfileName, int]) -> list[CountedStratum]:
    """Return what `place` would, counted: a cut is the rank of the last device that a size asks for, so it need not be known."""
    upto: dict[ProfileName, list[int]] = {name: [] for name in sorted(populations)}
    for stage in spec.stages:
        size = stage.size
        totals = shares(size.count, populations) if size.count_total and size.count is not None else {}
        for name, reached in upto.items():
            asked = devices_of(size, populations[name], totals.get(name))
            reached.append(max(asked, reached[-1] if reached else 0))
    return [CountedStratum(name, populations[name], tuple(reached)) for name, reached in upto.items()]


def place(
    spec: Spec,
    salt: str,
    groups: Mapping[ProfileName, Sequence[Member]],
    cuts: Mapping[tuple[int, ProfileName], int],
    placed: Mapping[DeviceId, int],
) -> list[PlacedStratum]:
    """Return who would be in which stage. groups: members by stratum. cuts, placed: what a running rollout has fixed already."""
    makers = [_Maker(spec, name, salt, groups[name], placed) for name in sorted(groups)]
    for index, stage in enumerate(spec.stages):
        populations = {maker.name: len(maker.reach(index)) for maker in makers}
        size = stage.size
        totals = shares(size.count, populations) if size.count_total and size.count is not None else {}
        for maker in makers:
            maker.add(index, cuts.get((index, maker.name)), totals.get(maker.name))
    return [maker.made() for maker in makers]


class _Maker:
    """One stratum in the making, stage by stage."""

    def __init__(
        self, spec: Spec, name: ProfileName, salt: str, members: Sequence[Member], placed: Mapping[DeviceId, int]
    ) -> None:
        self.name = name
        self._spec = spec
        self._ranked = sorted((rank(salt, one.device), one.device) for one in members)
        self._barred = {one.device: one.barred for one in members if one.barred}
        self._stage_of = {one.device: placed[one.device] for one in members if one.device in placed}
        self._fixed = dict(self._stage_of)
        self._cuts: list[int] = []
        self._stages: list[PlacedStage] = []

    def reach(self, index: int) -> list[tuple[int, DeviceId]]:
        """Return who may be in a stage, or belongs to the rollout by then."""
        return [(v, d) for v, d in self._ranked if d in self._stage_of or index not in self._barred.get(d, ())]

    def add(self, index: int, fixed: int | None, total: int | None) -> None:
        """Fix the next stage."""
        stages = self._spec.stages
        reach = self.reach(index)
        previous = max(
            (c for c, s in zip(self._cuts, stages, strict=False) if s.match == stages[index].match), default=0
        )
        fresh = cut_of(stages[index].size, [value for value, _ in reach], previous, total)
        cut = fresh if fixed is None else max(fixed, previous)
        self._cuts.append(cut)
        devices = tuple((value, device) for value, device in reach if self._takes(index, value, device, cut))
        self._stage_of |= {device: index for _, device in devices}
        self._stages.append(PlacedStage(cut, tuple(value for value, _ in reach), devices))

    def _takes(self, index: int, value: int, device: DeviceId, cut: int) -> bool:
        if device in self._fixed:
            return self._fixed[device] == index
        if value >= cut or index in self._barred.get(device, ()):
            return False
        stages = self._spec.stages
        before = self._stage_of.get(device)
        return before is None or stages[before].mode is not stages[index].mode

    def made(self) -> PlacedStratum:
        """Return the stratum with all its stages."""
        return PlacedStratum(self.name, tuple(device for _, device in self._ranked), tuple(self._stages), self._spec)
