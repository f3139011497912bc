"""The data of the digits example: which image of scikit-learn's digits is used for what.

Rules:
- 1,797 images of 8 × 8 grey values 0..16; the model's input is the value divided by 16, float32 `[N, 1, 8, 8]`.
- Four disjoint parts, each with the digits in equal shares: `train` 900, `calibration` 197 (quantization only), `eval` 400
  (the converter's gate) and `device` 300 (what demo devices are shown). All but `device` make the drift reference.
- The order inside a part is fixed by the seed, so the files in `data/` can be made again byte for byte in content.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

SPLIT_SEED = 18
SIZES = {"eval": 400, "device": 300, "calibration": 197}
GREY_LEVELS = 16.0


@dataclass(frozen=True)
class Part:
    """One part of the data. image: float32 `[n, 1, 8, 8]` in 0..1; y: int64 `[n]`; rows: indices into scikit-learn's set."""

    image: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


def _interleaved(labels: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return all row numbers, shuffled, so that any run of consecutive rows holds the ten digits in near equal shares."""
    position = np.empty(len(labels), dtype=np.float64)
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(labels == digit))
        position[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return np.argsort(position, kind="stable").astype(np.int64)


def load_parts(seed: int = SPLIT_SEED) -> dict[str, Part]:
    """Return the parts by name: `train`, `calibration`, `eval`, `device`."""
    raw = load_digits()
    image = (raw.data.astype(np.float32) / np.float32(GREY_LEVELS)).reshape(-1, 1, 8, 8)
    labels = raw.target.astype(np.int64)
    rng = np.random.default_rng(seed)
    order = _interleaved(labels, rng)
    total, start, parts = len(order), 0, {}
    for name, size in (*SIZES.items(), ("train", total - sum(SIZES.values()))):
        rows = rng.permutation(order[start : start + size])
        parts[name] = Part(image[rows], labels[rows], rows)
        start += size
    return parts
