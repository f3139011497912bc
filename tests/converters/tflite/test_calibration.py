"""What the steps of a job share of calibration changes no byte of what they make, and spares the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.tflite.compile import compile_model
from edgefleet_converters.tflite.quantize import ranges
from edgefleet_converters.tflite.quantize.calibration import Calibrator, samples_of
from edgefleet_converters.tflite.quantize.candidate_recipe import WEIGHTED
from edgefleet_converters.tflite.quantize.candidates import candidate_step
from edgefleet_converters.tflite.quantize.ranges import observe
from edgefleet_converters.tflite.quantize.sensitivity import sensitivity_step
from edgefleet_converters.tflite.runtimes import BY_ADAPTER
from edgefleet_runtime.port import ModelRuntime, load
from tests.converters.graphs import model_of

STATIC: dict[str, Any] = {"precision": "int8", "method": "static", "act_dtype": "int8", "per_channel": True}
RECIPES: dict[str, dict[str, Any]] = {
    "static": {},
    "percentile": {"calibration": "Percentile"},
    "entropy": {"calibration": "Entropy"},
    "weighted": {"op_types": list(WEIGHTED)},
    "head-float": {"head_float": True},
    "biases": {"correct_bias": True},
    "equalised": {"equalise": True, "correct_bias": True},
    "stored": {"op_types": list(WEIGHTED), "weight_bits": 8, "correct_bias": True},
    "weights": {"method": "weights", "precision": "int8-weights", "weight_bits": 8, "correct_bias": True},
    "int16": {"precision": "int16x8", "act_dtype": "int16"},
}
SAMPLES = np.random.default_rng(7).standard_normal((36, 6)).astype(np.float32)
"""More than the means are taken of."""


def model() -> onnx.ModelProto:
    """Two layers, and a head whose sign and quotient are rewritten for int8 but where it stays float."""
    random = np.random.default_rng(8)
    uneven = np.array([8.0, *[1.0] * 39], np.float32)
    values = {
        "w": random.standard_normal((6, 40)).astype(np.float32) * uneven, "b": random.standard_normal(40).astype(np.float32),
        "v": random.standard_normal((40, 40)).astype(np.float32) / uneven[:, None], "c": random.standard_normal(40).astype(np.float32),
        "three": np.array(3.0, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "v", "c"], ["g"]), helper.make_node("Neg", ["g"], ["n"]),
        helper.make_node("Div", ["n", "three"], ["y"]),
    ]  # fmt: skip
    return model_of(nodes, values, {"x": [1, 6]}, {"y": [1, 40]})


def arguments(folder: Path) -> dict[str, Any]:
    (folder / "model.onnx").write_bytes(model().SerializeToString())
    np.savez(folder / "x.npz", x=SAMPLES)
    return {"model": str(folder / "model.onnx"), "runtime": "litert"}


def candidates(args: dict[str, Any], folder: Path, seen: Path | None) -> dict[str, bytes]:
    made = {}
    for name, keys in RECIPES.items():
        spec = CandidateSpec(id=name, **(STATIC | keys))
        rest = {"spec": msgspec.to_builtins(spec), "calibration": str(folder / "x.npz"), "out": str(folder / "out")}
        candidate_step(args | rest | {"seen": str(seen) if seen else None})
        made[name] = (folder / "out").read_bytes()
    return made


def searched(args: dict[str, Any], folder: Path, seen: Path | None) -> dict[str, Any]:
    spec = CandidateSpec(id="it", **(STATIC | RECIPES["stored"] | {"method": "mixed"}))
    asked = {"spec": msgspec.to_builtins(spec), "samples": str(folder / "x.npz"), "seen": str(seen) if seen else None}
    return sensitivity_step(args | asked | {"metric": "mae", "max_drop": 0.05, "max_bytes": 10**9})


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with each model that is loaded to be observed."""
    loads: list[str] = []

    def counted(adapter: str, data: bytes) -> ModelRuntime:
        loads.append(adapter)
        return load(adapter, data)

    monkeypatch.setattr("edgefleet_converters.tflite.quantize.ranges.load", counted)
    return loads


def test_candidates_and_search_are_the_same_with_and_without_what_was_seen(tmp_path: Path, loaded: list[str]) -> None:
    args, seen = arguments(tmp_path), tmp_path / "x.seen"
    alone, found = candidates(args, tmp_path, None), searched(args, tmp_path, None)
    assert len(loaded) == len(RECIPES) + 2, "the search fits biases to half of the samples"
    assert len(set(alone.values())) > len(RECIPES) / 2, "the recipes make different files"
    loaded.clear()
    assert candidates(args, tmp_path, seen) == alone
    assert searched(args, tmp_path, seen) == found
    # MinMax of the plain, the rewritten and the evened graph; Percentile and Entropy once more each, on the rewritten one; half
    # of the samples for the search.
    assert len(loaded) == 6
    loaded.clear()
    assert candidates(args, tmp_path, seen) == alone
    assert loaded == []


def test_ranges_and_means_are_kept_to_the_last_bit_for_a_graph_that_is_compiled_again(tmp_path: Path) -> None:
    for method in ("MinMax", "Percentile", "Entropy"):
        graph, again = (compile_model(model(), BY_ADAPTER["litert"]).graph for _ in range(2))
        first = Calibrator({"x": SAMPLES}, "litert", tmp_path / "seen")
        second = Calibrator({"x": SAMPLES}, "litert", tmp_path / "seen")
        wanted = observe(again, lambda loaded: samples_of(loaded, {"x": SAMPLES}), "litert", method)
        assert list(first.ranges(graph, method).values()) == list(wanted.values())
        assert second.ranges(again, method) == wanted
        assert [m.tolist() for m in second.means(again).values()] == [m.tolist() for m in first.means(graph).values()]
        assert set(second.means(again)) < set(wanted)


def test_what_is_not_a_number_is_kept_as_that(tmp_path: Path) -> None:
    graph = compile_model(model(), BY_ADAPTER["litert"]).graph
    broken = SAMPLES.copy()
    broken[3, 2] = np.nan
    for _ in range(2):
        calibrator = Calibrator({"x": broken}, "litert", tmp_path / "seen")
        assert np.isnan(calibrator.ranges(graph)[id(graph.inputs[0])]).all()
        assert id(graph.inputs[0]) not in calibrator.means(graph)


def test_nothing_is_run_without_samples_for_means() -> None:
    assert Calibrator({}, "litert").means(compile_model(model(), BY_ADAPTER["litert"]).graph) == {}


def plainly(low: float, high: float, rows: list[np.ndarray[Any, Any]]) -> tuple[float, float]:
    """Return the range that keeps 99.99 % of the values, all of them put in 2,048 bins."""
    counts = sum(np.histogram(row, 2048, (low, high))[0] for row in rows)
    below, total = np.cumsum(counts), int(np.sum(counts))
    edge, width = total * (1 - 0.9999) / 2, (high - low) / 2048
    last = min(int(np.searchsorted(below, total - edge)), 2047)
    return low + int(np.searchsorted(below, edge)) * width, low + (last + 1) * width


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), shape=st.sampled_from(["normal", "heavy", "cut", "constant", "steps", "moving"]),
    count=st.integers(1, 6), size=st.sampled_from([1, 7, 900, 30_000]),
)  # fmt: skip
def test_percentile_is_that_of_all_values(seed: int, shape: str, count: int, size: int) -> None:
    random = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        values = {
            "normal": random.standard_normal(size), "heavy": random.standard_t(1, size), "cut": np.maximum(random.standard_normal(size), 0),
            "constant": np.full(size, float(index)), "steps": random.integers(-3, 4, size).astype(float),
            "moving": random.standard_normal(size) + 50.0 * index,
        }[shape]  # fmt: skip
        rows.append(values.astype(np.float32))
    low, high = float(min(row.min() for row in rows)), float(max(row.max() for row in rows))
    if low < high:
        wanted = plainly(low, high, rows)
        assert ranges.narrowed({0: (low, high)}, lambda: [{0: row} for row in rows], "Percentile") == {0: wanted}
