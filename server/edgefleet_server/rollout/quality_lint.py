"""What of a quality gate can never be told, whatever the devices show: each is refused before a rollout waits for it. Pure.

Its own module because `quality_planning` counts devices, and this looks at what the spec says alone. Codes are stable.
Source: the rules of `measures` and `measuring`; design README decision 17.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final, Literal

from edgefleet_server.rollout.measures import MIN_BLOCKS
from edgefleet_server.rollout.quality_model import Metric, QualityGate
from edgefleet_server.rollout.quality_planning import is_asked
from edgefleet_server.rollout.quality_spec import COMPARED
from edgefleet_server.rollout.reading import duration_text
from edgefleet_server.rollout.spec_model import Spec
from edgefleet_server.telemetry.model import RETENTION

AGREEMENT_WITHOUT_SHADOW: Final = "agreement_without_shadow"
ENERGY_NOT_TOLD: Final = "energy_not_told"
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
    gate = spec.quality
    if gate is None:
        return
    yield from _about_agreement(spec, gate)
    yield from _about_energy(spec)
    yield from _about_kept(gate)
    if is_asked(spec, Metric.DRIFT):
        yield from _about_drift(gate)
    after = spec.on_inconclusive.after
    if after <= gate.after:
        told = (
            f"no device has a value before it has run the release for {duration_text(gate.after)} (gates.quality.after), but after "
            f"{duration_text(after)} without a verdict on_inconclusive says {spec.on_inconclusive.do.value}"
        )
        advice = "make on_inconclusive.after longer than gates.quality.after and the time that the devices need"
        yield "error", INCONCLUSIVE_BEFORE_VALUES, told, advice


def _about_agreement(spec: Spec, gate: QualityGate) -> Iterator[Flaw]:
    asks = any(metric.name is Metric.SHADOW_AGREEMENT for metric in gate.metrics)
    if asks and not is_asked(spec, Metric.SHADOW_AGREEMENT):
        told = "shadow_agreement is asked of shadows, and no stage that the quality gate judges has mode: shadow"
        yield (
            "error",
            AGREEMENT_WITHOUT_SHADOW,
            told,
            "begin with a stage {name: shadow, mode: shadow, …}, or remove the metric",
        )


def _about_energy(spec: Spec) -> Iterator[Flaw]:
    """Energy is in windows of measurements only. What serves shares its board with all else, and answers now and then."""
    if is_asked(spec, Metric.JOULES_PER_INFERENCE):
        told = (
            "joules_per_inference is asked, but devices tell energy of a measurement and not while they serve: none would ever "
            "have a value, and no stage would pass"
        )
        advice = "remove the metric; `edgectl device measure` tells the energy of a release on a device before it is rolled out"
        yield "error", ENERGY_NOT_TOLD, told, advice


def _about_kept(gate: QualityGate) -> Iterator[Flaw]:
    """When a value is taken, `after` lies between now and the switch: what is older than windows are kept is gone by then."""
    compares = any(metric.bound in COMPARED for metric in gate.metrics)
    if compares and gate.after >= RETENTION:
        told = f"windows are kept for {duration_text(RETENTION)}: after {duration_text(gate.after)} nothing is left of the time before"
        yield "error", BEFORE_NOT_KEPT, told, "write a gates.quality.after of some hours or days"


def _about_drift(gate: QualityGate) -> Iterator[Flaw]:
    known = min(gate.before, RETENTION - gate.after)
    if known < MIN_BLOCKS * gate.after:
        least, most = MIN_BLOCKS * gate.after, known / MIN_BLOCKS
        unit = timedelta(hours=1) if most >= timedelta(hours=1) else timedelta(minutes=1)
        limit = "" if known == gate.before else f", of which {duration_text(RETENTION)} less `after` are kept"
        told = (
            f"drift is told from {MIN_BLOCKS} periods of {duration_text(gate.after)} (gates.quality.after) before the switch, and "
            f"before is {duration_text(gate.before)}{limit}: no device would ever have a value"
        )
        advice = (
            f"write before: {duration_text(least)} or more"
            if least + gate.after <= RETENTION
            else "write a shorter after"
        )
        shorter = f", or after: {duration_text(most // unit * unit)} or less" if most >= unit else ""
        yield "error", DRIFT_OUT_OF_REACH, told, advice + shorter
    elif gate.before < MIN_BLOCKS * WINDOW:
        told = (
            f"drift is told from {MIN_BLOCKS} periods, and before is {duration_text(gate.before)}: devices that send a window each "
            f"{duration_text(WINDOW)}, as they usually do, have fewer"
        )
        yield "warning", FEW_WINDOWS, told, f"write before: {duration_text(MIN_BLOCKS * WINDOW)} or more"
