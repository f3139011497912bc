"""Which devices a stage reaches: rank and cut. Pure; the same devices and salt give the same answer on every machine.

- A device's rank is a hash of the rollout's salt and its id: a fair draw that needs no memory and can be explained later.
- A cut is fixed per stage and stratum when the stage opens. A device belongs to the first stage whose cut exceeds its rank.
- Cuts never fall, and ranks never change: joiners move nobody, and no device ever moves to another stage.
- A stage that asks for more devices than there are takes all that are there now. Its cut is then just above the last rank:
  a joiner below it belongs to the stage, one above it waits for a later stage. Only 100 % takes in every joiner.
- A stage may get no device of a stratum (`count_total` shared out among many, or a stratum that is empty). Its cut is then
  the previous one; nothing can be learned there, so the cell is skipped once the stage has passed in another stratum.
Source: docs/explanation/rollouts.md, "Who is in which stage".

A preview shows what each stage of a spec would take, and a finding counts with it. A device that ran the release as a candidate counts
again in the first stage of another mode that reaches it (ADR 0035).
"""

from bisect import bisect_left
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from hashlib import sha256
from typing import Final, Protocol, TypeVar

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.model import FULL_CUT, Bundle, Member
from edgefleet_server.rollout.spec.model import Mode, Size, Spec

_RANK_BYTES: Final = 8
_RANKS_KEPT: Final = 100_000  # a tick asks for the rank of every device again
_Name = TypeVar("_Name", bound=str)


@lru_cache(maxsize=_RANKS_KEPT)
def rank(salt: str, device: str) -> int:
    """Return the rank of a device in a rollout, 0 <= rank < 2**64: first 8 bytes, big-endian, of SHA-256(salt ‖ 0x00 ‖ id)."""
    return int.from_bytes(sha256(salt.encode() + b"\0" + device.encode()).digest()[:_RANK_BYTES], "big")


def devices_of(size: Size, population: int, total_share: int | None = None) -> int:
    """Return how many devices of a stratum of `population` a stage reaches, together with the stages before it.

    total_share: what `shares` gives this stratum; needed with `count_total` only. Raises ValueError when it is missing.
    """
    if size.count_total:
        if total_share is None:
            raise ValueError("a count over all strata needs this stratum's share of it")
        wanted = total_share
    elif size.count is not None:
        wanted = size.count
    else:
        wanted = _share_of(size.percent or 0.0, population)
    return min(max(wanted, size.min), population)


def cut_of(size: Size, ranks: Sequence[int], previous: int, total_share: int | None) -> int:
    """Return the cut of a stage at its opening: devices whose rank is lower belong to it or to a stage before it.

    ranks: of every device of the stratum, rising. previous: the highest cut of the stages before, 0 for the first.
    total_share: see `devices_of`. 100 % gives FULL_CUT, so that a device that joins later belongs to it too.
    """
    if size.percent is not None and size.percent >= 100:
        return FULL_CUT
    reached = devices_of(size, len(ranks), total_share)
    return max(previous, ranks[reached - 1] + 1 if reached else 0)


def shares(count: int, populations: Mapping[_Name, int]) -> dict[_Name, int]:
    """Return how many of `count` devices each stratum gives: in proportion to its size, by largest remainder.

    The shares add up to `count`, or to all devices when there are fewer. Equal remainders go to the larger stratum, then
    to the first name. A small count leaves some strata with none: one device alone would prove nothing (the small-fleet
    rule asks for two), so a stratum gives two or none, unless it has one device only or nobody can take its odd one.
    """
    total = sum(populations.values())
    if count >= total:
        return dict(populations)
    exact = {name: Fraction(count * size, total) for name, size in populations.items()}
    given = {name: int(share) for name, share in exact.items()}
    left = count - sum(given.values())
    in_turn = sorted(exact, key=lambda name: (given[name] - exact[name], -populations[name], name))
    for name in in_turn[:left]:
        given[name] += 1
    return _without_singles(given, populations)


def _without_singles(given: dict[_Name, int], populations: Mapping[_Name, int]) -> dict[_Name, int]:
    """Return shares in which single devices are put together, largest strata first."""
    given = dict(given)
    singles = sorted((n for n in given if given[n] == 1 and populations[n] > 1), key=lambda n: (-populations[n], n))
    while len(singles) > 1:
        given[singles.pop(0)] += 1
        given[singles.pop()] = 0
    for name in singles:
        takers = (n for n in given if given[n] > 1 and given[n] < populations[n])
        taker = min(takers, key=lambda n: (-populations[n], n), default=None)
        if taker is not None:
            given[taker] += 1
            given[name] = 0
    return given


def count_below(ranks: Sequence[int], cut: int) -> int:
    """Return how many devices a cut reaches. ranks: rising."""
    return bisect_left(ranks, cut)


def _share_of(percent: float, population: int) -> int:
    # As the author wrote it: in binary 0.1 is a little more than a tenth, and a ceiling would make a device out of that.
    return -(-Fraction(repr(percent)) * population // 100)


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


def is_countable(spec: Spec, bundles: Iterable[Bundle] = ()) -> bool:
    """Return whether sizes alone say how many devices each stage takes: none chooses or runs a candidate, no bundle is sealed."""
    is_sealed = any(one.is_sealed for one in bundles)
    return not is_sealed and all(not stage.match and stage.mode is Mode.ACTIVE for stage in spec.stages)


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
