"""What of a quality gate a stage is asked, and can it be met at all by the devices that there are? Pure.

Its own module because `planning` counts who belongs where, and this how many of them can be compared with somebody.
Source: the tests of `sequences`; ADR 0038.
"""

from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from edgefleet_server.rollout.evidence import threshold
from edgefleet_server.rollout.placing import Placed
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


def lasting(spec: Spec, gate: QualityGate, stratum: Placed, own: Sequence[int]) -> frozenset[int]:
    """Return which stages of one mode (own) last until their devices have values: where it is judged by them, or soaks so long.

    A stage that nobody is new in soaks for nobody.
    """
    return frozenset(
        index
        for index in own
        if gate_in(spec, index) is not None or (spec.stages[index].soak >= gate.after and stratum.added(index))
    )


def comparable(gate: QualityGate, stratum: Placed, own: Sequence[int], lasts: Collection[int]) -> list[int]:
    """Return how many devices can have a value by the end of each stage of one mode. own: its stages; lasts: see `lasting`.

    With a holdout each needs a device of its own that does not have the release by then, from a stage of whichever mode. As it is
    measured (`measuring`): whose stage does not last has its value in a later one that does; taken is who gets the release last, whether
    that is in a stage soon after or never; and each mode begins anew. Without a holdout all do.
    """
    if gate.control is not Control.HOLDOUT:
        return [stratum.reached(index) for index in own]
    used: set[Hashable] = set()
    found: list[int] = []
    waiting = 0
    for index in own:
        waiting += stratum.added(index)
        if index in lasts:
            having = stratum.having(index)
            free = (one for one in reversed(stratum.everybody()) if one not in having and one not in used)
            used.update(list(islice(free, waiting)))
            waiting = 0
        found.append(len(used))
    return found


def out_of_reach(
    gate: QualityGate, alpha: float, stratum: Placed, own: Sequence[int], lasts: Collection[int]
) -> Iterator[tuple[int, str, str]]:
    """Yield every stage of a mode that cannot pass the gate, what is wrong, and what to do. own, lasts: see `comparable`."""
    reached = [stratum.reached(index) for index in own]
    pairs = comparable(gate, stratum, own, lasts)
    needs: list[tuple[QualityMetric, float, list[int]]] = []
    for metric in gate.metrics:
        if metric.name is Metric.DRIFT:
            # drift of the release is told from that of the world by one pair at the least
            needs.append((metric, 1.0, pairs))
        else:
            counts = reached if metric.bound in (Bound.MIN, Bound.MAX) else pairs
            needs.append((metric, devices_needed(metric, alpha), counts))
    for nth, count in enumerate(reached):
        lacking = [(needed, metric, counts) for metric, needed, counts in needs if counts[nth] < needed]
        if not count or not lacking:
            continue
        needed, metric, counts = max(lacking, key=lambda one: one[0])
        whom = "can be compared with one that has the release later" if counts is not reached else "are in it so far"
        told = f"{counts[nth]} devices {whom}, but {metric.name.value} takes {needed:.0f} at the least"
        yield (
            own[nth],
            told,
            "make the stage larger, leave quality out for so few devices (gates: [install]), or promote it by hand",
        )
