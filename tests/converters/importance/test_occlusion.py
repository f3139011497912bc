"""Occlusion maps: the part that decides is found, for all pictures and for each class, and no single picture is shown."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgefleet_converters.importance.importance_step import importance_step
from edgefleet_converters.importance.occlusion import Grid, grid_of, hidden, mean_picture, right_scores
from tests.converters.graphs import Array, model_of, run
from tests.converters.importance.test_permutation import asked


def corner_reader() -> bytes:
    """Return a classifier of 8×8 pictures [n, 1, 8, 8] that reads the pixel in the first row and column alone."""
    weights = np.zeros((64, 2), dtype=np.float32)
    weights[0] = [-4.0, 4.0]
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["y"], axis=1),
    ]
    model: onnx.ModelProto = model_of(nodes, {"w": weights}, {"x": ["N", 1, 8, 8]}, {"y": ["N", 2]})
    return bytes(model.SerializeToString())


def pictures(n: int = 60) -> tuple[Array, Array]:
    x = np.random.default_rng(0).normal(size=(n, 1, 8, 8)).astype(np.float32)
    truth = (np.arange(n) % 2).astype(np.int64)
    x[:, 0, 0, 0] = np.where(truth, 2.0, -2.0)
    return x, truth


def test_the_part_that_decides_is_found(tmp_path: Path) -> None:
    x, truth = pictures()
    grid = vars(grid_of("x", x.shape, (2, 3)))
    answer = importance_step(asked(corner_reader(), x, truth, tmp_path, units=[], grids=[grid]))
    (row,) = answer["occlusion"]
    assert [one["group"] for one in row["maps"]] == ["", "0", "1"]
    for one in row["maps"]:
        drop = np.array(one["drop"])
        assert drop.shape == (8, 8)
        assert drop[0, 0] == pytest.approx(0.5, abs=0.01)
        assert np.abs(drop.ravel()[1:]).max() < 1e-6
        assert len(base64.b64decode(one["mean"])) == 64
    assert row["maps"][1]["n"] == 30


def test_a_hidden_part_is_the_mean_and_the_rest_stays() -> None:
    x, _ = pictures()
    grid = Grid("x", (2, 3), 8, 8, 4, 2)
    parts = grid.parts()
    assert sum((part.bottom - part.top) * (part.right - part.left) for part in parts) == 64
    changed = hidden({"x": x}, grid, parts[-1])["x"]
    assert np.allclose(changed[:, :, 6:, 4:], x[:, :, 6:, 4:].mean(axis=0))
    assert (changed[:, :, :6] == x[:, :, :6]).all()


def test_scores_are_shares_also_of_logits_and_of_one_number() -> None:
    assert right_scores(np.array([[0.2, 0.8]]), np.array([1])).tolist() == [0.8]
    assert right_scores(np.array([[0.0, 100.0]]), np.array([1]))[0] == pytest.approx(1.0)
    assert right_scores(np.array([[0.3], [0.3]]), np.array([0, 1])).tolist() == [0.7, 0.3]


def test_a_mean_picture_is_small_and_upright() -> None:
    wide = np.zeros((9, 40, 90, 3))
    wide[:, :20] = 1.0
    shown = mean_picture(wide, grid_of("x", wide.shape, (1, 2)))
    assert shown.shape == (20, 30)
    assert shown[0, 0] == 255
    assert shown[-1, 0] == 0


def test_without_time_there_is_no_half_map(tmp_path: Path) -> None:
    x, truth = pictures()
    grid = vars(grid_of("x", x.shape, (2, 3)))
    answer = importance_step(asked(corner_reader(), x, truth, tmp_path, units=[], grids=[grid], seconds=-1.0))
    assert answer["occlusion"] == []
    assert answer["not_measured"] == ["x"]


def test_a_conversion_of_pictures_has_a_map_and_a_policy_hides_the_mean(tmp_path: Path) -> None:
    x, truth = pictures(80)
    source = tmp_path / "model.onnx"
    source.write_bytes(corner_reader())
    np.savez(tmp_path / "eval.npz", x=x, y=truth)
    data = {"eval": str(tmp_path / "eval.npz")}
    report, _ = run(source, tmp_path / "out", data=data, explain=True)
    (row,) = report.importance["occlusion"]
    assert row["maps"][0]["mean"] != ""
    assert report.importance["features"] == []
    (tmp_path / "privacy.json").write_text('{"v": 1, "fields": {"x": [{"do": "drop"}]}}')
    report, _ = run(source, tmp_path / "again", data={**data, "privacy": str(tmp_path / "privacy.json")}, explain=True)
    assert [one["mean"] for one in report.importance["occlusion"][0]["maps"]] == ["", "", ""]
