"""Trains the detector, and writes it with its data, its camera file and its figures. Needs numpy, onnx, onnxruntime, Pillow and edgefleet.

1.0.0 has seen 2,000 pictures of the old belt. What retrain.py gives is measured by the test of this folder.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
from network import fresh, lessons, network, trained
from PIL import Image
from precision import found, map50
from scenes import NEW, OLD, scenes

HERE = Path(__file__).parent
EPOCHS = 50
FILM, HELD = 24, 100


def main() -> None:
    """Make every file of this folder that is no text."""
    known = scenes(2000, OLD, 100)
    taught = lessons(zip(known.image[:, 0], known.boxes, strict=True), 1)
    mean, spread = float(taught[0].mean()), float(taught[0].std())
    start = {"class": fresh("class", 3, 1), "box": fresh("box", 4, 2)}
    model = HERE / "parts-1.0.0.onnx"
    onnx.save(network(trained(start, taught, mean, spread, EPOCHS), mean, spread, "1.0.0"), model)
    for name, (n, seed) in {"eval": (60, 1), "calibration": (100, 2)}.items():
        np.savez_compressed(HERE / "data" / f"{name}.npz", image=scenes(n, OLD, seed).image)
    film = scenes(FILM, OLD, 3)
    frames = io.BytesIO()
    for picture in film.image[:, 0]:
        Image.fromarray(np.rint(picture * 255).astype(np.uint8)).save(frames, "JPEG", quality=90)
    (HERE / "conveyor.mjpeg").write_bytes(frames.getvalue())
    metrics = HERE / "metrics.json"
    stays = json.loads(metrics.read_text()) if metrics.exists() else {}
    held = {"old": scenes(HELD, OLD, 7), "new": scenes(HELD, NEW, 8)}
    figures = {name: round(map50(found(model, part.image), part.boxes), 3) for name, part in held.items()}
    metrics.write_text(json.dumps({**stays, "1.0.0": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
