"""An entry of the zoo, and the samples that it draws."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Needs = Literal["", "download", "torch"]


@dataclass(frozen=True)
class Samples:
    """Samples of a task. inputs: by input name, first axis = samples. truth: `y` or `y.OUTPUT`; empty: the source's answers count."""

    inputs: Arrays
    truth: Arrays = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(next(iter(self.inputs.values())))

    def as_data(self, *, labelled: bool) -> Arrays:
        """Return one dictionary of arrays, as a user would give them to a conversion."""
        return {**self.inputs, **(self.truth if labelled else {})}


Draw = Callable[[int, int, int], Samples]
"""(seed of the task, n, seed of the draw) -> samples."""


@dataclass(frozen=True)
class Entry:
    """A model with its task.

    kind: what such models are called. data: where samples come from. metric: a key of `task_metrics.METRICS`; limit: the loss
    that the task allows, in the metric's unit. source: of the model; licence: its licence. make: (seed, folder) -> the model
    file. draw: (seed of the task, n, seed of the draw) -> samples; seeds that differ give other samples of the same task.
    sizes: samples for calibration, for the gate, and fresh ones. labelled: whether the gate gets the labels too. feedback:
    input -> output whose last value it takes, set to zero every `steps` samples. needs: what must be had for it.
    """

    name: str
    kind: str
    task: str
    data: str
    metric: str
    limit: float
    source: str
    licence: str
    make: Callable[[int, Path], Path]
    draw: Draw
    sizes: tuple[int, int, int] = (100, 300, 600)
    labelled: bool = True
    feedback: Mapping[str, str] = field(default_factory=dict)
    steps: int = 100
    needs: Needs = ""


@dataclass(frozen=True)
class Seeds:
    """The seeds of one entry in one half. model: of the task and of the training; the others: of the parts of the data."""

    model: int
    calibration: int
    gate: int
    fresh: int


def seeds(name: str, root: str) -> Seeds:
    """Return the seeds of an entry, drawn from `root`: a fixed word for the first half, a commit's hash for the final one."""
    random = np.random.default_rng(zlib.crc32(f"{root} {name}".encode()))
    model, calibration, gate, fresh = (int(value) for value in random.integers(1, 2**31 - 1, 4))
    return Seeds(model, calibration, gate, fresh)
