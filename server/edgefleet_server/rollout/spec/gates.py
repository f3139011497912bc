"""Reads `gates` and `stages[].gates` of a rollout's spec. Pure.

- Left out, all gates of the spec judge the stage; that is its normal form too, since it depends on which gates there are.
- `install` must be among them: what fails on a device stops a stage in any case.
- A gate that the spec does not have judges nothing, and one that no stage is judged by has no meaning: both are refused.
  Reference: docs/reference/rollout-spec.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final

from edgefleet_server.rollout.failure_ratio import clean_needed
from edgefleet_server.rollout.spec.fields import (
    SPOILT,
    Advice,
    Checked,
    ExpectedError,
    Item,
    Items,
    Loc,
    Maybe,
    Mistake,
    Part,
    Read,
    duration,
    given,
    in_words,
    is_whole,
    listed,
    number,
    place,
    shown,
    whole,
)
from edgefleet_server.rollout.spec.model import (
    Bound,
    Control,
    InstallGate,
    Metric,
    OnBreach,
    QualityGate,
    QualityMetric,
    StageGate,
)
from edgefleet_server.rollout.spec.quality import ALL, COMPARED

MAX_ALPHA: Final = 0.5

DRIFT_FLOOR: Final = 0.02
"""Least PSI of a drift that counts (ADR 0039)."""

MAX_INFERENCES: Final = 1_000_000

_MAX: Final[Mapping[Metric, Mapping[Bound, float]]] = {
    Metric.LATENCY_P95_MS: {Bound.NON_INFERIOR_REL: 10.0, Bound.NON_INFERIOR_ABS: 1e6, Bound.MAX: 1e6},
    Metric.JOULES_PER_INFERENCE: {Bound.NON_INFERIOR_REL: 10.0, Bound.NON_INFERIOR_ABS: 1e6, Bound.MAX: 1e6},
    Metric.INFERENCE_ERROR_RATE: {Bound.NON_INFERIOR_ABS: 0.5, Bound.MAX: 0.5},
    Metric.NONFINITE_RATE: {Bound.NON_INFERIOR_ABS: 0.5, Bound.MAX: 0.5},
    Metric.SHADOW_AGREEMENT: {Bound.MIN: 1.0},
    Metric.DRIFT: {Bound.MAX: 10.0},
}
"""The bounds that make sense for a metric, each with the greatest value. A ratio of rates does not: the usual rate is 0."""


_BOUND_SCHEMA: Final = {"type": "number", "exclusiveMinimum": 0}
Written = Annotated[Any, Read(lambda value: value, _BOUND_SCHEMA)]
_USUAL: Final = QualityGate(())


class QualityMetricIn(Checked):
    """What is asked of one metric: exactly one bound. Which ones a metric takes, and up to which value, depends on the metric."""

    name: Annotated[Metric, Advice(f"write one of {', '.join(metric.value for metric in Metric)}")]
    non_inferior_rel: Written = None
    non_inferior_abs: Written = None
    min: Written = None
    max: Written = None
    on_breach: Maybe[OnBreach] = None

    @property
    def bounds(self) -> list[Bound]:
        """Those that are written."""
        return [bound for bound in Bound if bound.value in self.model_fields_set]

    def flaws(self) -> Iterator[Mistake]:
        """Yield what does not fit."""
        if self.name is SPOILT or (self.name is Metric.DRIFT and not self.bounds):
            return
        may = _MAX[self.name]
        if len(self.bounds) != 1 or self.bounds[0] not in may:
            got = ", ".join(bound.value for bound in self.bounds) or "none"
            yield (), f"expected exactly one bound of {self.name.value}: {' or '.join(may)}; got {got}"
        elif (value := getattr(self, self.bounds[0].value)) is not SPOILT:
            bound = self.bounds[0]
            is_open = bound is Bound.MIN  # nothing agrees in more than all cases: a least of 1 could never be shown
            try:
                number(0, may[bound], below=is_open).read(value)
            except ExpectedError as error:
                yield (bound.value,), in_words(error, value)

    def metric(self) -> QualityMetric:
        """Return the line of the gate."""
        usual = OnBreach.HOLD if self.name is Metric.DRIFT else OnBreach.FAIL
        bound = self.bounds[0] if self.bounds else Bound.MAX
        value = float(getattr(self, bound.value)) if self.bounds else DRIFT_FLOOR
        return QualityMetric(self.name, bound, value, given(self.on_breach, usual))


class QualityGateIn(Part):
    """How much worse devices that run the release may be. Times: the periods compared, and how long a finished rollout is watched."""

    control: Control = _USUAL.control
    metrics: Annotated[
        list[Item[QualityMetricIn]],
        Items("metrics"),
        Advice("list at least one, for example {name: latency_p95_ms, non_inferior_rel: 0.1}"),
    ]
    before: Annotated[timedelta, duration(positive=True)] = _USUAL.before
    after: Annotated[timedelta, duration(positive=True)] = _USUAL.after
    min_inferences: Annotated[int, whole(1, MAX_INFERENCES)] = _USUAL.min_inferences
    watch: Annotated[timedelta, duration()] = _USUAL.watch

    def gate(self) -> QualityGate:
        """Return the gate."""
        metrics = tuple(one.metric() for one in self.metrics)
        return QualityGate(metrics, self.control, self.before, self.after, self.min_inferences, self.watch)


def check_quality(gate: QualityGateIn, at: Loc) -> Iterator[Mistake]:
    """Yield what is wrong with the metrics of a gate as a whole. at: where it stands."""
    if gate.metrics is SPOILT:
        return
    if not gate.metrics:
        yield (*at, "metrics"), "expected at least one metric; leave `quality` out for none"
    found: dict[Metric, Loc] = {}
    for index, metric in enumerate(gate.metrics):
        if metric is SPOILT or metric.name is SPOILT:
            continue
        here, name = (*at, "metrics", index), metric.name.value
        is_compared = metric.name is Metric.DRIFT or not COMPARED.isdisjoint(metric.bounds)
        if gate.control is Control.NONE and is_compared:
            yield here, f"{name} is compared with something here, but control is none; write max, or another control"
        elif is_whole(metric) and metric.name in found:
            yield (*here, "name"), f"{name!r} is also the name of {place(found[metric.name])}; once is enough"
        elif is_whole(metric):
            found[metric.name] = here


_INSTALL: Final = InstallGate()
Ratio = Annotated[float, number(0, 1, below=True)]
Alpha = Annotated[float, number(0, MAX_ALPHA)]


class InstallGateIn(Checked):
    """How many devices may fail, and how sure that must be."""

    max_failure: Ratio = _INSTALL.max_failure
    promote_below: Ratio = _INSTALL.promote_below
    alpha_abort: Alpha = _INSTALL.alpha_abort
    alpha_promote: Alpha = _INSTALL.alpha_promote

    def flaws(self) -> Iterator[Mistake]:
        """Yield what does not fit."""
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
            clean_needed(self.promote_below, self.alpha_promote)
        except ValueError as error:
            yield ("promote_below",), f"{error}; raise promote_below or alpha_promote"

    def gate(self) -> InstallGate:
        """Return the gate."""
        return InstallGate(self.max_failure, self.promote_below, self.alpha_abort, self.alpha_promote)


class GatesIn(Part):
    """What judges a stage. install always does; quality where a stage does not leave it out."""

    install: Maybe[InstallGateIn] = None
    quality: Maybe[QualityGateIn] = None


# ---- the gates of a stage

Judges = Annotated[list[Any], Read(listed, {"type": "array", "items": {"enum": [*ALL]}, "minItems": 1})]


def check_judges(judges: Sequence[Any] | None, at: Loc, *, has_quality: bool) -> Iterator[Mistake]:
    """Yield what is wrong with the gates that a stage names, None: it names none. has_quality: the spec has a quality gate."""
    if judges is None:
        return
    is_clean = True
    for index, item in enumerate(judges):
        if item not in [*ALL]:
            why = f"expected {' or '.join(ALL)}, got {shown(item)}; other programs are asked by webhook"
        elif item == StageGate.QUALITY and not has_quality:
            why = "this spec has no gates.quality; write there what it asks, or leave quality out here"
        elif item in judges[:index]:
            why = f"{item!r} is named twice"
        else:
            continue
        is_clean = False
        yield (*at, index), why
    if is_clean and StageGate.INSTALL not in judges:
        yield at, "install judges every stage: what fails on a device stops it; write [install] or [install, quality]"
