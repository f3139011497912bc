"""onnxruntime's Entropy calibration in a bounded time. Importing this module imports onnxruntime.

onnxruntime 1.32 keeps the width of the first samples' bins for ever: where later values are 200 times larger it adds up 25,600 bins
in Python for each of 12,800 ranges, which took over 20 s a tensor and grows with the square. Here a histogram has at most `MOST_BINS`
bins, and sums are taken by numpy; up to that many bins the ranges are onnxruntime's own to the last bit
(`tests/converters/test_histograms.py`).
"""

from typing import Any, Final

import numpy as np
from onnxruntime.quantization.calibrate import HistogramCollector, entropy
from onnxruntime.quantization.quant_utils import smooth_distribution

MOST_BINS: Final = 4096
"""About a second a tensor. From 10,000 empty bins to a filled one on, onnxruntime's smoothing fails."""
_BINS: Final = 128
"""Of onnxruntime's Entropy calibrator, when nothing else is said."""


class Histograms(HistogramCollector):  # type: ignore[misc]
    """What onnxruntime's Entropy calibrator collects, by tensor."""

    def __init__(self) -> None:
        super().__init__("entropy", symmetric=False, num_bins=_BINS, num_quantized_bins=_BINS, percentile=100.0,
                         scenario="same")  # fmt: skip

    def merge_histogram(self, old_histogram: Any, data_arr: Any, new_min: Any, new_max: Any, new_threshold: Any) -> Any:
        """Return a histogram with more values in it: (counts, edges, lowest, highest, end)."""
        fitting = _coarser(old_histogram, float(new_threshold))
        return super().merge_histogram(fitting, data_arr, new_min, new_max, new_threshold)

    def get_entropy_threshold(self, histogram: Any, num_quantized_bins: int) -> tuple[Any, Any]:
        """Return the ends around 0 between which `num_quantized_bins` levels tell most of the values."""
        counts, edges, lowest, highest = histogram[:4]
        middle, half = counts.size // 2, num_quantized_bins // 2
        below = np.concatenate([[0], np.cumsum(counts)])
        ends = [(middle - i, min(middle + i + 1, counts.size)) for i in range(half, middle + 1)]
        lost = np.array([_lost(counts, below, *pair, num_quantized_bins) for pair in ends], edges.dtype)
        start, end = ends[int(np.argmin(lost))]
        return max(edges[start], lowest), min(edges[end], highest)


def _coarser(histogram: Any, threshold: float) -> Any:
    """Return the histogram with bins so wide that it can grow to `threshold` and have `MOST_BINS` bins or two more."""
    counts, edges, lowest, highest, end = histogram
    reach = float(end)
    while threshold > reach > 0 and counts.size * (threshold / reach) > MOST_BINS:
        padded = np.pad(counts, counts.size // 2 % 2)  # no bin may reach over 0
        reach *= padded.size / counts.size
        counts = padded.reshape(-1, 2).sum(axis=1)
    if counts is histogram[0]:
        return histogram
    edges = np.linspace(-reach, reach, counts.size + 1, dtype=edges.dtype)
    return counts, edges, lowest, highest, np.array(reach, np.asarray(end).dtype)


def _lost(counts: Any, below: Any, start: int, end: int, levels: int) -> Any:
    """Return the divergence between the counts in a range, those outside put in its outermost bins, and the same in few levels."""
    inside = counts[start:end]
    whole = inside.copy()
    whole[0] += below[start]
    whole[-1] += below[-1] - below[end]
    width = inside.size // levels
    among = inside[: levels * width].reshape(levels, width).sum(axis=1)
    among[-1] += inside[levels * width :].sum()
    filled = (whole[: levels * width] != 0).reshape(levels, width).sum(axis=1)
    few = np.zeros(inside.size, np.int64)
    few[: levels * width] = np.repeat((among / np.maximum(filled, 1) * (filled > 0)).astype(np.int64), width)
    exact, rough = smooth_distribution(whole), smooth_distribution(few)
    return np.inf if exact is None or rough is None else entropy(exact, rough)
