"""The drift reference: what a model's inputs and answers look like when all is well, as histograms that add up.

MessagePack map `{"v": 1, "n", "features": [{"name", "mean", "std", "edges", "counts"}], "classes", "confidence": {"edges", "counts"}}`.

1. A feature is one number a sample. A table input (rank 2, at most 64 columns) has one for each column, `input.i`; any other
   input has mean, standard deviation, minimum and maximum, `input.mean` and so on.
2. `edges` are the feature's nine inner deciles, `counts` the bins they bound; a value equal to an edge falls into the bin
   above. Equal edges are dropped, so a feature may have fewer bins.
3. `classes` counts the source model's answers by class, `confidence` the winning probability; both of the first output of
   rank 2 with at least two columns (softmax where its rows are no probabilities). Empty without such an output.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

MAX_COLUMNS: Final = 64
CONFIDENCE_EDGES: Final = [round(0.1 * i, 1) for i in range(1, 10)]
_RANKS: Final = np.arange(1, 10) / 10


def build_reference(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> bytes:
    """Return the reference of samples (by input name, first axis = samples) and the source model's answers to them."""
    features = [
        _feature(name, values)
        for key, array in inputs.items()
        for name, values in _numbers(key, array.astype(np.float64))
    ]
    classes, confidence = _answers(outputs)
    reference = {
        "v": 1,
        "n": len(next(iter(inputs.values()))),
        "features": features,
        "classes": classes,
        "confidence": {"edges": CONFIDENCE_EDGES, "counts": confidence},
    }
    return msgspec.msgpack.encode(reference)


def _numbers(name: str, array: Floats) -> list[tuple[str, Floats]]:
    if array.ndim == 2 and array.shape[1] <= MAX_COLUMNS:
        return [(f"{name}.{column}", array[:, column]) for column in range(array.shape[1])]
    flat = array.reshape(len(array), -1)
    return [
        (f"{name}.mean", flat.mean(1)),
        (f"{name}.std", flat.std(1)),
        (f"{name}.min", flat.min(1)),
        (f"{name}.max", flat.max(1)),
    ]


def _feature(name: str, values: Floats) -> dict[str, Any]:
    edges = sorted({round(float(edge), 6) for edge in np.quantile(values, _RANKS)})
    return {
        "name": name,
        "mean": float(values.mean()),
        "std": float(values.std()),
        "edges": edges,
        "counts": _histogram(values, edges),
    }


def _histogram(values: Floats, edges: list[float]) -> list[int]:
    bins = np.searchsorted(np.asarray(edges), values, side="right")
    return [int(n) for n in np.bincount(bins, minlength=len(edges) + 1)]


def _answers(outputs: Mapping[str, Array]) -> tuple[list[int], list[int]]:
    scores = next((a for a in outputs.values() if a.ndim == 2 and a.shape[1] >= 2 and a.dtype.kind == "f"), None)
    if scores is None:
        return [], []
    rows = scores.astype(np.float64)
    if rows.min() < 0 or not np.allclose(rows.sum(1), 1.0, atol=1e-3):
        shifted = np.exp(rows - rows.max(1, keepdims=True))
        rows = shifted / shifted.sum(1, keepdims=True)
    classes = np.bincount(rows.argmax(1), minlength=rows.shape[1])
    return [int(n) for n in classes], _histogram(rows.max(1), CONFIDENCE_EDGES)
