"""What inputs and answers of a model say in numbers: the signals of its drift reference, for many samples at once.

The converter makes the reference with this code and the device counts with it, so both see the same number for the same sample.

1. A signal belongs to an input by its name, `<input>.<word>`. An input of rank 2 with as many columns as it has signals is a table: its
   signals are its columns in order. `brightness`, `contrast`, `blur` and `channel_0` … are the figures of a picture; `mean`, `std`, `min`
   and `max` are those of any other array.
2. Figures of a picture come from at most about 56 × 56 points of it. Brightness is the mean of the points, each the mean of its
   channels, contrast their standard deviation, and blur the variance of the Laplacian at full resolution there: the less, the more blurred.
3. Values are real ones: a quantized tensor is taken back first. What is not finite is missing, as NaN.
4. The confidence is the greatest score of a sample, as it is where all of its scores are within 0 … 1, after a softmax else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_protocol.drift.histogram import EXTREME_PARTS, MAX_Z, Z_PARTS, SignalSums
from edgefleet_protocol.drift.reference import Reference, Signal, SignalKind
from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import Array
from edgefleet_runtime.privacy import height_width
from edgefleet_runtime.quantization import real_values

Floats = npt.NDArray[np.float64]

MAX_COLUMNS: Final = 64
MAX_NUMBERS: Final = 16
"""An output of more numbers a sample is no regression whose numbers are watched one by one."""
PICTURE_WORDS: Final = ("brightness", "contrast", "blur")
ARRAY_WORDS: Final = ("mean", "std", "min", "max")
_GRID: Final = 56
_AT_ONCE: Final = 256
_LEAST_SIDE: Final = 4
_SCORE_SLACK: Final = 0.01


class SignalPlanError(EdgefleetError):
    """A drift reference names signals that the model does not have."""

    code = "bundle.bad_reference"


@dataclass(frozen=True, slots=True)
class _Group:
    """Signals of one tensor that are made together. form: "table", "picture", "array", "numbers" or "confidence"."""

    spec: TensorSpec
    form: str
    width: int


@dataclass(frozen=True, slots=True)
class SignalPlan:
    """How the signals of a reference are made and counted, in its order. Made once, when a model is loaded.

    edges: [signals, most edges], +inf where a signal has fewer; kinds: sorted values of categorical signals and the place of each, by
    the signal's number; low, high: what the reference saw, infinite where it does not say. hidden: numbers of signals that are never
    made; each sample counts as missing there.
    """

    groups: tuple[_Group, ...]
    bins: tuple[int, ...]
    edges: Floats
    kinds: Mapping[int, tuple[Floats, npt.NDArray[np.intp]]]
    mean: Floats
    std: Floats
    low: Floats
    high: Floats
    hidden: npt.NDArray[np.intp]

    @property
    def width(self) -> int:
        """Return how many signals there are."""
        return len(self.bins)


def signal_plan(
    reference: Reference,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    hidden: Collection[str] = (),
) -> SignalPlan:
    """Return how to make and count the signals of a reference for a model. Raises SignalPlanError when it is of another model.

    hidden: names of signals that must not be made (`privacy.uncounted`).
    """
    signals = reference.signals
    groups = [
        *_groups(reference.features, inputs, is_output=False),
        *_groups(reference.outputs, outputs, is_output=True),
    ]
    if len(signals) > len(reference.features) + len(reference.outputs):
        groups.append(_Group(_scores_spec(reference, outputs), "confidence", 1))
    steps = [group.spec for group in groups for _ in range(group.width)]
    margin = np.array([0.0 if spec.quantization is None else spec.quantization.scale for spec in steps])
    known = np.array([_has_range(signal) for signal in signals], dtype=bool)
    edges = np.full((len(signals), max((len(one.edges) for one in signals), default=0)), np.inf)
    kinds: dict[int, tuple[Floats, npt.NDArray[np.intp]]] = {}
    for at, signal in enumerate(signals):
        if signal.kind == SignalKind.CATEGORICAL:
            order = np.argsort(signal.values, kind="stable")
            kinds[at] = np.asarray(signal.values, np.float64)[order], order
        else:
            edges[at, : len(signal.edges)] = signal.edges
    std = np.array([one.std for one in signals], np.float64)
    return SignalPlan(
        groups=tuple(groups),
        bins=tuple(one.bins for one in signals),
        edges=edges,
        kinds=kinds,
        mean=np.array([one.mean for one in signals], np.float64),
        std=np.where(std > 0, std, 1.0),
        low=np.where(known, np.array([one.low for one in signals], np.float64) - margin, -np.inf),
        high=np.where(known, np.array([one.high for one in signals], np.float64) + margin, np.inf),
        hidden=np.array([at for at, one in enumerate(signals) if one.name in hidden], np.intp),
    )


def signal_values(inputs: Mapping[str, Array], outputs: Mapping[str, Array], plan: SignalPlan) -> Floats:
    """Return [samples, signals], NaN where a value is missing. inputs, outputs: by name, first axis = samples.

    What one sample is: `a[i:i+1]` where the tensor's first dimension is 1 or free, else a whole tensor (then give `a[None]`). A tensor
    that is not there, or has another form than the reference knows, is missing.
    """
    n = len(next(iter(inputs.values())))
    values = np.full((n, plan.width), np.nan)
    at = 0
    with np.errstate(invalid="ignore", over="ignore"):
        for group in plan.groups:
            array = inputs.get(group.spec.name) if group.form in _OF_INPUTS else outputs.get(group.spec.name)
            if array is not None and len(array) == n and array.dtype.kind in "iufb":
                made = _made(group, array)
                if made.shape[1] == group.width:
                    values[:, at : at + group.width] = made
            at += group.width
        values[~np.isfinite(values)] = np.nan
        values[:, plan.hidden] = np.nan
    return values


def counted(values: Floats, plan: SignalPlan) -> list[SignalSums]:
    """Return the sums of samples for each signal. values: of `signal_values`."""
    missing = np.isnan(values)
    z = np.clip((values - plan.mean) / plan.std, -MAX_Z, MAX_Z)
    z[missing] = 0.0
    totals = np.rint(z * Z_PARTS).sum(0).astype(np.int64).tolist()
    squares = np.rint(z * z * Z_PARTS).sum(0).astype(np.int64).tolist()
    parts = np.rint(z * EXTREME_PARTS)
    low = np.where(missing, np.inf, parts).min(0, initial=np.inf)
    high = np.where(missing, -np.inf, parts).max(0, initial=-np.inf)
    beyond = np.count_nonzero((values < plan.low) | (values > plan.high), axis=0).tolist()
    absent = np.count_nonzero(missing, axis=0).tolist()
    counts = _histograms(values, missing, plan)
    return [
        SignalSums(
            bins=tuple(counts[at, : plan.bins[at]].tolist()),
            missing=absent[at],
            beyond=beyond[at],
            total=totals[at],
            squares=squares[at],
            low=int(low[at]) if absent[at] < len(values) else 0,
            high=int(high[at]) if absent[at] < len(values) else 0,
        )
        for at in range(plan.width)
    ]


def picture_axes(spec: TensorSpec, shape: Sequence[int]) -> tuple[int, int] | None:
    """Return the axes of height and width of pictures of this shape, first axis = samples; None for what is no picture."""
    axes = height_width(shape, spec) if len(shape) == 4 else None
    return axes if axes and min(shape[axis] for axis in axes) >= _LEAST_SIDE else None


def scores_of(array: Array) -> Floats:
    """Return the scores of samples [n, classes] within 0 … 1 (rule 4). array: real values."""
    rows = array.astype(np.float64)
    is_score = (rows.min(1, keepdims=True) >= -_SCORE_SLACK) & (rows.max(1, keepdims=True) <= 1 + _SCORE_SLACK)
    if is_score.all():
        return rows
    shifted = np.exp(rows - rows.max(1, keepdims=True))
    scores: Floats = np.where(is_score, rows, shifted / shifted.sum(1, keepdims=True))
    return scores


_OF_INPUTS: Final = frozenset({"table", "picture", "array"})


def _groups(signals: Sequence[Signal], specs: Sequence[TensorSpec], *, is_output: bool) -> Iterator[_Group]:
    """Yield the signals of each tensor; they stand together in the reference."""
    words: dict[str, list[str]] = {}
    for signal in signals:
        owners = [spec.name for spec in specs if signal.name.startswith(f"{spec.name}.")]
        if not owners:
            raise SignalPlanError(
                f"the drift reference has a signal {signal.name!r}, the model has only "
                f"{', '.join(spec.name for spec in specs)}",
                next_step="make the reference of this model's own samples",
            )
        owner = max(owners, key=len)
        if words and owner in words and owner != next(reversed(words)):
            raise SignalPlanError(f"the signals of {owner!r} do not stand together in the drift reference")
        words.setdefault(owner, []).append(signal.name[len(owner) + 1 :])
    for name, found in words.items():
        yield _Group(
            next(spec for spec in specs if spec.name == name), "numbers" if is_output else _form(found), len(found)
        )


def _form(words: Sequence[str]) -> str:
    if tuple(words[:3]) == PICTURE_WORDS:
        return "picture"
    return "array" if tuple(words) == ARRAY_WORDS else "table"


def _scores_spec(reference: Reference, outputs: Sequence[TensorSpec]) -> TensorSpec:
    """Return the output whose classes the reference counts: the first of rank 2 with so many columns."""
    classes = len(reference.classes)
    for spec in outputs:
        if len(spec.shape) == 2 and (spec.shape[1] == classes or isinstance(spec.shape[1], str)):
            return spec
    raise SignalPlanError(
        f"the drift reference counts {classes} classes, no output of the model has so many",
        next_step="make the reference of this model's own samples",
    )


def _has_range(signal: Signal) -> bool:
    """Say whether the reference knows the least and the greatest value: older ones do not, and a confidence has none."""
    if signal.kind == SignalKind.CONFIDENCE:
        return False
    return signal.low < signal.high or signal.std == 0


def _made(group: _Group, array: Array) -> Floats:
    n = len(array)
    if group.form == "confidence":
        return (
            scores_of(real_values(group.spec, array).reshape(n, -1)).max(1, keepdims=True) if array.size else _none(n)
        )
    width = array.size // n if n else 0
    if group.form == "numbers" or (array.ndim <= 2 and width == group.width):
        return real_values(group.spec, array).reshape(n, -1).astype(np.float64)
    if group.form == "picture":
        axes = picture_axes(group.spec, array.shape)
        return _in_parts(array, lambda part: _picture(real_values(group.spec, part), axes)) if axes else _none(n)
    if group.form == "array" and width:
        return _in_parts(array, lambda part: _figures(real_values(group.spec, part).reshape(len(part), -1)))
    return _none(n)


def _none(n: int) -> Floats:
    return np.empty((n, 0))


def _in_parts(array: Array, make: Any) -> Floats:
    """Return what `make` says of all samples, so many at once that little memory is needed."""
    if len(array) <= _AT_ONCE:
        return np.asarray(make(array), np.float64)
    return np.concatenate([make(array[at : at + _AT_ONCE]) for at in range(0, len(array), _AT_ONCE)])


def _figures(flat: Array) -> Floats:
    real = flat.astype(np.float64)
    return np.stack([real.mean(1), real.std(1), real.min(1), real.max(1)], axis=1)


def _picture(array: Array, axes: tuple[int, int]) -> Floats:
    """Return brightness, contrast, blur and, of more than one channel, the mean of each."""
    height, width = axes
    (channel,) = {1, 2, 3} - {height, width}
    moved = array.transpose(0, channel, height, width)
    step = max(1, (min(moved.shape[2:]) - 2) // _GRID)

    def points(down: int, right: int) -> Array:
        rows, columns = moved.shape[2:]
        picked = moved[:, :, 1 + down : rows - 1 + down : step, 1 + right : columns - 1 + right : step]
        return picked.astype(np.float32)

    def grey(pixels: Array) -> Array:
        return pixels[:, 0] if pixels.shape[1] == 1 else np.asarray(np.add.reduce(pixels, 1) / pixels.shape[1])

    middle = points(0, 0)
    n, channels = middle.shape[:2]
    luma = grey(middle)
    flat = luma.reshape(n, -1)
    laplacian = grey(points(-1, 0) + points(1, 0) + points(0, -1) + points(0, 1)) - 4 * luma
    found = [flat.mean(1), flat.std(1), laplacian.reshape(n, -1).var(1)]
    if channels > 1:
        found.extend(middle.reshape(n, channels, -1).mean(2).T)
    return np.asarray(np.stack(found, axis=1), np.float64)


def _histograms(values: Floats, missing: npt.NDArray[np.bool_], plan: SignalPlan) -> npt.NDArray[np.int64]:
    """Return [signals, most bins]. A value equal to an edge falls into the bin above; an unknown category into the last bin."""
    n, width = values.shape
    most = max(plan.bins, default=1)
    places = np.zeros((n, width), np.int64)
    for edge in range(plan.edges.shape[1]):
        places += values >= plan.edges[:, edge]
    for at, (known, order) in plan.kinds.items():
        column = values[:, at]
        near = np.minimum(np.searchsorted(known, column), len(known) - 1)
        places[:, at] = np.where(known[near] == column, order[near], len(known))
    places += np.arange(width) * most
    return np.bincount(places[~missing], minlength=width * most).reshape(width, most)
