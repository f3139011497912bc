"""Measure what `hazy.py` and `make_bad.py` made with onnxruntime, and add it to `metrics.json`.

    python measure.py [--out FILE]

- Each release gets its accuracy on `hazy`. 1.2.0 (`bad/nan-on-background.onnx`) gets its accuracy, its size and, for each part,
  how many images it answers with NaN in all ten logits.
Needs numpy and onnxruntime, and the `metrics.json` that `train.py` wrote.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

HERE = Path(__file__).parent
RELEASES = ("1.0.0", "1.1.0")
BAD = "bad/nan-on-background.onnx"


def images_of(name: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a part: `image`, and `y` where it has labels."""
    with np.load(HERE / "data" / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def logits_of(model: Path, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what onnxruntime answers, float32 `[n, 10]`."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"image": image})[0])


def accuracy(model: Path, name: str) -> float:
    """Return the share of right answers on a part, 0..1; NaN is never right."""
    part = images_of(name)
    logits = logits_of(model, part["image"])
    right = (logits.argmax(1) == part["y"]) & np.isfinite(logits).all(1)
    return round(float(right.mean()), 4)


def count_nan(model: Path, name: str) -> int:
    """Return how many images of a part are answered with ten NaN."""
    return int(np.isnan(logits_of(model, images_of(name)["image"])).all(1).sum())


def main() -> None:
    """Write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "metrics.json")
    out = parser.parse_args().out
    metrics: dict[str, Any] = json.loads((HERE / "metrics.json").read_text())
    metrics["sizes"]["hazy"] = len(images_of("hazy")["image"])
    for version in RELEASES:
        metrics[version]["accuracy"]["hazy"] = accuracy(HERE / f"digits-{version}.onnx", "hazy")
    metrics["1.2.0"] = {
        "accuracy": {name: accuracy(HERE / BAD, name) for name in ("eval", "device", "hazy")},
        "bytes": (HERE / BAD).stat().st_size,
        "nan": {name: count_nan(HERE / BAD, name) for name in ("calibration", "eval", "reference", "device", "hazy")},
    }
    out.write_text(json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    main()
