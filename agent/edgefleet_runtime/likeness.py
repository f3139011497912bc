"""How alike two versions of a model answer one input. Pure; values are those of `postprocess`, so versions may differ in quantization.

1. The form of an answer says what it is: one class or several `{label, score}`, boxes `{label, score, box}`, or numbers.
2. Classes are the same when their labels are; a score delta is |old − new| of what the old version chose, and 1 at most where the new
   one does not name it.
3. Boxes are matched greedily, best overlap first, within a label. They agree when each has a partner of IoU ≥ 0.5; one without
   a partner counts as an overlap of 0.
4. Numbers have no "same": they give a delta (the largest |old − new|) and are not judged, unless the bundle compares that output by
   its largest value (`tolerances: {top1: true}`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IOU_SAME = 0.5
LISTING = ("top_k", "threshold")
NOT_COMPARABLE = math.inf


@dataclass(frozen=True)
class Likeness:
    """One sample. agreed: None where nothing could be judged. overlaps: IoU 0 … 1 of each box of either version."""

    agreed: bool | None
    delta: float
    overlaps: tuple[float, ...] = ()

    @property
    def difference(self) -> float:
        """Return how far apart, for ranking: a different choice weighs more than any distance of scores."""
        distance = self.delta / (1.0 + self.delta) if math.isfinite(self.delta) else 1.0
        if self.overlaps:
            distance = max(distance, 1.0 - sum(self.overlaps) / len(self.overlaps))
        return distance + (1.0 if self.agreed is False else 0.0)


def compare_answers(old: Any, new: Any, *, top1: bool = False, op: str = "") -> Likeness:
    """Return the likeness of two answers for the same output. top1: numbers are scores of classes.

    op: of the step that shaped the new answer; it tells what an empty list is one of.
    """
    if op == "boxes" or _is_boxes(old) or _is_boxes(new):
        if isinstance(old, list) and isinstance(new, list):
            return _boxes(old, new)
        return Likeness(False, NOT_COMPARABLE)
    if isinstance(old, dict) and isinstance(new, dict):
        return _one(old, new)
    if op in LISTING and isinstance(old, list) and isinstance(new, list) and not (old and new):
        scores = [c.get("score") for c in (*old, *new) if isinstance(c, dict)]
        return Likeness(old == new, max((_delta(score, 0.0) for score in scores), default=0.0))
    if _is_classes(old) and _is_classes(new):
        return _classes(old, new)
    return _numbers(old, new, top1=top1)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return intersection over union of two boxes `[x0, y0, x1, y1]`; 0 for a box without area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def _is_classes(answer: Any) -> bool:
    return isinstance(answer, list) and bool(answer) and all(isinstance(c, dict) and "label" in c for c in answer)


def _is_boxes(answer: Any) -> bool:
    return isinstance(answer, list) and bool(answer) and all(isinstance(c, dict) and "box" in c for c in answer)


def _one(old: Mapping[str, Any], new: Mapping[str, Any]) -> Likeness:
    delta = _delta(old.get("score"), new.get("score"))
    if "positive" in old:
        return Likeness(old["positive"] == new.get("positive"), delta)
    return Likeness(old.get("label") == new.get("label"), delta)


def _classes(old: list[Any], new: list[Any]) -> Likeness:
    named = {c["label"]: c.get("score") for c in new}
    first = old[0]["label"]
    delta = _delta(old[0].get("score"), named.get(first, 0.0))
    return Likeness(first == new[0]["label"], delta)


def _boxes(old: list[Any], new: list[Any]) -> Likeness:
    pairs = sorted(
        (
            (-iou(a["box"], b["box"]), i, j)
            for i, a in enumerate(old)
            for j, b in enumerate(new)
            if a.get("label") == b.get("label")
        )
    )
    taken_old: set[int] = set()
    taken_new: set[int] = set()
    overlaps: list[float] = []
    delta = 0.0
    for negative, i, j in pairs:
        if negative == 0 or i in taken_old or j in taken_new:
            continue
        taken_old.add(i)
        taken_new.add(j)
        overlaps.append(-negative)
        delta = max(delta, _delta(old[i].get("score"), new[j].get("score")))
    alone = len(old) + len(new) - 2 * len(overlaps)
    agreed = alone == 0 and all(overlap >= IOU_SAME for overlap in overlaps)
    return Likeness(agreed, delta, (*overlaps, *([0.0] * alone)))


def _numbers(old: Any, new: Any, *, top1: bool) -> Likeness:
    left, right = _flat(old), _flat(new)
    if len(left) != len(right):
        return Likeness(None, NOT_COMPARABLE)
    delta = max((_delta(a, b) for a, b in zip(left, right, strict=True)), default=0.0)
    if not top1 or not left:
        return Likeness(None, delta)
    return Likeness(_best(left) == _best(right), delta)


def _best(values: list[Any]) -> int:
    return max(range(len(values)), key=lambda i: -math.inf if values[i] is None else values[i])


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [item for part in value for item in _flat(part)]
    return [value]


def _delta(a: Any, b: Any) -> float:
    """Return |a − b|; a missing number (NaN in JSON) against a number is not comparable."""
    if a is None and b is None:
        return 0.0
    if isinstance(a, int | float) and isinstance(b, int | float):
        distance = abs(float(a) - float(b))
        return NOT_COMPARABLE if math.isnan(distance) else distance
    return 0.0 if a == b else NOT_COMPARABLE
