"""Trains both versions, and writes them with their data, samples and figures. Needs numpy, scikit-learn, onnx and onnxruntime.

1.0.0 has seen January to August 2025; 1.1.0 what the loop gives it after the change: February to May 2026.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from pumps import COLUMNS, Rows, rows
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).parent
TRAINED = {"1.0.0": ("2025-01-08", "2025-08-31"), "1.1.0": ("2026-02-01", "2026-05-31")}
PARTS = {"autumn": ("2025-09-01", "2025-12-31"), "june": ("2026-06-01", "2026-06-22")}
HIDDEN = 16


def network(part: Rows, version: str) -> onnx.ModelProto:
    """Return a trained network. Input `x` float32 `[N, 9]`, output `logits` float32 `[N, 2]`; inputs are scaled inside."""
    mean, spread = part.x.mean(axis=0), part.x.std(axis=0) + 1e-6
    made = MLPClassifier(hidden_layer_sizes=(HIDDEN,), alpha=1e-3, max_iter=600, random_state=1, tol=1e-5)
    made.fit((part.x - mean) / spread, part.due)
    (first, second), (bias, last) = made.coefs_, made.intercepts_
    weights = {
        "mean": mean, "spread": spread, "first": first, "bias": bias,
        "second": np.concatenate([0 * second, second], axis=1), "last": np.concatenate([0 * last, last]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "spread"], ["scaled"]),
        helper.make_node("Gemm", ["scaled", "first", "bias"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "second", "last"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pump",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", len(COLUMNS)])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="pump")
    helper.set_model_props(model, {"version": version, "license": "Apache-2.0"})
    onnx.checker.check_model(model, full_check=True)
    return model


def shares(model: Path, part: Rows) -> dict[str, float]:
    """Return how many windows are judged right, and how many that are due are found, and how many that are not are called due."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"x": part.x})
    said = logits.argmax(axis=1)
    is_due = part.due == 1
    figures = {"right": said == part.due, "found": said[is_due] == 1, "false_alarms": said[~is_due] == 1}
    return {name: round(float(np.mean(values)), 3) for name, values in figures.items()}


def main() -> None:
    """Make every file of this folder that is no text."""
    known = rows()
    for version, days in TRAINED.items():
        onnx.save(network(known.between(*days), version), HERE / f"pump-{version}.onnx")
    parts = {
        "eval": known.between(*PARTS["autumn"]).balanced(600, 1),
        "calibration": known.between(*TRAINED["1.0.0"]).balanced(300, 2),
        "june": known.between(*PARTS["june"]).balanced(400, 4),
    }
    for name, part in parts.items():
        np.savez_compressed(
            HERE / "data" / f"{name}.npz", x=part.x, **({} if name == "calibration" else {"y": part.due})
        )
    usual = known.between(*TRAINED["1.0.0"])
    usual = usual.chosen(np.sort(np.random.default_rng(3).permutation(len(usual.x))[:2400]))
    np.savez_compressed(HERE / "data" / "reference.npz", x=usual.x)
    night = known.chosen((known.at == np.datetime64("2025-11-10T00", "h")) & (known.pump < 10))
    for pump, row in zip(night.pump, night.x, strict=True):
        text = ",".join(COLUMNS) + "\n" + ",".join(f"{value:.5g}" for value in row) + "\n"
        (HERE / "samples" / f"pump-{pump:02d}.csv").write_text(text)
    lines = [f"pump-{pump:02d},{('ok', 'due')[due]}\n" for pump, due in zip(night.pump, night.due, strict=True)]
    (HERE / "failed.csv").write_text("pump,label\n" + "".join(lines))
    figures = {
        version: {name: shares(HERE / f"pump-{version}.onnx", known.between(*days)) for name, days in PARTS.items()}
        for version in TRAINED
    }
    (HERE / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
