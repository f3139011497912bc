"""What of a quality gate a stage is asked, and can it be met at all by the devices there are? Pure. Codes are stable.

A gate that can never be met, whatever the devices report, is refused before a rollout waits for it (ADR 0038).
"""

from collections.abc import Collection, Hashable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import Final, Literal

from edgefleet_server.rollout.analysis.device_metrics import MIN_BLOCKS
from edgefleet_server.rollout.analysis.metrics import scale_of
from edgefleet_server.rollout.bounded_mean import clean_needed
from edgefleet_server.rollout.failure_ratio import threshold
from edgefleet_server.rollout.placement import Placed
from edgefleet_server.rollout.spec.model import (
    COMPARED,
    Bound,
    Control,
    Metric,
    QualityGate,
    QualityMetric,
    Spec,
    gate_in,
)
from edgefleet_server.rollout.spec.parts import duration_text
from edgefleet_server.telemetry.model import RETENTION

AGREEMENT_WITHOUT_SHADOW: Final = "agreement_without_shadow"

ENERGY_NOT_REPORTED: Final = "energy_not_told"

DRIFT_OUT_OF_REACH: Final = "drift_out_of_reach"

BEFORE_NOT_KEPT: Final = "before_not_kept"

INCONCLUSIVE_BEFORE_VALUES: Final = "inconclusive_before_values"

FEW_WINDOWS: Final = "few_windows"

WINDOW: Final = timedelta(minutes=15)
"""As long as a device's windows are while nothing is rolled out to it."""

Flaw = tuple[Literal["error", "warning"], str, str, str]
"""A level, a code, what is wrong, and what to do."""


def flaws(spec: Spec) -> Iterator[Flaw]:
    """Yield what of the quality gate can never be met."""
    gate = spec.gates.quality
    if gate is None:
        return
    yield from _about_agreement(spec, gate)
    yield from _about_energy(spec)
    yield from _about_kept(gate)
    if _is_asked(spec, Metric.DRIFT):
        yield from _about_drift(gate)
    after = spec.on_inconclusive.after
    if after <= gate.after:
        message = (
            f"no device has a value before it has run the release for {duration_text(gate.after)} (gates.quality.after), but after "
            f"{duration_text(after)} without a verdict on_inconclusive says {spec.on_inconclusive.do.value}"
        )
        advice = "make on_inconclusive.after longer than gates.quality.after and the time that the devices need"
        yield "error", INCONCLUSIVE_BEFORE_VALUES, message, advice


def _about_agreement(spec: Spec, gate: QualityGate) -> Iterator[Flaw]:
    asks = any(metric.name is Metric.SHADOW_AGREEMENT for metric in gate.metrics)
    if asks and not _is_asked(spec, Metric.SHADOW_AGREEMENT):
        message = "shadow_agreement is asked of shadows, and no stage that the quality gate judges has mode: shadow"
        yield (
            "error",
            AGREEMENT_WITHOUT_SHADOW,
            message,
            "begin with a stage {name: shadow, mode: shadow, …}, or remove the metric",
        )


def _about_energy(spec: Spec) -> Iterator[Flaw]:
    """Energy is in windows of measurements only. What serves shares its board with all else, and answers now and then."""
    if _is_asked(spec, Metric.JOULES_PER_INFERENCE):
        message = (
            "joules_per_inference is asked, but devices tell energy of a measurement and not while they serve: none would ever "
            "have a value, and no stage would pass"
        )
        advice = "remove the metric; `edgectl device measure DEVICE RELEASE` measures the energy before a rollout"
        yield "error", ENERGY_NOT_REPORTED, message, advice


def _about_kept(gate: QualityGate) -> Iterator[Flaw]:
    """When a value is taken, `after` lies between now and the switch: what is older than windows are kept is gone by then."""
    compares = any(metric.bound in COMPARED for metric in gate.metrics)
    if compares and gate.after >= RETENTION:
        message = f"windows are kept for {duration_text(RETENTION)}: after {duration_text(gate.after)} nothing is left of the time before"
        yield "error", BEFORE_NOT_KEPT, message, "write a gates.quality.after of some hours or days"


def _about_drift(gate: QualityGate) -> Iterator[Flaw]:
    known = min(gate.before, RETENTION - gate.after)
    if known < MIN_BLOCKS * gate.after:
        least, most = MIN_BLOCKS * gate.after, known / MIN_BLOCKS
        unit = timedelta(hours=1) if most >= timedelta(hours=1) else timedelta(minutes=1)
        limit = "" if known == gate.before else f", of which {duration_text(RETENTION)} less `after` are kept"
        message = (
            f"drift is judged from {MIN_BLOCKS} periods of {duration_text(gate.after)} (gates.quality.after) before the switch, and "
            f"before is {duration_text(gate.before)}{limit}: no device would ever have a value"
        )
        advice = (
            f"write before: {duration_text(least)} or more"
            if least + gate.after <= RETENTION
            else "write a shorter after"
        )
        shorter = f", or after: {duration_text(most // unit * unit)} or less" if most >= unit else ""
        yield "error", DRIFT_OUT_OF_REACH, message, advice + shorter
    elif gate.before < MIN_BLOCKS * WINDOW:
        message = (
            f"drift is judged from {MIN_BLOCKS} periods, and before is {duration_text(gate.before)}: devices that send a window each "
            f"{duration_text(WINDOW)}, as they usually do, have fewer"
        )
        yield "warning", FEW_WINDOWS, message, f"write before: {duration_text(MIN_BLOCKS * WINDOW)} or more"


OUT_OF_REACH: Final = "quality_out_of_reach"


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
    measured (`preparation.metric_collector`): whose stage does not last has its value in a later one that does; taken is who gets the
    release last, whether that is in a stage soon after or never; and each mode is measured by itself. Without a holdout all do.
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
            # it takes at least one pair to distinguish drift that the release causes from any other
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
        message = f"{counts[nth]} devices {whom}, but {metric.name.value} takes {needed:.0f} at the least"
        yield (
            own[nth],
            message,
            "make the stage larger, leave quality out for so few devices (gates: [install]), or promote it by hand",
        )


def _is_asked(spec: Spec, name: Metric) -> bool:
    """Return whether any stage is judged by a metric."""
    gates = (gate_in(spec, stage) for stage in range(len(spec.stages)))
    return any(metric.name is name for gate in gates if gate is not None for metric in gate.metrics)
