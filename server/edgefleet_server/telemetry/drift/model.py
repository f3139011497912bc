"""Values of drift: devices, what is expected of a signal, and what was heard of it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgefleet_protocol.drift.histogram import SignalSums


@dataclass(frozen=True, slots=True)
class Member:
    """A device as crowds are made of. site: the value of its label `site`, "" without one."""

    device: str
    profile: str
    site: str = ""
    groups: Sequence[str] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """A signal with what is expected of it. counts: of the reference's bins, and last of those without a value.

    mean_z: what its mean was, in standard deviations of the bundle's reference: 0 unless a person chose a period as normal.
    """

    name: str
    kind: str
    counts: Sequence[int]
    edges: Sequence[float] = ()
    values: Sequence[float] = ()
    mean: float = 0.0
    std: float = 0.0
    mean_z: float = 0.0
    has_sums: bool = True
    """Whether its values have a mean; classes, other categories and the confidence have none."""
    bins: int = 0

    @property
    def n(self) -> int:
        """Return how many samples are behind it."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Heard:
    """What one device counted of one signal in a period."""

    member: Member
    sums: SignalSums

    @property
    def n(self) -> int:
        """Return its answers, also those without a value."""
        return self.sums.n + self.sums.missing
