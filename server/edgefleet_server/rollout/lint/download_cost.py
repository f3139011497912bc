"""What a rollout costs the network: the bytes that its devices have to download. Pure.

Plan and undo count with it. A device that holds the bundle in one of its two slots, as its last report says,
downloads nothing; of one that never reported the whole bundle is counted. Blocks that a device has of an aborted download, and
what is sent twice over a bad link, are not known here.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.rollout.model import Bundle, Member


@dataclass(frozen=True, slots=True)
class StratumCost:
    """One stratum: bytes of its bundle, devices that download it, devices that hold it already, bytes in all."""

    stratum: str
    bundle_bytes: int
    downloads: int
    kept: int
    bytes: int


@dataclass(frozen=True, slots=True)
class PlanCost:
    """All strata together, when every device of the plan gets the release."""

    downloads: int = 0
    kept: int = 0
    bytes: int = 0
    strata: tuple[StratumCost, ...] = ()


NO_COST: Final = PlanCost()
"""What a plan costs that nobody asked the cost of."""


def cost_of(
    members: Iterable[Member], bundles: Mapping[ProfileName, Bundle], held: Mapping[DeviceId, Collection[str]]
) -> PlanCost:
    """Return what it costs to bring each member its bundle. held: digests in the slots of each device."""
    counted: dict[ProfileName, list[int]] = {}
    for member in members:
        bundle = bundles.get(member.stratum)
        if bundle is not None:
            counted.setdefault(member.stratum, [0, 0])[bundle.sha256 in held.get(member.device, ())] += 1
    strata = tuple(
        StratumCost(name, bundles[name].length, downloads, kept, downloads * bundles[name].length)
        for name, (downloads, kept) in sorted(counted.items())
    )
    return PlanCost(
        sum(one.downloads for one in strata), sum(one.kept for one in strata), sum(one.bytes for one in strata), strata
    )
