"""How far a candidate's answers are from the source's, as figures for the report and as declared tolerances. Pure.

Declared tolerances are what the device's golden test allows. They must cover what differs between processors (never bit for
bit, docs/explanation/converting.md) and, for quantised models, what quantization itself changed:

* float32: 1e-4 of the output's range, and 1e-3 of each value;
* float16 and int16 weights: 1e-2 of the range and of each value;
* int8 and dynamic: 2 % of the range, or 1.25 times the largest difference to the source on the golden vectors where that is
  more, but never more than 25 % of the range: a vector beyond that is no golden vector;
* whole-number outputs: equal, or within 2 steps where the tensor is quantised.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_protocol.manifest import TensorSpec, Tolerance

Array = npt.NDArray[Any]

_FLOAT: Final[Mapping[str, tuple[float, float]]] = {
    "fp32": (1e-4, 1e-3), "fp16": (1e-2, 1e-2), "int16-weights": (1e-2, 1e-2),
}  # fmt: skip
QUANTISED_RATIO: Final = 0.02
QUANTISED_CAP_RATIO: Final = 0.25
_HEADROOM: Final = 1.25
_LSB: Final = 2.0
_PIECE: Final = 1 << 20
"""Values that are compared at once."""


def parity(answers: Mapping[str, Array], reference: Mapping[str, Array]) -> dict[str, dict[str, float]]:
    """Return `{output: {max_abs, mean_abs, max_ratio, cosine}}`; max_ratio is max_abs over the output's range."""
    figures = {}
    for name, wanted in reference.items():
        largest = total = dot = ours = theirs = 0.0
        for x, y in _pieces(wanted, answers[name]):
            difference = np.abs(x - y)
            largest, total = max(largest, float(difference.max(initial=0.0))), total + float(difference.sum())
            dot, ours, theirs = dot + float(x @ y), ours + float(y @ y), theirs + float(x @ x)
        norm = float(np.sqrt(ours) * np.sqrt(theirs))
        figures[name] = {
            "max_abs": _rounded(largest),
            "mean_abs": _rounded(total / wanted.size if wanted.size else 0.0),
            "max_ratio": _rounded(largest / spread_of(wanted)),
            "cosine": _rounded(dot / norm if norm else 1.0),
        }
    return figures


def _pieces(one: Array, other: Array) -> Iterator[tuple[Array, Array]]:
    """Yield both flat and as float64, a part at a time: all at once a recogniser's scores are gigabytes."""
    a, b = one.reshape(-1), other.reshape(-1)
    for start in range(0, len(a), _PIECE):
        yield a[start : start + _PIECE].astype(np.float64), b[start : start + _PIECE].astype(np.float64)


def spread_of(array: Array) -> float:
    """Return the range of an output's values (at least its largest magnitude, at least 1e-6)."""
    if array.size == 0:
        return 1e-6
    low, high = float(array.min()), float(array.max())
    return max(high - low, abs(low), abs(high), 1e-6)


def usable_vectors(
    answers: Mapping[str, Array], reference: Mapping[str, Array], precision: str, *, slack: float = 1.0
) -> list[int]:
    """Return the indices of vectors whose answers are near enough to the source's to serve as golden vectors.

    slack: times the difference that golden vectors may have.
    """
    count = len(next(iter(reference.values())))
    ok = np.ones(count, dtype=bool)
    for name, wanted in reference.items():
        spread = spread_of(wanted)
        for index in range(count):
            theirs, mine = wanted[index].astype(np.float64), answers[name][index].astype(np.float64)
            allowed = slack * _most_allowed(theirs, wanted.dtype, spread, precision)
            ok[index] &= bool((np.abs(mine - theirs) <= allowed).all())
    return [int(index) for index in np.flatnonzero(ok)]


def tolerances(
    answers: Mapping[str, Array],
    reference: Mapping[str, Array],
    outputs: tuple[TensorSpec, ...],
    precision: str,
    chosen: Sequence[int],
) -> dict[str, Tolerance]:
    """Return the declared tolerance of each output.

    answers, reference: of the model and of the source to all vectors, whose range counts; chosen: the vectors that become
    golden, whose largest difference counts.
    """
    declared = {}
    for spec in outputs:
        wanted, got = reference[spec.name], answers[spec.name]
        if got.dtype.kind != "f":
            declared[spec.name] = Tolerance(atol=_LSB if spec.quantization is not None else 0.0)
            continue
        spread = spread_of(wanted)
        if precision in _FLOAT:
            atol_ratio, rtol = _FLOAT[precision]
            declared[spec.name] = Tolerance(atol=_rounded(atol_ratio * spread), rtol=rtol)
            continue
        largest = max(
            (float(np.abs(got[i].astype(np.float64) - wanted[i]).max(initial=0.0)) for i in chosen), default=0.0
        )
        atol = max(QUANTISED_RATIO * spread, _HEADROOM * largest)
        declared[spec.name] = Tolerance(atol=_rounded(atol), rtol=QUANTISED_RATIO)
    return declared


def _most_allowed(wanted: Array, dtype: np.dtype[Any], spread: float, precision: str) -> Array | float:
    """Return how far each value of one vector may be off. wanted: float64; dtype: of the output; spread: of all vectors."""
    if dtype.kind != "f":
        return _LSB if dtype.itemsize == 1 and dtype.kind != "b" else 0.0
    atol_ratio, rtol = _FLOAT.get(precision, (QUANTISED_CAP_RATIO / _HEADROOM, 0.0))
    allowed: Array = atol_ratio * spread + rtol * np.abs(wanted)
    return allowed


def _rounded(value: Any) -> float:
    """Return `value` with 6 significant digits: figures that go into a manifest must not differ in their last bits."""
    return float(f"{float(value):.6g}")
