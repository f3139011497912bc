"""Values of the question why latency rose: what was measured, and what was found. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class CauseKind(StrEnum):
    """What can make answers slow. The names are public."""

    RELEASE = "release"
    THROTTLING = "throttling"
    LOAD = "load"
    PROCESSOR = "processor"
    MEMORY = "memory"
    DISK = "disk"
    CANDIDATE = "candidate"
    OTHER_MODELS = "other_models"
    INPUTS = "inputs"
    DEVICE_MIX = "device_mix"
    NETWORK = "network"


class CauseVerdict(StrEnum):
    """How sure it is. unchanged: it did not change enough to matter; unknown: devices do not report it."""

    LIKELY = "likely"
    POSSIBLE = "possible"
    UNLIKELY = "unlikely"
    UNCHANGED = "unchanged"
    UNKNOWN = "unknown"
    RULED_OUT = "ruled_out"


class Spread(StrEnum):
    """Where answers got slower."""

    DEVICE = "device"
    PART = "part"
    PROFILE = "profile"
    SITE = "site"
    ALL = "all"
    NOWHERE = "nowhere"


VERDICT_ORDER: Final = tuple(CauseVerdict)


@dataclass(frozen=True, slots=True)
class VersionFigures:
    """What one version answered in a step."""

    n: int
    p95_ms: float | None


@dataclass(frozen=True, slots=True)
class Moment:
    """One step of one strand. at: its beginning in seconds since 1970; figures: what is known of it, by name (`indicators`).

    versions: the answers of each version; classes: counts by class.
    """

    at: int
    n: int
    p95_ms: float | None
    figures: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, VersionFigures] = field(default_factory=dict)
    classes: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Strand:
    """What is compared with others like it: a device, or the devices of one profile at one site. moments: oldest first."""

    name: str
    moments: Sequence[Moment]
    profile: str = ""
    site: str = ""


@dataclass(frozen=True, slots=True)
class DriftFact:
    """A signal that a device says has drifted since then (seconds since 1970)."""

    signal: str
    psi: float
    since: int


@dataclass(frozen=True, slots=True)
class Case:
    """A question with its evidence. subject: what the latency is of; parts: what it is made of, or the device and others like it.

    is_device: the subject is one device, and its own strand is the first of `parts`. step_s: the length of a moment.
    """

    model: str
    subject: Strand
    parts: Sequence[Strand]
    step_s: int
    is_device: bool = False
    drift: Sequence[DriftFact] = ()


@dataclass(frozen=True, slots=True)
class Rise:
    """When the 95th percentile rose, and from what to what. at, until: seconds since 1970; is_over: it fell again at `until`."""

    at: int
    until: int
    before_ms: float
    after_ms: float
    is_over: bool

    @property
    def ratio(self) -> float:
        """Return how many times as long answers took."""
        return self.after_ms / self.before_ms


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one cause. before, after: its figure in `unit`, None where nothing says it; score: 0 … 1.

    together: how well it moved with latency, step by step (-1 … 1). had, of: affected strands where it changed too; same, unharmed: strands
    without a rise where it changed just as much, of those that say it. version, others: of a release: its name, and the latency of what
    else answered meanwhile, before and after. lead_s: how long it changed before latency rose.
    """

    kind: CauseKind
    verdict: CauseVerdict
    score: float
    unit: str
    before: float | None = None
    after: float | None = None
    together: float = 0.0
    had: int = 0
    of: int = 0
    same: int = 0
    unharmed: int = 0
    version: str = ""
    others: tuple[float, float] | None = None
    lead_s: int = 0
    signals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the evidence says. rise: None when there was none; spread, place, hit, of: where it got slower."""

    rise: Rise | None
    spread: Spread
    place: str
    hit: int
    of: int
    findings: Sequence[Finding]
    steps: int
