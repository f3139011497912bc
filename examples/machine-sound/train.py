"""Trains version 1.0.0 on the old hall, and writes the model, the samples and the figures. Needs numpy, onnx and onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from network import CLASSES, fitted, fresh, network, outputs
from retrain import retrained
from sounds import LABELS, Sounds, part, write_wave

HERE = Path(__file__).parent


def figures(model: onnx.ModelProto, windows: Sounds) -> dict[str, float]:
    """Return the share of windows that are named right, and of each class."""
    said = outputs(model, windows.values)[1].argmax(axis=1)
    is_right = said == windows.y
    shares = {name: is_right[windows.y == number] for number, name in enumerate(LABELS)}
    return {
        "right": round(float(is_right.mean()), 3),
        **{name: round(float(one.mean()), 3) for name, one in shares.items()},
    }


def first() -> onnx.ModelProto:
    """Return version 1.0.0."""
    trained = part("trained")
    features, _ = outputs(network(fresh(), "0"), trained.values)
    return network(fitted(fresh(), features, np.eye(CLASSES)[trained.y]), "1.0.0")


def main() -> None:
    """Make every file of this folder that is no text, and no data that `sounds.py` makes."""
    model = first()
    onnx.save(model, HERE / "fan-1.0.0.onnx")
    moved, halls = part("moved"), {"old": part("eval"), "new": part("held")}
    found: dict[str, Any] = {"1.0.0": {hall: figures(model, windows) for hall, windows in halls.items()}}
    again = retrained(model, moved.values, moved.y, part("calibration").values)
    found["retrained"] = {hall: figures(again, windows) for hall, windows in halls.items()}
    (HERE / "metrics.json").write_text(json.dumps(found, indent=1) + "\n")
    old = halls["old"]
    good, worn = (old.x[old.y == number][0] for number in (LABELS.index("good"), LABELS.index("bearing")))
    write_wave(HERE / "samples" / "bearing.wav", worn)
    write_wave(HERE / "samples" / "changes.wav", np.concatenate([good, worn]))


if __name__ == "__main__":
    main()
