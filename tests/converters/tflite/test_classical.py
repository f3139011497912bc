"""Classical models of scikit-learn, said with ai.onnx.ml: the compiled labels are all those of onnxruntime.

The import of scikit-learn takes 2 s: only the tests that use it pay for it, not each process that collects them.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from edgefleet_converters.tflite.runtimes import RUNTIMES
from tests.converters.tflite.models import compiled_in, in_onnxruntime

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime ends with Python 3.11"),
]

Array = npt.NDArray[Any]


def nodes_of(trees: list[Any]) -> dict[str, list[Any]]:
    """Return the node attributes of scikit-learn trees; thresholds are rounded down to float32, as `<=` needs."""
    table: dict[str, list[Any]] = {f"nodes_{name}": [] for name in ("treeids", "nodeids", "featureids", "values", "modes",
                                                                  "truenodeids", "falsenodeids")}  # fmt: skip
    for number, tree in enumerate(trees):
        for node in range(tree.node_count):
            leaf = tree.children_left[node] < 0
            value = np.float32(tree.threshold[node])
            value = np.nextafter(value, np.float32(-np.inf)) if value > tree.threshold[node] else value
            row = (number, node, max(0, tree.feature[node]), 0.0 if leaf else float(value), "LEAF" if leaf else "BRANCH_LEQ",
                   max(0, tree.children_left[node]), max(0, tree.children_right[node]))  # fmt: skip
            for name, entry in zip(table, row, strict=True):
                table[name].append(entry if isinstance(entry, (str, float)) else int(entry))
    return table


def leaves_of(trees: list[Any], kind: str, weigh: Any) -> dict[str, list[Any]]:
    """Return the weight attributes. weigh: (tree number, leaf value) -> pairs of (id, weight)."""
    table: dict[str, list[Any]] = {f"{kind}_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}
    for number, tree in enumerate(trees):
        for node in range(tree.node_count):
            if tree.children_left[node] < 0:
                for column, weight in weigh(number, tree.value[node][0]):
                    for name, entry in zip(table, (number, node, column, float(weight)), strict=True):
                        table[name].append(entry)
    return table


def model_of(
    nodes: list[onnx.NodeProto], rows: int, columns: int, outputs: list[tuple[str, int, list[int]]]
) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, columns])], values
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def ml(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, domain="ai.onnx.ml", **attributes)


def check(model: onnx.ModelProto, x: Array) -> None:
    wanted = in_onnxruntime(model, {"x": x})
    for runtime in RUNTIMES.values():
        got = compiled_in(runtime, model, {"x": x})
        for a, b in zip(got, wanted, strict=True):
            assert a.shape == b.shape
            if a.dtype.kind == "i":
                np.testing.assert_array_equal(a, b)
            else:
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def both(rows: int, classes: int) -> list[tuple[str, int, list[int]]]:
    return [("label", TensorProto.INT64, [rows]), ("scores", TensorProto.FLOAT, [rows, classes])]


def test_a_scaler_and_a_logistic_regression() -> None:
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    x, y = load_iris(return_X_y=True)
    x = x.astype(np.float32)
    mean, deviation = x.mean(0), x.std(0)
    fitted = LogisticRegression(max_iter=500).fit((x - mean) / deviation, y)
    nodes = [
        ml("Scaler", ["x"], ["s"], offset=mean.tolist(), scale=(1 / deviation).tolist()),
        ml("LinearClassifier", ["s"], ["label", "p"], coefficients=fitted.coef_.reshape(-1).tolist(),
           intercepts=fitted.intercept_.tolist(), classlabels_ints=[0, 1, 2], post_transform="SOFTMAX"),
        ml("Normalizer", ["p"], ["scores"], norm="L1"),
    ]  # fmt: skip
    check(model_of(nodes, len(x), 4, both(len(x), 3)), x)


def test_a_random_forest_of_100_trees() -> None:
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    fitted = RandomForestClassifier(100, random_state=0).fit(x[:1200], y[:1200])
    trees = [tree.tree_ for tree in fitted.estimators_]
    weights = leaves_of(trees, "class", lambda _, v: list(enumerate(v / v.sum() / len(trees))))
    node = ml(
        "TreeEnsembleClassifier",
        ["x"],
        ["label", "scores"],
        classlabels_int64s=list(range(10)),
        **nodes_of(trees),
        **weights,
    )
    held = x[1200:]
    model = model_of([node], len(held), 64, both(len(held), 10))
    check(model, held)


def test_gradient_boosting_of_two_classes_with_one_score() -> None:
    from sklearn.datasets import load_digits
    from sklearn.ensemble import GradientBoostingClassifier

    x, y = load_digits(n_class=2, return_X_y=True)
    x = x.astype(np.float32)
    fitted = GradientBoostingClassifier(n_estimators=30, random_state=0).fit(x, y)
    trees = [tree.tree_ for tree in fitted.estimators_[:, 0]]
    weights = leaves_of(trees, "class", lambda _, v: [(0, v[0] * fitted.learning_rate)])
    node = ml("TreeEnsembleClassifier", ["x"], ["label", "scores"], classlabels_int64s=[0, 1], base_values=[0.1],
              post_transform="LOGISTIC", **nodes_of(trees), **weights)  # fmt: skip
    check(model_of([node], len(x), 64, both(len(x), 2)), x)


def test_a_forest_that_gives_numbers() -> None:
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestRegressor

    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)[:400]
    fitted = RandomForestRegressor(20, random_state=0).fit(x, y[:400])
    trees = [tree.tree_ for tree in fitted.estimators_]
    weights = leaves_of(trees, "target", lambda _, v: [(0, v[0] / len(trees))])
    node = ml("TreeEnsembleRegressor", ["x"], ["y"], n_targets=1, **nodes_of(trees), **weights)
    check(model_of([node], len(x), 64, [("y", TensorProto.FLOAT, [len(x), 1])]), x)


def test_a_tree_that_asks_for_members_of_sets() -> None:
    tensor = helper.make_tensor
    node = helper.make_node(
        "TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", n_targets=2, aggregate_function=1, post_transform=0, tree_roots=[0],
        nodes_featureids=[0, 0, 1], nodes_modes=tensor("m", TensorProto.UINT8, [3], [6, 1, 3]),
        nodes_splits=tensor("s", TensorProto.FLOAT, [3], [0.0, 4.0, 0.5]),
        nodes_truenodeids=[1, 0, 2], nodes_trueleafs=[0, 1, 1], nodes_falsenodeids=[2, 1, 3], nodes_falseleafs=[0, 1, 1],
        leaf_targetids=[0, 1, 0, 1], leaf_weights=tensor("w", TensorProto.FLOAT, [4], [1.0, 10.0, 100.0, 1000.0]),
        membership_values=tensor("v", TensorProto.FLOAT, [4], [1.0, 3.0, 8.0, float("nan")]),
    )  # fmt: skip
    model = model_of([node], 12, 2, [("y", TensorProto.FLOAT, [12, 2])])
    model.opset_import[1].version = 5
    x = np.stack([np.arange(12), np.arange(12) % 2], axis=1).astype(np.float32)
    wanted = in_onnxruntime(model, {"x": x})
    for runtime in RUNTIMES.values():
        np.testing.assert_array_equal(compiled_in(runtime, model, {"x": x})[0], wanted[0])


@pytest.mark.parametrize("kernel", ["rbf", "poly", "sigmoid"])
def test_support_vectors_vote_as_in_onnxruntime(kernel: str) -> None:
    from sklearn.datasets import load_iris
    from sklearn.svm import SVC, SVR

    data, target = load_iris(return_X_y=True)
    rows = np.asarray(data, np.float32)
    for made in (SVC(kernel=kernel).fit(rows, target), SVR(kernel=kernel).fit(rows, target)):
        given = {
            "kernel_type": kernel.upper(), "kernel_params": [float(made._gamma), 0.5, 3.0],
            "coefficients": made.dual_coef_.ravel().tolist(), "support_vectors": made.support_vectors_.ravel().tolist(),
            "rho": made.intercept_.tolist(),
        }  # fmt: skip
        if isinstance(made, SVC):
            own = {"classlabels_ints": [4, 7, 9], "vectors_per_class": made.n_support_.tolist()}
            node = ml("SVMClassifier", ["x"], ["label", "scores"], **given, **own)
            outputs = [("label", TensorProto.INT64, [150]), ("scores", TensorProto.FLOAT, [150, 3])]
        else:
            node = ml("SVMRegressor", ["x"], ["y"], **given, n_supports=len(made.support_vectors_))
            outputs = [("y", TensorProto.FLOAT, [150, 1])]
        model = model_of([node], 150, 4, outputs)
        wanted = in_onnxruntime(model, {"x": rows})
        for runtime in RUNTIMES.values():
            for got, value in zip(compiled_in(runtime, model, {"x": rows}), wanted, strict=True):
                np.testing.assert_allclose(got, value, rtol=1e-3, atol=1e-3)


def test_numbers_become_other_numbers() -> None:
    node = ml(
        "LabelEncoder", ["x"], ["y"], keys_floats=[0.0, 1.5, 3.0], values_int64s=[7, 1 << 40, -2], default_int64=5
    )
    model = model_of([node], 3, 2, [("y", TensorProto.INT64, [3, 2])])
    x = np.array([[0, 1], [1.5, 3], [2, 0]], np.float32)
    wanted = in_onnxruntime(model, {"x": x})
    for runtime in RUNTIMES.values():
        np.testing.assert_array_equal(compiled_in(runtime, model, {"x": x})[0], wanted[0])
