"""Which layers to take out of int8 first, and which to bring back: loss removed against time lost. Pure.

A layer that leaves int8 removes its part of the loss and costs the time that int8 saved there. The errors of layers are nearly
independent, so their squares add: on a YOLO net the layers' own losses, squared and summed, give the whole's within a tenth.
Layers are therefore taken out in order of squared harm by time saved. Time is counted in multiply-adds and not with a clock, so
that the choice is the same on every machine.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from edgefleet_converters.layer_search import Block, Harm

RETURNS: Final = 8
"""At most so many models are judged to bring layers back."""
_FULL_DEPTH: Final = 12
"""Int8 products work on blocks of input channels; measured on x86 with VNNI, a layer of n channels saves about 1 - 12/n of its
float32 time: 3 channels nothing (2 times slower), 16 a tenth to a third, 32 and more two thirds."""
_LEAST_SHARE: Final = 0.05
"""A layer counts for at least this part of the largest one's time, so that small ones do not come first for nothing."""


def time_saved(macs: int, channels: int) -> float:
    """Return what int8 saves of a layer, in multiply-adds. macs: of one run; channels: that each result sums over."""
    return macs * max(0.0, 1 - _FULL_DEPTH / channels) if channels > 0 else 0.0


def by_worth(blocks: Sequence[Block], saved: Mapping[str, float]) -> list[Block]:
    """Return the blocks from the one whose exit removes most for the time it costs; equal ones in their given order.

    saved: layer -> what int8 saves there; where that is not known of each layer, the order is that of the harm alone.
    """
    largest = max(saved.values(), default=0.0)
    if largest <= 0 or any(name not in saved for block in blocks for name in block.names):
        return sorted(blocks, key=lambda block: -block.size / len(block.names))
    return sorted(
        blocks, key=lambda block: -(block.size**2) / max(sum(saved[n] for n in block.names), _LEAST_SHARE * largest)
    )


def brought_back(
    nodes: Sequence[Harm], out: int, saved: Mapping[str, float], holds: Callable[[Sequence[str]], bool], *,
    judged: int = RETURNS,
) -> tuple[list[Harm], int]:  # fmt: skip
    """Return the layers with those that must stay out first, each part in its order, and how many must. The first `out` are out.

    holds: says of the names that stay out whether the model holds; asked at most `judged` times. Layers whose return saves most
    for the harm it brings are tried first, half of the rest at once, then half of what did not hold.
    """
    taken = nodes[:out]
    alone = by_worth([Block((harm.name,), harm.drop, harm.distance) for harm in taken], saved)
    left = [block.names[0] for block in reversed(alone) if saved.get(block.names[0], 0.0) > 0]
    stay = {harm.name for harm in taken}
    size = (len(left) + 1) // 2
    while left and judged > 0:
        group = set(left[:size])
        judged -= 1
        if holds([harm.name for harm in taken if harm.name in stay - group]):
            stay -= group
            left = left[size:]
            size = min(len(left), size)
        elif size > 1:
            size //= 2
        else:
            left = left[1:]
    return sorted(nodes, key=lambda harm: harm.name not in stay), len(stay)
