"""Trains both versions, and writes them with their data, samples and figures. Needs numpy, scikit-learn, onnx and onnxruntime.

1.0.0 has seen one autumn and winter; 1.1.0 what the loop gives it after a summer and the change: the newest 180 days, to 30 June 2026.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import onnx
from demand import COLUMNS, rows
from network import error, network, save

HERE = Path(__file__).parent
WINTER = (date(2024, 9, 29), date(2025, 2, 28))
TRAINED = {"1.0.0": WINTER, "1.1.0": (date(2026, 1, 2), date(2026, 6, 30))}
PARTS = {
    "winter": (date(2025, 11, 1), date(2026, 2, 28)),
    "summer": (date(2025, 6, 1), date(2025, 8, 31)),
    "sundays": (date(2026, 3, 1), date(2026, 4, 30)),
    "july": (date(2026, 7, 1), date(2026, 7, 31)),
}


def main() -> None:
    """Make every file of this folder that is no text."""
    known, data = rows(), HERE / "data"
    for version, days in TRAINED.items():
        part = known.between(*days)
        onnx.save(network(part.x, part.units, version), HERE / f"demand-{version}.onnx")
    held = known.between(*PARTS["winter"]).sample(600, 1)
    save(data / "eval.npz", held.x, y=held.units)
    save(data / "calibration.npz", known.between(*WINTER).sample(300, 2).x)
    save(data / "reference.npz", known.between(*WINTER).sample(2400, 3).x)
    july = known.between(*PARTS["july"]).sample(600, 4)
    save(data / "july.npz", july.x, y=july.units)
    day = known.between(date(2026, 2, 3), date(2026, 2, 3))
    for kiosk, row in zip(day.kiosk, day.x, strict=True):
        text = ",".join(COLUMNS) + "\n" + ",".join(f"{value:g}" for value in row) + "\n"
        (HERE / "samples" / f"kiosk-{kiosk:02d}.csv").write_text(text)
    lines = [f"kiosk-{kiosk:02d},{units:g}\n" for kiosk, units in zip(day.kiosk, day.units[:, 0], strict=True)]
    (HERE / "sold.csv").write_text("kiosk,sold\n" + "".join(lines))
    parts = {name: known.between(*days) for name, days in PARTS.items()}
    figures = {
        version: {
            name: round(error(HERE / f"demand-{version}.onnx", part.x, part.units), 2) for name, part in parts.items()
        }
        for version in TRAINED
    }
    means = {name: round(float(part.units.mean()), 1) for name, part in parts.items()}
    metrics = HERE / "metrics.json"
    stays = json.loads(metrics.read_text())["mae"]  # what retrain.py gives is measured by the test of this folder
    metrics.write_text(json.dumps({"mae": {**stays, **figures}, "mean_units": means}, indent=1) + "\n")


if __name__ == "__main__":
    main()
