"""How far a candidate's answers are from the source's, as figures for the report and as declared tolerances. Pure.

Declared tolerances are what the device's golden test allows. They must cover what differs between processors (never bit for
bit, agent.md §1 fact 10) and, for quantised models, what quantization itself changed:

* float32: 1e-4 of the output's range, and 1e-3 of each value;
* float16 and int16 weights: 1e-2 of the range and of each value;
* int8 and dynamic: 2 % of the range, or 1.25 times the largest difference to the source on the golden vectors where that is
  more, but never more than 25 % of the range: a vector beyond that is no golden vector;
* whole-number outputs: equal, or within 2 steps where the tensor is quantised.
"""

from collections.abc import Mapping, Sequence
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


def parity(answers: Mapping[str, Array], reference: Mapping[str, Array]) -> dict[str, dict[str, float]]:
    """Return `{output: {max_abs, mean_abs, max_ratio, cosine}}`; max_ratio is max_abs over the output's range."""
    figures = {}
    for name, wanted in reference.items():
        x, y = wanted.astype(np.float64), answers[name].astype(np.float64)
        difference = np.abs(x - y)
        norm = float(np.linalg.norm(x) * np.linalg.norm(y))
        figures[name] = {
            "max_abs": _rounded(difference.max(initial=0.0)),
            "mean_abs": _rounded(difference.mean() if difference.size else 0.0),
            "max_ratio": _rounded(difference.max(initial=0.0) / spread_of(wanted)),
            "cosine": _rounded(float(np.sum(x * y)) / norm if norm else 1.0),
        }
    return figures


def spread_of(array: Array) -> float:
    """Return the range of an output's values (at least its largest magnitude, at least 1e-6)."""
    if array.size == 0:
        return 1e-6
    wide = array.astype(np.float64)
    return max(float(np.ptp(wide)), float(np.abs(wide).max()), 1e-6)


def usable_vectors(
    answers: Mapping[str, Array], reference: Mapping[str, Array], precision: str, *, slack: float = 1.0
) -> list[int]:
    """Return the indices of vectors whose answers are near enough to the source's to serve as golden vectors.

    slack: times the difference that golden vectors may have.
    """
    count = len(next(iter(reference.values())))
    ok = np.ones(count, dtype=bool)
    for name, wanted in reference.items():
        allowed = slack * _most_allowed(wanted, precision)
        difference = np.abs(answers[name].astype(np.float64) - wanted.astype(np.float64)).reshape(count, -1)
        ok &= (difference <= allowed.reshape(count, -1)).all(axis=1)
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
        difference = np.abs(got[chosen].astype(np.float64) - wanted[chosen].astype(np.float64))
        atol = max(QUANTISED_RATIO * spread, _HEADROOM * float(difference.max(initial=0.0)))
        declared[spec.name] = Tolerance(atol=_rounded(atol), rtol=QUANTISED_RATIO)
    return declared


def _most_allowed(wanted: Array, precision: str) -> Array:
    wide = np.abs(wanted.astype(np.float64))
    if wanted.dtype.kind != "f":
        return np.full(wide.shape, _LSB if wanted.dtype.itemsize == 1 else 0.0)
    atol_ratio, rtol = _FLOAT.get(precision, (QUANTISED_CAP_RATIO / _HEADROOM, 0.0))
    allowed: Array = atol_ratio * spread_of(wanted) + rtol * wide
    return allowed


def _rounded(value: Any) -> float:
    """Return `value` with 6 significant digits: figures that go into a manifest must not differ in their last bits."""
    return float(f"{float(value):.6g}")
