"""Trains the forecast again on what devices captured: `edgectl retrain worker demand --key capture.key -- python retrain.py`.

Reads the folders that the runner names, and writes the result with its data into `EDGEFLEET_OUT`.
- New: the captured rows of which it is known by now what was sold. The oldest three quarters train, the newest quarter judges.
- Old: the rows of the parent's drift reference, with the parent's forecasts. So what it knew is not forgotten.
- The drift reference becomes that of the new rows: the new release is compared with the world as it is now.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
from network import Floats, answered, error, network, save

EPOCHS = 150
LEAST = 100
"""Rows with a known outcome below which nothing is trained."""


def columns(preprocess: Path) -> list[str]:
    """Return the names of a row's columns, in the order of the model's input."""
    return list(json.loads(preprocess.read_text())["inputs"][0]["columns"])


def captured(data: Path, names: list[str]) -> tuple[Floats, Floats]:
    """Return rows `[n, 13]` and what was sold `[n, 1]`, the oldest first; those without an outcome are left out."""
    if not (data / "data.npz").exists():
        raise SystemExit("nothing was captured: is capture_consent set on the devices?")
    with np.load(data / "data.npz", allow_pickle=False) as arrays:
        x = np.stack([arrays[name] for name in names], axis=1).astype(np.float32)
        units, trace = arrays["label_value"].astype(np.float32)[:, None], arrays["trace_id"]
    planned = [str(one).rpartition("@")[2] for one in trace]  # a trace id ends with the planned time of its run
    order = np.argsort(planned, kind="stable")
    order = order[np.isfinite(units[order, 0])]
    return x[order], units[order]


def main() -> None:
    """Read the data set and the parent, write the result."""
    data, parent, out = (Path(os.environ[f"EDGEFLEET_{name}"]) for name in ("DATA_SET", "PARENT", "OUT"))
    x, units = captured(data, columns(parent / "preprocess.json"))
    if len(x) < LEAST:
        raise SystemExit(f"only {len(x)} rows with a known outcome, {LEAST} are needed")
    new = len(x) * 3 // 4
    with np.load(parent / "reference.npz", allow_pickle=False) as arrays:
        old = arrays["x"]
    print(f"{len(x)} captured rows, {units.mean():.0f} units a day; {len(old)} of the parent", flush=True)
    known = answered(parent / "model.onnx", old)
    model = network(
        np.concatenate([old, x[:new]]), np.concatenate([known, units[:new]]), os.environ["EDGEFLEET_RUN"], EPOCHS
    )
    onnx.save(model, out / "model.onnx")
    with np.load(parent / "eval.npz", allow_pickle=False) as arrays:
        held, right = np.concatenate([arrays["x"], x[new:]]), np.concatenate([arrays["y"], units[new:]])
    save(out / "eval.npz", held, y=right)
    save(out / "reference.npz", x)
    with np.load(parent / "calibration.npz", allow_pickle=False) as arrays:
        save(out / "calibration.npz", np.concatenate([arrays["x"], x[:new]]))
    before, now = (error(place / "model.onnx", x[new:], units[new:]) for place in (parent, out))
    print(f"mean error on the newest {len(x) - new} rows: {before:.1f} before, {now:.1f} now", flush=True)


if __name__ == "__main__":
    main()
