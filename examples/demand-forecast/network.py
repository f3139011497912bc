"""The network of the example: trained, measured, and with its data files. Used by train.py and retrain.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPRegressor

HIDDEN = 16
EPOCHS = 600
Floats = npt.NDArray[np.float32]


def network(x: Floats, units: Floats, version: str, epochs: int = EPOCHS) -> onnx.ModelProto:
    """Return a network trained on rows x `[n, 13]` with their targets units `[n, 1]`.

    Its input is `x` float32 `[N, 13]`, its output `units` float32 `[N, 1]`; inputs are scaled inside.
    """
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    unit = float(units.mean())
    made = MLPRegressor(hidden_layer_sizes=(HIDDEN,), alpha=1e-3, max_iter=epochs, random_state=1, tol=1e-6)
    made.fit((x - mean) / spread, units[:, 0] / unit)
    (first, second), (bias, last) = made.coefs_, made.intercepts_
    weights = {
        "mean": mean, "spread": spread, "first": first, "bias": bias, "second": second * unit, "last": last * unit,
    }  # fmt: skip
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "spread"], ["scaled"]),
        helper.make_node("Gemm", ["scaled", "first", "bias"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "second", "last"], ["units"]),
    ]
    graph = helper.make_graph(
        nodes,
        "demand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", x.shape[1]])],
        [helper.make_tensor_value_info("units", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="demand")
    helper.set_model_props(model, {"version": version, "license": "Apache-2.0"})
    onnx.checker.check_model(model, full_check=True)
    return model


def answered(model: Path, x: Floats) -> Floats:
    """Return what a model says of rows x `[n, 13]`: units `[n, 1]`."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (units,) = session.run(["units"], {"x": x})
    said: Floats = units
    return said


def error(model: Path, x: Floats, units: Floats) -> float:
    """Return the mean absolute error in units."""
    return float(np.abs(answered(model, x) - units).mean())


def save(path: Path, x: Floats, **more: npt.NDArray[np.generic]) -> None:
    """Write one `.npz` of rows."""
    np.savez_compressed(path, x=x, **more)
