"""What a rollout's author wrote: stages, gates, throttle, quality, strategy.

Pure values; the words are stored and public: never renamed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from edgefleet_protocol.messages import ErrorClass
from edgefleet_server.access.model import Role


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


PREVIOUS: Final = "previous"

NO_WAY_BACK: Final = "none"

PROFILE: Final = "profile"

RUNTIME: Final = "runtime"

NO_VALUE: Final = "-"
"""What stands in a stratum's name for a device without the label; no label can have this value."""


class Mode(StrEnum):
    """How the devices of a stage run the release: as the active version, or beside it (ADR 0032)."""

    SHADOW = "shadow"
    SPLIT = "split"
    ACTIVE = "active"


class Membership(StrEnum):
    """Whether devices that come to match the selector later take part."""

    DYNAMIC = "dynamic"
    SNAPSHOT = "snapshot"


class Supersede(StrEnum):
    """What a new rollout does about older ones of its model that are open on one of its devices."""

    CANCEL_OLDER = "cancel-older"
    QUEUE = "queue"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Approval:
    """Whose word a stage needs before it opens, and how long they have."""

    role: Role = Role.APPROVER
    timeout: timedelta = timedelta(hours=48)


@dataclass(frozen=True, slots=True)
class StageShape:
    """match: selector of the only devices that the stage takes; "" = all. share_pct: of the requests, in mode split (1 to 99)."""

    match: str = ""
    mode: Mode = Mode.ACTIVE
    share_pct: int = 0
    approval: Approval | None = None


@dataclass(frozen=True, slots=True)
class SpecShape:
    """rollback_to: `previous`, `none`, or another release of the model. strata: `profile`, then label keys."""

    membership: Membership = Membership.DYNAMIC
    supersede: Supersede = Supersede.REJECT
    rollback_to: str = PREVIOUS
    strata: tuple[str, ...] = (PROFILE,)


PLAIN_STAGE: Final = StageShape()

PLAIN: Final = SpecShape()


def profile_of(stratum: str) -> str:
    """Return the profile of a stratum's devices."""
    return stratum.partition("/")[0]


class Control(StrEnum):
    """What a device is compared with besides itself before its switch."""

    HOLDOUT = "holdout"
    """A device of the same stratum that does not have the release yet, over the same hours."""
    PREVIOUS = "previous"
    """Nothing: the device's own time before its switch alone. What changes for everybody is blamed on the release."""
    NONE = "none"
    """Nothing at all: only `min` and `max` can be asked."""


class Metric(StrEnum):
    """What is measured of a device over a period. Ratios are per answer."""

    LATENCY_P95_MS = "latency_p95_ms"
    INFERENCE_ERROR_RATE = "inference_error_rate"
    SHADOW_AGREEMENT = "shadow_agreement"
    JOULES_PER_INFERENCE = "joules_per_inference"
    NONFINITE_RATE = "nonfinite_rate"
    DRIFT = "drift"


class Bound(StrEnum):
    """How a metric is bounded. non_inferior: how much worse than the comparison it may be, by ratio or by difference."""

    NON_INFERIOR_REL = "non_inferior_rel"
    NON_INFERIOR_ABS = "non_inferior_abs"
    MIN = "min"
    MAX = "max"


class OnBreach(StrEnum):
    """What a proven breach does: it fails the stage, or only holds it."""

    FAIL = "fail"
    HOLD = "hold"


WATCH: Final = timedelta(hours=24)
"""How long a finished rollout is looked at for devices that fall back, unless its quality gate says otherwise."""


@dataclass(frozen=True, slots=True)
class QualityMetric:
    """One line of `gates.quality.metrics`. value: of the bound; of drift the least PSI that counts (an effect floor)."""

    name: Metric
    bound: Bound
    value: float
    on_breach: OnBreach


@dataclass(frozen=True, slots=True)
class QualityGate:
    """What a release must keep to. before, after: the periods of a device that are compared, around its switch.

    min_inferences: answers that each of them must have to count. watch: how long a finished rollout is looked at.
    """

    metrics: tuple[QualityMetric, ...]
    control: Control = Control.HOLDOUT
    before: timedelta = timedelta(days=7)
    after: timedelta = timedelta(hours=1)
    min_inferences: int = 30
    watch: timedelta = WATCH


TZ_DEVICE: Final = "device"

DEFAULT_FACTOR: Final = 2.0

DEFAULT_MAX: Final = 1000

# ---- the spec's


@dataclass(frozen=True, slots=True)
class Rate:
    """Offers a minute over all strata of a stage: the first minute's, what a good minute multiplies it by, and the most."""

    start: int
    factor: float = DEFAULT_FACTOR
    max: int = DEFAULT_MAX


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be under way at once. None: unlimited. bandwidth_bps: bits a second of bundles begun.

    The first two count the downloads of all rollouts that have limits: server and site links are shared.
    """

    concurrent_downloads: int | None = None
    per_site: int | None = None
    bandwidth_bps: int | None = None

    @property
    def are_set(self) -> bool:
        """Whether there is any: only then does a rollout take leases."""
        return (self.concurrent_downloads, self.per_site, self.bandwidth_bps) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Window:
    """When devices may be offered: from each start that `cron` names, for `duration`. tz: `device`, `UTC` or an IANA name."""

    cron: str
    duration: timedelta
    tz: str = TZ_DEVICE


@dataclass(frozen=True, slots=True)
class Retries:
    """How often the server offers again after a failure of these classes: `max` times, after a wait that doubles."""

    max: int = 3
    least: timedelta = timedelta(minutes=2)
    most: timedelta = timedelta(hours=1)
    on: tuple[ErrorClass, ...] = (ErrorClass.NETWORK, ErrorClass.DISK)


class CountAs(StrEnum):
    """What a device counts as that stayed away."""

    EXCLUDED = "excluded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Offline:
    """After how long without a word a device that is due counts as `count`. When it comes back it takes part."""

    after: timedelta = timedelta(hours=72)
    count: CountAs = CountAs.EXCLUDED


@dataclass(frozen=True, slots=True)
class Pacing:
    """All of a spec that says how fast and when, but for the rates, which stand in the stages. retries None: devices try by themselves.

    start_within: over how long devices begin to download, None: as many of them need that are offered at once (`throttle.jitter`).
    """

    limits: Limits = Limits()
    windows: tuple[Window, ...] = ()
    retries: Retries | None = None
    offline: Offline = Offline()
    start_within: timedelta | None = None

    @property
    def recalls(self) -> bool:
        """Whether an offer that nobody takes up is taken back: it may not be carried out at any time."""
        return self.limits.are_set or bool(self.windows)


NO_PACING: Final = Pacing()

DEFAULT_EVERY: Final = timedelta(seconds=10)

DEFAULT_TIMEOUT: Final = timedelta(seconds=10)

MIN_FRESH: Final = timedelta(minutes=1)


class GateKind(StrEnum):
    """When a gate is asked, and what its answer does."""

    CONFIRM_ROLLOUT = "confirm-rollout"
    PRE_ROLLOUT = "pre-rollout"
    ROLLOUT = "rollout"
    CONFIRM_PROMOTION = "confirm-promotion"
    ROLLBACK = "rollback"


ELSEWHERE: Final[Mapping[str, str]] = {
    "confirm-traffic-increase": "each stage is one increase here: write confirm-rollout in the stage that it leads to",
    "post-rollout": "it decides nothing: `edgectl webhook create URL --events 'edgefleet.rollout.*'` tells of every end",
    "event": "it decides nothing: `edgectl webhook create URL --events 'edgefleet.rollout.*'` tells of every event",
}
"""Flagger's other kinds, and what has their meaning here."""

OPENING: Final = frozenset({GateKind.CONFIRM_ROLLOUT, GateKind.PRE_ROLLOUT})
"""Asked before the stage opens."""

WHILE_OPEN: Final = frozenset({GateKind.ROLLOUT, GateKind.ROLLBACK})
"""Asked again and again while the stage is open."""


@dataclass(frozen=True, slots=True)
class WebhookGate:
    """One gate of a stage. every: how long after an answer it is asked again."""

    name: str
    kind: GateKind
    url: str
    every: timedelta = DEFAULT_EVERY
    timeout: timedelta = DEFAULT_TIMEOUT

    @property
    def fresh(self) -> timedelta:
        """How long an answer counts."""
        return max(MIN_FRESH, 3 * self.every + self.timeout)


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


DURATION_UNITS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
"""Seconds in each unit of a duration as a spec writes it."""


def duration_text(span: timedelta) -> str:
    """Return a whole number of seconds as a spec writes it, in the largest unit that is exact: `90s`, `10m`, `0s`."""
    seconds = span // timedelta(seconds=1)
    for unit in ("d", "h", "m"):
        if seconds and seconds % DURATION_UNITS[unit] == 0:
            return f"{seconds // DURATION_UNITS[unit]}{unit}"
    return f"{seconds}s"
