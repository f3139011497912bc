"""Reads `gates.quality` and `stages[].gates` of a rollout's spec, and writes them back in normal form. Pure.

- Left out, all gates of the spec judge the stage; that is its normal form too, since it depends on which gates there are.
- `install` must be among them: what fails on a device stops a stage in any case.
- A gate that the spec does not have judges nothing, and one that no stage is judged by has no meaning: both are refused.
  Reference: docs/reference/rollout-spec.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from edgefleet_server.rollout.spec.model import (
    Bound,
    Control,
    Metric,
    Mode,
    OnBreach,
    QualityGate,
    QualityMetric,
    Spec,
    StageGate,
    StageSpec,
)
from edgefleet_server.rollout.spec.reader import Place, duration_text

FIELDS: Final = ("control", "metrics", "before", "after", "min_inferences", "watch")

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

COMPARED: Final = frozenset({Bound.NON_INFERIOR_REL, Bound.NON_INFERIOR_ABS})


def parse_quality(place: Place | None) -> QualityGate | None:
    """Return the gate that is written here, None when there is none. Mistakes are noted at their places."""
    if place is None or not place.only(FIELDS):
        return None
    usual = QualityGate(())
    control = place.choice("control", Control, usual.control)
    written = place.need("metrics", "list at least one, for example {name: latency_p95_ms, non_inferior_rel: 0.1}")
    metrics = _metrics(written, control) if written is not None else ()
    return QualityGate(
        metrics=metrics,
        control=control,
        before=place.duration("before", usual.before, positive=True),
        after=place.duration("after", usual.after, positive=True),
        min_inferences=place.whole("min_inferences", 1, MAX_INFERENCES) or usual.min_inferences,
        watch=place.duration("watch", usual.watch),
    )


def dump_quality(gate: QualityGate) -> dict[str, Any]:
    """Return the normal form of a gate: every field, durations as text."""
    return {
        "control": gate.control.value,
        "metrics": [
            {"name": one.name.value, one.bound.value: one.value, "on_breach": one.on_breach.value}
            for one in gate.metrics
        ],
        "before": duration_text(gate.before),
        "after": duration_text(gate.after),
        "min_inferences": gate.min_inferences,
        "watch": duration_text(gate.watch),
    }


def _metrics(place: Place, control: Control) -> tuple[QualityMetric, ...]:
    items = place.items()
    if items is None:
        return ()
    if not items:
        place.fail("expected at least one metric; leave `quality` out for none")
    found: dict[Metric, Place] = {}
    metrics = []
    for item in items:
        metric = _metric(item, control)
        if metric is None:
            continue
        if metric.name in found:
            item.at("name").fail(f"{metric.name.value!r} is also the name of {found[metric.name].path}; once is enough")
            continue
        found[metric.name] = item
        metrics.append(metric)
    return tuple(metrics)


def _metric(place: Place, control: Control) -> QualityMetric | None:
    if not place.only(("name", *(bound.value for bound in Bound), "on_breach")):
        return None
    before = len(place.errors)
    if place.need("name", f"write one of {', '.join(metric.value for metric in Metric)}") is None:
        return None
    name = place.choice("name", Metric, Metric.LATENCY_P95_MS)
    if len(place.errors) > before:
        return None
    is_drift = name is Metric.DRIFT
    on_breach = place.choice("on_breach", OnBreach, OnBreach.HOLD if is_drift else OnBreach.FAIL)
    written = [bound for bound in Bound if bound.value in place.value]
    may = _MAX[name]
    if is_drift and not written:
        bound, value = Bound.MAX, DRIFT_FLOOR
    elif len(written) != 1 or written[0] not in may:
        got = ", ".join(bound.value for bound in written) or "none"
        place.fail(f"expected exactly one bound of {name.value}: {' or '.join(may)}; got {got}")
        return None
    else:
        bound = written[0]
        is_open = bound is Bound.MIN  # nothing agrees in more than all cases: a least of 1 could never be shown
        value = place.number(bound.value, 0, may[bound], below=is_open) or DRIFT_FLOOR
    if control is Control.NONE and (bound in COMPARED or is_drift):
        place.fail(f"{name.value} is compared with something here, but control is none; write max, or another control")
    return QualityMetric(name, bound, value, on_breach) if len(place.errors) == before else None


ALL: Final = tuple(StageGate)


def parse_judges(place: Place | None, *, has_quality: bool) -> tuple[StageGate, ...]:
    """Return the gates that a stage names, all where it names none. has_quality: the spec has a quality gate."""
    if place is None or (items := place.items()) is None:
        return ALL
    before, found = len(place.errors), set[StageGate]()
    for item in items:
        gate = next((one for one in ALL if item.value == one.value), None)
        if gate is None:
            item.fail(f"expected {' or '.join(ALL)}, got {item.shown()}; other programs are asked by webhook")
        elif gate in found:
            item.fail(f"{gate.value!r} is named twice")
        elif gate is StageGate.QUALITY and not has_quality:
            item.fail("this spec has no gates.quality; write there what it asks, or leave quality out here")
        else:
            found.add(gate)
    if len(place.errors) == before and StageGate.INSTALL not in found:
        place.fail("install judges every stage: what fails on a device stops it; write [install] or [install, quality]")
    return ALL if len(place.errors) > before else tuple(one for one in ALL if one in found)


def check_judges(quality: Place, stages: Sequence[StageSpec]) -> None:
    """Note where a quality gate judges no stage."""
    if stages and not any(StageGate.QUALITY in stage.judged_by for stage in stages):
        quality.fail("no stage is judged by it; name quality in the gates of a stage, or remove it here")


def dump_judges(judges: Sequence[StageGate]) -> dict[str, Any]:
    """Return the normal form of a stage's gates: nothing where all judge it."""
    return {} if tuple(judges) == ALL else {"gates": [one.value for one in judges]}


def judges_text(judges: Sequence[StageGate]) -> str:
    """Return in words what does not judge a stage, "" where all gates do."""
    return "" if StageGate.QUALITY in judges else "without the quality gate"


def gate_in(spec: Spec, stage: int) -> QualityGate | None:
    """Return the quality gate as it judges a stage, None where it does not or nothing of it can be asked there.

    How far a shadow agrees is asked of shadows only: what serves has nothing beside it that it could agree with.
    """
    gate, asked = spec.quality, spec.stages[stage]
    if gate is None or StageGate.QUALITY not in asked.judged_by:
        return None
    if asked.shape.mode is Mode.SHADOW:
        return gate
    metrics = tuple(one for one in gate.metrics if one.name is not Metric.SHADOW_AGREEMENT)
    return replace(gate, metrics=metrics) if metrics else None


def is_asked(spec: Spec, name: Metric) -> bool:
    """Return whether any stage is judged by a metric."""
    gates = (gate_in(spec, stage) for stage in range(len(spec.stages)))
    return any(metric.name is name for gate in gates if gate is not None for metric in gate.metrics)


def is_measured(spec: Spec, stage: int) -> bool:
    """Return whether values of a stage's devices are evidence anywhere: in the stage, or in a later one of its mode."""
    mode = spec.stages[stage].shape.mode
    later = range(stage, len(spec.stages))
    return any(spec.stages[one].shape.mode is mode and gate_in(spec, one) is not None for one in later)
