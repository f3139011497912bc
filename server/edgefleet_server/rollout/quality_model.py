"""Values of the quality gate: what a spec may ask of a release beyond "it does not fail", and what was measured of a device.

Its own module because `model`, `spec` and `rules` all stand on it. Names of metrics and verdicts are stored and public.
Source: fleet.md §5.2, §5.4; ADR 0038, 0039.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import msgspec

from edgefleet_protocol.ids import DeviceId, ProfileName


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


class QualityVerdict(StrEnum):
    """What is known of one metric in one stratum. Of several, the first of FAIL, HOLD and NO_DATA, PASS counts."""

    FAIL = "fail"
    HOLD = "hold"
    NO_DATA = "no_data"
    PASS = "pass"  # noqa: S105 not a password


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


# ---- what was measured


@dataclass(frozen=True, slots=True)
class Span:
    """One metric of a device and of its control device, before and after the switch; None: not known."""

    before: float | None = None
    after: float | None = None
    control_before: float | None = None
    control_after: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceQuality:
    """What was measured of one device: taken once, then never changed. control: "" = there was no device left to compare with.

    drift, control_drift: PSI of the answered classes before and after where the change is beyond chance, 0 where it is not,
    None where it cannot be told. is_serving: it serves the release; else the release is a shadow there.
    """

    device: DeviceId
    stratum: ProfileName
    stage: int
    control: str
    began_at: datetime
    taken_at: datetime
    spans: Mapping[Metric, Span] = field(default_factory=dict)
    drift: float | None = None
    control_drift: float | None = None
    is_serving: bool = True


# ---- what is judged, stored with the decision


class MetricFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The devices' values of one metric as counts in bins: [index, devices], index 0 from `low` on, each `step` wide.

    The value is what `bound` is about: a log ratio (non_inferior_rel; max of a time or an energy), a difference
    (non_inferior_abs), a ratio (max), or 1 - the ratio (min). at: the value that may not be exceeded; beyond `low` or `high`
    it is clipped. missing: devices that should have a value. clipped: how many lay beyond `high`.
    """

    name: Metric
    bound: Bound
    value: float
    on_breach: OnBreach
    low: float
    high: float
    at: float
    step: float
    bins: list[tuple[int, int]]
    missing: int = 0
    clipped: int = 0


class DriftFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How many devices answer with other classes than before, of those of which it can be told; and of their control devices."""

    floor: float
    on_breach: OnBreach
    judged: int = 0
    drifted: int = 0
    control_judged: int = 0
    control_drifted: int = 0


class QualityFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that the quality gate of one cell rests on.

    expected: exposed devices of the stratum so far on which the release did not fail; measured: those with values; unpaired:
    those of them that had nothing to be compared with. own_expected, own_measured: of this very stage.
    """

    control: Control
    expected: int
    measured: int
    unpaired: int = 0
    own_expected: int = 0
    own_measured: int = 0
    metrics: list[MetricFacts] = msgspec.field(default_factory=list)
    drift: DriftFacts | None = None
