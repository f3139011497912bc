"""Objects from a detector's outputs: box corners, best class, and greedy non-maximum suppression for each class by itself.

Suppression as everyone means it: boxes in the order of their score; one that overlaps a kept box of its class by more than `iou`
(intersection over union) goes. Ties keep the order of the output, so that the answer does not depend on the machine.
"""

from typing import Literal

import numpy as np

from edgefleet_runtime.port import Array

BoxFormat = Literal["cxcywh", "xywh", "xyxy", "yxyx"]


def corners(values: Array, box_format: BoxFormat) -> Array:
    """Return boxes [n, 4] as x_min, y_min, x_max, y_max. values: float [n, 4] in `box_format`."""
    a, b, c, d = (values[:, i] for i in range(4))
    match box_format:
        case "xyxy":
            columns = (a, b, c, d)
        case "yxyx":
            columns = (b, a, d, c)
        case "xywh":
            columns = (a, b, a + c, b + d)
        case "cxcywh":
            columns = (a - c / 2, b - d / 2, a + c / 2, b + d / 2)
    return np.stack(columns, axis=1)


def overlap(box: Array, others: Array) -> Array:
    """Return the intersection over union of one box [4] with each of others [n, 4]; 0 where both have no area."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    shared = np.clip(width, 0, None) * np.clip(height, 0, None)
    area = (box[2] - box[0]) * (box[3] - box[1])
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = np.clip(area, 0, None) + np.clip(areas, 0, None) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def suppressed(boxes: Array, scores: Array, classes: Array, *, least: float, iou: float, most: int) -> list[int]:
    """Return the indices of the objects that stay, best first.

    boxes: float [n, 4] corners. scores, classes: [n]. least: lowest score. most: how many at most. NaN scores never stay.
    """
    candidates = [
        i for i in np.argsort(-scores, kind="stable").tolist() if scores[i] >= least and np.isfinite(boxes[i]).all()
    ]
    kept: list[int] = []
    by_class: dict[int, list[int]] = {}
    for i in candidates:
        same = by_class.setdefault(int(classes[i]), [])
        if same and float(overlap(boxes[i], boxes[same]).max()) > iou:
            continue
        same.append(i)
        kept.append(i)
        if len(kept) == most:
            break
    return kept
