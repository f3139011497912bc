"""Permutation importance: scikit-learn's on its own models, what a cut leaves, and where nothing can be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
from onnx import helper

from edgefleet_converters.importance.importance_report import ImportanceRow
from edgefleet_converters.importance.importance_step import importance_step
from edgefleet_converters.importance.permutation import (
    MAE,
    TOP1,
    Unit,
    effect_of,
    losses_of,
    order_of,
    shuffled,
    units_of,
)
from edgefleet_converters.importers.sklearn_model import estimator_to_onnx
from tests.converters.graphs import Array, model_of, run

REPEATS = 20


def asked(model: bytes, x: Array, y: Array, folder: Path, **more: Any) -> dict[str, Any]:
    """Return the request of a measurement of one input `x`."""
    path = folder / "model.onnx"
    path.write_bytes(model)
    name = onnx.load_model_from_string(model).graph.input[0].name
    np.savez(folder / "x.npz", **{name: x})
    np.savez(folder / "y.npz", y=y)
    units = [vars(one) for one in units_of({name: x.shape}, {})]
    return {
        "runtime": "ort", "model": str(path), "threads": 1, "samples": str(folder / "x.npz"),
        "truth": str(folder / "y.npz"), "output": 0, "metric": TOP1, "units": units, "grids": [], "is_shown": True,
        "repeats": REPEATS, "seed": 0, "seconds": 60.0, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def sk() -> Any:
    """Estimators with the data that they learn from and are judged on, by name: (estimator, x, y, scoring, metric, output)."""
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LinearRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def parted(data: Any, estimator: Any, scoring: str, metric: str, output: int) -> Any:
        x, y = data
        x = x.astype(np.float32)[:, :10]
        order = np.random.default_rng(3).permutation(len(x))
        x, y, half = x[order], y[order], len(x) // 2
        return estimator.fit(x[:half], y[:half]), x[half:], y[half:], scoring, metric, output

    mlp = make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=1500, random_state=0))
    forest = RandomForestClassifier(20, max_depth=5, random_state=0)
    return {
        "linear": parted(load_diabetes(return_X_y=True), LinearRegression(), "neg_mean_absolute_error", MAE, 0),
        "forest": parted(load_breast_cancer(return_X_y=True), forest, "accuracy", TOP1, 1),
        "mlp": parted(load_wine(return_X_y=True), mlp, "accuracy", TOP1, 1),
    }


@pytest.mark.parametrize("name", ["linear", "forest", "mlp"])
def test_it_equals_scikit_learn_within_its_error(name: str, sk: Any, tmp_path: Path) -> None:
    from sklearn.inspection import permutation_importance

    estimator, x, y, scoring, metric, output = sk[name]
    joblib.dump(estimator, tmp_path / "model.joblib")
    model, _ = estimator_to_onnx(tmp_path / "model.joblib", None)
    theirs = permutation_importance(estimator, x, y, scoring=scoring, n_repeats=REPEATS, random_state=1)
    answer = importance_step(asked(model, x, y, tmp_path, metric=metric, output=output))
    assert answer["in_batches"]
    assert not answer["cut"]
    # A forest's limits are rounded to float32 in ONNX, so a sample that lies on one may fall to its other side.
    assert answer["base"] == pytest.approx(abs(estimator_score(estimator, x, y, scoring)), abs=1.5 / len(x))
    rows = {row["name"].rpartition(".")[2]: row for row in answer["features"]}
    assert len(rows) == 10
    for at, (mean, std) in enumerate(zip(theirs.importances_mean, theirs.importances_std, strict=True)):
        row = rows[str(at)]
        assert row["repeats"] == REPEATS
        assert row["low"] <= mean <= row["high"]
        # Both means come from REPEATS shuffles of the same spread; 4.5 of their common errors leave 1 in 100,000 to chance.
        error = np.sqrt(2) * std / np.sqrt(REPEATS)
        assert abs(row["value"] - mean) <= 4.5 * error + 1e-6
    most = max(rows, key=lambda at: float(rows[at]["value"]))
    assert int(most) == int(theirs.importances_mean.argmax())


def estimator_score(estimator: Any, x: Array, y: Array, scoring: str) -> float:
    from sklearn.metrics import get_scorer

    return float(get_scorer(scoring)(estimator, x, y))


def sum_of_columns(*, is_open: bool = True) -> bytes:
    """Return a model [n, 3] -> [n, 2] whose class hangs on column 0 alone."""
    weights = np.array([[-1.0, 1.0], [0.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    n: Any = "N" if is_open else 1
    model: onnx.ModelProto = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights}, {"x": [n, 3]}, {"y": [n, 2]}
    )
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("is_open", [True, False])
def test_only_what_the_answer_hangs_on_matters_in_batches_or_one_by_one(is_open: bool, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    truth = (x[:, 0] > 0).astype(np.int64)
    answer = importance_step(asked(sum_of_columns(is_open=is_open), x, truth, tmp_path, repeats=4))
    assert answer["in_batches"] == is_open
    assert answer["base"] == 1.0
    first, *others = answer["features"]
    assert (first["name"], first["kind"]) == ("x.0", "column")
    assert first["low"] < 0.5 < first["high"]
    assert all(row["value"] == 0 for row in others)


def test_without_time_it_says_what_was_not_measured(tmp_path: Path) -> None:
    x = np.zeros((40, 3), dtype=np.float32)
    answer = importance_step(asked(sum_of_columns(), x, np.zeros(40, dtype=int), tmp_path, seconds=-1.0))
    assert answer["cut"]
    assert answer["features"] == []
    assert answer["not_measured"] == ["x.0", "x.1", "x.2"]


def test_a_unit_is_shuffled_and_nothing_else() -> None:
    x = np.arange(12).reshape(4, 3)
    order = order_of(4, 0, 1, 0)
    changed = shuffled({"x": x, "z": x}, Unit("x.1", "x", "column", 1, 2), order)
    assert (changed["x"][:, 1] == x[order, 1]).all()
    assert (changed["x"][:, [0, 2]] == x[:, [0, 2]]).all()
    assert (changed["z"] == x).all()
    whole = shuffled({"x": x}, Unit("x", "x", "input"), order)
    assert (whole["x"] == x[order]).all()
    assert (x == np.arange(12).reshape(4, 3)).all()


def test_wide_tables_are_shuffled_in_blocks_that_cover_each_column_once() -> None:
    units = units_of({"x": [5, 130], "s": [5, 4, 9], "n": [5]}, {"x": [str(i) for i in range(130)]})
    blocks = [unit for unit in units if unit.input == "x"]
    assert len(blocks) <= 64
    assert [at for unit in blocks for at in range(unit.first, unit.end)] == list(range(130))
    assert blocks[0].name == "x.0-2"
    assert [(unit.name, unit.kind) for unit in units if unit.input != "x"] == [("s", "input"), ("n.0", "column")]


def test_the_interval_holds_both_errors() -> None:
    base = np.zeros(100)
    same = effect_of(base, [np.ones(100)] * 3)
    assert (same.value, same.error) == (1.0, 0.0)
    by_samples = effect_of(base, [np.arange(100) % 2.0] * 3)
    assert by_samples.error == pytest.approx(0.05, rel=0.01)
    by_shuffles = effect_of(base, [np.full(100, at) for at in (0.0, 1.0)])
    low, high = by_shuffles.interval
    assert low < 0
    assert high > 1


def test_losses_of_one_score_and_of_numbers() -> None:
    assert losses_of(TOP1, np.array([[0.9], [0.2]]), np.array([1, 1])).tolist() == [0.0, 1.0]
    assert losses_of(TOP1, np.array([2, 3]), np.array([2, 2])).tolist() == [0.0, 1.0]
    assert losses_of(MAE, np.array([[1.0, 3.0]]), np.array([[0.0, 0.0]])).tolist() == [2.0]


def importance_in(tmp_path: Path, arrays: dict[str, Array], **data: Any) -> dict[str, Any]:
    source = tmp_path / "model.onnx"
    source.write_bytes(sum_of_columns())
    np.savez(tmp_path / "eval.npz", **arrays)
    report, _ = run(source, tmp_path / "out", data={"eval": str(tmp_path / "eval.npz"), **data}, explain=True)
    return report.importance


def test_a_conversion_reports_it_once_with_the_names_of_columns(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(120, 3)).astype(np.float32)
    (tmp_path / "pre.json").write_text(
        '{"v": 1, "inputs": [{"name": "x", "from": "columns", "columns": ["heat", "load", "age"]}]}'
    )
    found = importance_in(
        tmp_path, {"x": x, "y": (x[:, 0] > 0).astype(np.int64)}, preprocess=str(tmp_path / "pre.json")
    )
    assert found["why"] == ""
    assert (found["metric"], found["n"], found["given"], found["output"]) == (TOP1, 120, 120, "y")
    assert [row["name"] for row in found["features"]] == ["x.heat", "x.load", "x.age"]
    assert found["features"][0]["value"] > 0.3
    assert found["runtime"].startswith("ort ")


@pytest.mark.parametrize(
    ("rows", "labels", "why"),
    [(60, None, "no labelled evaluation data"), (12, "class", "12 labelled samples"), (60, "text", "fit")],
)
def test_it_says_why_nothing_was_measured(rows: int, labels: str | None, why: str, tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(rows, 3)).astype(np.float32)
    given: dict[str, Array] = {"x": x}
    if labels == "class":
        given["y"] = (x[:, 0] > 0).astype(np.int64)
    if labels == "text":
        given["y"] = x.astype(np.float64)  # three numbers a sample, of an output of two
        why = "no class numbers"
    found = importance_in(tmp_path, given)
    assert why in found["why"]
    assert found["features"] == []


def test_a_conversion_that_is_not_asked_measures_nothing(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(sum_of_columns())
    report, _ = run(source, tmp_path / "out")
    assert report.importance == {}
    assert ImportanceRow().why == ""
