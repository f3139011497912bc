"""Sources that become ONNX first: the same answers as the original, and nothing that could run code is run."""

from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
from onnx import helper

from edgefleet_converters import errors
from edgefleet_converters.importers import sklearn_model, with_sklearn
from edgefleet_converters.importers.agreement import Samples, check_agreement
from edgefleet_converters.importers.archive import checked_members
from edgefleet_converters.importers.import_step import import_step
from edgefleet_converters.importers.sklearn_model import estimator_to_onnx
from edgefleet_converters.importers.source_kinds import kind_of
from edgefleet_converters.request import DataFiles
from edgefleet_converters.sidefiles import read_side_files
from edgefleet_converters.tools.environment import STAMP
from edgefleet_converters.tools.table import TOOLS
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import load
from edgefleet_runtime.preprocess import parse_preprocess
from tests.converters.graphs import Array, classifier, model_of, run

ESTIMATORS = ("logistic regression", "mlp", "forest", "boosting", "neighbours", "columns")
NAMES = np.array(["setosa", "versicolor", "virginica"])


def twice(x: Array) -> Array:
    """Return 2x: a function that a skops file can only name."""
    return 2 * x


@pytest.fixture(scope="module")
def sk() -> Any:
    """The estimators, and the irises that they learn from."""
    from tests.converters import estimators

    return estimators


def dump_skops(estimator: Any, path: Path) -> None:
    """Write a skops file. The import takes 2 s: only a process that runs these tests pays for it, not each that collects them."""
    import skops.io

    skops.io.dump(estimator, path)


def answers(model: bytes, x: Array) -> list[Array]:
    return list(load("ort", model).run({"x": x.astype(np.float32)}).values())


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_skops_file_answers_as_the_estimator(tmp_path: Path, name: str, sk: Any) -> None:
    estimator = sk.fitted(name)
    dump_skops(estimator, tmp_path / "model.skops")
    assert kind_of(tmp_path / "model.skops") == "skops"
    data, facts = estimator_to_onnx(tmp_path / "model.skops", None)
    got, wanted = answers(data, sk.X)[0], estimator.predict(sk.X)
    if wanted.dtype.kind == "i":
        assert (np.ravel(got) == wanted).all()
    else:
        assert np.allclose(np.ravel(got), wanted, atol=1e-4)
    assert facts["compared"]["agreeing"] >= 0.98 * facts["compared"]["samples"] > 0
    assert set(facts["versions"]) == {"scikit-learn", "skl2onnx"}


def test_class_names_leave_the_graph_and_are_told(tmp_path: Path, sk: Any) -> None:
    estimator = sk.fitted("forest", NAMES[sk.Y])
    dump_skops(estimator, tmp_path / "model.skops")
    data, facts = estimator_to_onnx(tmp_path / "model.skops", None)
    assert facts["labels"] == list(NAMES)
    model = onnx.load_model_from_string(data)
    assert [value.name for value in model.graph.output] == ["probabilities"]
    assert (NAMES[answers(data, sk.X)[0].argmax(axis=1)] == estimator.predict(sk.X)).all()


def test_a_type_outside_the_allow_list_is_named_and_never_built(tmp_path: Path, sk: Any) -> None:
    dump_skops(sk.fitted_with(twice), tmp_path / "model.skops")
    with pytest.raises(errors.UntrustedTypeError, match=r"test_importers\.twice") as caught:
        estimator_to_onnx(tmp_path / "model.skops", None)
    assert caught.value.code == "convert.untrusted_type"


def test_an_estimator_that_was_never_fitted_is_no_model(tmp_path: Path, sk: Any) -> None:
    dump_skops(sk.LogisticRegression(), tmp_path / "model.skops")
    with pytest.raises(errors.InvalidModelError, match="no fitted scikit-learn estimator"):
        estimator_to_onnx(tmp_path / "model.skops", None)


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["model.pkl", "model.onnx", "model.joblib"])
def test_a_pickle_is_told_by_its_bytes_and_not_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Evil(tmp_path / "owned")))
    assert kind_of(path) == "pickle"
    args = {"model": str(path), "kind": "pickle", "tools": None, "allow_pickle": False, "out": str(tmp_path / "out")}
    with pytest.raises(errors.PickleRefusedError, match="run whatever code") as caught:
        import_step(args)
    assert caught.value.next_step == "export the model to ONNX where it was trained, and publish that file"
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("compress", [0, 3])
def test_an_allowed_joblib_file_answers_as_the_estimator(tmp_path: Path, compress: int, sk: Any) -> None:
    estimator = sk.fitted("logistic regression")
    joblib.dump(estimator, tmp_path / "model.joblib", compress=compress)
    assert kind_of(tmp_path / "model.joblib") == "pickle"
    data, _ = estimator_to_onnx(tmp_path / "model.joblib", None)
    assert (answers(data, sk.X)[0] == estimator.predict(sk.X)).all()


def test_a_pickle_of_another_scikit_learn_is_refused(tmp_path: Path, sk: Any) -> None:
    data = pickle.dumps(sk.fitted("logistic regression"))
    import sklearn

    version = sklearn.__version__.encode()
    assert version in data
    (tmp_path / "model.pkl").write_bytes(data.replace(version, b"0" + version[1:]))
    with pytest.raises(errors.InvalidModelError, match="InconsistentVersionWarning"):
        estimator_to_onnx(tmp_path / "model.pkl", None)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tools in which `sklearn` is installed, for a Python of ours that has no scikit-learn."""
    folder = tmp_path / "tools" / "sklearn"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "bin" / "python").chmod(0o755)
    (folder / STAMP).write_text(json.dumps({"requirements": list(TOOLS["sklearn"].requirements), "versions": {}}))
    monkeypatch.setattr(sklearn_model, "PACKAGES", ("sklearn_that_is_not_here",))
    monkeypatch.chdir(tmp_path)
    return folder.parent


def test_the_tool_reads_what_this_python_cannot(tmp_path: Path, sk: Any, tools: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(sk.X, columns=["a", "b", "c", "d"])
    estimator = sk.unfitted("logistic regression").fit(frame, NAMES[sk.Y])
    dump_skops(estimator, tmp_path / "model.skops")
    data, facts = estimator_to_onnx(tmp_path / "model.skops", tools)
    assert (facts["labels"], facts["features"]) == (list(NAMES), ["a", "b", "c", "d"])
    assert facts["compared"]["agreeing"] >= 0.98 * facts["compared"]["samples"] > 0
    assert (NAMES[answers(data, sk.X)[0].argmax(axis=1)] == estimator.predict(frame)).all()


def test_the_tool_names_types_that_are_not_trusted(tmp_path: Path, sk: Any, tools: Path) -> None:
    dump_skops(sk.fitted_with(twice), tmp_path / "model.skops")
    with pytest.raises(errors.UntrustedTypeError, match=r"test_importers\.twice"):
        estimator_to_onnx(tmp_path / "model.skops", tools)


def test_a_missing_tool_is_named_with_its_command(tmp_path: Path, sk: Any, tools: Path) -> None:
    dump_skops(sk.LogisticRegression(), tmp_path / "model.skops")
    with pytest.raises(errors.ToolMissingError) as caught:
        estimator_to_onnx(tmp_path / "model.skops", tmp_path / "none")
    assert "edgectl tool install sklearn" in caught.value.next_step


def test_a_boosting_of_histograms_becomes_onnx(sk: Any) -> None:
    estimator = sk.fitted("histograms")
    data, _, arrays = with_sklearn.converted(estimator, "m")
    assert np.allclose(answers(data, arrays["in.x"])[1], arrays["out.1"], atol=1e-4)


def test_the_columns_of_the_training_stand_in_the_bundle() -> None:
    inputs = (TensorSpec(name="x", dtype="float32", shape=["N", 2]),)
    made = read_side_files(DataFiles(), inputs, inputs, own_columns=["size", "weight"])
    (recipe,) = parse_preprocess(made["preprocess.json"]).inputs
    assert (recipe.name, getattr(recipe, "columns", None)) == ("x", ["size", "weight"])
    for columns in (["size"], ["size", "size"], []):
        assert read_side_files(DataFiles(), inputs, inputs, own_columns=columns) == {}


@pytest.mark.slow
def test_a_skops_model_goes_the_whole_way(tmp_path: Path, sk: Any) -> None:
    dump_skops(sk.fitted("logistic regression"), tmp_path / "model.skops")
    report, _ = run(tmp_path / "model.skops", tmp_path / "out", precision="fp32")
    (bundle,) = report.bundles
    assert bundle.metric.value == 1.0
    assert report.source["imported"]["kind"] == "skops"


def test_a_converter_that_answers_something_else_is_caught() -> None:
    model = classifier()
    x = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    right = next(iter(load("ort", model.SerializeToString()).run({"x": x}).values()))
    told = check_agreement(model.SerializeToString(), Samples({"x": x}, [right]), "m")
    assert told == {"samples": 20, "agreeing": 20, "largest_ratio": 0.0}
    for wrong in (right * 1.1, right[:, :3], np.where(np.arange(20)[:, None] < 2, np.nan, right).astype(np.float32)):
        with pytest.raises(errors.ImportDiffersError):
            check_agreement(model.SerializeToString(), Samples({"x": x}, [wrong]), "m")


def test_an_output_without_samples_is_compared_as_a_whole() -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0), helper.make_node("Transpose", ["x"], ["t"])]
    model = model_of(nodes, {}, {"x": ["N", 3]}, {"x": ["N", 3], "s": [], "t": [3, "N"]})
    model.graph.node.append(helper.make_node("Identity", ["x"], ["y"]))
    model.graph.output[0].name = "y"
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    right = [x, np.array(15, np.float32), x.T]
    told = check_agreement(model.SerializeToString(), Samples({"x": x}, right), "m")
    assert told == {"samples": 2, "agreeing": 2, "largest_ratio": 0.0}
    for wrong in ([x, right[1] + 1, x.T], [x, right[1], x.T + 1]):
        with pytest.raises(errors.ImportDiffersError, match="0 of 2 samples agree"):
            check_agreement(model.SerializeToString(), Samples({"x": x}, wrong), "m")


def test_an_original_that_answers_one_number_is_compared() -> None:
    nodes = [helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0)]
    model = model_of(nodes, {}, {"x": ["N", 3]}, {"s": []}).SerializeToString()
    x = np.ones((2, 3), np.float32)
    assert check_agreement(model, Samples({"x": x}, [np.array(6, np.float32)]), "m")["agreeing"] == 1
    with pytest.raises(errors.ImportDiffersError, match="0 of 1 samples agree"):
        check_agreement(model, Samples({"x": x}, [np.array(7, np.float32)]), "m")


def test_an_original_that_finds_nothing_compares_no_sample() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": ["N", 3]}, {"y": ["N", 3]})
    x = np.zeros((0, 3), np.float32)
    assert check_agreement(model.SerializeToString(), Samples({"x": x}, [x]), "m")["samples"] == 0


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["m/archive_format", "m/models/model.json"], "pt2"),
        (["config.json", "metadata.json", "model.weights.h5"], "keras"),
        (["m/data.pkl", "m/data/0"], "weights without the model"),
        (["m/data.pkl", "m/code/x.py"], "TorchScript"),
        (["x.npy", "y.npy"], "sample data"),
        (["model.onnx"], "zip of something else"),
    ],
)
def test_a_zip_is_told_by_what_it_holds(tmp_path: Path, names: list[str], told: str) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    if told in ("pt2", "keras"):
        assert kind_of(path) == told
        return
    with pytest.raises(errors.NotAModelError, match=told):
        kind_of(path)


@pytest.mark.parametrize(
    ("name", "mode", "told"),
    [
        ("../x", 0o100644, "plain relative name"), ("/x", 0o100644, "plain relative name"), ("a\\b", 0o100644, "plain relative"),
        ("C:/x", 0o100644, "plain relative name"), ("a/../../x", 0o100644, "plain relative name"), ("x", 0o120777, "symbolic link"),
    ],
)  # fmt: skip
def test_a_zip_that_could_write_outside_is_not_opened(tmp_path: Path, name: str, mode: int, told: str) -> None:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr(info, b"x")
    with pytest.raises(errors.ArchiveUnsafeError, match=told):
        checked_members(tmp_path / "m.zip")


def test_bombs_and_doubled_members_are_not_opened(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", bytes(100 * 1024**2))
    with pytest.raises(errors.ArchiveUnsafeError, match="unpacks from"):
        checked_members(bomb)
    twin = tmp_path / "twin.zip"
    with zipfile.ZipFile(twin, "w") as archive:
        archive.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", b"2")
    with pytest.raises(errors.ArchiveUnsafeError, match="twice"):
        checked_members(twin)
