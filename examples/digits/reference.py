"""The drift reference of the digits example: what inputs and answers look like when all is well.

MessagePack map `{"v": 1, "n", "features": [{"name", "mean", "std", "edges", "counts"}], "classes", "confidence": {"edges", "counts"}}`.
- A feature is one number per image; `edges` are its nine inner deciles, `counts` the ten bins they bound. A value equal to an
  edge falls into the bin above. Equal edges are dropped, so a feature may have fewer bins.
- `classes` counts the model's answers by class; `confidence` is the histogram of the winning probability.
- All are counts, so histograms from many devices can be added and compared with this one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
CONFIDENCE_EDGES = [round(0.1 * i, 1) for i in range(1, 10)]


def _histogram(values: FloatArray, edges: list[float]) -> list[int]:
    bins = np.searchsorted(np.asarray(edges), values, side="right")
    return [int(n) for n in np.bincount(bins, minlength=len(edges) + 1)]


def _feature(name: str, values: FloatArray) -> dict[str, Any]:
    edges = sorted({round(float(q), 6) for q in np.quantile(values, np.arange(1, 10) / 10)})
    return {
        "name": name,
        "mean": float(values.mean()),
        "std": float(values.std()),
        "edges": edges,
        "counts": _histogram(values, edges),
    }


def write_reference(path: Path, image: npt.NDArray[np.float32], logits: npt.NDArray[np.float32]) -> None:
    """Write the reference of `image` float32 `[n, 1, 8, 8]` and the model's `logits` float32 `[n, 10]`."""
    flat = image.reshape(len(image), -1).astype(np.float64)
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    probability = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    reference = {
        "v": 1,
        "n": len(image),
        "features": [
            _feature("image.mean", flat.mean(1)),
            _feature("image.std", flat.std(1)),
            _feature("image.min", flat.min(1)),
            _feature("image.max", flat.max(1)),
        ],
        "classes": [int(n) for n in np.bincount(logits.argmax(1), minlength=logits.shape[1])],
        "confidence": {"edges": CONFIDENCE_EDGES, "counts": _histogram(probability.max(1), CONFIDENCE_EDGES)},
    }
    path.write_bytes(msgspec.msgpack.encode(reference))
