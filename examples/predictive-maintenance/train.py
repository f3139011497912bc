"""Trains both versions, and writes them with their data, samples and figures. Needs numpy, scikit-learn, onnx and onnxruntime.

1.0.0 has seen January to August 2025; 1.1.0 what the loop gives it after the change: February to May 2026.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from network import network, save, shares
from pumps import COLUMNS, rows

HERE = Path(__file__).parent
TRAINED = {"1.0.0": ("2025-01-08", "2025-08-31"), "1.1.0": ("2026-02-01", "2026-05-31")}
PARTS = {"autumn": ("2025-09-01", "2025-12-31"), "june": ("2026-06-01", "2026-06-22")}


def main() -> None:
    """Make every file of this folder that is no text."""
    known = rows()
    for version, days in TRAINED.items():
        part = known.between(*days)
        onnx.save(network(part.x, part.due, version), HERE / f"pump-{version}.onnx")
    parts = {
        "eval": known.between(*PARTS["autumn"]).balanced(600, 1),
        "calibration": known.between(*TRAINED["1.0.0"]).balanced(300, 2),
        "june": known.between(*PARTS["june"]).balanced(400, 4),
    }
    for name, part in parts.items():
        save(HERE / "data" / f"{name}.npz", part.x, **({} if name == "calibration" else {"y": part.due}))
    usual = known.between(*TRAINED["1.0.0"])
    usual = usual.chosen(np.sort(np.random.default_rng(3).permutation(len(usual.x))[:2400]))
    save(HERE / "data" / "reference.npz", usual.x)
    night = known.chosen((known.at == np.datetime64("2025-11-10T00", "h")) & (known.pump < 10))
    for pump, row in zip(night.pump, night.x, strict=True):
        text = ",".join(COLUMNS) + "\n" + ",".join(f"{value:.5g}" for value in row) + "\n"
        (HERE / "samples" / f"pump-{pump:02d}.csv").write_text(text)
    lines = [f"pump-{pump:02d},{('ok', 'due')[due]}\n" for pump, due in zip(night.pump, night.due, strict=True)]
    (HERE / "failed.csv").write_text("pump,label\n" + "".join(lines))
    held = {name: known.between(*days) for name, days in PARTS.items()}
    figures = {
        version: {name: shares(HERE / f"pump-{version}.onnx", part.x, part.due) for name, part in held.items()}
        for version in TRAINED
    }
    metrics = HERE / "metrics.json"
    stays = json.loads(metrics.read_text())  # what retrain.py gives is measured by the test of this folder
    metrics.write_text(json.dumps({**stays, **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
