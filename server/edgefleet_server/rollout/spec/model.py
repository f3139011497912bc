"""What a rollout's author wrote: stages, gates, throttle, quality. These values are read, judged, used and written as they stand here.

Pure. The words are stored and public, and so are the docstrings of the parts: JSON Schema shows them. Where a name in the code is not
the word of the spec, `names` says which is. Reference: docs/reference/rollout-spec.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from edgefleet_protocol.messages import ErrorClass
from edgefleet_server.access.model import Role
from edgefleet_server.rollout.failure_ratio import clean_needed, with_hidden_failures
from edgefleet_server.rollout.spec import budget_gate, fields
from edgefleet_server.rollout.spec.maintenance_windows import Window
from edgefleet_server.rollout.spec.parts import (
    LATER,
    SPOILT,
    Advice,
    ExpectedError,
    Kind,
    Mistake,
    duration_text,
    given,
    in_words,
    is_whole,
    part,
)

NO_VALUE: Final = "-"  # in a stratum's name, for a device without the label: no label can have this value
MAX_STAGES: Final = 32
MIN_FRESH: Final = timedelta(minutes=1)
DRIFT_FLOOR: Final = 0.02  # the least PSI of a drift that counts (ADR 0039)
WATCH: Final = timedelta(hours=24)  # so long a finished rollout is watched, unless its quality gate says otherwise
DEFAULT_MAX: Final = 1000


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


class Mode(StrEnum):
    """How the devices of a stage run the release: as the active version, or as a candidate next to it (ADR 0032)."""

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


class Control(StrEnum):
    """What a device is compared with besides itself before its switch."""

    HOLDOUT = "holdout"  # a device of the same stratum that does not have the release yet, over the same hours
    PREVIOUS = "previous"  # nothing else, so what changes for everybody is blamed on the release
    NONE = "none"  # nothing at all: only `min` and `max` can be asked


class Metric(StrEnum):
    """What is measured of a device over a period. Ratios are per answer."""

    LATENCY_P95_MS = "latency_p95_ms"
    INFERENCE_ERROR_RATE = "inference_error_rate"
    SHADOW_AGREEMENT = "shadow_agreement"
    JOULES_PER_INFERENCE = "joules_per_inference"
    NONFINITE_RATE = "nonfinite_rate"
    ACCURACY = "accuracy"
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


class CountAs(StrEnum):
    """What a device counts as that stayed away."""

    EXCLUDED = "excluded"
    FAILED = "failed"


class GateKind(StrEnum):
    """When a gate is asked, and what its answer does."""

    CONFIRM_ROLLOUT = "confirm-rollout"
    PRE_ROLLOUT = "pre-rollout"
    ROLLOUT = "rollout"
    CONFIRM_PROMOTION = "confirm-promotion"
    ROLLBACK = "rollback"


def profile_of(stratum: str) -> str:
    """Return the profile of a stratum's devices."""
    return stratum.partition("/")[0]


# ---- gates

COMPARED: Final = frozenset({Bound.NON_INFERIOR_REL, Bound.NON_INFERIOR_ABS})
_MOST: Final[Mapping[Metric, Mapping[Bound, float]]] = {
    Metric.LATENCY_P95_MS: {Bound.NON_INFERIOR_REL: 10.0, Bound.NON_INFERIOR_ABS: 1e6, Bound.MAX: 1e6},
    Metric.JOULES_PER_INFERENCE: {Bound.NON_INFERIOR_REL: 10.0, Bound.NON_INFERIOR_ABS: 1e6, Bound.MAX: 1e6},
    Metric.INFERENCE_ERROR_RATE: {Bound.NON_INFERIOR_ABS: 0.5, Bound.MAX: 0.5},
    Metric.NONFINITE_RATE: {Bound.NON_INFERIOR_ABS: 0.5, Bound.MAX: 0.5},
    Metric.SHADOW_AGREEMENT: {Bound.MIN: 1.0},
    Metric.ACCURACY: {Bound.MIN: 1.0, Bound.NON_INFERIOR_ABS: 0.5},
    Metric.DRIFT: {Bound.MAX: 10.0},
}
"""The bounds that make sense for a metric, each with the greatest value. A ratio of rates does not: the usual rate is 0."""
_Written = Annotated[Any, Kind(lambda value: value, {"type": "number", "exclusiveMinimum": 0})]
_Positive = Annotated[timedelta, fields.duration(positive=True)]


@dataclass(frozen=True, slots=True)
class QualityMetric:
    """One line of `gates.quality.metrics`. value: of the bound; of drift the least PSI that counts (an effect floor)."""

    name: Metric
    bound: Bound
    value: float
    on_breach: OnBreach


@part("QualityMetricIn")
class _WrittenMetric:
    """What is asked of one metric: exactly one bound. Which ones a metric takes, and up to which value, depends on the metric."""

    name: Annotated[Metric, Advice(f"write one of {', '.join(Metric)}")]
    non_inferior_rel: _Written = LATER
    non_inferior_abs: _Written = LATER
    min: _Written = LATER
    max: _Written = LATER
    on_breach: OnBreach = LATER

    def bounds(self) -> list[Bound]:
        return [bound for bound in Bound if getattr(self, bound) is not LATER]

    def flaws(self) -> Iterator[Mistake]:
        bounds = self.bounds()
        if self.name is SPOILT or (self.name is Metric.DRIFT and not bounds):
            return
        may = _MOST[self.name]
        if len(bounds) != 1 or bounds[0] not in may:
            got = ", ".join(bounds) or "none"
            yield (), f"expected exactly one bound of {self.name}: {' or '.join(may)}; got {got}"
        elif (value := getattr(self, bounds[0])) is not SPOILT:
            is_open = bounds[0] is Bound.MIN  # nothing agrees in more than all cases: a least of 1 could never be shown
            try:
                fields.read_number(value, 0, may[bounds[0]], below=is_open)
            except ExpectedError as error:
                yield (bounds[0].value,), in_words(error, value)


def _metric(written: Any) -> Any:
    if written is SPOILT or written.name is SPOILT:
        return SPOILT
    bound = next(iter(written.bounds()), None)
    value = DRIFT_FLOOR if bound is None else getattr(written, bound)
    usual = OnBreach.HOLD if written.name is Metric.DRIFT else OnBreach.FAIL
    breach = usual if written.on_breach is LATER else written.on_breach
    return QualityMetric(written.name, bound or Bound.MAX, value if value is SPOILT else float(value), breach)


def _metric_form(metrics: Sequence[QualityMetric]) -> list[dict[str, Any]]:
    return [{"name": str(one.name), str(one.bound): one.value, "on_breach": str(one.on_breach)} for one in metrics]


@part("QualityGateIn", kw_only=True)
class QualityGate:
    """How much worse devices that run the release may be. Times: the periods compared, and how long a finished rollout is watched."""

    control: Control = Control.HOLDOUT
    metrics: Annotated[
        tuple[Annotated[QualityMetric, Kind(by=_WrittenMetric, after=_metric)], ...],
        fields.items("metrics"),
        Kind(write=_metric_form),
        Advice("list at least one, for example {name: latency_p95_ms, non_inferior_rel: 0.1}"),
    ]
    before: _Positive = timedelta(days=7)
    after: _Positive = timedelta(hours=1)
    min_inferences: Annotated[int, fields.whole(1, 1_000_000)] = 30  # answers that a period must have to count
    watch: Annotated[timedelta, fields.duration()] = WATCH


_Ratio = Annotated[float, fields.number(0, 1, below=True)]
_Alpha = Annotated[float, fields.number(0, 0.5)]


@part("InstallGateIn")
class InstallGate:
    """How many devices may fail, how sure that must be, and how many devices may report what is not so."""

    max_failure: _Ratio = 0.03
    promote_below: _Ratio = 0.05
    alpha_abort: _Alpha = 0.01
    alpha_promote: _Alpha = 0.05
    liars: Annotated[float, fields.share(0.1)] = 0.01

    def flaws(self) -> Iterator[Mistake]:
        if not is_whole(self):
            return
        if self.promote_below < self.max_failure:
            why = (
                f"{self.promote_below} is less than max_failure ({self.max_failure}): a release could be too bad to promote "
                "and too good to stop, and the rollout would stand still; write a promote_below of at least max_failure"
            )
            yield ("promote_below",), why
            return
        try:
            clean_needed(with_hidden_failures(self.promote_below, self.liars), self.alpha_promote)
        except ValueError as error:
            yield ("promote_below",), f"{error}; raise promote_below or alpha_promote"


@part("GatesIn", sparse=["quality", "budget"])
class Gates:
    """What judges a stage. install always does; quality where a stage does not leave it out; budget lets it open and pass."""

    install: InstallGate = InstallGate()
    quality: Annotated[QualityGate | None, Kind(by=QualityGate)] = None
    budget: Annotated[budget_gate.BudgetGate | None, Kind(by=budget_gate.BudgetGate)] = None


# ---- stages

OPENING: Final = frozenset({GateKind.CONFIRM_ROLLOUT, GateKind.PRE_ROLLOUT})  # asked before the stage opens
WHILE_OPEN: Final = frozenset({GateKind.ROLLOUT, GateKind.ROLLBACK})  # asked again and again while it is open


@part("StageWebhookIn", later=["name"])
class WebhookGate:
    """A program that a stage asks."""

    name: Annotated[str, fields.named(fields.NAME)]
    kind: Annotated[GateKind, fields.GATE_KIND, Advice(f"write one of {', '.join(GateKind)}")]
    url: Annotated[str, fields.URL, Advice("say where the gate is asked, for example https://host.example/gate")]
    every: _Positive = timedelta(seconds=10)  # how long after an answer it is asked again
    timeout: _Positive = timedelta(seconds=10)

    @property
    def fresh(self) -> timedelta:
        """How long an answer counts."""
        return max(MIN_FRESH, 3 * self.every + self.timeout)

    def flaws(self) -> Iterator[Mistake]:
        if given(self.timeout, timedelta()) > timedelta(seconds=20):
            yield ("timeout",), f"expected at most 20s, got {duration_text(self.timeout)}"


_Webhooks = Annotated[tuple[WebhookGate, ...], fields.items("gates", most=8)]


@part("ApprovalIn")
class Approval:
    """Whose word a stage needs before it opens, and how long they have."""

    role: Role = Role.APPROVER
    timeout: _Positive = timedelta(hours=48)

    def flaws(self) -> Iterator[Mistake]:
        if self.role is Role.VIEWER:
            yield ("role",), "a viewer decides nothing; write operator, publisher, approver or admin"


_Count = fields.whole(1, 1_000_000)


@part("StageSizeIn", sparse=["percent", "count", "min", "count_total"])
class Size:
    """How far a stage reaches: exactly one of percent and count; min: so many devices of each stratum at least."""

    percent: Annotated[float | None, fields.number(0, 100)] = None
    count: Annotated[int | None, _Count] = None
    min: Annotated[int, _Count] = 0
    count_total: Annotated[bool, fields.FLAG] = (
        False  # the count is over all strata, shared out by size; else per stratum
    )

    def flaws(self) -> Iterator[Mistake]:
        if not is_whole(self):
            return
        if (self.percent is None) == (self.count is None):
            yield (), f"expected exactly one of percent and count, got {'neither' if self.count is None else 'both'}"
        elif self.count_total and self.count is None:
            why = "only a count can be over all strata; remove it, or write a count instead of percent"
            yield ("count_total",), why


@part("RateIn", later=["max"])
class Rate:
    """How many devices a minute are offered the release: in the first minute, what a good minute multiplies it by, the most."""

    start: Annotated[int, fields.PER_MIN, Advice("write for example 50/min")]
    factor: Annotated[float, fields.number(0, 10.0)] = 2.0
    max: Annotated[int, fields.PER_MIN] = DEFAULT_MAX

    def flaws(self) -> Iterator[Mistake]:
        if given(self.factor, 1) < 1:
            yield ("factor",), f"expected at least 1, got {self.factor:g}: a rate does not fall by itself"
        start, most = self.start, self.max
        if start is not SPOILT and given(most, start) < start:
            yield ("max",), f"{most}/min is less than start ({start}/min); write a max of at least {start}/min"


@part(
    "RolloutStageIn",
    names={"judged_by": "gates", "gates": "webhook"},
    sparse=["judged_by", "share_pct"],
    later=["name", "soak", "promote", "judged_by"],
)
class StageSpec:
    """One stage. soak: how long a device must run the release before it counts as healthy."""

    name: Annotated[str, fields.named(fields.NAME)]
    size: Annotated[Size, Advice("write {percent: 50} or {count: 10}")]
    soak: Annotated[timedelta, fields.duration()]
    promote: Promote
    judged_by: Annotated[
        tuple[StageGate, ...], Kind(fields.listed, {"type": "array", "items": {"enum": [*StageGate]}, "minItems": 1})
    ] = tuple(StageGate)
    """Those of the spec's gates that judge the stage: of those that the spec has."""
    gates: Annotated[  # webhook gates: what others say about the stage
        tuple[WebhookGate, ...],
        Kind(by=_Webhooks, before=fields.one_or_many, written=WebhookGate | _Webhooks),
    ] = ()
    rate: Rate | None = None
    match: Annotated[str, fields.TEXT] = ""  # selector of the only devices that the stage takes; "" = all
    mode: Mode = Mode.ACTIVE
    share_pct: Annotated[int, fields.whole(1, 99)] = 0  # of the requests, in mode split
    approval: Annotated[
        Approval | None,
        Kind(before=fields.asked_approval, written=Approval | Literal["none"], write=lambda form: form or "none"),
    ] = None


# ---- the whole


@part("InconclusiveIn")
class Inconclusive:
    """What to do when a stage has been open for `after` without a verdict."""

    after: _Positive = timedelta(hours=48)
    do: OnFail = OnFail.PAUSE


_Downloads = Annotated[int, fields.whole(1, 1_000_000)]


@part("LimitsIn", names={"bandwidth_bps": "bandwidth"})
class Limits:
    """How much may be under way at once: downloads in all, downloads at one site, bits a second of bundles begun."""

    # None: unlimited. The downloads of all rollouts that have limits count: server and site links are shared.
    concurrent_downloads: _Downloads | None = None
    per_site: _Downloads | None = None
    bandwidth_bps: Annotated[int, fields.BITS] | None = None

    @property
    def are_set(self) -> bool:
        """Whether there is any: only then does a rollout take leases."""
        return (self.concurrent_downloads, self.per_site, self.bandwidth_bps) != (None, None, None)


@part("OfflineIn", later=["after"])
class Offline:
    """After how long without a word a device that is due counts as away, and as what. after: `ack_deadline` unless written."""

    after: _Positive = timedelta(hours=72)
    count: CountAs = CountAs.EXCLUDED
    on_return: Annotated[str, fields.constant("join", "join")] = "join"


@part("RetriesIn")
class Retries:
    """How often the server offers the release again after a failure of these classes, and after which wait."""

    max: Annotated[int, fields.whole(0, 20)] = 3
    backoff: Annotated[tuple[timedelta, ...], fields.BACKOFF] = (timedelta(minutes=2), timedelta(hours=1))
    """The first wait, which doubles, and the longest one."""
    on: Annotated[tuple[ErrorClass, ...], fields.CLASSES] = (ErrorClass.NETWORK, ErrorClass.DISK)


@part(
    "DeviceTermsIn",
    names={one: f"{one}_deadline" for one in ("ack", "download", "apply", "verify")},
    sparse=["start_within"],
)
class DeviceTerms:
    """How long a device may take for each step, and how it tries again. start_within: over how long devices begin to download."""

    ack: _Positive = timedelta(hours=72)
    download: _Positive = timedelta(hours=6)
    apply: _Positive = timedelta(minutes=10)
    verify: _Positive = timedelta(minutes=30)
    retries: Annotated[Retries, fields.RETRIES] | None = None  # None: devices try by themselves
    start_within: Annotated[timedelta, fields.duration()] | None = None  # None: by how many there are

    def flaws(self) -> Iterator[Mistake]:
        download = given(self.download, timedelta(hours=6))
        if (given(self.start_within, None) or timedelta()) >= download:
            why = (
                f"the wait is part of download_deadline ({duration_text(download)}), so it must be shorter than that; "
                "write a shorter one, or a longer download_deadline"
            )
            yield ("start_within",), why


@part("RolloutSpecIn", names={"name": None}, sparse=["strategy", "promote", "on_unconfirmed"], later=["stages"])
class Spec:
    """What goes out, to which devices, in which stages and under which bounds. Only `release` and `selector` must be given."""

    release: Annotated[str, fields.RELEASE, Advice("name the release as model@version")]
    # Not every device by default: who forgets the selector must not update the whole fleet.
    selector: Annotated[str, fields.SELECTOR, Advice("say which devices, such as 'site=lab'; '' means every device")]
    stages: Annotated[tuple[StageSpec, ...], fields.items("stages", 1, MAX_STAGES)]
    strategy: Annotated[
        Any, Kind(lambda value: value, {"enum": ["canary", "rolling", "blue-green", "shadow", "ab"]})
    ] = LATER
    """Only while a spec is read, as is `promote`: `stages` hold what they stand for."""
    device: DeviceTerms = DeviceTerms()
    gates: Gates = Gates()
    promote: Promote = Promote.AUTO
    on_fail: OnFail = OnFail.ROLLBACK
    on_inconclusive: Inconclusive = Inconclusive()
    on_unconfirmed: OnFail = OnFail.PAUSE  # rollback: one failure is enough where others would be asked first
    limits: Limits = Limits()
    windows: Annotated[tuple[Window, ...], fields.items("windows", most=16)] = ()
    offline: Offline = Offline()
    membership: Membership = Membership.DYNAMIC
    supersede: Supersede = Supersede.REJECT
    rollback_to: Annotated[str, fields.ROLLBACK_TO] = fields.PREVIOUS  # or `none`, or another release of the model
    strata: Annotated[tuple[str, ...], fields.STRATA] = (fields.PROFILE,)  # then keys of labels
    name: str = ""

    @property
    def recalls(self) -> bool:
        """Whether an offer that nobody takes up is taken back: it may not be carried out at any time."""
        return self.limits.are_set or bool(self.windows)


def gate_in(spec: Spec, stage: int) -> QualityGate | None:
    """Return the quality gate as it judges a stage, None where it does not or nothing of it can be asked there.

    How far a shadow agrees is asked of shadows only: an active version has nothing to agree with.
    """
    gate, asked = spec.gates.quality, spec.stages[stage]
    if gate is None or StageGate.QUALITY not in asked.judged_by:
        return None
    if asked.mode is Mode.SHADOW:
        return gate
    metrics = tuple(one for one in gate.metrics if one.name is not Metric.SHADOW_AGREEMENT)
    return replace(gate, metrics=metrics) if metrics else None
