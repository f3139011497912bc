"""A simple score for detectors of the YOLO family: do two outputs name the same objects? Pure.

An output holds rows of 4 box numbers (centre x, centre y, width, height) and one score a class, as [n, rows, 4 + classes]
or transposed. Objects = rows with a best score of at least 0.25, after greedy suppression of overlaps; two objects are the
same when class and place (IoU >= 0.5) agree.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BOX_NUMBERS: Final = 4
MIN_SCORE: Final = 0.25
SAME_IOU: Final = 0.5
SUPPRESS_IOU: Final = 0.45
_MAX_OBJECTS: Final = 300


def detection_f1(got: Array, wanted: Array) -> float:
    """Return the F1 of the objects in `got` against those in `wanted`, over all samples; 1.0 when neither has any.

    got, wanted: float [n, rows, 4 + classes] or [n, 4 + classes, rows].
    """
    matched = found = present = 0
    for one, other in zip(got, wanted, strict=True):
        mine, theirs = objects(one), objects(other)
        found, present = found + len(mine), present + len(theirs)
        matched += _matches(mine, theirs)
    return 1.0 if found + present == 0 else 2 * matched / (found + present)


def best_scores(output: Array) -> Array:
    """Return each sample's best score of each class, float64 [n, classes]. output: as for `detection_f1`."""
    rows = output.swapaxes(1, 2) if output.shape[1] < output.shape[2] else output
    best: Array = rows[:, :, 4:].astype(np.float64).max(axis=1)
    return best


def objects(output: Array) -> Array:
    """Return the objects of one sample as float [k, 6]: x0, y0, x1, y1, score, class; best score first."""
    rows = output.T if output.shape[0] < output.shape[1] else output
    scores = rows[:, 4:].astype(np.float64)
    best = scores.max(axis=1)
    order = np.argsort(-best, kind="stable")
    order = order[best[order] >= MIN_SCORE][: _MAX_OBJECTS * 4]
    boxes = rows[order, :4].astype(np.float64)
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
    table = np.concatenate([corners, best[order, None], scores[order].argmax(axis=1)[:, None]], axis=1)
    kept: list[Array] = []
    for row in table:
        same_class = [other for other in kept if other[5] == row[5]]
        if all(_iou(row, other) < SUPPRESS_IOU for other in same_class) and len(kept) < _MAX_OBJECTS:
            kept.append(row)
    return np.array(kept).reshape(-1, 6)


def _matches(mine: Array, theirs: Array) -> int:
    free = list(range(len(theirs)))
    count = 0
    for row in mine:
        hits = [index for index in free if theirs[index][5] == row[5] and _iou(row, theirs[index]) >= SAME_IOU]
        if hits:
            free.remove(max(hits, key=lambda index: _iou(row, theirs[index])))
            count += 1
    return count


def _iou(a: Array, b: Array) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0.0, float(width)) * max(0.0, float(height))
    union = float((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])) - overlap
    return overlap / union if union > 0 else 0.0
