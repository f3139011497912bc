"""`EDGECTL_TOOLS=DIR ./dev soak tree-shap`: SHAP values of our tool environment against the package's own TreeExplainer.

Needs `edgectl tool install shap --tools DIR` (600 MB), so it is no part of the test run. Gradient boosting is trained in that environment,
its trees become a TreeEnsembleRegressor of ONNX here, and both explain the same samples against the same others: of 6 columns, where ours
is exact, and of 14, where permutations are drawn. `ok`: within 1e-5, and within 5 % of the largest value.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from edgefleet_converters.importance.shap_values import Floats, shap_values

TRAIN = """
import json, sys
import numpy, shap
from sklearn.ensemble import GradientBoostingRegressor
columns, out, n, seed = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
x = numpy.random.default_rng(seed).normal(size=(600, columns)).astype("float32").astype(float)  # no value is on a threshold
y = 3 * x[:, 0] * (x[:, 1] > 0) - 2 * x[:, 2] + numpy.abs(x[:, 3])
model = GradientBoostingRegressor(n_estimators=40, max_depth=3, random_state=0).fit(x, y)
rows, others = x[:n], x[300:400]
made = shap.TreeExplainer(model, data=others, feature_perturbation="interventional")
trees = [
    {name: getattr(one.tree_, name).tolist() for name in ("children_left", "children_right", "feature", "threshold")}
    | {"value": one.tree_.value.reshape(-1).tolist()}
    for one in model.estimators_[:, 0]
]
base = float(model.init_.predict(x[:1])[0])
json.dump(
    {"rows": rows.tolist(), "others": others.tolist(), "values": made.shap_values(rows).tolist(), "trees": trees, "base": base,
     "rate": model.learning_rate, "answers": model.predict(rows).tolist()}, open(out, "w"))
"""


def ensemble(made: dict[str, Any], columns: int) -> bytes:
    """Return the trees as ONNX."""
    fields: dict[str, list[Any]] = {
        name: [] for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    }
    targets: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    for number, tree in enumerate(made["trees"]):
        for node, left in enumerate(tree["children_left"]):
            is_leaf = left < 0
            row = (
                number, node, 0 if is_leaf else tree["feature"][node], 0.0 if is_leaf else tree["threshold"][node],
                "LEAF" if is_leaf else "BRANCH_LEQ", 0 if is_leaf else left, 0 if is_leaf else tree["children_right"][node],
            )  # fmt: skip
            for name, value in zip(fields, row, strict=True):
                fields[name].append(value)
            if is_leaf:
                leaf = (number, node, 0, made["rate"] * tree["value"][node])
                for name, value in zip(targets, leaf, strict=True):
                    targets[name].append(value)
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, base_values=[made["base"]],
        **{f"nodes_{name}": value for name, value in fields.items()}, **{f"target_{name}": value for name, value in targets.items()},
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "trees", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


def compared(tools: Path, columns: int, scratch: Path, n: int, seed: int) -> dict[str, float]:
    """Return how far our values are from TreeExplainer's on a model of so many columns."""
    script, out = scratch / "train.py", scratch / f"trees-{columns}.json"
    script.write_text(TRAIN)
    python = str(tools / "shap" / "bin" / "python")
    subprocess.run([python, "-I", str(script), str(columns), str(out), str(n), str(seed)], check=True)
    made = json.loads(out.read_text())
    session = onnxruntime.InferenceSession(ensemble(made, columns), providers=["CPUExecutionProvider"])

    def model(samples: Floats) -> Floats:
        return np.asarray(session.run(None, {"x": samples.astype(np.float32)})[0], dtype=np.float64)

    rows, others = np.array(made["rows"]), np.array(made["others"])
    found = shap_values(tools, scratch, rows, others, model)
    wanted = np.array(made["values"])
    return {
        "answers": float(np.abs(model(rows)[:, 0] - np.array(made["answers"])).max()),
        "worst": float(np.abs(found.values[:, :, 0] - wanted).max()),
        "largest": float(np.abs(wanted).max()),
    }


def main(n: int, seed: int) -> dict[str, Any]:
    """Compare `n` samples, at most 300."""
    tools = Path(os.environ["EDGECTL_TOOLS"]).absolute()
    with tempfile.TemporaryDirectory(prefix="ef-shap-") as folder:
        exact, drawn = (compared(tools, columns, Path(folder), min(n, 300), seed) for columns in (6, 14))
    return {"exact": exact, "drawn": drawn, "ok": exact["worst"] < 1e-5 and drawn["worst"] < 0.05 * drawn["largest"]}
