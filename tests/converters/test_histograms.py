"""Entropy calibration: onnxruntime's own ranges, and an end however much larger later values are than the first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnxruntime.quantization.calibrate import HistogramCollector

from edgefleet_converters.onnx.calibrate import Samples, entropy_ranges, tensor_ranges
from edgefleet_converters.onnx.histograms import MOST_BINS, Histograms
from edgefleet_protocol.manifest import TensorSpec
from tests.converters.graphs import model_of

LINE = np.linspace(-1, 1, 8, dtype=np.float32)[None]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), count=st.integers(1, 5), size=st.sampled_from([1, 5, 30, 400]), cut=st.booleans()
)
def test_ranges_are_those_of_onnxruntime(seed: int, count: int, size: int, cut: bool) -> None:
    random = np.random.default_rng(seed)
    rows = [np.tanh(random.standard_t(2, size) / 20).astype(np.float32) * 20 for _ in range(count)]
    ours, theirs = Histograms(), HistogramCollector("entropy", False, 128, 128, 100.0, "same")
    for collector in (ours, theirs):
        for row in rows:
            collector.collect({"x": [np.maximum(row, 0) if cut else row]})
    if theirs.histogram_dict["x"][0].size > 700:
        return  # where onnxruntime takes seconds
    mine, own = (collector.compute_collection_result()["x"] for collector in (ours, theirs))
    assert all(np.array_equal(a, b) for a, b in zip(mine, own, strict=True))
    assert mine[0].dtype == own[0].dtype


@pytest.mark.parametrize("times", [1e3, 1e30])
def test_later_values_may_be_as_much_larger_as_they_like(times: float) -> None:
    """onnxruntime's own collector makes 128,000 bins for 1,000 times, takes minutes for them, and no memory holds those of 1e30."""
    collector = Histograms()
    for row in (LINE, LINE * np.float32(times), -LINE):
        collector.collect({"x": [row]})
    counts, edges, low, high, end = collector.histogram_dict["x"]
    assert MOST_BINS / 2 <= counts.size <= MOST_BINS + 2
    assert counts.sum() == 24
    assert (counts[: counts.size // 2].sum(), len(edges)) == (12, counts.size + 1), "as many below 0 as above it"
    assert (low, high) == (np.float32(-times), np.float32(times))
    assert end >= high

    x = np.concatenate([LINE] * 4 + [LINE * np.float32(times)] * 4)
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": [1, 8]}, {"y": [1, 8]})
    samples = Samples({"x": x}, [TensorSpec(name="x", dtype="float32", shape=[1, 8])])
    found: dict[str, Any] = tensor_ranges(model, samples, method="Entropy")
    assert entropy_ranges({"x": row[None]} for row in x)["x"] == found["x"]
    assert -times <= found["x"][0] < 0 < found["x"][1] <= times
