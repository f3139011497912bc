"""Permutation importance: the loss that a model gains when one of its inputs is shuffled among the samples. Pure.

The definition is Breiman's (Random Forests, 2001), as scikit-learn's `permutation_importance` has it: the mean over repeats of the
metric undisturbed minus the metric with the column shuffled. The interval adds two errors: that of the shuffles, which more repeats
make smaller, and that of the samples, which only more samples do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

TOP1: Final = "top1"
MAE: Final = "mae"
COLUMN: Final = "column"
WHOLE: Final = "input"
MAX_COLUMNS: Final = 64
"""Of one input, and in all: a wider table is shuffled in blocks of neighbouring columns."""
_NORMAL: Final = 1.96


@dataclass(frozen=True)
class Unit:
    """What is shuffled at once. first, end: numbers of its columns, in an input that is flat but for the samples; 0, 0 = all."""

    name: str
    input: str
    kind: str
    first: int = 0
    end: int = 0


@dataclass(frozen=True)
class Effect:
    """How much worse the metric became. error: its standard error."""

    value: float
    error: float
    repeats: int

    @property
    def interval(self) -> tuple[float, float]:
        """Return its bounds at 95 %."""
        return self.value - _NORMAL * self.error, self.value + _NORMAL * self.error


def units_of(shapes: Mapping[str, Sequence[int]], names: Mapping[str, Sequence[str]]) -> list[Unit]:
    """Return what is shuffled, in the order of the inputs.

    shapes: of the arrays, first axis = samples. names: of the columns, for the inputs that are tables. A table of more than
    `MAX_COLUMNS` columns has as many blocks of equal width; what is no table is one unit.
    """
    units: list[Unit] = []
    for name, shape in shapes.items():
        width = prod(shape[1:])
        columns = names.get(name, ())
        if len(shape) > 2 or width < 1:
            units.append(Unit(name, name, WHOLE))
        elif width <= MAX_COLUMNS:
            units += [
                Unit(f"{name}.{columns[at] if len(columns) == width else at}", name, COLUMN, at, at + 1)
                for at in range(width)
            ]
        else:
            step = -(-width // MAX_COLUMNS)
            units += [
                Unit(f"{name}.{at}-{min(at + step, width) - 1}", name, COLUMN, at, min(at + step, width))
                for at in range(0, width, step)
            ]
    return units


def shuffled(arrays: Mapping[str, Array], unit: Unit, order: Array) -> dict[str, Array]:
    """Return the samples with one unit taken from the samples at `order`; nothing else changes."""
    array = arrays[unit.input]
    if unit.end == 0:
        return {**arrays, unit.input: array[order]}
    flat = array.reshape(len(array), -1).copy()
    flat[:, unit.first : unit.end] = flat[order, unit.first : unit.end]
    return {**arrays, unit.input: flat.reshape(array.shape)}


def order_of(n: int, seed: int, unit: int, repeat: int) -> Array:
    """Return a permutation of `n` samples: the same for the same numbers, whatever else is measured."""
    return np.random.default_rng([seed, unit, repeat]).permutation(n)


def losses_of(metric: str, answers: Array, truth: Array) -> Floats:
    """Return the loss of each sample: 0 or 1 for `top1`, the mean error for `mae`. answers: [n, …]; truth: [n] or as answers."""
    n = len(answers)
    if metric == TOP1:
        return np.asarray(classes_of(answers) != truth.reshape(n), dtype=np.float64)
    away = answers.reshape(n, -1).astype(np.float64) - truth.reshape(n, -1).astype(np.float64)
    return np.asarray(np.abs(away).mean(axis=1), dtype=np.float64)


def classes_of(answers: Array) -> Array:
    """Return the class of each sample: the largest score, a single score cut at one half, whole numbers as they are."""
    rows = answers.reshape(len(answers), -1)
    if rows.shape[1] > 1:
        return np.asarray(rows.argmax(axis=1))
    only = rows[:, 0]
    return only.astype(np.int64) if only.dtype.kind in "iub" else (only > 0.5).astype(np.int64)


def metric_of(metric: str, losses: Floats) -> float:
    """Return the metric itself: accuracy for `top1`, the error for `mae`."""
    mean = float(losses.mean())
    return 1.0 - mean if metric == TOP1 else mean


def effect_of(base: Floats, repeats: Sequence[Floats]) -> Effect:
    """Return the mean gain in loss over repeats, and its standard error. base: losses undisturbed, [n]; repeats: one or more of [n]."""
    gains = np.stack(repeats) - base
    of_samples = gains.mean(axis=0)
    between = gains.mean(axis=1)
    n, k = len(base), len(repeats)
    variance = float(of_samples.var(ddof=1)) / n if n > 1 else 0.0
    variance += float(between.var(ddof=1)) / k if k > 1 else 0.0
    return Effect(float(of_samples.mean()), sqrt(variance), k)
