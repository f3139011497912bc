"""Objects from detector outputs: the formats that exporters write, and suppression against a plain definition of it."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.port import Array, RunError
from edgefleet_runtime.postprocess import (
    PostprocessError,
    Postprocessor,
    build_postprocessor,
    corners,
    overlap,
    parse_postprocess,
    suppressed,
)

LABELS = ("cat", "dog")
# two cats on top of each other, one dog in the same place, one faint cat
CORNERS = np.array(
    [[0.1, 0.1, 0.5, 0.5], [0.12, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]], np.float32
)
SCORES = np.array([[0.9, 0.1], [0.8, 0.0], [0.2, 0.7], [0.1, 0.0]], np.float32)


def built(step: dict[str, Any], **shapes: list[int | str]) -> Postprocessor:
    declared = parse_postprocess(json.dumps({"outputs": [{"name": "b", "steps": [{"op": "boxes", **step}]}]}).encode())
    return build_postprocessor(
        declared, LABELS, [TensorSpec(name=n, dtype="float32", shape=s) for n, s in shapes.items()]
    )


def told(post: Postprocessor, **outputs: Array) -> list[tuple[str, float, list[float]]]:
    (answer,) = post.answers(outputs)
    return [(o["label"], round(o["score"], 3), o["box"]) for o in answer["b"]]


EXPECTED: list[Any] = [
    ("cat", 0.9, pytest.approx([0.1, 0.1, 0.5, 0.5], abs=1e-5)),
    ("dog", 0.7, pytest.approx([0.1, 0.1, 0.5, 0.5], abs=1e-5)),
]


def test_boxes_and_scores_in_two_outputs() -> None:
    post = built({"format": "xyxy", "scores": "s"}, b=[1, 4, 4], s=[1, 4, 2])
    assert told(post, b=CORNERS[None], s=SCORES[None]) == EXPECTED


def test_one_output_transposed_in_pixels_with_centres() -> None:
    x0, y0, x1, y1 = CORNERS.T * 640
    rows = np.concatenate([np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], 1), SCORES], axis=1)
    post = built({"transposed": True, "width": 640, "height": 640}, b=[1, 6, 4])
    assert told(post, b=rows.T[None].astype(np.float32)) == EXPECTED


def test_objectness_and_sigmoid() -> None:
    likely = np.clip(SCORES, 1e-4, 1 - 1e-4)
    objectness = np.full((4, 1), 20.0)
    rows = np.concatenate([CORNERS, objectness, np.log(likely / (1 - likely))], axis=1).astype(np.float32)
    post = built({"format": "xyxy", "objectness": True, "sigmoid": True}, b=[1, 4, 7])
    assert told(post, b=rows[None]) == EXPECTED


def test_class_numbers_in_an_output_of_their_own() -> None:
    post = built({"format": "yxyx", "scores": "s", "classes": "c"}, b=[1, 4, 4], s=[1, 4], c=[1, 4])
    outputs = {
        "b": CORNERS[:, [1, 0, 3, 2]][None],
        "s": SCORES.max(1)[None],
        "c": SCORES.argmax(1)[None].astype(np.float32),
    }
    assert told(post, **outputs) == EXPECTED


def test_nothing_found_and_limits() -> None:
    post = built({"format": "xyxy", "scores": "s", "score": 0.95}, b=[1, 4, 4], s=[1, 4, 2])
    assert told(post, b=CORNERS[None], s=SCORES[None]) == []
    one = built({"format": "xyxy", "scores": "s", "max": 1}, b=[1, 4, 4], s=[1, 4, 2])
    assert told(one, b=CORNERS[None], s=SCORES[None]) == EXPECTED[:1]
    broken = SCORES.copy()
    broken[0] = np.nan
    every = built({"format": "xyxy", "scores": "s"}, b=[1, 4, 4], s=[1, 4, 2])
    assert [label for label, _, _ in told(every, b=CORNERS[None], s=broken[None])] == ["cat", "dog"]


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(PostprocessError, match="name the outputs s"):
        built({"scores": "s"}, b=[1, 4, 4])
    with pytest.raises(PostprocessError, match="their scores"):
        built({"classes": "b"}, b=[1, 4, 4])
    with pytest.raises(PostprocessError, match="iou"):
        built({"iou": 2}, b=[1, 4, 4])
    post = built({"format": "xyxy"}, b=[1, "n", "m"])
    with pytest.raises(RunError, match="do not hold boxes"):
        post.answers({"b": CORNERS[None]})


_side = st.floats(0, 1, width=32)
_boxes = st.lists(st.tuples(_side, _side, _side, _side, st.floats(0, 1, width=32), st.integers(0, 2)), max_size=12)


@given(_boxes, st.floats(0.05, 0.95))
def test_suppression_keeps_what_its_definition_keeps(found: list[tuple[float, ...]], iou: float) -> None:
    table = np.array([row[:4] for row in found], np.float32).reshape(-1, 4)
    boxes = np.stack([np.minimum(table[:, 0], table[:, 2]), np.minimum(table[:, 1], table[:, 3]),
                      np.maximum(table[:, 0], table[:, 2]), np.maximum(table[:, 1], table[:, 3])], axis=1)  # fmt: skip
    scores = np.array([row[4] for row in found], np.float32)
    classes = np.array([row[5] for row in found], np.int64)
    kept = suppressed(boxes, scores, classes, least=0.1, iou=iou, most=100)
    assert all(scores[a] >= scores[b] for a, b in pairwise(kept))
    for i in range(len(found)):
        rivals = [k for k in kept if k != i and classes[k] == classes[i] and (scores[k], -k) > (scores[i], -i)]
        too_close = any(float(overlap(boxes[k], boxes[i : i + 1])[0]) > iou for k in rivals)
        assert (i in kept) == (scores[i] >= 0.1 and not too_close)


def test_corners_of_every_format() -> None:
    for box_format, row in (
        ("xyxy", [1, 2, 3, 6]),
        ("yxyx", [2, 1, 6, 3]),
        ("xywh", [1, 2, 2, 4]),
        ("cxcywh", [2, 4, 2, 4]),
    ):
        assert corners(np.array([row], np.float32), box_format).tolist() == [[1, 2, 3, 6]]  # type: ignore[arg-type]
