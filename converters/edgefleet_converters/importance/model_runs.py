"""A model in its runtime, asked for one output of many samples, until a moment at which the time is over."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgefleet_protocol.errors import EdgefleetError
from edgefleet_protocol.manifest import TensorSpec
from edgefleet_runtime.golden import slice_sample
from edgefleet_runtime.port import ModelRuntime
from edgefleet_runtime.quantization import real_values, stored_values

Array = npt.NDArray[Any]

_CHUNK: Final = 256
"""Samples of one run where the model takes several, and between two looks at the time where it does not."""
_TRIED: Final = 3
_ALIKE: Final = 1e-3


class TimeOverError(Exception):
    """The time of the measurement is over."""


@dataclass
class AskedModel:
    """A model in its runtime, asked for one output. ends_s: when the time is over, monotonic."""

    runtime: ModelRuntime
    output: TensorSpec
    ends_s: float
    in_batches: bool = False

    def answers(self, arrays: Mapping[str, Array]) -> Array:
        """Return what it answers to samples, [n, …] in real values. Raises TimeOverError, RunError, InputError."""
        n = len(next(iter(arrays.values())))
        found: list[Array] = []
        step = _CHUNK if self.in_batches else 1
        for at in range(0, n, step):
            if at % _CHUNK == 0 and time.monotonic() > self.ends_s:
                raise TimeOverError
            found.append(self._run(arrays, at, step))
        return np.concatenate(found)

    def _run(self, arrays: Mapping[str, Array], at: int, step: int) -> Array:
        inputs = {
            spec.name: stored_values(
                spec, arrays[spec.name][at : at + step] if step > 1 else slice_sample(spec, arrays[spec.name], at)
            )
            for spec in self.runtime.inputs
        }
        answer = real_values(self.output, np.asarray(self.runtime.run(inputs)[self.output.name]))
        return answer if step > 1 or answer.shape[:1] == (1,) else answer[None]

    def try_batches(self, arrays: Mapping[str, Array]) -> None:
        """Run several samples at once from now on, where the model takes them and answers the same."""
        if not all(spec.shape and isinstance(spec.shape[0], str) for spec in self.runtime.inputs):
            return
        few = {name: array[:_TRIED] for name, array in arrays.items()}
        alone = self.answers(few)
        self.in_batches = True
        try:
            together = self.answers(few)
        except EdgefleetError:
            together = alone[:0]
        scale = max(float(np.abs(alone).max(initial=0.0)), 1e-9)
        self.in_batches = together.shape == alone.shape and bool(np.abs(together - alone).max() <= _ALIKE * scale)
