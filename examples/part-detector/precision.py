"""What a detector finds, as devices answer it, and how good that is: mean average precision at half overlap (mAP50)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.postprocess import build_postprocessor, overlap, parse_labels, parse_postprocess

Array = npt.NDArray[Any]
HERE = Path(__file__).parent
SIDE = 96.0
OVERLAP = 0.5


def found(model: Path, image: Array) -> list[Array]:
    """Return of each picture `[n, 1, 96, 96]` what a model finds: `[k, 6]`, class, box in pixels, score; best first."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    specs = [TensorSpec(name=one.name, dtype="float32", shape=["N", *one.shape[1:]]) for one in session.get_outputs()]
    declared = parse_postprocess((HERE / "postprocess.json").read_bytes())
    answers = build_postprocessor(declared, parse_labels((HERE / "labels.txt").read_bytes()), specs).answers(
        dict(zip((one.name for one in specs), session.run(None, {"image": image}), strict=True))
    )
    rows = [
        [[one["index"], *(SIDE * side for side in one["box"]), one["score"]] for one in each["boxes"]]
        for each in answers
    ]
    return [np.array(one).reshape(-1, 6) for one in rows]


def map50(said: Sequence[Array], boxes: Sequence[Array]) -> float:
    """Return the mean over classes of the average precision, from 0 to 1: the area below precision over recall.

    said: as `found`. boxes: what is there, `[k, 5]` of each picture.
    """
    kinds = sorted({int(kind) for one in boxes for kind in one[:, 0]})
    return float(np.mean([_average(said, boxes, kind) for kind in kinds]))


def _average(said: Sequence[Array], boxes: Sequence[Array], kind: int) -> float:
    there = [one[one[:, 0] == kind, 1:] for one in boxes]
    claims = sorted(
        ((row[5], n, row[1:5]) for n, one in enumerate(said) for row in one if row[0] == kind), key=lambda c: -c[0]
    )
    is_taken = [np.zeros(len(one), bool) for one in there]
    hits = []
    for _, n, box in claims:
        shared = np.where(is_taken[n], 0.0, overlap(box, there[n])) if len(there[n]) else np.zeros(1)
        hits.append(bool(shared.max() >= OVERLAP))
        if hits[-1]:
            is_taken[n][shared.argmax()] = True
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best_from_here * hits).sum() / sum(map(len, there)))
