"""What `edgectl retrain worker fan` runs: it trains the two layers again on captured windows, and writes the new release.

Three of four labelled windows train, every fourth is added to the evaluation data. So that the old hall is not forgotten, the parent's
calibration windows are trained on with them, with the answers that the parent gives. Needs numpy, onnx and onnxruntime.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from network import CLASSES, fitted, layers_of, network, outputs

FULL = 32_768
LEAST = 20
"""Labelled windows below which nothing is trained."""


def retrained(model: onnx.ModelProto, x: Any, y: Any, known: Any) -> onnx.ModelProto:
    """Return the network trained further. x, y: new windows float32 `[n, 16000]` and their classes; known: windows of the parent."""
    new, _ = outputs(model, x)
    old, answers = outputs(model, known)
    wanted = np.eye(CLASSES)[np.concatenate([y, answers.argmax(axis=1)])]
    return network(fitted(layers_of(model), np.concatenate([new, old]), wanted), "retrained")


def main() -> None:
    """Read the data set and the parent, write the result. Ends with a message where there are too few labels."""
    parent, data, out = (Path(os.environ[f"EDGEFLEET_{name}"]) for name in ("PARENT", "DATA_SET", "OUT"))
    if not (data / "data.npz").exists():
        sys.exit("no window was captured")
    records = _arrays(data / "data.npz")
    is_labelled = records["label"] >= 0
    x, y = records["x"][is_labelled].astype(np.float32), records["label"][is_labelled]
    if len(y) < LEAST:
        sys.exit(f"{len(y)} windows have a label; {LEAST} are needed")
    is_held = np.arange(len(y)) % 4 == 3
    known = _arrays(parent / "calibration.npz")["raw"]
    before = onnx.load(parent / "model.onnx")
    after = retrained(before, x[~is_held], y[~is_held], known / np.float32(FULL))
    shares = [float((outputs(one, x[is_held])[1].argmax(axis=1) == y[is_held]).mean()) for one in (before, after)]
    onnx.save(after, out / "model.onnx")
    judged = _arrays(parent / "eval.npz")
    np.savez(
        out / "eval.npz",
        raw=np.concatenate([judged["raw"], _raw(x[is_held])]),
        y=np.concatenate([judged["y"], y[is_held]]),
    )
    np.savez(out / "calibration.npz", raw=np.concatenate([known, _raw(x[~is_held])]))
    np.savez(out / "reference.npz", raw=_raw(x))
    _say(f"right on {is_held.sum()} windows held out: {shares[0]:.1%} before, {shares[1]:.1%} now")


def _arrays(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _raw(x: Any) -> Any:
    return np.rint(x * FULL).astype(np.int16)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
