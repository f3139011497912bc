"""What the steps of a job share of calibration changes no byte of what they make, and spares the runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper

from edgefleet_converters.recipe import CandidateSpec
from edgefleet_converters.tflite.compile import compile_model
from edgefleet_converters.tflite.quantize import ranges
from edgefleet_converters.tflite.quantize.calibration import Calibrator, samples_of
from edgefleet_converters.tflite.quantize.candidates import candidate_step
from edgefleet_converters.tflite.quantize.ranges import observe
from edgefleet_converters.tflite.quantize.recipe import WEIGHTED
from edgefleet_converters.tflite.quantize.sensitivity import sensitivity_step
from edgefleet_converters.tflite.runtimes import BY_ADAPTER
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
_RANDOM = np.random.default_rng(7)
SAMPLES = _RANDOM.standard_t(2, (36, 6)).astype(np.float32)
"""More than the means are taken of."""


def model() -> onnx.ModelProto:
    """Two layers, and a head whose sign and quotient are rewritten for int8 but where it stays float."""
    values = {
        "w": _RANDOM.standard_normal((6, 40)).astype(np.float32), "b": _RANDOM.standard_normal(40).astype(np.float32),
        "v": _RANDOM.standard_normal((40, 40)).astype(np.float32), "c": _RANDOM.standard_normal(40).astype(np.float32),
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
    real = ranges.load
    monkeypatch.setattr(ranges, "load", lambda adapter, data: (loads.append(adapter), real(adapter, data))[1])
    return loads


def test_candidates_and_search_are_the_same_with_and_without_what_was_seen(tmp_path: Path, loaded: list[str]) -> None:
    args, seen = arguments(tmp_path), tmp_path / "x.seen"
    alone, found = candidates(args, tmp_path, None), searched(args, tmp_path, None)
    assert len(loaded) == len(RECIPES) + 1
    assert len(set(alone.values())) > len(RECIPES) / 2, "the recipes make different files"
    loaded.clear()
    assert candidates(args, tmp_path, seen) == alone
    assert searched(args, tmp_path, seen) == found
    # MinMax of the plain, the rewritten and the evened graph; Percentile and Entropy once more each, on the rewritten one.
    assert len(loaded) == 5
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
