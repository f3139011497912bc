"""Cuts a large plan into portions, each of which is one transaction. Pure.

A transaction that signs 50,000 documents would hold the devices' rows for ten seconds. Whoever carries a plan out portion by portion
looks in between whether it still holds the rollout, and whether a device failed meanwhile: then what is left of the plan is dropped, and
the next look makes another one. What is dropped was never written, so nothing is half done:
- All that is of no document goes first, then so many devices at a time, each with all that the plan says of it, and be it that it belongs
  to the rollout from now on. Who is not written yet is as who was not looked at yet: the next look takes them in (fleet.md §5.1).
- A plan that takes from what all rollouts share (leases, rates) is not cut: what it took must be written with what it is for.
"""

from typing import Final

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.rollout.model import (
    AssignmentMade,
    AssignmentMoved,
    AssignmentNoted,
    Effect,
    GiveBack,
    Offer,
    Plan,
)
from edgefleet_server.rollout.pace import LeaseEnded, LeaseTaken, LineBooked, MinuteNoted

PORTION: Final = 1_000
"""Documents that one transaction signs."""
_DOCUMENTS: Final = (Offer, GiveBack)
_SHARED: Final = (MinuteNoted, LeaseTaken, LeaseEnded, LineBooked)


def portions(plan: Plan, size: int = PORTION) -> list[tuple[Effect, ...]]:
    """Return the plan's effects in the order in which they are carried out, `size` documents at a time; at least one portion."""
    documents = dict.fromkeys(effect.device for effect in plan.effects if isinstance(effect, _DOCUMENTS))
    is_shared = any(isinstance(effect, _SHARED) for effect in plan.effects)
    if len(documents) <= size or is_shared:
        return [plan.effects]
    place = {device: number // size for number, device in enumerate(documents)}
    found: list[list[Effect]] = [[] for _ in range(max(place.values()) + 1)]
    for effect in plan.effects:
        device = _device_of(effect)
        found[0 if device is None else place.get(device, 0)].append(effect)
    return [tuple(one) for one in found]


def _device_of(effect: Effect) -> DeviceId | None:
    """Return whose document an effect goes with, None when it goes first."""
    match effect:
        case AssignmentMade() | AssignmentMoved() | AssignmentNoted():
            return effect.assignment.device
        case Offer() | GiveBack():
            return effect.device
        case _:
            return None
