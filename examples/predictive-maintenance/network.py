"""The network of the example: trained, measured, and with its data files. Used by train.py and retrain.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPClassifier

HIDDEN = 16
EPOCHS = 600
Floats = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]


def network(x: Floats, due: Classes, version: str, epochs: int = EPOCHS) -> onnx.ModelProto:
    """Return a network trained on windows x `[n, 9]` with their classes due `[n]`, 1 = fails within a week.

    Its input is `x` float32 `[N, 9]`, its output `logits` float32 `[N, 2]`; inputs are scaled inside.
    """
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    made = MLPClassifier(hidden_layer_sizes=(HIDDEN,), alpha=1e-3, max_iter=epochs, random_state=1, tol=1e-5)
    made.fit((x - mean) / spread, due)
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
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", x.shape[1]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="pump")
    helper.set_model_props(model, {"version": version, "license": "Apache-2.0"})
    onnx.checker.check_model(model, full_check=True)
    return model


def answered(model: Path, x: Floats) -> Classes:
    """Return what a model says of windows x `[n, 9]`: int64 `[n]`, 1 = due."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"x": x})
    said: Classes = logits.argmax(axis=1)
    return said


def shares(model: Path, x: Floats, due: Classes) -> dict[str, float]:
    """Return how many windows are judged right, and how many that are due are found, and how many that are not are called due."""
    said, is_due = answered(model, x), due == 1
    figures = {"right": said == due, "found": said[is_due] == 1, "false_alarms": said[~is_due] == 1}
    return {name: round(float(np.mean(values)), 3) for name, values in figures.items()}


def save(path: Path, x: Floats, **more: npt.NDArray[np.generic]) -> None:
    """Write one `.npz` of windows."""
    np.savez_compressed(path, x=x, **more)
