"""Trains both versions, and writes them with their data, samples and figures. Needs numpy, scikit-learn, onnx and onnxruntime.

1.0.0 has seen one autumn and winter; 1.1.0 what the loop gives it after a summer and the change: the newest 180 days, to 30 June 2026.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from demand import COLUMNS, Rows, rows
from onnx import TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPRegressor

HERE = Path(__file__).parent
WINTER = (date(2024, 9, 29), date(2025, 2, 28))
TRAINED = {"1.0.0": WINTER, "1.1.0": (date(2026, 1, 2), date(2026, 6, 30))}
PARTS = {
    "winter": (date(2025, 11, 1), date(2026, 2, 28)),
    "summer": (date(2025, 6, 1), date(2025, 8, 31)),
    "sundays": (date(2026, 3, 1), date(2026, 4, 30)),
    "july": (date(2026, 7, 1), date(2026, 7, 31)),
}
HIDDEN = 16


def network(part: Rows, version: str) -> onnx.ModelProto:
    """Return a trained network. Input `x` float32 `[N, 13]`, output `units` float32 `[N, 1]`; inputs are scaled inside."""
    mean, spread = part.x.mean(axis=0), part.x.std(axis=0) + 1e-6
    unit = float(part.units.mean())
    made = MLPRegressor(hidden_layer_sizes=(HIDDEN,), alpha=1e-3, max_iter=600, random_state=1, tol=1e-6)
    made.fit((part.x - mean) / spread, part.units[:, 0] / unit)
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
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", len(COLUMNS)])],
        [helper.make_tensor_value_info("units", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(np.asarray(value, dtype=np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="demand")
    helper.set_model_props(model, {"version": version, "license": "Apache-2.0"})
    onnx.checker.check_model(model, full_check=True)
    return model


def error(model: Path, part: Rows) -> float:
    """Return the mean absolute error in units."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (units,) = session.run(["units"], {"x": part.x})
    return float(np.abs(units - part.units).mean())


def save(name: str, part: Rows, **more: npt.NDArray[np.generic]) -> None:
    """Write one `.npz`."""
    np.savez_compressed(HERE / "data" / f"{name}.npz", x=part.x, **more)


def main() -> None:
    """Make every file of this folder that is no text."""
    known = rows()
    for version, days in TRAINED.items():
        onnx.save(network(known.between(*days), version), HERE / f"demand-{version}.onnx")
    held = known.between(*PARTS["winter"]).sample(600, 1)
    save("eval", held, y=held.units)
    save("calibration", known.between(*WINTER).sample(300, 2))
    save("reference", known.between(*WINTER).sample(2400, 3))
    july = known.between(*PARTS["july"]).sample(600, 4)
    save("july", july, y=july.units)
    day = known.between(date(2026, 2, 3), date(2026, 2, 3))
    for kiosk, row in zip(day.kiosk, day.x, strict=True):
        text = ",".join(COLUMNS) + "\n" + ",".join(f"{value:g}" for value in row) + "\n"
        (HERE / "samples" / f"kiosk-{kiosk:02d}.csv").write_text(text)
    lines = [f"kiosk-{kiosk:02d},{units:g}\n" for kiosk, units in zip(day.kiosk, day.units[:, 0], strict=True)]
    (HERE / "sold.csv").write_text("kiosk,sold\n" + "".join(lines))
    figures = {
        version: {
            name: round(error(HERE / f"demand-{version}.onnx", known.between(*days)), 2) for name, days in PARTS.items()
        }
        for version in TRAINED
    }
    means = {name: round(float(known.between(*days).units.mean()), 1) for name, days in PARTS.items()}
    (HERE / "metrics.json").write_text(json.dumps({"mae": figures, "mean_units": means}, indent=1) + "\n")


if __name__ == "__main__":
    main()
