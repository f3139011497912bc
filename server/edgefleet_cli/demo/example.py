"""The example that the demo publishes: files of `examples/digits` and the images its devices are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.release.conversion.conversion_options import ModelRequest

MODEL = "digits"
GOOD = ("1.0.0", "1.1.0")
ANSWERS_NAN = "1.2.0"
"""Right on every evaluation image, so it is signed; not a number on hazy ones: only devices can tell."""
LOSES_ACCURACY = "1.3.0"
CRASHES_AT_LOAD = "1.4.0"
REFUSED = (LOSES_ACCURACY, CRASHES_AT_LOAD)


@dataclass(frozen=True)
class Images:
    """Images with their labels: `pixels` float32 [n, 1, 8, 8] in 0..1, `labels` int64 [n]."""

    pixels: Any
    labels: Any

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Sequence[int]) -> Images:
        """Return the images at `rows`."""
        return Images(self.pixels[list(rows)], self.labels[list(rows)])


@dataclass(frozen=True)
class Example:
    """The folder `examples/digits`."""

    folder: Path

    def request(self, version: str, profiles: tuple[str, ...]) -> ModelRequest:
        """Return the request that publishes `version`, good or bad."""
        file, precision = {
            ANSWERS_NAN: ("bad/nan-on-background.onnx", "auto"),
            LOSES_ACCURACY: ("bad/int8-loses.onnx", "int8"),
            CRASHES_AT_LOAD: ("bad/crashes-at-load.onnx", "auto"),
        }.get(version, (f"{MODEL}-{version}.onnx", "auto"))
        return ModelRequest(
            model=str(self.folder / file),
            name=MODEL,
            version=version,
            profiles=profiles,
            profile_files=(),
            data={
                "calibration": self.folder / "data" / "calibration.npz",
                "eval": self.folder / "data" / "eval.npz",
                "reference": self.folder / "data" / "reference.npz",
                "labels": self.folder / "labels.txt",
                "preprocess": self.folder / "preprocess.json",
                "postprocess": self.folder / "postprocess.json",
            },
            precision=precision,
        )

    def evaluation(self) -> Images:
        """Return the images the converter judged on: devices must be right on as many of them."""
        return self._images("eval")

    def unseen(self) -> Images:
        """Return images for devices only; none of them was used to train, calibrate or judge."""
        return self._images("device")

    def hazy(self) -> Images:
        """Return what the devices' cameras see in the demo: the unseen images, 1 in 5 of them through haze."""
        return self._images("hazy")

    def _images(self, name: str) -> Images:
        import numpy as np

        with np.load(self.folder / "data" / f"{name}.npz", allow_pickle=False) as arrays:
            return Images(arrays["image"], arrays["y"])


def find_example(given: Path | None) -> Example:
    """Return the example's folder: `given`, else the one of the wheel, else that of the sources. Raises UsageError."""
    inside, sources = Path(__file__).with_name(MODEL), Path(__file__).resolve().parents[3] / "examples" / MODEL
    candidates = [given] if given is not None else [inside, sources]
    for folder in candidates:
        if (folder / f"{MODEL}-{GOOD[0]}.onnx").is_file():
            return Example(folder)
    raise UsageError(
        "the digits example is not here",
        why=f"looked in {', '.join(str(folder) for folder in candidates)}",
        next_step="name the folder of the example with --examples DIR; a clone has it in examples/digits",
    )
