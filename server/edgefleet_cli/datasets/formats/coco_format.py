"""`coco`: `images/` with a PNG a sample, and `annotations.json` as COCO's object detection has it.

An annotation of COCO has a box. So there is one for each box that the model answered, marked by its `score`: a proposal for who labels, no
ground truth. A label of a whole picture is no annotation: it stands with its picture, as `label` and `category_id`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

from edgefleet_cli.core.files import write_private
from edgefleet_cli.datasets.formats.images import picture
from edgefleet_cli.datasets.model import NO_CLASS, DataSetError, Sample

FILE: Final = "annotations.json"
IMAGES: Final = "images"


def write(samples: Sequence[Sample], folder: Path) -> None:
    """Write the samples into an empty folder. Raises OSError, DataSetError for samples without a picture."""
    (folder / IMAGES).mkdir(mode=0o700)
    names = sorted({name for sample in samples for name in (*sample.record.facts.labels, *_words(sample)) if name})
    first = samples[0].record.facts.labels if samples else ()
    order = [name for name in dict.fromkeys((*first, *names)) if name]
    numbers = {name: number for number, name in enumerate(order, 1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, sample in enumerate(samples, 1):
        data, width, height = _picture(sample)
        file = f"{sample.id}.png"
        write_private(folder / IMAGES / file, data)
        record = sample.record
        image = {
            "id": number, "file_name": f"{IMAGES}/{file}", "width": width, "height": height, "record": record.id,
            "device": record.device, "trace_id": record.trace_id, "reason": record.reason, "seen": record.seen,
            "release": record.facts.release,
        }  # fmt: skip
        if sample.label is not None:
            image |= {"label": sample.label} | (
                {"category_id": numbers[sample.label]} if sample.label in numbers else {}
            )
        images.append(image)
        for box in sample.boxes:
            left, top, right, bottom = box.sides
            x, y, across, down = left * width, top * height, (right - left) * width, (bottom - top) * height
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": numbers[box.label or str(box.index)],
                    "bbox": [round(one, 3) for one in (x, y, across, down)],
                    "area": round(across * down, 3),
                    "iscrowd": 0,
                    "score": round(box.score, 6),
                }
            )
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    _save({"images": images, "annotations": annotations, "categories": categories}, folder)


def remove(folder: Path, gone: Collection[tuple[str, str]]) -> None:
    """Remove the samples of these records, by device and id. Raises OSError, ValueError."""
    document = json.loads((folder / FILE).read_text("utf-8"))
    stay = [image for image in document["images"] if (image["device"], image["record"]) not in gone]
    kept = {image["id"] for image in stay}
    files = {image["file_name"] for image in stay}
    document["images"] = stay
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] in kept]
    _save(document, folder)
    for path in (folder / IMAGES).iterdir():
        if f"{IMAGES}/{path.name}" not in files:
            path.unlink()


def _words(sample: Sample) -> list[str]:
    own = [sample.label] if sample.label is not None and sample.label_index != NO_CLASS else []
    return own + [box.label or str(box.index) for box in sample.boxes]


def _picture(sample: Sample) -> tuple[bytes, int, int]:
    for name in sorted(sample.values):
        found = picture(sample, name)
        if found is not None:
            return found
    raise DataSetError(
        f"the record {sample.record.id} has no picture",
        why="COCO is about pictures, and no input of the model that the policy keeps is one",
        next_step="use --format npz, parquet or folder",
    )


def _save(document: dict[str, Any], folder: Path) -> None:
    write_private(folder / FILE, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())
