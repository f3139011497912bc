"""Cheap scan of outputs for NaN and infinities: a model that answers them is broken, whatever its status code says."""

from collections.abc import Iterable
from math import isfinite

import numpy as np

from edgefleet_runtime.port import Array

_FLOATING = "fc"
_FEW = 64
_SMALL = 4096


def count_nonfinite(array: Array) -> int:
    """Return how many elements are NaN or infinite; 0 for integer, bool and string tensors, whatever their size.

    The common, finite case of a large tensor costs one pass without a temporary: a sum is finite only if every term is. A sum may overflow
    though all terms are finite (float16 does so easily), so an infinite or NaN sum is followed by the exact count.
    """
    kind, size = array.dtype.kind, array.size
    if kind not in _FLOATING or size == 0:
        return 0
    if size <= _FEW and kind == "f":
        # without numpy's machinery, which costs more than so few numbers: 9 µs where a caller and the worker share a core
        values = array.ravel().tolist()
        return 0 if all(map(isfinite, values)) else sum(not isfinite(value) for value in values)
    if size <= _SMALL:
        finite = np.isfinite(array)
        return 0 if finite.all() else int(size - np.count_nonzero(finite))
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(array, axis=None)
    if np.isfinite(total):
        return 0
    return int(array.size - np.count_nonzero(np.isfinite(array)))


def total_nonfinite(arrays: Iterable[Array]) -> int:
    """Return the non-finite elements of all arrays together."""
    count = 0
    for array in arrays:
        count += count_nonfinite(array)
    return count
