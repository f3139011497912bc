"""Which gates judge a stage, and how they are written in normal form. Pure; the planner reads it, so it does without pydantic.

Reference: docs/reference/rollout-spec.md.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from edgefleet_server.rollout.spec.model import Bound, Metric, Mode, QualityGate, Spec, StageGate, duration_text

COMPARED: Final = frozenset({Bound.NON_INFERIOR_REL, Bound.NON_INFERIOR_ABS})

ALL: Final = tuple(StageGate)


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
