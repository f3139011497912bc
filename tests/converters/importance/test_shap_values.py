"""SHAP values over the pipe: exact on a small tree model that can be worked out by hand.

The package has a stand-in here that enumerates all sets; `./dev soak tree-shap` holds the package against its own TreeExplainer.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_converters.errors import BadRequestError, ToolFailedError, ToolMissingError
from edgefleet_converters.importance.importance_step import importance_step
from edgefleet_converters.importance.model_runs import AskedModel
from edgefleet_converters.importance.permutation import units_of
from edgefleet_converters.importance.shap_values import shap_rows, shap_values
from edgefleet_converters.importance.table_shap import check_tables, drawn, inputs_from, shap_document, table_of
from edgefleet_converters.sample_data import save_arrays
from edgefleet_converters.tools.environment import STAMP
from edgefleet_converters.tools.table import TOOLS
from edgefleet_runtime.port import load
from tests.converters.importance.tree_shap_soak import ensemble

STAND_IN = """
from itertools import combinations
from math import factorial
from types import SimpleNamespace
import numpy
__version__ = "0.0"
maskers = SimpleNamespace(Independent=lambda data, max_samples: data)
class ExactExplainer:
    def __init__(self, model, others):
        self.model, self.others = model, others
    def __call__(self, rows):
        return SimpleNamespace(values=numpy.stack([self.one(row) for row in rows]))
    def one(self, row):
        n = len(row)
        worth = {}
        for size in range(n + 1):
            for shown in combinations(range(n), size):
                some = self.others.copy()
                some[:, list(shown)] = row[list(shown)]
                worth[shown] = self.model(some).mean(axis=0)
        found = []
        for at in range(n):
            total = 0
            for shown in (one for one in worth if at not in one):
                weight = factorial(len(shown)) * factorial(n - len(shown) - 1) / factorial(n)
                total = total + weight * (worth[tuple(sorted((*shown, at)))] - worth[shown])
            found.append(total)
        return numpy.stack(found)
"""
TREE = {
    "children_left": [1, -1, 3, -1, -1], "children_right": [2, -1, 4, -1, -1], "feature": [0, -2, 1, -2, -2],
    "threshold": [0.0, 0.0, 0.5, 0.0, 0.0], "value": [0.0, 1.0, 0.0, 2.0, 8.0],
}  # fmt: skip
"""1 where x0 <= 0; else 2 where x1 <= 0.5, else 8. x2 is not looked at."""
MODEL = ensemble({"trees": [TREE], "rate": 1.0, "base": 0.25}, 3)
ROWS = np.array([[1.0, 1.0, 5.0], [-1.0, 1.0, 5.0]])
OTHERS = np.random.default_rng(2).normal(0, 1, (40, 3))


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Return a folder with a stand-in for the tool environment."""
    folder = tmp_path / "tools" / "shap"
    (folder / "bin").mkdir(parents=True)
    (folder / "shap.py").write_text(STAND_IN)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (folder / STAMP).write_text(json.dumps({"requirements": list(TOOLS["shap"].requirements), "versions": {}}))
    return tmp_path / "tools"


def tree(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Return the tree's answers, worked out here."""
    return np.where(x[:, 0] <= 0, 1.0, np.where(x[:, 1] <= 0.5, 2.0, 8.0)) + 0.25


def by_hand(row: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Return the Shapley values of a game of two columns, and of a third that nothing hangs on."""
    first, second = OTHERS.copy(), OTHERS.copy()
    first[:, 0], second[:, 1] = row[0], row[1]
    none, alone, other, both = tree(OTHERS).mean(), tree(first).mean(), tree(second).mean(), tree(row[None])[0]
    return np.array([((alone - none) + (both - other)) / 2, ((other - none) + (both - alone)) / 2, 0.0])


def test_values_of_a_tree_are_those_of_all_sets(tools: Path, tmp_path: Path) -> None:
    runtime = load("ort", MODEL, threads=1)
    model = AskedModel(runtime, runtime.outputs[0], time.monotonic() + 60)
    found = shap_values(
        tools, tmp_path, ROWS, OTHERS, lambda table: model.answers({"x": table.astype(np.float32)}).astype(np.float64)
    )
    assert found.exact
    assert found.versions["shap"] == "0.0"
    for at, row in enumerate(ROWS):
        assert found.values[at, :, 0] == pytest.approx(by_hand(row), abs=1e-5)
        assert found.values[at].sum() == pytest.approx(tree(row[None])[0] - tree(OTHERS).mean(), abs=1e-5)


def test_a_conversion_that_asks_has_them_in_its_report(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(4).normal(0, 1, (60, 3)).astype(np.float32)
    (tmp_path / "m.onnx").write_bytes(MODEL)
    save_arrays(tmp_path / "x.npz", {"x": x})
    save_arrays(tmp_path / "y.npz", {"y": tree(x)[:, None]})
    units = units_of({"x": x.shape}, {"x": ["heat", "load", "age"]})
    asked = {
        "runtime": "ort", "model": str(tmp_path / "m.onnx"), "threads": 1, "samples": str(tmp_path / "x.npz"),
        "truth": str(tmp_path / "y.npz"), "output": 0, "metric": "mae", "units": [vars(one) for one in units], "grids": [],
        "is_shown": True, "repeats": 2, "seed": 0, "seconds": 10.0, "shap": True, "tools": str(tools),
    }  # fmt: skip
    shap = importance_step(asked)["shap"]
    assert (shap["why"], shap["n"], shap["others"], shap["exact"]) == ("", 30, 30, True)
    assert [one["name"] for one in shap["features"]][2] == "x.age"
    assert shap["features"][2]["value"] == pytest.approx(0.0, abs=1e-6)
    assert shap["features"][0]["low"] < shap["features"][0]["value"] < shap["features"][0]["high"]
    without = importance_step({**asked, "tools": str(tmp_path / "nothing")})["shap"]
    assert "edgectl tool install shap" in without["why"]
    assert importance_step({**asked, "shap": False})["shap"] == {}


def test_importance_is_the_mean_of_absolute_values() -> None:
    rows = shap_rows(np.array([[1.0, -4.0], [-3.0, 4.0]]), ["a", "b"])
    assert [(one.name, one.value) for one in rows] == [("b", 4.0), ("a", 2.0)]
    assert (rows[0].low, rows[0].high) == (4.0, 4.0)
    assert rows[1].high - rows[1].value == pytest.approx(1.96)


def test_inputs_become_one_table_and_inputs_again() -> None:
    arrays: dict[str, Any] = {
        "x": np.arange(6, dtype=np.float32).reshape(3, 2),
        "z": np.arange(3, dtype=np.int64).reshape(3, 1),
    }
    found = inputs_from(table_of(arrays), arrays)
    assert all(found[name].dtype == one.dtype and (found[name] == one).all() for name, one in arrays.items())
    check_tables(units_of({"x": (3, 2)}, {}), ["x"])
    with pytest.raises(BadRequestError, match="at most 64 columns"):
        check_tables(units_of({"x": (3, 2)}, {}), ["x", "image"])
    with pytest.raises(BadRequestError):
        check_tables(units_of({"x": (3, 200)}, {}), ["x"])


def test_samples_of_sorted_data_are_drawn_from_all_of_it() -> None:
    first, second = drawn({"x": np.arange(200.0)[:, None]}, 50, 50)
    for one in (first["x"], second["x"]):
        assert 80 < one.mean() < 120
    assert not set(first["x"].ravel()) & set(second["x"].ravel())
    assert len(drawn({"x": np.zeros((20, 1))}, 50)[0]["x"]) == 20


def test_a_tool_that_is_missing_or_fails_says_so(tools: Path, tmp_path: Path) -> None:
    def model(table: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return table[:, :1]

    with pytest.raises(ToolMissingError, match="shap"):
        shap_values(tmp_path / "nothing", tmp_path, ROWS, OTHERS, model)
    (tools / "shap" / "shap.py").write_text("raise ImportError('no numba')")
    with pytest.raises(ToolFailedError, match="ImportError: no numba"):
        shap_values(tools, tmp_path, ROWS, OTHERS, model)
    (tools / "shap" / "bin" / "python").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(ToolFailedError, match="ended before it answered"):
        shap_values(tools, tmp_path, ROWS, OTHERS, model)


def test_a_table_document_needs_a_table(tools: Path) -> None:
    runtime = load("ort", MODEL, threads=1)
    model = AskedModel(runtime, runtime.outputs[0], time.monotonic() + 60)
    with pytest.raises(BadRequestError):
        shap_document(model, {"x": np.zeros((4, 1, 8, 8))}, units_of({"x": (4, 1, 8, 8)}, {}), tools, is_class=False)
