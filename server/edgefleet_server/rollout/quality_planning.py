"""What of a quality gate a stage is asked, and can it be met at all by the devices that there are? Pure.

Its own module because `planning` counts who belongs where, and this how many of them can be compared with somebody.
Source: the tests of `sequences`; ADR 0038.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from edgefleet_server.rollout.evidence import threshold
from edgefleet_server.rollout.quality import scale_of
from edgefleet_server.rollout.quality_model import Bound, Control, Metric, QualityGate, QualityMetric
from edgefleet_server.rollout.sequences import clean_needed
from edgefleet_server.rollout.shape import Mode
from edgefleet_server.rollout.spec_model import Spec, StageGate

OUT_OF_REACH: Final = "quality_out_of_reach"


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


def devices_needed(metric: QualityMetric, alpha: float) -> float:
    """Return how many devices without any change it takes to pass a metric: 19 at the least. Real ones scatter and take more."""
    scale = scale_of(metric)
    best = 0.0 if metric.bound in (Bound.NON_INFERIOR_REL, Bound.NON_INFERIOR_ABS) else scale.low
    return clean_needed(scale.low, scale.high, scale.at, scale.step, threshold(alpha), best)


def comparable(
    gate: QualityGate, population: int, reached: Sequence[int], touched: int = 0, held: Sequence[bool] = ()
) -> list[int]:
    """Return per stage how many devices can have a value by its end. reached: devices of the stages up to and with it.

    With a holdout each needs a device of its own that does not have the release yet. touched: devices that have it by then from
    stages of another mode. held: which stages last until their devices have values; after another one the holdouts get the release
    before that. Without any: all do.
    """
    if gate.control is not Control.HOLDOUT:
        return list(reached)
    found: list[int] = []
    pairs = before = 0
    for count, lasts in zip(reached, held or [True] * len(reached), strict=True):
        if lasts:
            pairs += min(count - before, max(0, population - max(count, touched) - pairs))
        before = count
        found.append(pairs)
    return found


def first_out_of_reach(
    gate: QualityGate, alpha: float, population: int, reached: Sequence[int]
) -> tuple[int, str, str] | None:
    """Return the first stage of a stratum that cannot pass the gate, what is wrong, and what to do; None when all can."""
    return next(out_of_reach(gate, alpha, population, reached), None)


def out_of_reach(
    gate: QualityGate,
    alpha: float,
    population: int,
    reached: Sequence[int],
    touched: int = 0,
    held: Sequence[bool] = (),
) -> Iterator[tuple[int, str, str]]:
    """Yield every stage of a stratum that cannot pass the gate, what is wrong, and what to do. touched, held: see `comparable`."""
    pairs = comparable(gate, population, reached, touched, held)
    needs: list[tuple[QualityMetric, float, Sequence[int]]] = []
    for metric in gate.metrics:
        if metric.name is Metric.DRIFT:
            # drift of the release is told from that of the world by one pair at the least
            needs.append((metric, 1.0, pairs))
        else:
            counts = reached if metric.bound in (Bound.MIN, Bound.MAX) else pairs
            needs.append((metric, devices_needed(metric, alpha), counts))
    for index, count in enumerate(reached):
        lacking = [(needed, metric, counts) for metric, needed, counts in needs if counts[index] < needed]
        if not count or not lacking:
            continue
        needed, metric, counts = max(lacking, key=lambda one: one[0])
        whom = "can be compared with one that has the release later" if counts is not reached else "are in it so far"
        told = f"{counts[index]} devices {whom}, but {metric.name.value} takes {needed:.0f} at the least"
        yield (
            index,
            told,
            "make the stage larger, leave quality out for so few devices (gates: [install]), or promote it by hand",
        )
