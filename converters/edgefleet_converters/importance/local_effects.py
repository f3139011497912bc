"""How much each input of one sample made its answer: it is replaced by values of other samples, and the model is asked again. Pure.

Rules:
1. The effect of an input is the score of the sample as it is, less the score with that input taken from another sample; the mean over
   all others. Above zero its value speaks for the answer, below zero against it.
2. The interval at 95 % is that of the mean over the other samples: how sure it is for this comparison, not how sure the model is.
3. The score of classes is the share of one class, a softmax where rows are no shares; that of a single number is the number. For any
   other answer it is how far the answer moves from its own, and effects have no sign.
4. Effects do not add up to the score: of two inputs that say the same, each alone may have none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_converters.importance.occlusion import Grid
from edgefleet_converters.importance.permutation import Unit

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

CLASS: Final = "class"
VALUE: Final = "value"
DISTANCE: Final = "distance"
_NORMAL: Final = 1.96


@dataclass(frozen=True)
class Reading:
    """What is read of an answer. kind: class, value or distance; index: the class. own: the sample's own answer, for a distance."""

    kind: str
    index: int = 0
    own: Array | None = None

    def scores(self, answers: Array) -> Floats:
        """Return the score of each answer, [n]. answers: [n, …]."""
        rows = answers.reshape(len(answers), -1).astype(np.float64)
        if self.kind == VALUE:
            return np.asarray(rows[:, 0])
        if self.kind == CLASS:
            return np.asarray(shares_of(rows)[:, self.index])
        assert self.own is not None
        return np.asarray(-np.abs(rows - self.own.reshape(1, -1)).mean(axis=1))

    def class_of(self, answers: Array) -> Array:
        """Return the class of each answer, [n]; zeros where it has none."""
        rows = answers.reshape(len(answers), -1)
        return np.asarray(rows.argmax(axis=1) if self.kind == CLASS else np.zeros(len(rows), dtype=np.int64))


@dataclass(frozen=True)
class LocalEffect:
    """The effect of one input. changed: share of the other samples whose value makes it another class."""

    value: float
    low: float
    high: float
    changed: float


def shares_of(rows: Floats) -> Floats:
    """Return scores of classes [n, classes] as shares: a softmax is taken of rows that are none."""
    if rows.min() >= -1e-3 and rows.max() <= 1 + 1e-3:
        return rows
    shifted = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def reading_of(own: Array, wanted: int, *, is_class: bool) -> Reading:
    """Return how a sample's answer is read. own: [1, …]; wanted: the class that is explained, -1 for the one with most.

    is_class: whether several numbers are the scores of classes.
    """
    width = own.size
    if width == 1:
        return Reading(VALUE)
    if is_class and own.ndim <= 2:
        return Reading(CLASS, wanted if 0 <= wanted < width else int(own.reshape(-1).argmax()))
    return Reading(DISTANCE, own=own.astype(np.float64))


def repeated(sample: Mapping[str, Array], n: int) -> dict[str, Array]:
    """Return a sample [1, …] n times."""
    return {name: np.repeat(array, n, axis=0) for name, array in sample.items()}


def replaced(arrays: Mapping[str, Array], others: Mapping[str, Array], unit: Unit) -> dict[str, Array]:
    """Return samples with one unit taken from the others, row by row. arrays, others: [n, …] each."""
    array, other = arrays[unit.input], others[unit.input]
    if unit.end == 0:
        return {**arrays, unit.input: other}
    flat = array.reshape(len(array), -1).copy()
    flat[:, unit.first : unit.end] = other.reshape(len(other), -1)[:, unit.first : unit.end]
    return {**arrays, unit.input: flat.reshape(array.shape)}


def hidden_parts(sample: Mapping[str, Array], others: Mapping[str, Array], grid: Grid) -> dict[str, Array]:
    """Return a sample [1, …] once a part of the grid, with that part behind the mean of the others at that place."""
    parts = grid.parts()
    whole = repeated(sample, len(parts))
    array = whole[grid.input]
    mean = others[grid.input].astype(np.float64).mean(axis=0)
    mean = (np.rint(mean) if array.dtype.kind in "iu" else mean).astype(array.dtype)
    for row, part in enumerate(parts):
        place: list[slice] = [slice(None)] * mean.ndim
        place[grid.axes[0] - 1] = slice(part.top, part.bottom)
        place[grid.axes[1] - 1] = slice(part.left, part.right)
        array[(row, *place)] = mean[tuple(place)]
    return whole


def effect_of(reading: Reading, own: Array, answers: Array) -> LocalEffect:
    """Return the effect of a unit. own: answers as they are, [n, …]; answers: with the unit replaced, [n, …]."""
    drop = reading.scores(own) - reading.scores(answers)
    n = len(drop)
    error = float(drop.std(ddof=1)) / sqrt(n) if n > 1 else 0.0
    value = float(drop.mean())
    changed = float((reading.class_of(own) != reading.class_of(answers)).mean())
    return LocalEffect(value, value - _NORMAL * error, value + _NORMAL * error, changed)


def missing_units(units: Sequence[Unit], missing: Mapping[str, Sequence[int]]) -> list[Unit]:
    """Return those units whose values are not known. missing: columns by input, [] for a whole input."""
    return [
        unit
        for unit in units
        if unit.input in missing
        and (not missing[unit.input] or any(unit.first <= column < unit.end for column in missing[unit.input]))
    ]
