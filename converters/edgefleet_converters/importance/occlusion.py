"""Occlusion maps: how much the score of the right class sinks when a part of a picture is hidden. Pure.

Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (2014). What hides a part is the mean of all pictures at that
place: a grey square would be a shape of its own.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_converters.importance.importance_report import HeatMap, OcclusionRow

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

GRID: Final = 8
"""Parts along each side of a picture, fewer where it has fewer pixels."""
MOST_CLASSES: Final = 16
LEAST_OF_CLASS: Final = 5
LEAST_MEAN: Final = 8
"""The mean of fewer pictures would show one of them."""
_MEAN_SIDE: Final = 32


@dataclass(frozen=True)
class Part:
    """One part of a picture: its place in the grid, and its pixels."""

    row: int
    column: int
    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class Grid:
    """The parts of pictures of one input. axes: those of height and width; height, width: in pixels."""

    input: str
    axes: tuple[int, int]
    height: int
    width: int
    rows: int
    columns: int

    def parts(self) -> list[Part]:
        """Return the parts, row by row; together they cover every pixel once."""
        tops = np.linspace(0, self.height, self.rows + 1).astype(int).tolist()
        lefts = np.linspace(0, self.width, self.columns + 1).astype(int).tolist()
        return [
            Part(r, c, tops[r], tops[r + 1], lefts[c], lefts[c + 1])
            for r in range(self.rows)
            for c in range(self.columns)
        ]


def grid_of(name: str, shape: Sequence[int], axes: tuple[int, int]) -> Grid:
    """Return the grid for an input of pictures [n, …]."""
    height, width = shape[axes[0]], shape[axes[1]]
    return Grid(name, axes, height, width, min(GRID, height), min(GRID, width))


def hidden(arrays: Mapping[str, Array], grid: Grid, part: Part) -> dict[str, Array]:
    """Return the samples with one part hidden behind the mean of all of them."""
    array = arrays[grid.input].copy()
    place: list[slice] = [slice(None)] * array.ndim
    place[grid.axes[0]] = slice(part.top, part.bottom)
    place[grid.axes[1]] = slice(part.left, part.right)
    mean = array[tuple(place)].astype(np.float64).mean(axis=0)
    array[tuple(place)] = (np.rint(mean) if array.dtype.kind in "iu" else mean).astype(array.dtype)
    return {**arrays, grid.input: array}


def right_scores(answers: Array, truth: Array) -> Floats:
    """Return the score of the right class of each sample, from 0 to 1: a softmax is taken of rows that are no shares.

    answers: [n, classes] or [n, 1]; truth: class numbers [n].
    """
    n = len(answers)
    rows = answers.reshape(n, -1).astype(np.float64)
    if rows.shape[1] == 1:
        one = np.clip(rows[:, 0], 0.0, 1.0)
        return np.asarray(np.where(truth.reshape(n) > 0, one, 1 - one))
    if rows.min() < -1e-3 or rows.max() > 1 + 1e-3:
        shifted = np.exp(rows - rows.max(axis=1, keepdims=True))
        rows = shifted / shifted.sum(axis=1, keepdims=True)
    return np.asarray(rows[np.arange(n), truth.reshape(n).astype(int)])


def occlusion_row(
    grid: Grid, drops: Mapping[tuple[int, int], Floats], pictures: Array, truth: Array, *, is_shown: bool
) -> OcclusionRow:
    """Return the maps of all pictures and of each class. drops: by part, the loss of each sample's score; truth: class numbers [n].

    is_shown: whether the mean of pictures may be shown, which a privacy policy may forbid.
    """
    groups = [("", np.ones(len(truth), dtype=bool))]
    numbers, counts = np.unique(truth, return_counts=True)
    kept = [int(number) for number, n in zip(numbers, counts, strict=True) if n >= LEAST_OF_CLASS][:MOST_CLASSES]
    groups += [(str(number), truth == number) for number in kept]
    maps = []
    for name, chosen in groups:
        drop = [
            [float(drops[r, c][chosen].mean()) if (r, c) in drops else 0.0 for c in range(grid.columns)]
            for r in range(grid.rows)
        ]
        n = int(chosen.sum())
        grey = mean_picture(pictures[chosen], grid) if is_shown and n >= LEAST_MEAN else None
        height, width = grey.shape if grey is not None else (0, 0)
        shown = base64.b64encode(grey.tobytes()).decode() if grey is not None else ""
        maps.append(HeatMap(group=name, n=n, drop=drop, mean=shown, height=height, width=width))
    return OcclusionRow(input=grid.input, size=[grid.height, grid.width], maps=maps)


def picture_map(picture: Array, grid: Grid, drop: list[list[float]]) -> dict[str, Any]:
    """Return the map of one picture [1, …], as a `HeatMap` without a group. drop: by part, [rows][columns]."""
    grey = mean_picture(picture, grid)
    height, width = grey.shape
    return {"n": 1, "drop": drop, "mean": base64.b64encode(grey.tobytes()).decode(), "height": height, "width": width}


def mean_picture(pictures: Array, grid: Grid) -> npt.NDArray[np.uint8]:
    """Return the mean of pictures [n, …] in grey, 0 … 255, at most 32 pixels a side."""
    channel = ({1, 2, 3} - set(grid.axes)).pop()
    mean = pictures.astype(np.float64).mean(axis=(0, channel))
    if grid.axes[0] > grid.axes[1]:
        mean = mean.T
    steps = [max(1, -(-side // _MEAN_SIDE)) for side in mean.shape]
    rows = np.add.reduceat(mean, np.arange(0, mean.shape[0], steps[0]), axis=0)
    both = np.add.reduceat(rows, np.arange(0, mean.shape[1], steps[1]), axis=1)
    ones = np.add.reduceat(np.ones(mean.shape), np.arange(0, mean.shape[0], steps[0]), axis=0)
    mean = both / np.add.reduceat(ones, np.arange(0, mean.shape[1], steps[1]), axis=1)
    low, high = float(mean.min()), float(mean.max())
    return np.asarray((mean - low) / max(high - low, 1e-12) * 255, dtype=np.uint8)
