"""What a rollout's author wrote: the spec as parsed by `spec.py`. Pure values; words are stored and public: never renamed.

Its own module because it holds one part of each side of a rollout (pace, quality, gates, form), and `model` the engine's values.
Source: fleet.md §5.2.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from edgefleet_server.rollout.gating import WebhookGate
from edgefleet_server.rollout.pace import NO_PACING, Pacing, Rate
from edgefleet_server.rollout.quality_model import QualityGate
from edgefleet_server.rollout.shape import PLAIN, PLAIN_STAGE, SpecShape, StageShape


class Promote(StrEnum):
    """What a stage needs before the next one opens."""

    AUTO = "auto"
    ALL_HEALTHY = "all_healthy"
    EVIDENCE = "evidence"


class StageGate(StrEnum):
    """A gate of the spec that may judge a stage. What fails to install always does."""

    INSTALL = "install"
    QUALITY = "quality"


class OnFail(StrEnum):
    """What happens to a stratum whose stage failed."""

    ROLLBACK = "rollback"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Size:
    """How far a stage reaches: a percentage (0 < p <= 100) or a count; `min` devices per stratum in any case.

    count is per stratum; with `count_total` it is over all strata, shared out by size.
    """

    percent: float | None = None
    count: int | None = None
    min: int = 0
    count_total: bool = False


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage. `soak`: how long a device must run the release before it counts as healthy."""

    name: str
    size: Size
    soak: timedelta
    promote: Promote
    gates: tuple[WebhookGate, ...] = ()
    """Webhook gates: what others say about the stage."""
    rate: Rate | None = None
    shape: StageShape = PLAIN_STAGE
    judged_by: tuple[StageGate, ...] = tuple(StageGate)
    """Those of the spec's gates that judge the stage: of those that the spec has."""


@dataclass(frozen=True, slots=True)
class DeviceDeadlines:
    """How long a device may take: to take up the offer, to download, to get to the switch, and to prove itself."""

    ack: timedelta = timedelta(hours=72)
    download: timedelta = timedelta(hours=6)
    apply: timedelta = timedelta(minutes=10)
    verify: timedelta = timedelta(minutes=30)


@dataclass(frozen=True, slots=True)
class InstallGate:
    """Bounds on the share of devices on which the release fails (ratios) and the error probabilities of the two tests."""

    max_failure: float = 0.03
    promote_below: float = 0.05
    alpha_abort: float = 0.01
    alpha_promote: float = 0.05


@dataclass(frozen=True, slots=True)
class Inconclusive:
    """What to do when a stage has been open for `after` without a verdict."""

    after: timedelta = timedelta(hours=48)
    do: OnFail = OnFail.PAUSE


@dataclass(frozen=True, slots=True)
class Spec:
    """A whole rollout as its author wrote it. `release` is `name@version`; `selector` "" means every device."""

    release: str
    selector: str
    stages: tuple[StageSpec, ...]
    device: DeviceDeadlines = DeviceDeadlines()
    gate: InstallGate = InstallGate()
    on_fail: OnFail = OnFail.ROLLBACK
    on_inconclusive: Inconclusive = Inconclusive()
    pacing: Pacing = NO_PACING
    name: str = ""
    quality: QualityGate | None = None
    shape: SpecShape = PLAIN
