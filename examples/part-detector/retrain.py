"""Trains the detector further on pictures that devices captured, with boxes that a person corrected.

    edgectl retrain worker parts --key capture.key --once -- python retrain.py frames/annotations.json

Reads the folders that the runner names, and writes the result with its data into `EDGEFLEET_OUT`.
- Its argument is the `annotations.json` of `edgectl data export --format coco`, corrected. A picture with a box that still has its `score`
  was not looked at, and is left out. Three of four of the others train, every fourth judges.
- Old: the pictures of the parent's calibration and evaluation data, with what the parent finds on them. So what it knew is not forgotten.
- All weights go on from the parent's. The captured pictures become the drift reference.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import onnx
from network import Array, layers_of, lessons, network, trained, turned
from precision import found, map50

EPOCHS = 6
LEAST = 40
"""Pictures with boxes below which nothing is trained."""
SURE = 0.5
"""What the parent finds on its own pictures counts from this score on."""


def corrected(annotations: Path, labels: list[str]) -> dict[str, Array]:
    """Return the boxes of each picture that was looked at, by record: `[k, 5]`, class, x_min, y_min, x_max, y_max in pixels."""
    document = json.loads(annotations.read_text())
    names = {one["id"]: labels.index(one["name"]) for one in document["categories"]}
    rows: dict[int, list[list[float]]] = {one["id"]: [] for one in document["images"]}
    for one in document["annotations"]:
        if "score" in one:
            rows.pop(one["image_id"], None)
    for one in document["annotations"]:
        if one["image_id"] in rows:
            x, y, width, height = one["bbox"]
            rows[one["image_id"]].append([names[one["category_id"]], x, y, x + width, y + height])
    files = {one["id"]: Path(one["file_name"]).stem for one in document["images"]}
    return {files[picture]: np.array(boxes).reshape(-1, 5) for picture, boxes in rows.items()}


def captured(data: Path, boxes: dict[str, Array]) -> tuple[Array, list[Array]]:
    """Return the pictures `[n, 1, 96, 96]` that were looked at, and their boxes."""
    if not (data / "data.npz").exists():
        raise SystemExit("nothing was captured: is capture_consent set on the devices?")
    with np.load(data / "data.npz", allow_pickle=False) as arrays:
        image, record = arrays["image"].astype(np.float32), [str(one) for one in arrays["record"]]
    rows = [row for row, name in enumerate(record) if name in boxes]
    return image[rows], [boxes[record[row]] for row in rows]


def main() -> None:
    """Read the data set, the boxes and the parent, write the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("boxes", type=Path)
    data, parent, out = (Path(os.environ[f"EDGEFLEET_{name}"]) for name in ("DATA_SET", "PARENT", "OUT"))
    labels = (parent / "labels.txt").read_text().split()
    image, boxes = captured(data, corrected(parser.parse_args().boxes, labels))
    if len(image) < LEAST:
        raise SystemExit(f"only {len(image)} of the captured pictures have boxes, {LEAST} are needed")
    is_held = np.arange(len(image)) % 4 == 3
    held = [one for one, is_it in zip(boxes, is_held, strict=True) if is_it]
    shown = [one for one, is_it in zip(boxes, is_held, strict=True) if not is_it]
    seen = {}
    for name in ("calibration", "eval"):
        with np.load(parent / f"{name}.npz", allow_pickle=False) as arrays:
            seen[name] = arrays["image"]
    old = np.concatenate(list(seen.values()))
    known = [one[one[:, 5] >= SURE, :5] for one in found(parent / "model.onnx", old)]
    print(f"{len(image)} captured pictures with {sum(map(len, boxes))} parts; {len(old)} of the parent", flush=True)
    start, mean, spread = layers_of(parent / "model.onnx")
    taught = lessons(turned(np.concatenate([image[~is_held], old]), [*shown, *known]), 1)
    model = network(trained(start, taught, mean, spread, EPOCHS), mean, spread, os.environ["EDGEFLEET_RUN"])
    onnx.save(model, out / "model.onnx")
    np.savez_compressed(out / "eval.npz", image=np.concatenate([seen["eval"], image[is_held]]))
    np.savez_compressed(out / "calibration.npz", image=np.concatenate([seen["calibration"], image[~is_held]]))
    np.savez_compressed(out / "reference.npz", image=image)
    before, now = (map50(found(place / "model.onnx", image[is_held]), held) for place in (parent, out))
    print(f"mAP50 on {len(held)} pictures that were held out: {before:.2f} before, {now:.2f} now", flush=True)


if __name__ == "__main__":
    main()
