"""The detector of the example: a grid of cells, trained with numpy. Used by train.py and retrain.py.

16 × 16 cells, 6 pixels apart. Each sees a square of 26 pixels at half size (13 × 13) and says which part has its centre there, if any,
and the part's box. So the network is one convolution of 13 × 13 and two of 1 × 1; it is trained as two perceptrons on such squares, one for
the classes and one for the boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper

SIDE, CELLS, SEEN, MARGIN = 96, 16, 13, 5
CELL = SIDE / CELLS
CLASSES = 3
HIDDEN = {"class": 48, "box": 32}
SCALE = 10.0
"""The box perceptron counts in units of so many pixels."""
NEAR, FAR = 4.5, 8.0
"""A cell whose centre is at most NEAR pixels from that of a part answers it; one between NEAR and FAR is taught nothing."""
NOTHING = 24
"""Cells without a part that are taught of each picture."""
BATCH, RATE = 256, 6e-3
Array = npt.NDArray[Any]
Layers = list[Array]
"""Weights of a perceptron: `[169, hidden]`, `[hidden]`, `[hidden, outputs]`, `[outputs]`."""


def centres() -> Array:
    """Return x and y of the cells' centres in pixels, `[256, 2]`, row by row."""
    at = (np.arange(CELLS) + 0.5) * CELL
    return np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)


def squares(picture: Array) -> Array:
    """Return what each cell sees of a picture `[96, 96]`: float32 `[256, 169]`."""
    half = picture.reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3))
    seen = sliding_window_view(np.pad(half, MARGIN), (SEEN, SEEN))[::3, ::3]
    return seen.reshape(CELLS * CELLS, SEEN * SEEN)


def lessons(pictures: Iterator[tuple[Array, Array]], seed: int) -> tuple[Array, Array, Array]:
    """Return squares `[m, 169]`, what is there `[m, 3]` of 0 and 1, and boxes `[m, 4]` (dx, dy, width, height; NaN for nothing).

    pictures: each `[96, 96]`, with its boxes `[k, 5]`: class, x_min, y_min, x_max, y_max in pixels.
    """
    rng, at = np.random.default_rng(seed), centres()
    x, there, where = [], [], []
    for picture, known in pictures:
        seen, middle = squares(picture), (known[:, 1:3] + known[:, 3:5]) / 2
        away = np.full((len(at), 1), np.inf)
        if len(known):
            away = np.hypot(*(at[:, None] - middle[None]).transpose(2, 0, 1))
        distance = away.min(axis=1)
        none, around = np.flatnonzero(distance > FAR), np.flatnonzero((distance > FAR) & (distance < 4 * FAR))
        empty = np.concatenate([rng.permutation(one)[: NOTHING // 2] for one in (none, around)])
        near = np.flatnonzero(distance <= NEAR)
        part = known[away[near].argmin(axis=1)] if len(known) else np.zeros((0, 5))
        x.append(seen[np.concatenate([near, empty])])
        there.append(np.concatenate([np.eye(CLASSES)[part[:, 0].astype(int)], np.zeros((len(empty), CLASSES))]))
        box = np.concatenate([(part[:, 1:3] + part[:, 3:5]) / 2 - at[near], part[:, 3:5] - part[:, 1:3]], axis=1)
        where.append(np.concatenate([box, np.full((len(empty), 4), np.nan)]))
    return tuple(np.concatenate(one).astype(np.float32) for one in (x, there, where))  # type: ignore[return-value]


def turned(image: Array, boxes: Sequence[Array]) -> Iterator[tuple[Array, Array]]:
    """Yield pictures `[n, 1, 96, 96]` with their boxes, each in the eight ways in which it can be turned and mirrored."""
    for picture, known in zip(image[:, 0], boxes, strict=True):
        for flip_x in (False, True):
            for flip_y in (False, True):
                for is_across in (False, True):
                    shown, part = picture, known.copy()
                    if flip_x:
                        shown, part = (
                            shown[:, ::-1],
                            np.stack(
                                [part[:, 0], SIDE - part[:, 3], part[:, 2], SIDE - part[:, 1], part[:, 4]], axis=1
                            ),
                        )
                    if flip_y:
                        shown, part = (
                            shown[::-1],
                            np.stack(
                                [part[:, 0], part[:, 1], SIDE - part[:, 4], part[:, 3], SIDE - part[:, 2]], axis=1
                            ),
                        )
                    if is_across:
                        shown, part = shown.T, part[:, [0, 2, 1, 4, 3]]
                    yield shown, part


def fresh(kind: str, outputs: int, seed: int) -> Layers:
    """Return the weights of a perceptron that has learned nothing."""
    rng, hidden = np.random.default_rng(seed), HIDDEN[kind]
    shapes = ((SEEN * SEEN, hidden), (hidden, outputs))
    first, second = (rng.normal(0, np.sqrt(2 / one[0]), one).astype(np.float32) for one in shapes)
    return [first, np.zeros(hidden, np.float32), second, np.zeros(outputs, np.float32)]


def fitted(layers: Layers, x: Array, y: Array, *, is_share: bool, epochs: int) -> Layers:
    """Return weights trained further on x `[m, 169]` and y `[m, outputs]`, by Adam. is_share: y is 0 or 1, else a number."""
    rng = np.random.default_rng(1)
    made, step = [one.copy() for one in layers], 0
    mean, square = ([np.zeros_like(one) for one in made] for _ in range(2))
    steps = epochs * -(-len(x) // BATCH)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH):
            rows = order[start : start + BATCH]
            hidden = np.maximum(x[rows] @ made[0] + made[1], 0)
            out = hidden @ made[2] + made[3]
            said = 1 / (1 + np.exp(-np.clip(out, -30, 30))) if is_share else out
            wrong = (said - y[rows]) / len(rows)
            back = (wrong @ made[2].T) * (hidden > 0)
            slopes = [x[rows].T @ back, back.sum(axis=0), hidden.T @ wrong, wrong.sum(axis=0)]
            step += 1
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            for at, slope in enumerate(slopes):
                mean[at] += 0.1 * (slope - mean[at])
                square[at] += 0.001 * (slope * slope - square[at])
                fair = np.sqrt(square[at] / (1 - 0.999**step)) + 1e-8
                made[at] -= (rate / (1 - 0.9**step)) * mean[at] / fair
    return made


def trained(
    start: dict[str, Layers], taught: tuple[Array, Array, Array], mean: float, spread: float, epochs: int
) -> dict[str, Layers]:
    """Return both perceptrons trained further on `lessons`. mean, spread: of the grey values, which they see scaled."""
    x, there, where = taught
    scaled, is_part = (x - np.float32(mean)) / np.float32(spread), np.isfinite(where[:, 0])
    return {
        "class": fitted(start["class"], scaled, there, is_share=True, epochs=epochs),
        "box": fitted(
            start["box"], scaled[is_part], where[is_part] / np.float32(SCALE), is_share=False, epochs=2 * epochs
        ),
    }


def network(layers: dict[str, Layers], mean: float, spread: float, version: str) -> onnx.ModelProto:
    """Return the detector. Input `image` float32 `[N, 1, 96, 96]`; `scores` `[N, 256, 3]`, `boxes` `[N, 256, 4]` (centre, size, pixels)."""
    one, two = layers["class"], layers["box"]
    first = np.concatenate([one[0], two[0]], axis=1) / spread
    parts = HIDDEN["class"]
    weights = {
        "look": first.T.reshape(-1, 1, SEEN, SEEN),
        "look.bias": np.concatenate([one[1], two[1]]) - mean * first.sum(axis=0),
        "class": np.pad(one[2].T, ((0, 0), (0, HIDDEN["box"])))[:, :, None, None],
        "class.bias": one[3],
        "box": np.pad(two[2].T * SCALE, ((0, 0), (parts, 0)))[:, :, None, None],
        "box.bias": two[3] * SCALE,
        "grid": np.concatenate([centres(), np.zeros((CELLS * CELLS, 2))], axis=1),
    }
    sizes = {"class.rows": [0, CLASSES, CELLS * CELLS], "box.rows": [0, 4, CELLS * CELLS]}
    nodes = [
        helper.make_node("AveragePool", ["image"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["half", "look", "look.bias"], ["seen"], strides=[3, 3], pads=[MARGIN] * 4),
        helper.make_node("Relu", ["seen"], ["hidden"]),
        helper.make_node("Conv", ["hidden", "class", "class.bias"], ["class.map"]),
        helper.make_node("Reshape", ["class.map", "class.rows"], ["class.list"]),
        helper.make_node("Transpose", ["class.list"], ["logits"], perm=[0, 2, 1]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Conv", ["hidden", "box", "box.bias"], ["box.map"]),
        helper.make_node("Reshape", ["box.map", "box.rows"], ["box.list"]),
        helper.make_node("Transpose", ["box.list"], ["near"], perm=[0, 2, 1]),
        helper.make_node("Add", ["near", "grid"], ["boxes"]),
    ]
    known = [numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name) for name, value in weights.items()]
    known += [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in sizes.items()]
    rows = {"boxes": 4, "scores": CLASSES}
    graph = helper.make_graph(
        nodes,
        "parts",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", CELLS * CELLS, n]) for name, n in rows.items()],
        known,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="parts")
    helper.set_model_props(
        model, {"version": version, "license": "Apache-2.0", "mean": repr(mean), "spread": repr(spread)}
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def layers_of(model: Path) -> tuple[dict[str, Layers], float, float]:
    """Return the perceptrons of a detector, and the mean and spread of its grey values: what `network` was made of."""
    read = onnx.load(model)
    known_of = {one.key: float(one.value) for one in read.metadata_props if one.key in {"mean", "spread"}}
    mean, spread = known_of["mean"], known_of["spread"]
    held = {one.name: numpy_helper.to_array(one) for one in read.graph.initializer}
    first, parts = held["look"].reshape(-1, SEEN * SEEN).T, HIDDEN["class"]
    bias = held["look.bias"] + mean * first.sum(axis=0)
    one = [first[:, :parts] * spread, bias[:parts], held["class"][:, :parts, 0, 0].T, held["class.bias"]]
    two = [first[:, parts:] * spread, bias[parts:], held["box"][:, parts:, 0, 0].T / SCALE, held["box.bias"] / SCALE]
    return {"class": [a.astype(np.float32) for a in one], "box": [a.astype(np.float32) for a in two]}, mean, spread
