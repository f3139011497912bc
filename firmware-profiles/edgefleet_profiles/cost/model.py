"""The cost model of one profile: predicts latency and memory of a bundle, or says why it cannot.

Where a prediction comes from, first that applies (`Estimate.basis`):
1. `fitted`: what devices of this profile reported of `FULL_FIT` models or more, and what those models do.
2. `ratio`: of fewer, but at least two, models: so many times the converting host's figure, and what every run costs.
3. `relative`: from another profile of the same processor, runtime and threads, and each profile's `thermal.sustained_factor`.
4. `none`, with the reason. Nothing is invented: with no reports there is no error to state.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from edgefleet_profiles.cost.observed import Observation
from edgefleet_profiles.cost.regression import FULL_FIT, LEVEL, REACH, Fit, Row, fit, fit_after
from edgefleet_profiles.profile import HardwareProfile

MIN_MODELS: Final = 2
MAX_MODELS: Final = 48
"""The newest so many models of a profile are fitted: leaving each out once takes their square in work."""
MAX_COUNT: Final = 1e18
"""A count above this is no model's; it would also swamp the others in floating point."""
LEAST_FIGURE: Final = 1e-6
"""A run takes a nanosecond or more: a fit divides by it, and a smaller one would overflow."""
LEAST_SUSTAINED: Final = 0.01
"""A board that keeps less of its speed than this is none; figures are multiplied and divided by it."""
QUANTITIES: Final = ("latency_p50_ms", "latency_p95_ms", "memory_bytes")

Basis = Literal["fitted", "ratio", "relative", "none"]


@dataclass(frozen=True)
class Subject:
    """What is known of a bundle's model before any device runs it.

    work: of the manifest's report (`converters` count it). host_*: p50 and peak memory, measured by the
    converting host in the profile's runtime.
    """

    work: Mapping[str, Any]
    host_ms: float
    host_memory_bytes: int


@dataclass(frozen=True)
class Example:
    """A model that devices reported on."""

    subject: Subject
    observation: Observation


@dataclass(frozen=True)
class Figure:
    """A predicted figure and the interval that the true one lies in at `Estimate.level`. error: 0.2 = a factor of 1.2 either way."""

    value: float
    low: float
    high: float
    error: float


@dataclass(frozen=True)
class Estimate:
    """A prediction for one bundle. models, devices: what it rests on; reason: why there is none, or where it comes from."""

    basis: Basis
    reason: str
    level: float
    models: int
    devices: int
    latency_p50_ms: Figure | None = None
    latency_p95_ms: Figure | None = None
    memory_bytes: Figure | None = None


@dataclass(frozen=True)
class CostModel:
    """The fits of one profile. fits: by name in QUANTITIES, only those that could be made; devices: the most that reported one model."""

    profile: str
    models: int
    devices: int
    fits: Mapping[str, Fit] = field(default_factory=dict)

    @property
    def basis(self) -> Basis:
        """Where this profile's own estimates come from."""
        if "latency_p50_ms" not in self.fits:
            return "none"
        return "fitted" if self.models >= FULL_FIT else "ratio"


def fit_profile(profile: str, examples: Sequence[Example]) -> CostModel:
    """Return the cost model of a profile. examples: newest first; only the first MAX_MODELS that differ count.

    Models that do exactly the same (a model trained again) are one example: leaving out one of two copies would show no error.
    """
    used = distinct(examples)
    rows = [_latency_row(one.subject) for one in used]
    p50, p95 = ([float(getattr(one.observation, name)) for one in used] for name in QUANTITIES[:2])
    held = [(one.subject, one.observation.memory_bytes) for one in used]
    known = [(_memory_row(subject), float(held_bytes)) for subject, held_bytes in held if held_bytes is not None]
    median = fit(rows, p50)
    made = (
        median, None if median is None else fit_after(median, rows, p50, p95),
        fit([row for row, _ in known], [held_bytes for _, held_bytes in known]),
    )  # fmt: skip
    fits = {name: one for name, one in zip(QUANTITIES, made, strict=True) if one is not None}
    return CostModel(profile, len(used), max((one.observation.devices for one in used), default=0), fits)


def distinct(examples: Sequence[Example]) -> list[Example]:
    """Return the examples that a fit is made of: the newest of each work, at most MAX_MODELS."""
    used: list[Example] = []
    for one in examples:
        if len(used) < MAX_MODELS and usable(one.subject) and all(one.subject.work != o.subject.work for o in used):
            used.append(one)
    return used


def usable(subject: Subject) -> bool:
    """Say whether a bundle's own figures are complete and can be true."""
    figures = (
        subject.host_ms,
        subject.host_memory_bytes,
    )  # compared before they are floats: an int may be too large for one
    counts = [*_counts(subject.work).values(), *(_macs(subject.work, kind) for kind in ("float", "int8"))]
    return all(LEAST_FIGURE <= value < MAX_COUNT for value in figures) and all(
        0 <= value < MAX_COUNT for value in counts
    )


def predict(
    profile: HardwareProfile,
    subject: Subject | None,
    own: CostModel,
    relatives: Sequence[tuple[HardwareProfile, CostModel]],
) -> Estimate:
    """Return what a bundle will cost on a profile. relatives: cost models of other profiles; only kin are used."""
    if subject is None or not usable(subject):
        return _none("the bundle says too little of its model: it is from an older converter", own)
    reach = ""
    if own.basis != "none":
        if own.fits["latency_p50_ms"].reaches(_ROWS["latency_p50_ms"](subject)):
            return _estimate(own.basis, f"reports of this profile on {_models(own.models)}", subject, own, 1.0)
        reach = f"the model is more than {REACH:g} times quicker or slower than any of the {own.models} reported on"
    kin = [(other, model) for other, model in relatives if is_kin(profile, other) and model.basis != "none"]
    for other, model in sorted(kin, key=lambda pair: (-pair[1].models, pair[0].name)):
        if model.fits["latency_p50_ms"].reaches(_ROWS["latency_p50_ms"](subject)):
            factor = other.thermal.sustained_factor / profile.thermal.sustained_factor
            reason = f"reports of {other.name}, which has the same processor, on {_models(model.models)}"
            return _estimate("relative", reason, subject, model, factor)
    return _none(reach or f"{own.models} of the {MIN_MODELS} models needed were reported on", own)


def _estimate(basis: Basis, reason: str, subject: Subject, model: CostModel, factor: float) -> Estimate:
    figures = {}
    for name, made in model.fits.items():
        value = made.value(_ROWS[name](subject)) * (1.0 if name == "memory_bytes" else factor)
        figures[name] = Figure(value, value / (1 + made.error), value * (1 + made.error), made.error)
    return Estimate(basis, reason, LEVEL, model.models, model.devices, **figures)


def _none(reason: str, model: CostModel) -> Estimate:
    return Estimate("none", reason, LEVEL, model.models, model.devices)


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count} models"


def is_kin(profile: HardwareProfile, other: HardwareProfile) -> bool:
    """Say whether two profiles stand for the same board and processor with the same runtime. A generic one is no board."""
    same = ("arch", "cpu", "threads")
    return (
        profile.name != other.name and bool(profile.match.board) and profile.match.board == other.match.board
        and profile.runtime.name == other.runtime.name
        and all(getattr(profile, key) == getattr(other, key) for key in same)
        and all(one.thermal.sustained_factor >= LEAST_SUSTAINED for one in (profile, other))
    )  # fmt: skip


def _latency_row(subject: Subject) -> Row:
    counts = _counts(subject.work)
    return (
        subject.host_ms, 1.0, counts["nodes"], _macs(subject.work, "float"), _macs(subject.work, "int8"),
        counts["weight_bytes"], counts["activation_bytes"],
    )  # fmt: skip


def _memory_row(subject: Subject) -> Row:
    counts = _counts(subject.work)
    return (float(subject.host_memory_bytes), 1.0, counts["weight_bytes"], counts["largest_bytes"])


_ROWS: Final[Mapping[str, Callable[[Subject], Row]]] = {
    "latency_p50_ms": _latency_row, "latency_p95_ms": _latency_row, "memory_bytes": _memory_row,
}  # fmt: skip


def _counts(work: Mapping[str, Any]) -> dict[str, float]:
    names = ("nodes", "weight_bytes", "activation_bytes", "largest_bytes")
    return {name: _number(work.get(name)) for name in names}


def _macs(work: Mapping[str, Any], kind: str) -> float:
    """Return the multiply-adds of one kind of number, over all kinds of operator. work["macs"]: `{"conv.float": n, …}`."""
    macs = work.get("macs")
    if not isinstance(macs, Mapping):
        return -1.0
    counts = [_number(count) for name, count in macs.items() if str(name).endswith("." + kind)]
    return -1.0 if any(count < 0 for count in counts) else sum(counts)


def _number(value: Any) -> float:
    """Return a count of a manifest, -1 for what is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < MAX_COUNT else -1.0
