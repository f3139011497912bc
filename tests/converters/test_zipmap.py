"""What skl2onnx exports by default is taken: tensors in place of dictionaries, with the estimator's own answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgefleet_converters import errors
from edgefleet_converters.importers.with_sklearn import whole_numbers
from edgefleet_converters.onnx.load import import_step
from edgefleet_protocol.bundle import open_bundle
from edgefleet_runtime.port import load
from tests.converters.graphs import Array, model_of, run, save

NAMES = np.array(["setosa", "versicolor", "virginica"])
KINDS: dict[str, Callable[[Array], Array]] = {
    "logistic regression": lambda y: NAMES[y],
    "forest": lambda y: NAMES[y],
    "boosting": lambda y: y * 10 + 3,
    "mlp": lambda y: np.array(["no", "yes"])[(y == 1).astype(int)],
    "vectors": lambda y: NAMES[y],
    "neighbours": lambda y: y == 0,
    "histograms": lambda y: y,
}
"""Estimator -> the classes that it learns: plain numbers, text, other numbers, two names, truth values."""


@pytest.fixture(scope="module")
def sk() -> Any:
    """The estimators, and the irises that they learn from."""
    from tests.converters import estimators

    return estimators


def exported(estimator: Any, x: Array) -> onnx.ModelProto:
    """Return what `to_onnx(model, X[:1])` gives, as a user types it."""
    from skl2onnx import to_onnx

    with whole_numbers():
        return to_onnx(estimator, x[:1].astype(np.float32))


def imported(model: onnx.ModelProto, folder: Path) -> tuple[bytes, dict[str, Any]]:
    out = folder / "out.onnx"
    args: dict[str, Any] = {
        "model": str(save(model, folder)),
        "folder": None,
        "shapes": {},
        "values": {},
        "out": str(out),
    }
    facts = import_step(args)
    return out.read_bytes(), facts


@pytest.mark.parametrize("name", KINDS)
def test_a_default_export_answers_as_the_estimator(tmp_path: Path, name: str, sk: Any) -> None:
    y = KINDS[name](sk.Y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an estimator that has not converged answers all the same
        estimator = sk.fitted(name, y)
    model = exported(estimator, sk.X)
    assert model.graph.output[1].type.HasField("sequence_type")
    data, facts = imported(model, tmp_path)
    assert facts["labels"] == [str(int(c) if c.dtype.kind == "b" else c) for c in estimator.classes_]
    assert not any(key.endswith("ZipMap") for key in facts["operators"])
    got = load("ort", data).run({"X": sk.X.astype(np.float32)})
    assert np.allclose(got["output_probability"], estimator.predict_proba(sk.X.astype(np.float32)), atol=1e-4)
    assert facts["outputs"][-1] | {"shape": None} == facts["outputs"][-1] | {
        "name": "output_probability",
        "shape": None,
    }
    assert facts["outputs"][-1]["shape"][1] == len(estimator.classes_)
    if y.dtype.kind == "U":
        assert list(got) == ["output_probability"]
    else:
        assert (got["output_label"] == estimator.predict(sk.X.astype(np.float32))).mean() > 0.98


def test_the_names_of_the_classes_go_into_the_bundle(tmp_path: Path, sk: Any) -> None:
    forest = sk.RandomForestClassifier(3, random_state=0).fit(sk.X, NAMES[sk.Y])
    model, profiles = save(exported(forest, sk.X), tmp_path), ("generic-x86_64-ort", "generic-x86_64-litert")
    report, _ = run(model, tmp_path / "out", profiles, precision="fp32")
    assert [made.profile for made in report.bundles] == list(profiles)
    for made in report.bundles:
        with Path(made.path).open("rb") as file:
            assert open_bundle(file).read("labels.txt") == b"setosa\nversicolor\nvirginica\n"
    assert report.source["labels"] == ["setosa", "versicolor", "virginica"]


def test_text_is_dropped_where_the_classes_are_known(tmp_path: Path, sk: Any) -> None:
    from skl2onnx import to_onnx

    estimator = sk.fitted("logistic regression", NAMES[sk.Y])
    model = to_onnx(estimator, sk.X[:1].astype(np.float32), options={"zipmap": False})
    _, facts = imported(model, tmp_path)
    assert ([one["name"] for one in facts["outputs"]], facts["labels"]) == (
        ["probabilities"],
        sorted(set(estimator.classes_)),
    )


def test_a_zipmap_whose_input_is_also_an_answer_becomes_a_copy(tmp_path: Path) -> None:
    model = model_of([], {}, {"x": ["N", 2]}, {})
    model.graph.node.append(helper.make_node("Relu", ["x"], ["scores"]))
    model.graph.node.append(
        helper.make_node("ZipMap", ["scores"], ["named"], domain="ai.onnx.ml", classlabels_int64s=[4, 7])
    )
    model.graph.output.append(helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 2]))
    mapped = helper.make_map_type_proto(
        onnx.TensorProto.INT64, helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
    )
    model.graph.output.append(helper.make_value_info("named", helper.make_sequence_type_proto(mapped)))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    data, facts = imported(model, tmp_path)
    got = load("ort", data).run({"x": np.array([[-1, 2]], np.float32)})
    assert (facts["labels"], facts["operators"]) == (["4", "7"], {"Identity": 1, "Relu": 1})
    assert got["scores"].tolist() == got["named"].tolist() == [[0, 2]]
    assert facts["outputs"][1]["shape"] == ["N", 2]


def test_several_targets_at_once_are_refused_with_what_to_train_instead(tmp_path: Path, sk: Any) -> None:
    targets = np.c_[sk.Y, sk.Y == 1]
    forest = exported(sk.fitted("forest", targets), sk.X)
    with pytest.raises(errors.InvalidModelError, match="probabilities of several targets") as caught:
        imported(forest, tmp_path)
    assert "MultiOutputClassifier" in caught.value.next_step
    from sklearn.multioutput import MultiOutputClassifier

    several = MultiOutputClassifier(sk.LogisticRegression(max_iter=500)).fit(sk.X, targets)
    with pytest.raises(errors.InvalidModelError, match="sequence_type") as caught:
        imported(exported(several, sk.X), tmp_path)
    assert "`estimators_`" in caught.value.next_step
    data, _ = imported(exported(several.estimators_[0], sk.X), tmp_path)
    assert load("ort", data).run({"X": sk.X.astype(np.float32)})["output_probability"].shape == (150, 3)
