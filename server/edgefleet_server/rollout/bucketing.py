"""Which devices a stage reaches: rank and cut. Pure; the same devices and salt give the same answer on every machine.

- A device's rank is a hash of the rollout's salt and its id: a fair draw that needs no memory and can be explained later.
- A cut is fixed per stage and stratum when the stage opens. A device belongs to the first stage whose cut exceeds its rank.
- Cuts never fall, and ranks never change: joiners move nobody, and no device ever moves to another stage.
- A stage that asks for more devices than there are takes all that are there now. Its cut is then just above the last rank:
  a joiner below it belongs to the stage, one above it waits for a later stage. Only 100 % takes in every joiner.
- A stage may get no device of a stratum (`count_total` shared out among many, or a stratum that is empty). Its cut is then
  the previous one; nothing can be learned there, so the cell is skipped once the stage has passed in another stratum.
Source: docs/explanation/rollouts.md, "Who is in which stage".
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from hashlib import sha256
from typing import Final, TypeVar

from edgefleet_server.rollout.model import FULL_CUT
from edgefleet_server.rollout.spec.model import Size

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
    total_share: see `devices_of`. 100 % gives FULL_CUT, so that whoever joins later belongs to it too.
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
